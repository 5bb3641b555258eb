"""Experiments over configurations, strategies and seeds, one after the other, and their tables.

python benchmarks/grid.py --config digits cifar10 --strategy RANDOM/NONE TOD/TOD --seed 0 1

A strategy is SAMPLING/AUXILIARY; the default are the paper's. What is finished is passed over, so
the same command goes on where it stopped. In a Slurm array, `--only $SLURM_ARRAY_TASK_ID` runs one
cell of the grid, from 0; `--only none` prints the tables alone. --scale 0.25 shortens epochs,
milestones and detach_epoch alike. What follows `--` goes to the entry scripts, as in
`-- --data-dir DIR --trials 1`.
"""

import argparse
import itertools
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType, ModuleType
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import command_line
import configuration
import main_LL4AL
import main_TOD
import plot
import results
from configuration import InputError

PROJECT_DIR = Path(__file__).resolve().parent.parent
REFUSED = 2
"""The exit status of a run that was refused, or has diverged."""
PAPER = {
    "RANDOM/NONE": "random",
    "TOD/NONE": "TOD sampling",
    "TOD/TOD": "TOD sampling + COD loss",
    "LL4AL/LL4AL": "LL4AL",
}
"""The paper's strategies, and their names among its curves."""


class Cell(NamedTuple):
    """One run of the grid."""

    config: str
    strategy: str
    seed: int

    @property
    def entry(self) -> str:
        """The script that offers its strategy."""
        return "main_LL4AL.py" if "LL4AL" in self.choices else "main_TOD.py"

    @property
    def script(self) -> ModuleType:
        """The module of that script."""
        return main_LL4AL if self.entry == "main_LL4AL.py" else main_TOD

    @property
    def choices(self) -> list[str]:
        """Sampling strategy and auxiliary loss."""
        return self.strategy.split("/")

    def command(self, output_dir: Path, scale: float, further: Sequence[str]) -> list[str]:
        """The command that runs it, or goes on with it."""
        sampling, auxiliary = self.choices
        return [
            *(sys.executable, str(PROJECT_DIR / self.entry), f"--config={self.config}"),
            *(f"--sampling={sampling}", f"--auxiliary={auxiliary}", f"--seed={self.seed}"),
            *(f"--output-dir={output_dir}", *shortened_training(self.config, scale), *further),
        ]

    def refuse(self, command: Sequence[str]) -> None:
        """Refuses the command, before any of the grid runs, if its script would.

        Raises:
            InputError: an argument is wrong, or its folder is in use or holds another run.
        """
        from run_folder import RunFolder  # imports torch

        _, _, *arguments = command
        offers = (self.script.SAMPLING, self.script.AUXILIARY)
        run = command_line.parse_arguments("", *offers, arguments)
        with RunFolder(replace(run, entry=self.entry)):
            pass

    def folder(self, output_dir: Path) -> Path:
        """Where its results lie."""
        name = Path(self.config).stem
        return output_dir / command_line.folder_name(name, *self.choices, self.seed)


def shortened_training(config: str, scale: float) -> list[str]:
    """The arguments that multiply all numbers of epochs by `scale`."""
    if scale == 1:
        return []
    settings = configuration.load(config)
    epochs = max(1, round(scale * settings.training.epochs))
    milestones = sorted(
        {round(scale * m) for m in settings.training.milestones} & {*range(1, epochs)}
    )
    return [
        f"--set=training.epochs={epochs}",
        f"--set=training.milestones={milestones}",
        f"--set=ll4al.detach_epoch={round(scale * settings.ll4al.detach_epoch)}",
    ]


class Commands:
    """Runs commands one after the other; a signal goes to the running one, which saves its state.

    Used as a context, after which signals are answered as before.
    """

    def __init__(self) -> None:
        self.child: subprocess.Popen | None = None
        self.signal: int | None = None
        self.told = False
        """Whether the running command knows of the signal."""

    def run(self, command: Sequence[str]) -> int:
        """Runs a command to its end, but not one after a signal.

        Returns:
            Its exit status; 128 + the signal's number, as in a shell, where a signal has ended it.
        """
        if self.signal is None:
            # In a session of its own, it gets no signal from the terminal beside the one from here.
            with subprocess.Popen(command, start_new_session=True) as self.child:
                if self.signal is not None and not self.told:  # it came during the start
                    self.child.send_signal(self.signal)
                status = self.child.wait()
            self.child = None
            return status if status >= 0 else 128 - status
        return 128 + self.signal

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        # A terminal that is closed ends the commands as a job's end does: with their state saved.
        self.signal = signal.SIGTERM if number == signal.SIGHUP else number
        if self.child is not None:
            self.told = True
            self.child.send_signal(self.signal)

    def __enter__(self) -> "Commands":
        signals = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as it is under nohup
            signals.append(signal.SIGHUP)
        self._previous = {number: signal.signal(number, self._pass_on) for number in signals}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def run_all(
    cells: Sequence[Cell], output_dir: Path, scale: float, further: Sequence[str]
) -> dict[Cell, int]:
    """Runs the cells; the exit status of each. An interrupted one is the last.

    Raises:
        InputError: one of them would be refused; none has run then.
    """
    to_run = {cell: cell.command(output_dir, scale, further) for cell in cells}
    for cell, command in to_run.items():
        cell.refuse(command)
    statuses: dict[Cell, int] = {}
    with Commands() as commands:
        for cell, command in to_run.items():
            print(f"{cell.config}, {cell.strategy}, seed {cell.seed}", file=sys.stderr, flush=True)
            statuses[cell] = commands.run(command)
            # One that ends well in spite of a signal is not the last: the next one counts as ended.
            if statuses[cell] in (130, 143) or (commands.signal is not None and statuses[cell]):
                break
    return statuses


def curves_of(cells: Sequence[Cell], output_dir: Path) -> list[results.Curve]:
    """The curves of those cells that have results."""
    folders = [cell.folder(output_dir) for cell in cells]
    return results.read_runs([folder for folder in folders if (folder / "results.csv").exists()])


def tables(cells: Sequence[Cell], output_dir: Path) -> str:
    """The tables of all cells that have results, one configuration after the other, in Markdown."""
    texts = []
    for config in dict.fromkeys(cell.config for cell in cells):
        curves = curves_of([cell for cell in cells if cell.config == config], output_dir)
        if curves:
            texts += map(plot.markdown, plot.tables(curves))
    return "\n\n".join(texts)


def new_parser(description: str, output_dir: Path) -> command_line.Parser:
    """A parser of what all scripts that run cells offer; `parse` reads the command line with it."""
    parser = command_line.Parser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", nargs="+", type=command_line.seed, default=[0], help="default: 0")
    parser.add_argument("--scale", type=float, default=1.0, help="of all epochs (default: 1)")
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=output_dir,
        metavar="DIR",
        help="where the runs' folders are made (default: %(default)s)",
    )
    return parser


def parse(parser: command_line.Parser) -> tuple[argparse.Namespace, list[str]]:
    """The command line, and what follows `--` in it: the entry scripts' further arguments.

    Raises:
        InputError: a configuration, the scale, or what follows `--` is wrong: before anything runs.
    """
    own, further = sys.argv[1:], []
    if "--" in own:
        place = own.index("--")
        own, further = own[:place], own[place + 1 :]
    arguments = parser.parse_args(own)
    for config in arguments.config:
        configuration.load(config)
    _refuse_doubles("--config", [Path(config).stem for config in arguments.config])
    _refuse_doubles("--seed", arguments.seed)
    if not 0 < arguments.scale <= 1:
        raise InputError(f"--scale {arguments.scale:g}: must be above 0 and at most 1")
    for argument in further:
        name = argument.partition("=")[0]
        if name in ("--config", "--sampling", "--auxiliary", "--seed", "--output-dir"):
            raise InputError(f"{name}: belongs before the --")
        if name == "--overwrite":
            raise InputError("--overwrite: remove the runs' folders instead")
    return arguments, further


def parsed() -> tuple[argparse.Namespace, list[str]]:
    """The grid's command line, and the entry scripts' further arguments."""
    parser = new_parser(__doc__, Path("results"))
    parser.add_argument("--config", nargs="+", required=True, help="names or paths")
    parser.add_argument("--strategy", nargs="+", default=list(PAPER), help="SAMPLING/AUXILIARY")
    parser.add_argument("--only", help="the number of one cell, from 0, or none")
    arguments, further = parse(parser)
    for strategy in arguments.strategy:
        _refuse_wrong_strategy(strategy)
    _refuse_doubles("--strategy", arguments.strategy)
    return arguments, further


def _refuse_doubles(option: str, values: Sequence[object]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise InputError(f"{option}: {value} is named twice")


def _refuse_wrong_strategy(strategy: str) -> None:
    if strategy.count("/") != 1:
        raise InputError(f"--strategy {strategy}: write SAMPLING/AUXILIARY, like TOD/NONE")
    cell = Cell("", strategy, 0)
    offers = (cell.script.SAMPLING, cell.script.AUXILIARY)
    for name, offered in zip(cell.choices, offers, strict=True):
        if name not in offered:
            raise InputError(
                f"--strategy {strategy}: {cell.entry} has no {name}, only {', '.join(offered)}"
            )


def main() -> None:
    """Runs the grid, then prints its tables."""
    arguments, further = parsed()
    product = itertools.product(arguments.config, arguments.strategy, arguments.seed)
    cells = chosen = list(map(Cell._make, product))
    if arguments.only == "none":
        chosen = []
    elif arguments.only is not None:
        if not (arguments.only.isdecimal() and int(arguments.only) < len(cells)):
            raise InputError(
                f"--only {arguments.only}: must be from 0 to {len(cells) - 1}, or none"
            )
        chosen = [cells[int(arguments.only)]]
    statuses = run_all(chosen, arguments.output_dir, arguments.scale, further)
    if arguments.scale != 1:
        print(f"epochs, milestones and detach_epoch are {arguments.scale:g} of the configured ones")
    refused = [cell for cell in cells if statuses.get(cell) == REFUSED]
    for config, strategy, seed in refused:
        print(f"{config}, {strategy}, seed {seed}: has stopped and is left out, see above")
    # What lies in the folder of a refused one may be of other images.
    shown = tables([cell for cell in cells if cell not in refused], arguments.output_dir)
    print(shown or "no run has ended a cycle yet")
    sys.exit(max(statuses.values(), default=0))


if __name__ == "__main__":
    with command_line.exit_status():
        main()
