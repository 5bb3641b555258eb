"""Learning curves of one or more runs: mean ± standard deviation of the test accuracy over trials.

python plot.py results/digits_auxiliary_TOD_sampling_TOD_seed0 [RUN ...] --output curves.png

Prints the table in Markdown and writes it beside the figure as CSV. Runs that differ in the seed
alone are one curve, over all their trials; differences are to the first run, trial by trial.
"""

from collections.abc import Sequence
from pathlib import Path

from tod import cli
from tod.analysis import figures, tables
from tod.analysis.results import ACCURACY, DIAGNOSTICS, read_runs
from tod.config import InputError
from tod.files import write_atomically


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
        "(default: learning_curve.png, or diagnostics.png)",
    )
    arguments = parser.parse_args(argv)
    default = "diagnostics.png" if arguments.diagnostics else "learning_curve.png"
    output = arguments.output or Path(default)
    if output.suffix.lower() not in (".png", ".pdf", ".svg"):
        parser.error(f"argument --output: {output} does not end in .png, .pdf or .svg")
    table = output.with_suffix(".csv")
    if table.name == "results.csv" and (table.parent / "config.yaml").exists():
        parser.error(f"argument --output: the table would replace the run's own {table}")

    curves = read_runs(arguments.runs)
    if all(curve.rows[ACCURACY].isna().all() for curve in curves):
        raise InputError(f"{arguments.runs[0]}: no accuracy has been measured yet")
    if arguments.diagnostics:
        draw, shown, quantities = figures.diagnostics, tables.diagnostics_tables, DIAGNOSTICS
    else:
        draw = figures.published_learning_curves if arguments.paper else figures.learning_curves
        shown, quantities = tables.accuracy_tables, tables.ACCURACIES
    write_atomically(output, figures.rendered(draw(curves), output.suffix[1:].lower()))
    write_atomically(table, tables.tidy_csv(curves, quantities))
    print("\n".join(map(tables.markdown, shown(curves))))
    print(*tables.unpaired_notes(curves), f"{output}, {table}", sep="\n")


if __name__ == "__main__":
    with cli.exit_status():
        main()
