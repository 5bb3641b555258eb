"""Experiments over configurations, strategies and seeds, several at once, and what they say.

python experiments/grid.py --config digits cifar10 --strategy RANDOM/NONE TOD/TOD --seed 0 1

A strategy is SAMPLING/AUXILIARY, or `all`; the default are the paper's. What is finished is passed
over, so the same command goes on where it stopped. It ends with tables, and with a report for each
configuration beside the runs. In a Slurm array, `--only $SLURM_ARRAY_TASK_ID` runs one cell of the
grid, from 0; `--only none` shows what there is. --scale 0.25 shortens epochs, milestones and
detach_epoch alike. What follows `--` goes to the entry scripts, as in `-- --data-dir DIR`.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.arguments import new_parser, parse, refuse_doubles
from experiments.cells import ALL, PAPER, Cell, curves_of, run_all
from tod.analysis.report import write_report
from tod.analysis.tables import accuracy_tables, markdown, unpaired_notes
from tod.config import InputError, cli

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
        help="SAMPLING/AUXILIARY of one entry script, or all: each sampling strategy without a "
        f"loss, TOD/TOD and LL4AL/LL4AL (default: {' '.join(PAPER)})",
    )
    add("--only", metavar="N|none", help="run one cell of the grid, from 0, or none (default: all)")
    arguments, further = parse(parser, argv)
    for strategy in arguments.strategy if arguments.strategy != ["all"] else ():
        refuse_wrong_strategy(strategy)
    refuse_doubles("--strategy", arguments.strategy)
    return arguments, further


def refuse_wrong_strategy(strategy: str) -> None:
    """Refuses what is no SAMPLING/AUXILIARY of one entry script.

    Raises:
        InputError: it is none.
    """
    if strategy.count("/") != 1:
        raise InputError(f"--strategy {strategy}: write SAMPLING/AUXILIARY, like TOD/NONE, or all")
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


def without_unsuitable(cells: Sequence[Cell], scale: float, further: Sequence[str]) -> list[Cell]:
    """The cells whose strategy can work with their configuration; it says which are left out."""
    suitable, said = [], set()
    for cell in cells:
        why = cell.why_unsuitable(cell.arguments(Path(), scale, further))
        if why is None:
            suitable.append(cell)
        elif (cell.config, cell.strategy) not in said:
            said.add((cell.config, cell.strategy))
            print(f"{cell.config}, {cell.strategy}: is left out; it {why}", file=sys.stderr)
    return suitable


def show(cells: Sequence[Cell], output_dir: Path, with_report: bool) -> None:
    """The tables of all cells that have results, one configuration after the other, in Markdown;
    and a report of each.
    """
    shown = False
    for config in dict.fromkeys(cell.config for cell in cells):
        curves = curves_of([cell for cell in cells if cell.config == config], output_dir)
        if curves:
            shown = True
            print("\n".join(markdown(table.rows) for table in accuracy_tables(curves)))
            for note in unpaired_notes(curves):
                print(note)
        if curves and with_report:
            path = output_dir / f"report_{Path(config).stem}.html"
            write_report(path, curves)
            print(path)
    if not shown:
        print("no run has ended a cycle yet")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the grid, then prints its tables."""
    arguments, further = parse_arguments(sys.argv[1:] if argv is None else argv)
    takes_all = arguments.strategy == ["all"]
    strategies = ALL if takes_all else arguments.strategy
    cells = list(map(Cell._make, itertools.product(arguments.config, strategies, arguments.seed)))
    if takes_all:
        cells = without_unsuitable(cells, arguments.scale, further)
    to_run = chosen(cells, arguments.only)
    statuses = run_all(to_run, arguments.output_dir, arguments.scale, further, arguments.processes)
    if arguments.scale != 1:
        print(f"epochs, milestones and detach_epoch are {arguments.scale:g} of the configured ones")
    refused = [cell for cell in cells if statuses.get(cell) == REFUSED]
    for cell in refused:
        print(f"{cell}: has stopped and is left out, see above")
    # What lies in the folder of a refused one may be of other images.
    shown = [cell for cell in cells if cell not in refused]
    # Those of an array would write the report at the same time.
    show(shown, arguments.output_dir, with_report=arguments.only in (None, "none"))
    sys.exit(max(statuses.values(), default=0))


if __name__ == "__main__":
    with cli.exit_status():
        main()
