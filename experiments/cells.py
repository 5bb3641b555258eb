"""The runs of an experiment: their command line, and how they run several at once."""

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from tqdm import tqdm

import main_LL4AL
import main_TOD
from tod.analysis.results import Curve, read_run, read_runs
from tod.config import PROJECT_DIR, Config, InputError, cli, entry_script, load
from tod.config.identity import Command
from tod.config.settings import flat
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
ALL = (
    *(
        f"{sampling}/{main_TOD.SCRIPT.strategy(sampling).needs_auxiliary or 'NONE'}"
        for sampling in main_TOD.SAMPLING
    ),
    *("TOD/TOD", "LL4AL/LL4AL"),
)
"""Each sampling strategy on its own, or with the loss that it needs, and the paper's methods."""
OF_THE_CELLS = ("--config", "--sampling", "--auxiliary", "--seed", "--output-dir")
NOT_FOR_SCRIPTS = {
    **dict.fromkeys(OF_THE_CELLS, "belongs before the --"),
    "--processes": "here --processes, before the --, runs several cells at once",
    "--parallel": "here --processes, before the --, runs several cells at once",
    "--overwrite": "remove the runs' folders instead",
}
"""Arguments that may not follow the `--`, and what to do instead."""


def new_parser(description: str, output_dir: Path, seeds: Sequence[int] = (0,)) -> cli.Parser:
    """A parser with the arguments of all scripts that run cells."""
    parser = cli.Parser(description=description)
    add = parser.add_argument
    shown = " ".join(map(str, seeds))
    strategies = (
        "SAMPLING/AUXILIARY of one entry script, or all: each sampling strategy without a loss, "
        f"TOD/TOD and LL4AL/LL4AL (default: {' '.join(PAPER)})"
    )
    add("--strategy", nargs="+", default=[*PAPER], help=strategies)
    add("--seed", nargs="+", type=cli.seed, default=[*seeds], help=f"default: {shown}")
    at_once = "runs at once (default: as many as there are GPUs, or else cores)"
    add("--processes", type=cli.positive, metavar="N", help=at_once)
    add("--scale", type=float, default=1.0, help="of all epochs (default: 1)")
    place = "where the runs' folders are made (default: %(default)s)"
    add("--output-dir", type=cli.path, default=output_dir, metavar="DIR", help=place)
    return parser


def parse(parser: cli.Parser, argv: Sequence[str]) -> argparse.Namespace:
    """The command line; `further` is what follows `--` in it, for the entry scripts.

    Errors are refused before anything runs.
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
        load_simulated(config)
    refuse_doubles("--config", [Path(config).stem for config in arguments.config])
    refuse_doubles("--seed", arguments.seed)
    if not 0 < arguments.scale <= 1:
        raise InputError(f"--scale {arguments.scale:g}: must be above 0 and at most 1")
    for argument in arguments.further:
        name = argument.partition("=")[0]
        if name in NOT_FOR_SCRIPTS:
            raise InputError(f"{name}: {NOT_FOR_SCRIPTS[name]}")
    if arguments.strategy != ["all"]:
        for strategy in arguments.strategy:
            refuse_wrong_strategy(Cell("", strategy, 0, arguments))
        refuse_doubles("--strategy", arguments.strategy)
    return arguments


def load_simulated(name: str, overrides: Sequence[str] = (), data_dir: str | None = None) -> Config:
    """A configuration, as `load` reads it; InputError if its labels come from people."""
    config = load(name, overrides, data_dir)
    refuse_people(config, name)
    return config


def refuse_people(config: Config, name: str) -> None:
    """Refuses a configuration, of this name, whose labels come from people."""
    if config.facts.from_people:
        raise InputError(f"--config {name}: its labels come from people; name another one")


def refuse_doubles(option: str, values: Sequence[object]) -> None:
    """Refuses values that are named twice."""
    for value in values:
        if values.count(value) > 1:
            raise InputError(f"{option}: {value} is named twice")


@dataclass(frozen=True, eq=False)
class Cell:
    """One run of an experiment; a strategy is written SAMPLING/AUXILIARY."""

    config: str
    strategy: str
    seed: int
    arguments: argparse.Namespace

    def __str__(self) -> str:
        return f"{self.config}, {self.strategy}, seed {self.seed}"

    @property
    def script(self) -> entry_script.EntryScript:
        """The entry script that offers its strategy."""
        return (main_LL4AL if "LL4AL" in self.strategy.split("/") else main_TOD).SCRIPT

    @cached_property
    def command(self) -> Command:
        """The command that runs or continues it."""
        sampling, auxiliary = self.strategy.split("/")
        own = {"config": self.config, "sampling": sampling, "auxiliary": auxiliary}
        own |= {"seed": self.seed, "output-dir": self.arguments.output_dir}
        typed = [f"--{name}={value}" for name, value in own.items()]
        typed += shortened_training(self.config, self.arguments.scale)
        command = entry_script.parse(self.script, [*typed, *self.arguments.further])
        refuse_people(command.identity.config, self.config)
        return command

    @property
    def folder(self) -> Path:
        return self.arguments.output_dir / self.command.identity.folder_name

    @property
    def num_cycles(self) -> int:
        return len(self.command.trials) * self.command.identity.config.active_learning.cycles

    @property
    def num_done(self) -> int:
        path = self.folder / "results.csv"
        num_rows = path.read_bytes().count(b"\n") - 1 if path.exists() else 0
        return min(num_rows, self.num_cycles)


def refuse_wrong_strategy(cell: Cell) -> None:
    """Refuses anything other than SAMPLING/AUXILIARY of one entry script."""
    wrong, script = f"--strategy {cell.strategy}", cell.script
    if cell.strategy.count("/") != 1:
        raise InputError(f"{wrong}: write SAMPLING/AUXILIARY, like TOD/NONE, or all")
    offers = (script.sampling, script.auxiliary)
    for name, offered in zip(cell.strategy.split("/"), offers, strict=True):
        if name not in offered:
            raise InputError(f"{wrong}: {script.name} has no {name}, only {', '.join(offered)}")


def cells_of(arguments: argparse.Namespace) -> list[Cell]:
    """The cells of a command line; `all` leaves out strategies that cannot work with it."""
    takes_all = arguments.strategy == ["all"]
    strategies = ALL if takes_all else arguments.strategy
    grid = itertools.product(arguments.config, strategies, arguments.seed)
    cells = [Cell(*place, arguments) for place in grid]
    if not takes_all:
        return cells
    suitable, left_out = [], {}
    for cell in cells:
        identity = cell.command.identity
        if why := cell.script.strategy(identity.sampling).why_unsuitable(identity):
            left_out[f"{cell.config}, {cell.strategy}"] = why
        else:
            suitable.append(cell)
    for name, why in left_out.items():
        print(f"{name}: is left out; it {why}", file=sys.stderr)
    return suitable


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


def run_all(cells: Sequence[Cell], processes: int | None) -> dict[Cell, int]:
    """Runs the unfinished cells, several at once, with one bar; returns the status of each.

    If one would be refused, none runs. Outside of a terminal, a line reports each run that has
    ended.
    """
    commands = {cell: checked(cell.script, cell.command) for cell in cells}
    finished = [cell for cell, command in commands.items() if _is_finished(cell.folder, command)]
    typed = {
        cell: [sys.executable, PROJECT_DIR / command.identity.entry, *command.arguments, "--quiet"]
        for cell, command in commands.items()
        if cell not in finished
    }
    processes = min(processes or torch.cuda.device_count() or cores(), max(len(typed), 1))
    statuses: dict[Cell, int] = {}

    def look() -> None:
        bar.set_description_str(f"{len(statuses)} of {len(cells)} runs", refresh=False)
        bar.n = sum(cell.num_done for cell in cells)
        bar.refresh()

    def ended(cell: Cell, status: int, printed: str, how: str = "has ended") -> None:
        statuses[cell] = status
        if printed or status or bar.disable:
            how = f"has stopped with status {status}" if status else how
            where = f"{len(statuses)} of {len(cells)} runs"
            bar.write(f"{printed}{cell}: {how} ({where})", file=sys.stderr)

    with tqdm(
        total=sum(cell.num_cycles for cell in cells),
        initial=sum(cell.num_done for cell in cells),  # does not count as this command's speed
        unit="cycle",
        disable=None,  # outside of a terminal
        leave=False,
    ) as bar:
        for cell in finished:
            ended(cell, 0, "", "is finished already")
        look()
        share = partial(share_of_machine, processes=processes)
        return statuses | run_commands(typed, processes, share, look, ended)


def _is_finished(path: Path, command: Command) -> bool:
    """Whether a cell needs no process any more; refuses another run in its folder.

    A cell whose images lie elsewhere now needs one, which checks whether they are the same.
    """
    identity, trials = command.identity, command.trials
    with RunFolder(path, identity, trials, trials) as folder:
        if not folder.path.exists():
            return False
        folder.claim()
        is_underway = folder.unfinished_trials() or any(folder.path.glob("progress/*"))
        return not is_underway and folder.recorded().get("data_dir") == identity.config.data_dir


def curves_of(cells: Sequence[Cell]) -> list[Curve]:
    """The curves of the cells that have results; refuses results of other settings."""
    found = [cell for cell in cells if (cell.folder / "results.csv").exists()]
    for cell in found:
        _refuse_other_settings(cell)
    return read_runs([cell.folder for cell in found])


def _refuse_other_settings(cell: Cell) -> None:
    """Refuses results of other settings, among those that the cell's method uses."""
    there, command = read_run(cell.folder), cell.command
    wanted = command.identity.config.as_dict()
    differing = there.differing_keys(replace(there, config=wanted))
    found, wanted, trials = flat(there.config), flat(wanted), "active_learning.trials"
    if found.get(trials) != wanted[trials]:
        differing.append(trials)
    for key in differing:
        words = f"another {key} ({found.get(key)} there, {wanted.get(key)} here)"
        raise _of_another_command(cell, words, f"add --set {key}=VALUE behind a --")
    precision, wanted = there.run.get("precision"), command.options.precision
    if wanted not in ("auto", precision):
        words = f"another precision ({precision} there, {wanted} here)"
        raise _of_another_command(cell, words, f"have --precision {precision} behind a --")


def _of_another_command(cell: Cell, words: str, advice: str) -> InputError:
    advice = f"name another --output-dir, or {advice}"
    return InputError(f"{cell.folder}: has results of {words}; {advice}")
