"""The content of the HTML page about one or more runs; `report.html` is its template."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from tod.analysis import confusion, figures, tables
from tod.analysis.matrix import matrix_table, penalty_matrix
from tod.analysis.results import Curve
from tod.config.identity import cycle_files
from tod.system.files import write_atomically


def write_report(path: Path, curves: Sequence[Curve], target: float | None = None) -> None:
    """Writes the page; with forecasts of the labels that a target accuracy in % takes."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    shown, notes = tables.accuracy_tables(curves), tables.unpaired_notes(curves)
    forecasts = tables.forecast_notes(curves, target)
    if len({curve.method for curve in curves if not curve.labels_everything}) > 1:
        matrix = penalty_matrix(curves)
        notes += matrix.notes
        if len(matrix.tests):
            shown.append(matrix_table(matrix))
    shown += [*tables.metrics_tables(curves), *confusion.class_tables(curves)]
    judged = [curve for curve in curves if figures.has_diagnostics(curve)]
    confusions = {
        curve.name: figures.rendered(figures.confusion(matrices, curve.run["class_names"]))
        for curve in curves
        if len(matrices := confusion.read(curve))
    }
    page = environment.get_template("report.html").render(
        datasets=dict.fromkeys(curve.config["dataset"] for curve in curves),
        curves=curves,
        learning_curves=figures.rendered(figures.learning_curves(curves, None, target)),
        diagnostics=figures.rendered(figures.diagnostics(judged)) if judged else None,
        tables=shown,
        notes=[*forecasts, *notes],
        has_forecasts=bool(forecasts),
        runs=[
            {
                "name": curve.name,
                "folders": [folder.resolve().name for folder in curve.folders],
                "confusion": confusions.get(curve.name),
                "sheets": _contact_sheets(curve.folders[0]),
                "config": (curve.folders[0] / "config.yaml").read_text(encoding="utf-8"),
            }
            for curve in curves
        ],
    )
    # Bytes of file names that are no text are escaped as in Python.
    write_atomically(path, page.encode("utf-8", "backslashreplace"))


def _contact_sheets(folder: Path) -> list[tuple[str, str, bytes | None]]:
    """The contact sheets of a run's first trial that has any, by cycle, and those of its batches.

    Each has a title, its file's name and its content, which is None if it is damaged.
    """
    cycles = cycle_files(folder / "queries", ".png")
    found = [
        (f"Trial {trial}, after cycle {cycle}", path)
        for (trial, cycle), path in cycles.items()
        if trial == min(cycles)[0]
    ]
    batches = {path.parent.name: path for path in folder.glob("batches/batch*/contact_sheet.png")}
    for name in sorted(batches, key=lambda name: (len(name), name)):  # by number
        found.append((f"Batch {name.removeprefix('batch')}", batches[name]))
    return [(place, path.name, _png(path)) for place, path in found]


def _png(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
        Image.open(io.BytesIO(content), formats=["PNG"]).load()
    # For damaged files, Pillow raises errors of many kinds.
    except Exception:
        return None
    return content
