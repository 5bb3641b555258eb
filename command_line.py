"""The command line of the entry scripts; it imports no torch, so that it answers at once."""

import argparse
import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from configuration import Config, InputError, config_names, load, shortened


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of an entry script: the configuration and what the command line adds to it.

    `chosen_trials` are those of all its processes; `rank`, `local_rank` (on its node) and
    `world_size` say which of how many processes it is that `torchrun` has started for the run.
    """

    config: Config
    entry: str
    sampling: str
    auxiliary: str
    seed: int
    output_dir: Path
    device: str
    chosen_trials: tuple[int, ...]
    precision: str = "auto"
    overwrite: bool = False
    keep_weights: str = "all"
    deterministic: bool = False
    quiet: bool = False
    tensorboard: bool = False
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1

    @property
    def title(self) -> str:
        """What the printed lines begin with."""
        return f"{self.config.name} auxiliary:{self.auxiliary} sampling:{self.sampling}"

    @property
    def trials(self) -> tuple[int, ...]:
        """Those of this process, from 1."""
        return self.chosen_trials[self.rank :: self.world_size]

    @property
    def empties_folder(self) -> bool:
        """Whether this process starts afresh: what rank 0 has emptied, the others fill."""
        return self.overwrite and self.rank == 0

    @property
    def folder(self) -> Path:
        """Where the run's results go."""
        return self.output_dir / folder_name(
            self.config.name, self.sampling, self.auxiliary, self.seed
        )


def folder_name(config: str, sampling: str, auxiliary: str, seed: int) -> str:
    """What the folder of a run is called; `config` is the configuration's name."""
    return f"{config}_auxiliary_{auxiliary}_sampling_{sampling}_seed{seed}"


class Parser(argparse.ArgumentParser):
    """An argument parser that takes no abbreviations, and answers an error with one line."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help lists the arguments)\n")


def parse_arguments(
    description: str,
    sampling: Iterable[str],
    auxiliary: Iterable[str],
    argv: list[str] | None = None,
) -> Run:
    """Reads the command line of an entry script that offers these sampling strategies and losses.

    The last name of each is the default: the method that the script is named after.

    Raises:
        InputError: the configuration is wrong.
        SystemExit: with status 2 after one line, where an argument is wrong.
    """
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config",
        default="digits",
        metavar="NAME|FILE",
        help=f"{', '.join(config_names())}, or a YAML file (default: %(default)s)",
    )
    parser.add_argument(
        "--sampling",
        choices=sampling,
        default=list(sampling)[-1],
        help="which images are queried (default: %(default)s)",
    )
    parser.add_argument(
        "--auxiliary",
        choices=auxiliary,
        default=list(auxiliary)[-1],
        help="the loss beside the task loss (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=seed, default=0, help="decides everything random (default: 0)"
    )
    parser.add_argument("--data-dir", metavar="DIR", help="where the datasets lie (default: data)")
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="where the run's folder is made (default: results)",
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="default: auto"
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "tf32", "bf16"),
        default="auto",
        help="of training; auto is bf16 on CUDA and fp32 elsewhere. Images are scored and "
        "accuracies measured in fp32, with tf32 in tf32 (default: auto)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one value, as in --set training.lr=0.05; as often as wanted",
    )
    parser.add_argument(
        "--trials",
        type=_trials,
        metavar="N|N-M",
        help="run only these trials, from 1 (default: all that the configuration asks for)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="remove what the run's folder holds, of all trials, and start afresh",
    )
    parser.add_argument(
        "--keep-weights",
        choices=("all", "last"),
        default="all",
        help="keep the weights of each cycle, or of each trial's last one (default: all)",
    )
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="the same bytes each time on CUDA too, for some speed (a CPU gives them anyway)",
    )
    parser.add_argument(
        "--quiet", action="store_true", help="show only warnings; log.txt holds the rest"
    )
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="write losses, learning rate, accuracy and scores for TensorBoard",
    )
    arguments = parser.parse_args(argv)
    config = load(arguments.config, arguments.set, arguments.data_dir)
    trials = arguments.trials or (1, config.active_learning.trials)
    if trials[1] > config.active_learning.trials:
        parser.error(
            f"argument --trials: there are {config.active_learning.trials} trials "
            "(active_learning.trials)"
        )
    rank, local_rank, world_size = _place_under_torchrun()
    run = Run(
        config=config,
        entry=Path(sys.argv[0]).name,
        sampling=arguments.sampling,
        auxiliary=arguments.auxiliary,
        seed=arguments.seed,
        output_dir=arguments.output_dir,
        device=arguments.device,
        precision=arguments.precision,
        chosen_trials=tuple(range(trials[0], trials[1] + 1)),
        overwrite=arguments.overwrite,
        keep_weights=arguments.keep_weights,
        deterministic=arguments.deterministic,
        quiet=arguments.quiet,
        tensorboard=arguments.tensorboard,
        rank=rank,
        local_rank=local_rank,
        world_size=world_size,
    )
    _refuse_what_is_no_folder(run.folder)
    return run


def _refuse_what_is_no_folder(path: Path) -> None:
    """Refuses a run folder that could not be made, before anything slow begins."""
    try:
        nearest = next(p for p in (path, *path.parents) if p.exists())
        if nearest.is_dir():
            return
        reason = f"{nearest} is no folder"
    except OSError as error:
        reason = error.strerror
    raise InputError(
        f"--output-dir: {path} cannot be written ({reason}); name another place"
    ) from None


def _place_under_torchrun() -> tuple[int, int, int]:
    """Rank, rank on this node, and number of processes; one alone, without `torchrun`."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 0, 0, 1
    rank, local_rank, world_size = (
        int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    )
    return rank, local_rank, world_size


def seed(value: str) -> int:
    """A seed from the command line.

    Raises:
        ArgumentTypeError: it is none.
    """
    # Python reads no integer of more than 4,300 digits.
    if not value.isdecimal() or len(value) > 19 or not int(value) < 2**63:
        raise argparse.ArgumentTypeError(
            f"{shortened(value)} is not a whole number from 0 to 2**63 - 1"
        )
    return int(value)


def positive(value: str) -> int:
    """A count from the command line.

    Raises:
        ArgumentTypeError: it is none.
    """
    if not (value.isdecimal() and len(value) < 10 and int(value) > 0):
        raise argparse.ArgumentTypeError(f"{shortened(value)} is not a whole number from 1")
    return int(value)


def _trials(value: str) -> tuple[int, int]:
    first, dash, last = value.partition("-")
    last = last if dash else first
    digits = first.isdecimal() and last.isdecimal() and len(value) < 20
    if not (digits and 1 <= int(first) <= int(last)):
        raise argparse.ArgumentTypeError(
            f"{shortened(value)} is not a trial, like 2, or a range, like 1-3"
        )
    return int(first), int(last)


@contextmanager
def exit_status() -> Iterator[None]:
    """Turns bad input into its message and status 2, and an early SIGINT into status 130.

    What a terminal's encoding lacks is shown as a question mark; where nobody reads on, nothing is.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
