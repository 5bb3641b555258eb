"""The runs of an experiment: the command of each, and the curves that they leave."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

import main_LL4AL
import main_TOD
from tod.analysis.results import Curve, read_runs
from tod.config import PROJECT_DIR, entry_script, load
from tod.config.identity import Identity
from tod.runs.commands import run_commands, share_of_machine
from tod.runs.folder import RunFolder
from tod.strategies.pool import refuse_unsuitable, why_unsuitable
from tod.system.machine import cores

PAPER = {
    "RANDOM/NONE": "random",
    "TOD/NONE": "TOD sampling",
    "TOD/TOD": "TOD sampling + COD loss",
    "LL4AL/LL4AL": "LL4AL",
    "FULL/NONE": "full training",
}
"""The paper's strategies, and their names among its curves."""
ALL = (*(f"{sampling}/NONE" for sampling in main_TOD.SAMPLING), "TOD/TOD", "LL4AL/LL4AL")
"""Each sampling strategy on its own, and the paper's methods with their losses."""


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
    def script(self) -> entry_script.EntryScript:
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

    def why_unsuitable(self, arguments: Sequence[str]) -> str | None:
        """Why its strategy cannot work with these arguments; None where it can."""
        identity = entry_script.parse(self.script, arguments)["identity"]
        return why_unsuitable(self.script.sampling[identity.sampling], identity.config)

    def refuse(self, arguments: Sequence[str]) -> int:
        """Refuses the arguments, before any cell runs, if the script would.

        Returns:
            How many cycles its run has.

        Raises:
            InputError: a value is wrong, or the run's folder is in use or holds another run.
            SystemExit: with status 2 after one line, where there is no such argument.
        """
        parsed = entry_script.parse(self.script, arguments)
        identity, trials = parsed["identity"], parsed["trials"]
        sampling = identity.sampling
        refuse_unsuitable(self.script.sampling[sampling], sampling, identity.config)
        path = parsed["options"].output_dir / identity.folder_name
        with RunFolder(path, identity, trials, trials) as folder:
            folder.claim()
        return len(trials) * identity.config.active_learning.cycles

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
    cells: Sequence[Cell],
    output_dir: Path,
    scale: float,
    further: Sequence[str],
    processes: int | None,
) -> dict[Cell, int]:
    """Runs the cells, several at once, with one bar; the exit status of each.

    Args:
        cells: in this order.
        output_dir: where their folders are made.
        scale: of all epochs.
        further: arguments of the entry scripts.
        processes: how many run at once; None: as many as there are GPUs, or else cores.

    Raises:
        InputError: one of them would be refused; none has run then.
        SystemExit: likewise, for an argument that there is not.
    """
    to_run = {cell: cell.arguments(output_dir, scale, further) for cell in cells}
    cycles = {cell: cell.refuse(arguments) for cell, arguments in to_run.items()}
    commands = {
        cell: [sys.executable, str(PROJECT_DIR / cell.script.name), *arguments, "--quiet"]
        for cell, arguments in to_run.items()
    }
    processes = min(processes or torch.cuda.device_count() or cores(), max(len(cells), 1))
    progress = _Progress(cycles, output_dir)
    with progress.bar:
        return run_commands(
            commands,
            processes,
            lambda slot: share_of_machine(slot, processes),
            progress.look,
            progress.ended,
        )


class _Progress:
    """One bar over the cycles of all runs; outside of a terminal, a line a run that has ended.

    Args:
        cycles: how many each run has.
        output_dir: where their folders are made.
    """

    def __init__(self, cycles: Mapping[Cell, int], output_dir: Path) -> None:
        self.folders = {cell.folder(output_dir): count for cell, count in cycles.items()}
        self.num_ended = 0
        self.in_terminal = sys.stderr.isatty()
        self.bar = tqdm(
            total=sum(cycles.values()),
            initial=self._num_done(),  # what earlier runs have done is not this one's speed
            unit="cycle",
            disable=not self.in_terminal,
            leave=False,
        )

    def _num_done(self) -> int:
        return sum(min(_num_rows(folder), count) for folder, count in self.folders.items())

    def look(self) -> None:
        """Shows how far the runs are."""
        self.bar.set_description_str(f"{self.num_ended} of {len(self.folders)} runs", refresh=False)
        self.bar.n = self._num_done()
        self.bar.refresh()

    def ended(self, cell: Cell, status: int, printed: str) -> None:
        """Says that a run has ended, with what it has printed."""
        self.num_ended += 1
        if printed or status or not self.in_terminal:
            how = f"has stopped with status {status}" if status else "has ended"
            where = f"{self.num_ended} of {len(self.folders)} runs"
            self.bar.write(f"{printed}{cell}: {how} ({where})", file=sys.stderr)


def _num_rows(folder: Path) -> int:
    """How many cycles a run has ended."""
    try:
        return (folder / "results.csv").read_bytes().count(b"\n") - 1
    except FileNotFoundError:
        return 0


def curves_of(cells: Sequence[Cell], output_dir: Path) -> list[Curve]:
    """The curves of those cells that have results."""
    folders = [cell.folder(output_dir) for cell in cells]
    return read_runs([folder for folder in folders if (folder / "results.csv").exists()])
