"""Learning curves of one or more runs: mean ± standard deviation of the test accuracy over trials.

python plot.py results/digits_auxiliary_TOD_sampling_TOD_seed0 [RUN ...] --output curves.png

Prints the table in Markdown and writes it beside the figure as CSV. Runs that differ in the seed
alone are one curve, over all their trials; differences are to the first run, trial by trial.
"""

from collections.abc import Sequence
from pathlib import Path

from tod.analysis import figures, tables
from tod.analysis.matrix import matrix_csv, matrix_table, penalty_matrix
from tod.analysis.results import ACCURACY, DIAGNOSTICS, read_runs
from tod.config import InputError, cli
from tod.system.files import write_atomically


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line, draws, and shows the table."""
    parser = cli.Parser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=cli.path, metavar="RUN", help="a run's folder")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--paper", action="store_true", help="add the paper's published curves, dashed"
    )
    what.add_argument(
        "--diagnostics",
        action="store_true",
        help="draw instead how well the scores estimated the loss, and what was queried",
    )
    parser.add_argument(
        "--output",
        type=cli.path,
        metavar="FILE",
        help="the figure, in the format of its ending; the table goes beside it "
        "(default: learning_curve.png, diagnostics.png or matrix.png)",
    )
    what.add_argument(
        "--matrix",
        action="store_true",
        help="draw instead how often each method beats each other one (pairwise penalty matrix)",
    )
    arguments = parser.parse_args(argv)
    chosen = next((name for name in ("diagnostics", "matrix") if getattr(arguments, name)), None)
    output = arguments.output or Path(f"{chosen or 'learning_curve'}.png")
    if output.suffix.lower() not in (".png", ".pdf", ".svg"):
        parser.error(f"argument --output: {output} does not end in .png, .pdf or .svg")
    table = output.with_suffix(".csv")
    if table.name == "results.csv" and (table.parent / "config.yaml").exists():
        parser.error(f"argument --output: the table would replace the run's own {table}")

    curves = read_runs(arguments.runs)
    if all(curve.rows[ACCURACY].isna().all() for curve in curves):
        raise InputError(f"{arguments.runs[0]}: no accuracy has been measured yet")
    notes = tables.unpaired_notes(curves)
    if arguments.matrix or arguments.diagnostics:
        curves = [curve for curve in curves if not curve.labels_everything]  # they query nothing
        if not curves:
            raise InputError(f"{arguments.runs[0]}: has queried nothing; name another run")
    if arguments.matrix and len({curve.method for curve in curves}) < 2:
        raise InputError(f"{curves[0].folders[0]}: --matrix compares methods; name runs of two")
    if arguments.matrix:
        matrix = penalty_matrix(curves)
        figure, content, notes = figures.penalty_matrix(matrix), matrix_csv(matrix), matrix.notes
        shown = [matrix_table(matrix)]
    elif arguments.diagnostics:
        figure, content = figures.diagnostics(curves), tables.tidy_csv(curves, DIAGNOSTICS)
        shown = tables.diagnostics_tables(curves)
    else:
        draw = figures.published_learning_curves if arguments.paper else figures.learning_curves
        figure, content = draw(curves), tables.tidy_csv(curves)
        shown = tables.accuracy_tables(curves)
    write_atomically(output, figures.rendered(figure, output.suffix[1:].lower()))
    write_atomically(table, content)
    print("\n".join(map(tables.markdown, shown)))
    print(*notes, f"{output}, {table}", sep="\n")


if __name__ == "__main__":
    with cli.exit_status():
        main()
