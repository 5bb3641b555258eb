"""What `plot.py` writes and prints: a figure of one or more runs and its tables."""

from collections.abc import Sequence
from pathlib import Path

from tod.analysis import figures, tables
from tod.analysis.matrix import matrix_table, penalty_matrix
from tod.analysis.results import ACCURACY, DIAGNOSTICS, read_runs
from tod.config import InputError
from tod.system.files import as_csv, write_atomically

KINDS = {
    "paper": "add the paper's published curves, dashed",
    "diagnostics": "draw instead how well the scores estimated the loss, and what was queried",
    "matrix": "draw instead how often each method beats each other one (pairwise penalty matrix)",
}
"""The figures other than the learning curves alone."""


def write_plot(
    path: Path, folders: Sequence[Path], kind: str | None, target: float | None = None
) -> str:
    """Draws runs into a file in one of matplotlib's formats, and writes their table beside it.

    Returns the tables in Markdown, followed by lines about runs that are not compared, and about
    the labels that a target accuracy in % takes.
    """
    curves = read_runs(folders)
    if all(curve.rows[ACCURACY].isna().all() for curve in curves):
        raise InputError(f"{folders[0]}: no accuracy has been measured yet")
    notes = tables.unpaired_notes(curves)
    if kind in ("diagnostics", "matrix"):
        curves = [curve for curve in curves if not curve.labels_everything]  # they query nothing
        if not curves:
            raise InputError(f"{folders[0]}: has queried nothing; name another run")
    if kind == "matrix":
        if len({curve.method for curve in curves}) < 2:
            raise InputError(f"{curves[0].folders[0]}: --matrix compares methods; name runs of two")
        matrix = penalty_matrix(curves)
        figure, content, notes = figures.penalty_matrix(matrix), as_csv(matrix.tests), matrix.notes
        shown = [matrix_table(matrix)]
    elif kind == "diagnostics":
        figure, content = figures.diagnostics(curves), tables.tidy_csv(curves, DIAGNOSTICS)
        shown = tables.diagnostics_tables(curves)
    else:
        datasets = list(dict.fromkeys(curve.config["dataset"] for curve in curves))
        if kind == "paper" and len(datasets) > 1:
            raise InputError(f"--paper: name runs of one dataset, not of {' and '.join(datasets)}")
        figure = figures.learning_curves(curves, datasets[0] if kind == "paper" else None, target)
        notes += tables.forecast_notes(curves, target)
        content, shown = tables.tidy_csv(curves), tables.accuracy_tables(curves)
    write_atomically(path, figures.rendered(figure, path.suffix[1:].lower()))
    write_atomically(path.with_suffix(".csv"), content)
    return "\n".join([*(tables.markdown(table.rows) for table in shown), *notes])
