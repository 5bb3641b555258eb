"""The runs of an experiment: the command of each, and the curves that they leave."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import main_LL4AL
import main_TOD
from experiments.commands import Commands
from tod import cli
from tod.analysis.results import Curve, read_runs
from tod.config import PROJECT_DIR, load
from tod.runs.folder import RunFolder
from tod.runs.identity import Identity

PAPER = {
    "RANDOM/NONE": "random",
    "TOD/NONE": "TOD sampling",
    "TOD/TOD": "TOD sampling + COD loss",
    "LL4AL/LL4AL": "LL4AL",
}
"""The paper's strategies, and their names among its curves."""


class Cell(NamedTuple):
    """One run; a strategy is written SAMPLING/AUXILIARY."""

    config: str
    strategy: str
    seed: int

    def __str__(self) -> str:
        return f"{self.config}, {self.strategy}, seed {self.seed}"

    @property
    def choices(self) -> list[str]:
        """Sampling strategy and auxiliary loss."""
        return self.strategy.split("/")

    @property
    def script(self) -> cli.EntryScript:
        """The entry script that offers its strategy."""
        return (main_LL4AL if "LL4AL" in self.choices else main_TOD).SCRIPT

    def arguments(self, output_dir: Path, scale: float, further: Sequence[str]) -> list[str]:
        """What its script is called with, to run it or to go on with it."""
        sampling, auxiliary = self.choices
        return [
            f"--config={self.config}",
            f"--sampling={sampling}",
            f"--auxiliary={auxiliary}",
            f"--seed={self.seed}",
            f"--output-dir={output_dir}",
            *shortened_training(self.config, scale),
            *further,
        ]

    def refuse(self, arguments: Sequence[str]) -> None:
        """Refuses the arguments, before any cell runs, if the script would.

        Raises:
            InputError: a value is wrong, or the run's folder is in use or holds another run.
            SystemExit: with status 2 after one line, where there is no such argument.
        """
        options = cli.parse(self.script, arguments)
        identity, trials = options["identity"], options["trials"]
        path = options["output_dir"] / identity.folder_name
        with RunFolder(path, identity, trials, trials) as folder:
            folder.claim()

    def folder(self, output_dir: Path) -> Path:
        """Where its results lie."""
        sampling, auxiliary = self.choices
        identity = Identity(
            config=load(self.config),
            entry=self.script.name,
            sampling=sampling,
            auxiliary=auxiliary,
            seed=self.seed,
        )
        return output_dir / identity.folder_name


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


def run_all(
    cells: Sequence[Cell], output_dir: Path, scale: float, further: Sequence[str]
) -> dict[Cell, int]:
    """Runs the cells; the exit status of each. An interrupted one is the last.

    Args:
        cells: in this order.
        output_dir: where their folders are made.
        scale: of all epochs.
        further: arguments of the entry scripts.

    Raises:
        InputError: one of them would be refused; none has run then.
        SystemExit: likewise, for an argument that there is not.
    """
    to_run = {cell: cell.arguments(output_dir, scale, further) for cell in cells}
    for cell, arguments in to_run.items():
        cell.refuse(arguments)
    statuses: dict[Cell, int] = {}
    with Commands() as commands:
        for cell, arguments in to_run.items():
            print(cell, file=sys.stderr, flush=True)
            command = [sys.executable, str(PROJECT_DIR / cell.script.name), *arguments]
            statuses[cell] = commands.run(command)
            # One that ends well in spite of a signal is not the last: the next one counts as ended.
            if statuses[cell] in (130, 143) or (commands.signal is not None and statuses[cell]):
                break
    return statuses


def curves_of(cells: Sequence[Cell], output_dir: Path) -> list[Curve]:
    """The curves of those cells that have results."""
    folders = [cell.folder(output_dir) for cell in cells]
    return read_runs([folder for folder in folders if (folder / "results.csv").exists()])
