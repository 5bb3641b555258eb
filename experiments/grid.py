"""Experiments over configurations, strategies and seeds, one after the other, and their tables.

python experiments/grid.py --config digits cifar10 --strategy RANDOM/NONE TOD/TOD --seed 0 1

A strategy is SAMPLING/AUXILIARY; the default are the paper's. What is finished is passed over, so
the same command goes on where it stopped. In a Slurm array, `--only $SLURM_ARRAY_TASK_ID` runs one
cell of the grid, from 0; `--only none` prints the tables alone. --scale 0.25 shortens epochs,
milestones and detach_epoch alike. What follows `--` goes to the entry scripts, as in
`-- --data-dir DIR --trials 1`.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.arguments import new_parser, parse, refuse_doubles
from experiments.cells import PAPER, Cell, curves_of, run_all
from tod import cli
from tod.analysis.tables import accuracy_tables, markdown
from tod.config import InputError

REFUSED = 2
"""The exit status of a run that was refused, or has diverged."""


def parse_arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The grid's command line, and the entry scripts' further arguments."""
    parser = new_parser(__doc__, Path("results"))
    add = parser.add_argument
    add("--config", nargs="+", required=True, help="configurations: names or paths, as digits")
    add(
        "--strategy",
        nargs="+",
        default=list(PAPER),
        help=f"SAMPLING/AUXILIARY of one entry script (default: {' '.join(PAPER)})",
    )
    add("--only", metavar="N|none", help="run one cell of the grid, from 0, or none (default: all)")
    arguments, further = parse(parser, argv)
    for strategy in arguments.strategy:
        refuse_wrong_strategy(strategy)
    refuse_doubles("--strategy", arguments.strategy)
    return arguments, further


def refuse_wrong_strategy(strategy: str) -> None:
    """Refuses what is no SAMPLING/AUXILIARY of one entry script.

    Raises:
        InputError: it is none.
    """
    if strategy.count("/") != 1:
        raise InputError(f"--strategy {strategy}: write SAMPLING/AUXILIARY, like TOD/NONE")
    cell = Cell("", strategy, 0)
    offers = (cell.script.sampling, cell.script.auxiliary)
    for name, offered in zip(cell.choices, offers, strict=True):
        if name not in offered:
            raise InputError(
                f"--strategy {strategy}: {cell.script.name} has no {name}, "
                f"only {', '.join(offered)}"
            )


def chosen(cells: Sequence[Cell], only: str | None) -> Sequence[Cell]:
    """The cells that `--only` leaves: all, one or none.

    Raises:
        InputError: there is no cell of this number.
    """
    if only is None:
        return cells
    if only == "none":
        return []
    if not (only.isdecimal() and int(only) < len(cells)):
        raise InputError(f"--only {only}: must be from 0 to {len(cells) - 1}, or none")
    return [cells[int(only)]]


def tables(cells: Sequence[Cell], output_dir: Path) -> str:
    """The tables of all cells that have results, one configuration after the other, in Markdown."""
    texts = []
    for config in dict.fromkeys(cell.config for cell in cells):
        curves = curves_of([cell for cell in cells if cell.config == config], output_dir)
        if curves:
            texts += map(markdown, accuracy_tables(curves))
    return "\n".join(texts)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the grid, then prints its tables."""
    arguments, further = parse_arguments(sys.argv[1:] if argv is None else argv)
    product = itertools.product(arguments.config, arguments.strategy, arguments.seed)
    cells = list(map(Cell._make, product))
    to_run = chosen(cells, arguments.only)
    statuses = run_all(to_run, arguments.output_dir, arguments.scale, further)
    if arguments.scale != 1:
        print(f"epochs, milestones and detach_epoch are {arguments.scale:g} of the configured ones")
    refused = [cell for cell in cells if statuses.get(cell) == REFUSED]
    for cell in refused:
        print(f"{cell}: has stopped and is left out, see above")
    # What lies in the folder of a refused one may be of other images.
    shown = tables([cell for cell in cells if cell not in refused], arguments.output_dir)
    print(shown or "no run has ended a cycle yet")
    sys.exit(max(statuses.values(), default=0))


if __name__ == "__main__":
    with cli.exit_status():
        main()
