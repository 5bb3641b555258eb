"""One HTML page about one or more runs: learning curves, tables, contact sheets, configurations.

python report.py results/digits_auxiliary_TOD_sampling_TOD_seed0 [RUN ...] --output report.html

The page holds its pictures, runs no scripts and fetches nothing: it can be mailed, opened from a
disk and printed. Runs that have not finished are shown as far as they have got.
"""

from collections.abc import Sequence
from pathlib import Path

import tod.system.early_interrupt  # noqa: F401 - ahead of what takes seconds
from tod.analysis.report import write_report
from tod.analysis.results import read_runs
from tod.config import cli
from tod.runs.folder import refuse_output


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line and writes the page."""
    parser = cli.Parser(description=__doc__)
    cli.add_runs(parser)
    settings = {"default": Path("report.html"), "help": "the page (default: %(default)s)"}
    parser.add_argument("--output", type=cli.file_type(".html", ".htm"), metavar="FILE", **settings)
    cli.add_target(parser)
    arguments = parser.parse_args(argv)
    refuse_output(arguments.output)
    write_report(arguments.output, read_runs(arguments.runs), arguments.target)
    print(arguments.output)


if __name__ == "__main__":
    with cli.exit_status():
        main()
