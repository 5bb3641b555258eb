"""One HTML page about one or more runs: what it shows; `report.html` says how."""

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from tod.analysis import confusion, figures, tables
from tod.analysis.matrix import matrix_table, penalty_matrix
from tod.analysis.results import Curve
from tod.analysis.tables import Table
from tod.config.identity import cycle_files
from tod.system.files import write_atomically


def write_report(path: Path, curves: Sequence[Curve]) -> None:
    """Writes the page about these runs.

    Raises:
        InputError: a run's files are damaged, or the page cannot be written.
    """
    # Bytes in a file's name that are no text are shown as Python does.
    write_atomically(path, page(curves).encode("utf-8", "backslashreplace"))


def page(curves: Sequence[Curve]) -> str:
    """The page about these runs, as HTML."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    shown, notes = tables.accuracy_tables(curves), tables.unpaired_notes(curves)
    if len({curve.method for curve in curves if not curve.labels_everything}) > 1:
        matrix = penalty_matrix(curves)
        notes += matrix.notes
        if len(matrix.tests):
            shown.append(matrix_table(matrix))
    shown += [*tables.metrics_tables(curves), *confusion.class_tables(curves)]
    judged = [curve for curve in curves if figures.has_diagnostics(curve)]
    return environment.get_template("report.html").render(
        datasets=dict.fromkeys(curve.config["dataset"] for curve in curves),
        curves=curves,
        learning_curves=figures.rendered(figures.learning_curves(curves)),
        diagnostics=figures.rendered(figures.diagnostics(judged)) if judged else None,
        tables=[(_caption(table, curves), table) for table in shown],
        notes=notes,
        runs=[
            {
                "name": curve.name,
                "folders": [folder.resolve().name for folder in curve.folders],
                "confusion": _confusion(curve),
                "sheets": contact_sheets(curve.folders[0]),
                "config": (curve.folders[0] / "config.yaml").read_text(encoding="utf-8"),
            }
            for curve in curves
        ],
    )


def _confusion(curve: Curve) -> bytes | None:
    matrices = confusion.read(curve)
    if not len(matrices):
        return None
    return figures.rendered(figures.confusion(matrices, curve.run["class_names"]))


def _caption(table: Table, curves: Sequence[Curve]) -> str:
    """What a table of the report shows."""
    captions = {
        "test accuracy": "Test accuracy and area under the budget curve in %: mean ± standard "
        "deviation (number of trials). The area is the mean accuracy over the range of labels, of "
        "finished trials.",
        "difference": f"Difference to {curves[0].name}, in points: mean over trials paired by seed "
        "and number [95 % interval, Student's t] (number of pairs).",
        "accuracy on audited": "Accuracy in % on the images that people have audited [95 % "
        "interval, Wilson] (number of images).",
        "last cycle": "The test set in the last cycle: mean ± standard deviation (number of "
        "trials). Balanced accuracy and macro F1 are means over classes; NLL is the mean negative "
        "log-likelihood, ECE the expected calibration error (15 bins).",
        "accuracy in each": "Accuracy in each class in %, in the last cycle: mean ± standard "
        "deviation (number of trials).",
        "share of label sizes": "Pairwise penalty matrix: the share of label sizes at which the "
        "method of the row is better than that of the column, by a paired two-sided t-test at 5 % "
        "of five pairs or more (after Holm's correction); a dash: not compared.",
    }
    return next(words for start, words in captions.items() if table[0][0].startswith(start))


def contact_sheets(folder: Path) -> list[dict[str, str | bytes | None]]:
    """Those of a run's first trial that has any, in the order of the cycles; or of its batches.

    Returns:
        Of each, when it was made (`place`), its `file`, and its content (`png`: None if damaged).
    """
    paths = cycle_files(folder / "queries", ".png")
    batches = {
        int(found[1]): path
        for path in folder.glob("batches/*/contact_sheet.png")
        if (found := re.fullmatch(r"batch(\d+)", path.parent.name))
    }
    places = {
        f"Trial {trial}, after cycle {cycle}": path
        for (trial, cycle), path in paths.items()
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
