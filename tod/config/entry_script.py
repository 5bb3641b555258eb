"""What an entry script offers, and its command line."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tod.config import Config, InputError, config_names, load, read_run
from tod.config.cli import Parser, path, positive, seed, whole_number
from tod.config.identity import Command, Identity, Options
from tod.config.schema import OWN_IMAGES

CHOICES = ("sampling", "auxiliary", "seed", "deterministic")
"""The arguments that make a run another one."""

if TYPE_CHECKING:
    from losses import AuxiliaryLoss
    from tod.strategies.pool import Pool, Query


@dataclass(frozen=True)
class Strategy:
    """A sampling strategy, and what it needs of a configuration.

    Attributes:
        query: chooses from a pool.
        why_unsuitable: why it cannot work with a configuration; None where it can.
        always_with: `KEY=VALUE` of the configuration that it means, whatever this says.
        takes_features: whether it looks at `Pool.representation`, which `--features` replaces.
    """

    query: "Callable[[Pool], Query]"
    why_unsuitable: Callable[[Config], str | None] = lambda config: None
    always_with: tuple[str, ...] = ()
    takes_features: bool = False

    def __call__(self, pool: "Pool") -> "Query":
        return self.query(pool)

    def refuse_unsuitable(self, name: str, config: Config) -> None:
        """Refuses a configuration with which the strategy of this name cannot work."""
        if why := self.why_unsuitable(config):
            raise InputError(f"--sampling {name}: {why}")


@dataclass(frozen=True)
class EntryScript:
    """What an entry script offers.

    Attributes:
        name: of its file.
        description: what `--help` says of it.
        sampling: its strategies, by name.
        auxiliary: its losses, by name.
        default: the method that it is named after: a strategy and a loss.
    """

    name: str
    description: str
    sampling: Mapping[str, "Strategy | Callable[[Pool], Query]"]
    auxiliary: Mapping[str, "type[AuxiliaryLoss]"]
    default: str

    def strategy(self, name: str) -> Strategy:
        """A strategy; one that is listed as a plain function needs nothing."""
        listed = self.sampling[name]
        return listed if isinstance(listed, Strategy) else Strategy(listed)

    def method(self, identity: Identity) -> tuple[Strategy, "type[AuxiliaryLoss]"]:
        """The strategy and the loss of a run."""
        return self.strategy(identity.sampling), self.auxiliary[identity.auxiliary]


def parse(script: EntryScript, argv: Sequence[str] | None = None) -> Command:
    """What the command line of an entry script (None: the process's) asks for.

    Raises:
        InputError: the configuration is wrong.
        SystemExit: with status 2 after one line, where an argument is wrong.
    """
    own = sys.argv[1:] if argv is None else list(argv)
    parser = _parser(script)
    arguments = vars(parser.parse_args(own))
    name, overrides, data_dir = (arguments.pop(key) for key in ("config", "set", "data_dir"))
    config = load(name, overrides, data_dir)
    if config.facts.from_people:
        overrides = [*_recorded_settings(config, script, arguments), *overrides]
        config = load(name, overrides, data_dir)
    elif settings := script.strategy(arguments["sampling"]).always_with:
        config = load(name, [*overrides, *settings], data_dir)
    num_trials = config.active_learning.trials
    arguments["trials"] = arguments["trials"] or range(1, num_trials + 1)
    if arguments["trials"][-1] > num_trials:
        parser.error(f"argument --trials: there are {num_trials} trials (active_learning.trials)")
    _refuse_contradictions(parser, config, arguments)
    identity = _identity(config, script, arguments, settings=tuple(overrides))
    for name in CHOICES:
        del arguments[name]
    options = Options(**{field.name: arguments.pop(field.name) for field in fields(Options)})
    return Command(identity=identity, options=options, arguments=own, **arguments)


def _refuse_contradictions(parser: Parser, config: Config, arguments: dict[str, Any]) -> None:
    if not config.facts.from_people:
        for name in ("labels", "relabel", "partial"):
            if arguments[name]:
                parser.error(f"argument --{name}: is for people's labels (--config {OWN_IMAGES})")
        if config.active_learning.initial == "typical" and not arguments["features"]:
            parser.error("argument --features: active_learning.initial=typical needs a file")
        return
    if arguments["processes"] > 1 and arguments["parallel"] == "trials":
        parser.error("argument --processes: people label for one trial; --parallel data shares it")
    if arguments["overwrite"]:
        parser.error(
            "argument --overwrite: would lose the labels that people have given; name another "
            "--output-dir, and give them to it by --labels RUN_FOLDER/labels.csv"
        )
    if arguments["features"]:
        parser.error(
            f"argument --features: is for datasets whose order is known, not for {OWN_IMAGES}"
        )


def _identity(
    config: Config, script: EntryScript, arguments: dict[str, Any], **further: Any
) -> Identity:
    choices = {name: arguments[name] for name in CHOICES}
    return Identity(config=config, entry=script.name, **choices, **further)


def _recorded_settings(
    config: Config, script: EntryScript, arguments: dict[str, Any]
) -> Sequence[str]:
    """The `--set` with which people's run has begun, so that later rounds may leave it out."""
    folder = arguments["output_dir"] / _identity(config, script, arguments).folder_name
    if not (folder / "config.yaml").exists():
        return []
    advice = "bring back the file as it was"
    settings = read_run(folder, advice)["run"].get("settings", [])
    if not isinstance(settings, list) or not all(isinstance(each, str) for each in settings):
        raise InputError(f"{folder / 'config.yaml'}: run.settings is no list of texts; {advice}")
    return settings


def _parser(script: EntryScript) -> Parser:
    parser = Parser(prog=script.name, description=script.description)
    add = parser.add_argument
    add(
        "--config",
        default="digits",
        metavar="NAME|FILE",
        help=f"{', '.join(config_names())}, or a YAML file (default: %(default)s)",
    )
    add(
        "--sampling",
        choices=list(script.sampling),
        default=script.default,
        help="which images are queried (default: %(default)s)",
    )
    add(
        "--auxiliary",
        choices=list(script.auxiliary),
        default=script.default,
        help="the loss beside the task loss (default: %(default)s)",
    )
    add("--seed", type=seed, default=0, help="decides everything random (default: 0)")
    add("--data-dir", metavar="DIR", help="where the datasets lie (default: as configured)")
    add(
        "--output-dir",
        type=path,
        default=Path("results"),
        metavar="DIR",
        help="where the run's folder is made (default: results)",
    )
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="default: auto")
    add(
        "--precision",
        choices=("auto", "fp32", "tf32", "bf16"),
        default="auto",
        help="of training; auto is bf16 where the GPU or the CPU has units for it and a step has 2 "
        "billion multiply-adds or more, else fp32. Images are scored and accuracies measured in "
        "fp32, with tf32 in tf32 (default: auto)",
    )
    add(
        "--processes",
        type=_processes,
        default=1,
        metavar="N",
        help="share the work out to so many processes on this machine (default: 1)",
    )
    add(
        "--parallel",
        choices=("trials", "data"),
        default="trials",
        help="what these processes, or torchrun's, share out: the trials, or the images of each "
        "batch of one trial after the other (default: trials)",
    )
    add(
        "--no-cuda-graphs",
        dest="cuda_graphs",
        action="store_false",
        help="launch a CUDA device's training steps singly: slower, for where graphs do not work",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one value, as in --set training.lr=0.05; as often as wanted",
    )
    add(
        "--trials",
        type=_trials,
        metavar="N|N-M",
        help="run only these trials, from 1 (default: all that the configuration asks for)",
    )
    add(
        "--labels",
        type=path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="labels from people, for --config own_images: the page's CSV, any CSV with file or "
        "sha256 and class, Label Studio's JSON, JSON_MIN or CSV, another run's labels.csv",
    )
    add(
        "--features",
        type=path,
        metavar="FILE",
        help="a .npy file of features (N, F) of the training images in their order: TYPICLUST and "
        "PROBCOVER look at them instead of the network's, and active_learning.initial=typical does",
    )
    add("--relabel", action="store_true", help="let --labels change labels that were taken before")
    add(
        "--partial",
        action="store_true",
        help="go on without what is missing of a batch; the rest returns to the pool",
    )
    add(
        "--overwrite",
        action="store_true",
        help="remove what the run's folder holds, of all trials, and start afresh",
    )
    add(
        "--keep-weights",
        choices=("all", "last"),
        default="all",
        help="keep the weights of each cycle, or of each trial's last one (default: all)",
    )
    add(
        "--keep-predictions",
        action="store_true",
        help="keep each cycle's probabilities of the test set, in predictions/trialT_cycleC.npz",
    )
    add(
        "--deterministic",
        action="store_true",
        help="the same bytes each time on CUDA too, for some speed (a CPU gives them anyway)",
    )
    add("--quiet", action="store_true", help="show only warnings; log.txt holds the rest")
    add(
        "--tensorboard",
        action="store_true",
        help="write losses, learning rate, accuracy and scores for TensorBoard",
    )
    return parser


def _processes(value: str) -> int:
    return whole_number(value, minimum=1, maximum=1024)


def _trials(value: str) -> range:
    first, _, last = value.partition("-")
    try:
        trials = range(positive(first), positive(last if "-" in value else first) + 1)
    except argparse.ArgumentTypeError:
        trials = range(0)
    if not trials:
        raise argparse.ArgumentTypeError(f"{value} is not a trial, like 2, or a range, like 1-3")
    return trials
