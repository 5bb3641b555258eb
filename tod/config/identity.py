"""What makes two runs the same, how their commands may differ, and what their files are called."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tod.config import Config


@dataclass(frozen=True, kw_only=True)
class Identity:
    """All that makes two runs the same, but for the images themselves.

    `sampling`, `auxiliary` and `entry` are the names of the strategy, of the loss and of the entry
    script; `seed` decides everything random; `deterministic` asks for the same bytes on CUDA too;
    `features` is the SHA-256 of the file of `--features`, where it is used; `settings` are those of
    `--set`, which the configuration holds already.
    """

    config: Config
    entry: str
    sampling: str
    auxiliary: str
    seed: int
    deterministic: bool = False
    features: str | None = None
    settings: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What the printed lines begin with."""
        return f"{self.config.name} auxiliary:{self.auxiliary} sampling:{self.sampling}"

    @property
    def folder_name(self) -> str:
        """What the folder of the run is called."""
        method = f"auxiliary_{self.auxiliary}_sampling_{self.sampling}"
        return f"{self.config.name}_{method}_seed{self.seed}"

    def as_dict(self) -> dict[str, Any]:
        """The configuration, and under `run` the rest, as `config.yaml` has them."""
        names = ("entry", "sampling", "auxiliary", "seed", "deterministic", "features")
        return {**self.config.as_dict(), "run": {name: getattr(self, name) for name in names}}


@dataclass(frozen=True, kw_only=True)
class Options:
    """In what the commands of one run may differ: where and how it runs, and what it leaves.

    Attributes:
        output_dir: where the run's folder is made.
        device: `auto`, `cpu`, `cuda` or `mps`.
        precision: of training: `auto`, `fp32`, `tf32` or `bf16`.
        cuda_graphs: whether a CUDA device replays its training steps as graphs.
        keep_weights: of `all` cycles, or of each trial's `last` one.
        keep_predictions: keep each cycle's probabilities of the test set.
        quiet: show warnings alone.
        tensorboard: write for TensorBoard too.
    """

    output_dir: Path
    device: str
    precision: str
    cuda_graphs: bool
    keep_weights: str
    keep_predictions: bool
    quiet: bool
    tensorboard: bool


@dataclass(frozen=True, kw_only=True)
class Command:
    """What a command line asks for.

    Attributes:
        identity: the run.
        options: how it runs.
        processes: how many share the work on this machine.
        parallel: what these share out: `trials`, or `data`, the images of each batch.
        trials: those to run, from 1; of people's runs, the only one.
        overwrite: start afresh; never of people's runs.
        features: the file of `--features`.
        labels: files in which people give labels.
        relabel: whether these may change labels taken before.
        partial: go on without what is missing of the last batch.
        arguments: as typed, for processes that run the same.
    """

    identity: Identity
    options: Options
    processes: int
    parallel: str
    trials: Sequence[int]
    overwrite: bool
    features: Path | None
    labels: Sequence[Path]
    relabel: bool
    partial: bool
    arguments: Sequence[str]


def cycle_name(trial: int, cycle: int) -> str:
    """What the files of a trial's cycle are called, but for their ending."""
    return f"trial{trial}_cycle{cycle}"


def cycle_files(folder: Path, ending: str) -> dict[tuple[int, int], Path]:
    """A folder's files of this ending, by the trial and the cycle that they are of, in order."""
    found = {}
    for path in folder.glob(f"*{ending}"):
        if name := re.fullmatch(r"trial(\d+)_cycle(\d+)", path.name.removesuffix(ending)):
            found[int(name[1]), int(name[2])] = path
    return dict(sorted(found.items()))
