"""Experiments over configurations, strategies and seeds, several at once, and what they say.

python experiments/grid.py --config digits cifar10 --strategy RANDOM/NONE TOD/TOD --seed 0 1

A strategy is SAMPLING/AUXILIARY, or `all`; the default are the paper's. What is finished is passed
over, so the same command goes on where it stopped. It ends with tables, and with a report for each
configuration beside the runs. In a Slurm array, `--only $SLURM_ARRAY_TASK_ID` runs one cell of the
grid, from 0, and shows it alone; `--only none` shows what there is. --scale 0.25 shortens epochs,
milestones and detach_epoch alike. What follows `--` goes to the entry scripts, as in
`-- --data-dir DIR`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tod.system.early_interrupt  # noqa: F401 - ahead of what takes seconds
from experiments.cells import Cell, cells_of, curves_of, new_parser, parse, run_all
from tod.analysis.report import write_report
from tod.analysis.tables import accuracy_tables, markdown, unpaired_notes
from tod.config import InputError, cli

REFUSED = 2
"""The exit status of a run that was refused, or has diverged."""


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The grid's command line."""
    parser = new_parser(__doc__, Path("results"))
    add = parser.add_argument
    add("--config", nargs="+", required=True, help="configurations: names or paths, as digits")
    add("--only", metavar="N|none", help="run one cell of the grid, from 0, or none (default: all)")
    return parse(parser, argv)


def chosen(cells: Sequence[Cell], only: str | None) -> Sequence[Cell]:
    """The cells that `--only` leaves: all, one or none."""
    if only is None:
        return cells
    if only == "none":
        return []
    if not (only.isdecimal() and int(only) < len(cells)):
        raise InputError(f"--only {only}: must be from 0 to {len(cells) - 1}, or none")
    return [cells[int(only)]]


def show(cells: Sequence[Cell], arguments: argparse.Namespace) -> None:
    """Prints Markdown tables of all cells with results, and writes a report, by configuration."""
    if not any(cell.num_done for cell in cells):
        print("no run has ended a cycle yet")
    for config in arguments.config:
        if curves := curves_of([cell for cell in cells if cell.config == config]):
            tables = [markdown(table.rows) for table in accuracy_tables(curves)]
            print("\n".join([*tables, *unpaired_notes(curves)]))
            # Jobs of an array would write the report at the same time.
            if arguments.only in (None, "none"):
                path = arguments.output_dir / f"report_{Path(config).stem}.html"
                write_report(path, curves)
                print(path)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the grid, then prints its tables."""
    arguments = parse_arguments(sys.argv[1:] if argv is None else argv)
    cells = cells_of(arguments)
    to_run = chosen(cells, arguments.only)
    statuses = run_all(to_run, arguments.processes)
    if arguments.scale != 1:
        print(f"epochs, milestones and detach_epoch are {arguments.scale:g} of the configured ones")
    refused = [cell for cell in cells if statuses.get(cell) == REFUSED]
    for cell in refused:
        print(f"{cell}: has stopped and is left out, see above")
    # The folder of a refused cell may hold results of other images.
    show([cell for cell in to_run or cells if cell not in refused], arguments)
    sys.exit(max(statuses.values(), default=0))


if __name__ == "__main__":
    with cli.exit_status():
        main()
