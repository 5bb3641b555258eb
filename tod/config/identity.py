"""The identity of a run, the options of its commands, and the names of its files."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tod.config import Config, cli, config_names
from tod.config.cli import argument


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Two runs with the same identity and the same images are the same run."""

    config: Config = argument(f"{', '.join(config_names())}, or a YAML file", metavar="NAME|FILE")
    entry: str  # the name of the entry script
    sampling: str = argument("which images are queried")
    auxiliary: str = argument("the loss beside the task loss")
    seed: int = argument("decides everything random", 0, type=cli.seed)
    deterministic: bool = argument(
        "the same bytes each time on CUDA too, for some speed (a CPU gives them anyway)", False
    )
    settings: tuple[str, ...] = argument(
        "override one value, as in --set training.lr=0.05; as often as wanted",
        (),
        flag="--set",
        action="append",
        metavar="KEY=VALUE",
    )
    features: str | None = None  # the SHA-256 of the `--features` file, if it is used

    @property
    def title(self) -> str:
        """The beginning of the printed lines."""
        return f"{self.config.name} auxiliary:{self.auxiliary} sampling:{self.sampling}"

    @property
    def folder_name(self) -> str:
        """The name of the run's folder."""
        method = f"auxiliary_{self.auxiliary}_sampling_{self.sampling}"
        return f"{self.config.name}_{method}_seed{self.seed}"

    def as_dict(self) -> dict[str, Any]:
        """The content of `config.yaml`: the configuration, and the rest in the section `run`."""
        names = ("entry", "sampling", "auxiliary", "seed", "deterministic", "features")
        return {**self.config.as_dict(), "run": {name: getattr(self, name) for name in names}}


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the commands of one run may differ: where and how it runs, and what it writes."""

    output_dir: Path = argument("where the run's folder is made", Path("results"), metavar="DIR")
    device: Literal["auto", "cpu", "cuda", "mps"] = argument("where it runs", "auto")
    precision: Literal["auto", "fp32", "tf32", "bf16"] = argument(
        "of training; auto is bf16 where the GPU or the CPU has units for it and a step has 2 "
        "billion multiply-adds or more, else fp32. Images are scored and accuracies measured in "
        "fp32, with tf32 in tf32",
        "auto",
    )
    cuda_graphs: bool = argument(
        "launch a CUDA device's training steps singly: slower, for where graphs do not work",
        True,
        flag="--no-cuda-graphs",
    )
    keep_weights: Literal["all", "last"] = argument(
        "keep the weights of each cycle, or of each trial's last one", "all"
    )
    keep_predictions: bool = argument(
        "keep each cycle's probabilities of the test set, in predictions/trialT_cycleC.npz", False
    )
    quiet: bool = argument("show only warnings; log.txt holds the rest", False)
    tensorboard: bool = argument(
        "write losses, learning rate, accuracy and scores for TensorBoard", False
    )


@dataclass(frozen=True, kw_only=True)
class Command:
    """The content of a command line."""

    identity: Identity
    options: Options
    arguments: Sequence[str]  # as typed, for the processes that it starts
    processes: int = argument(
        "share the work out to so many processes on this machine",
        1,
        type=cli.processes,
        metavar="N",
    )
    parallel: Literal["trials", "data"] = argument(
        "what these processes, or torchrun's, share out: the trials, or the images of each batch "
        "of one trial after the other",
        "trials",
    )
    trials: Sequence[int] = argument(
        "run only these trials, from 1 (default: all that the configuration asks for)",
        None,
        type=cli.number_or_range,
        metavar="N|N-M",
    )
    overwrite: bool = argument(
        "remove what the run's folder holds, of all trials or of --trials, and start afresh", False
    )
    features: Path | None = argument(
        "a .npy file of features (N, F) of the training images in their order: strategies that "
        "compare images look at them instead of the network's, and so does active_learning.initial",
        None,
        metavar="FILE",
    )
    labels: Sequence[Path] = argument(
        "labels from people, for --config own_images: the page's CSV, any CSV with file or sha256 "
        "and class, Label Studio's JSON, JSON_MIN or CSV, another run's labels.csv",
        (),
        nargs="+",
        action="extend",
        metavar="FILE",
    )
    relabel: bool = argument("let --labels change labels that were taken before", False)
    partial: bool = argument(
        "go on without what is missing of a batch; the rest returns to the pool", False
    )


def cycle_name(trial: int, cycle: int) -> str:
    """The name of the files of a trial's cycle, without their ending."""
    return f"trial{trial}_cycle{cycle}"


def cycle_files(folder: Path, ending: str) -> dict[tuple[int, int], Path]:
    """A folder's files with this ending, by trial and cycle, in order."""
    found = {}
    for path in folder.glob(f"*{ending}"):
        if name := re.fullmatch(r"trial(\d+)_cycle(\d+)", path.name.removesuffix(ending)):
            found[int(name[1]), int(name[2])] = path
    return dict(sorted(found.items()))
