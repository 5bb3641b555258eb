"""Learning curves of one or more runs: mean ± standard deviation of the test accuracy over trials.

python plot.py results/digits_auxiliary_TOD_sampling_TOD_seed0 [RUN ...] --output curves.png

Prints the table in Markdown and writes it beside the figure as CSV. Runs that differ in the seed
alone are one curve, over all their trials; differences are to the first run, trial by trial.
With --target, a power law goes on beyond each curve, as far as an accuracy.
"""

from collections.abc import Sequence
from pathlib import Path

import tod.system.early_interrupt  # noqa: F401 - ahead of what takes seconds
from tod.analysis.plots import KINDS, write_plot
from tod.config import cli
from tod.runs.folder import refuse_output


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line, draws, and shows the table."""
    parser = cli.Parser(description=__doc__)
    cli.add_runs(parser)
    kinds = parser.add_mutually_exclusive_group()
    for kind, shows in KINDS.items():
        kinds.add_argument(f"--{kind}", dest="kind", action="store_const", const=kind, help=shows)
    cli.add_target(parser)
    output = (
        "the figure, in the format of its ending; the table goes beside it (default: "
        "learning_curve.png, diagnostics.png or matrix.png)"
    )
    parser.add_argument(
        "--output", type=cli.file_type(".png", ".pdf", ".svg"), metavar="FILE", help=output
    )
    arguments = parser.parse_args(argv)
    if arguments.kind and arguments.target:
        parser.error(f"argument --target: not allowed with argument --{arguments.kind}")
    name = arguments.kind if arguments.kind not in (None, "paper") else "learning_curve"
    output = arguments.output or Path(f"{name}.png")
    table = output.with_suffix(".csv")
    for file in (output, table):
        refuse_output(file)
    print(write_plot(output, arguments.runs, arguments.kind, arguments.target))
    print(f"{output}, {table}")


if __name__ == "__main__":
    with cli.exit_status():
        main()
