"""One HTML page about one or more runs: what it shows; `report.html` says how."""

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from tod.analysis import figures, tables
from tod.analysis.results import Curve


def page(curves: Sequence[Curve]) -> str:
    """The page about these runs, as HTML."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    judged = [curve for curve in curves if figures.has_diagnostics(curve)]
    return environment.get_template("report.html").render(
        datasets=dict.fromkeys(curve.config["dataset"] for curve in curves),
        curves=curves,
        learning_curves=figures.rendered(figures.learning_curves(curves)),
        diagnostics=figures.rendered(figures.diagnostics(judged)) if judged else None,
        tables=tables.accuracy_tables(curves),
        notes=tables.unpaired_notes(curves),
        runs=[
            {
                "name": folder.resolve().name,
                "sheets": contact_sheets(folder),
                "config": (folder / "config.yaml").read_text(encoding="utf-8"),
            }
            for curve in curves
            for folder in curve.folders
        ],
    )


def contact_sheets(folder: Path) -> list[dict[str, str | bytes | None]]:
    """Those of a run's first trial that has any, in the order of the cycles; or of its batches.

    Returns:
        Of each, when it was made (`place`), its `file`, and its content (`png`: None if damaged).
    """
    paths = {
        (int(found[1]), int(found[2])): path
        for path in (folder / "queries").glob("*.png")
        if (found := re.fullmatch(r"trial(\d+)_cycle(\d+)", path.stem))
    }
    batches = {
        int(found[1]): path
        for path in folder.glob("batches/*/contact_sheet.png")
        if (found := re.fullmatch(r"batch(\d+)", path.parent.name))
    }
    places = {
        f"Trial {trial}, after cycle {cycle}": path
        for (trial, cycle), path in sorted(paths.items())
        if trial == min(paths)[0]
    } | {f"Batch {number}": path for number, path in sorted(batches.items())}
    return [
        {"place": place, "file": path.name, "png": _png(path)} for place, path in places.items()
    ]


def _png(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
        Image.open(io.BytesIO(content), formats=["PNG"]).load()
    # Pillow answers a damaged file with errors of many kinds.
    except Exception:
        return None
    return content
