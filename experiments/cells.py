"""The runs of an experiment: the command line that asks for them, and how they run at once."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

import main_LL4AL
import main_TOD
from tod.analysis.results import Curve, read_runs
from tod.config import PROJECT_DIR, InputError, cli, entry_script, load
from tod.config.identity import Command
from tod.engine.launch import checked
from tod.runs.commands import run_commands, share_of_machine
from tod.runs.folder import RunFolder
from tod.system.machine import cores

PAPER = {
    "RANDOM/NONE": "random",
    "TOD/NONE": "TOD sampling",
    "TOD/TOD": "TOD sampling + COD loss",
    "LL4AL/LL4AL": "LL4AL",
    "FULL/NONE": "full training",
}
"""The paper's strategies, and their names among its curves."""
OF_THE_CELLS = ("--config", "--sampling", "--auxiliary", "--seed", "--output-dir")
NOT_FOR_SCRIPTS = {
    **dict.fromkeys(OF_THE_CELLS, "belongs before the --"),
    "--processes": "here --processes, before the --, runs several cells at once",
    "--parallel": "here --processes, before the --, runs several cells at once",
    "--overwrite": "remove the runs' folders instead",
}
"""Arguments that may not follow the `--`, and what to do instead."""


def new_parser(description: str, output_dir: Path, seeds: Sequence[int] = (0,)) -> cli.Parser:
    """A parser of what all scripts that run cells offer, with these defaults."""
    parser = cli.Parser(description=description)
    add = parser.add_argument
    shown = " ".join(map(str, seeds))
    add("--seed", nargs="+", type=cli.seed, default=[*seeds], help=f"default: {shown}")
    add(
        "--processes",
        type=cli.positive,
        metavar="N",
        help="runs at once (default: as many as there are GPUs, or else cores)",
    )
    add("--scale", type=float, default=1.0, help="of all epochs (default: 1)")
    add(
        "--output-dir",
        type=cli.path,
        default=output_dir,
        metavar="DIR",
        help="where the runs' folders are made (default: %(default)s)",
    )
    return parser


def parse(parser: cli.Parser, argv: Sequence[str]) -> argparse.Namespace:
    """The command line; `further` is what follows `--` in it, for the entry scripts.

    All that is wrong is refused before anything runs.
    """
    place = [*argv, "--"].index("--")
    arguments, unknown = parser.parse_known_args(argv[:place])
    arguments.further = [*argv[place + 1 :]]
    if unknown:
        parser.error(
            f"unrecognized arguments: {' '.join(unknown)}; what is for the entry scripts comes "
            "after --, as in -- --set training.lr=0.05"
        )
    for config in arguments.config:
        if load(config).facts.from_people:
            raise InputError(f"--config {config}: its labels come from people; name another one")
    refuse_doubles("--config", [Path(config).stem for config in arguments.config])
    refuse_doubles("--seed", arguments.seed)
    if not 0 < arguments.scale <= 1:
        raise InputError(f"--scale {arguments.scale:g}: must be above 0 and at most 1")
    for argument in arguments.further:
        name = argument.partition("=")[0]
        if name in NOT_FOR_SCRIPTS:
            raise InputError(f"{name}: {NOT_FOR_SCRIPTS[name]}")
    return arguments


def refuse_doubles(option: str, values: Sequence[object]) -> None:
    """Refuses what is named twice."""
    for value in values:
        if values.count(value) > 1:
            raise InputError(f"{option}: {value} is named twice")


class Cell(NamedTuple):
    """One run; a strategy is written SAMPLING/AUXILIARY."""

    config: str
    strategy: str
    seed: int

    def __str__(self) -> str:
        return f"{self.config}, {self.strategy}, seed {self.seed}"

    @property
    def script(self) -> entry_script.EntryScript:
        """The entry script that offers its strategy."""
        return (main_LL4AL if "LL4AL" in self.strategy.split("/") else main_TOD).SCRIPT

    def command(self, arguments: argparse.Namespace) -> Command:
        """What its script is asked for, to run it or to go on with it."""
        sampling, auxiliary = self.strategy.split("/")
        own = {"config": self.config, "sampling": sampling, "auxiliary": auxiliary}
        own |= {"seed": self.seed, "output-dir": arguments.output_dir}
        scaled = shortened_training(self.config, arguments.scale)
        typed = [*(f"--{name}={value}" for name, value in own.items()), *scaled, *arguments.further]
        return entry_script.parse(self.script, typed)


def shortened_training(config: str, scale: float) -> list[str]:
    """The arguments that multiply all numbers of epochs by `scale`."""
    if scale == 1:
        return []
    settings = load(config)
    epochs = max(1, round(scale * settings.training.epochs))
    milestones = {round(scale * milestone) for milestone in settings.training.milestones}
    return [
        f"--set=training.epochs={epochs}",
        f"--set=training.milestones={sorted(milestones & {*range(1, epochs)})}",
        f"--set=ll4al.detach_epoch={round(scale * settings.ll4al.detach_epoch)}",
    ]


def folder_of(command: Command) -> Path:
    """Where a run leaves its results."""
    return command.options.output_dir / command.identity.folder_name


def run_all(cells: Sequence[Cell], arguments: argparse.Namespace) -> dict[Cell, int]:
    """Runs the cells that are not finished, several at once, with one bar; the status of each.

    Where one would be refused, so are all, and none runs.
    """
    commands = {cell: checked(cell.script, cell.command(arguments)) for cell in cells}
    finished = [cell for cell, command in commands.items() if _is_finished(command)]
    typed = {
        cell: [sys.executable, str(PROJECT_DIR / cell.script.name), *command.arguments, "--quiet"]
        for cell, command in commands.items()
        if cell not in finished
    }
    processes = arguments.processes or torch.cuda.device_count() or cores()
    processes = min(processes, max(len(typed), 1))
    progress = _Progress(commands)
    with progress.bar:
        for cell in finished:
            progress.ended(cell, 0, "", "is finished already")
        progress.look()
        ended = run_commands(
            typed,
            processes,
            lambda slot: share_of_machine(slot, processes),
            progress.look,
            progress.ended,
        )
    return {cell: ended.get(cell, 0) for cell in cells}


def _is_finished(command: Command) -> bool:
    """Whether its run needs no process any more; refuses another run in its folder.

    Where the images are said to lie elsewhere, the run itself looks whether they are the same.
    """
    identity, trials = command.identity, command.trials
    with RunFolder(folder_of(command), identity, trials, trials) as folder:
        if not folder.path.exists():
            return False
        folder.claim()
        is_underway = folder.unfinished_trials() or any(folder.path.glob("progress/*"))
        return not is_underway and folder.recorded().get("data_dir") == identity.config.data_dir


class _Progress:
    """One bar over the cycles of all runs; outside of a terminal, a line a run that has ended."""

    def __init__(self, commands: Mapping[Cell, Command]) -> None:
        self.cycles = {
            folder_of(c): len(c.trials) * c.identity.config.active_learning.cycles
            for c in commands.values()
        }
        self.num_ended = 0
        self.bar = tqdm(
            total=sum(self.cycles.values()),
            initial=self._num_done(),  # what earlier runs have done is not this one's speed
            unit="cycle",
            disable=None,  # outside of a terminal
            leave=False,
        )

    def _num_done(self) -> int:
        tables = {folder / "results.csv": count for folder, count in self.cycles.items()}
        contents = {path: path.read_bytes() for path in tables if path.exists()}
        return sum(min(rows.count(b"\n") - 1, tables[path]) for path, rows in contents.items())

    def look(self) -> None:
        """Shows how far the runs are."""
        self.bar.set_description_str(f"{self.num_ended} of {len(self.cycles)} runs", refresh=False)
        self.bar.n = self._num_done()
        self.bar.refresh()

    def ended(self, cell: Cell, status: int, printed: str, how: str = "has ended") -> None:
        """Says that a run has ended, with what it has printed."""
        self.num_ended += 1
        if printed or status or self.bar.disable:
            how = f"has stopped with status {status}" if status else how
            where = f"{self.num_ended} of {len(self.cycles)} runs"
            self.bar.write(f"{printed}{cell}: {how} ({where})", file=sys.stderr)


def curves_of(cells: Sequence[Cell], arguments: argparse.Namespace) -> list[Curve]:
    """The curves of those cells that have results."""
    folders = [folder_of(cell.command(arguments)) for cell in cells]
    return read_runs([folder for folder in folders if (folder / "results.csv").exists()])
