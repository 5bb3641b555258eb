"""The command line of an entry script, and what it starts.

The libraries of a run take seconds to import, so nothing imports them before there is work to do.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tod.config import PROJECT_DIR, Config, InputError, config_names, load, read_run
from tod.config.cli import Parser, path, positive, seed, whole_number
from tod.config.identity import Identity, Options
from tod.config.schema import OWN_IMAGES
from tod.system.files import reason, sha256

CHOICES = ("sampling", "auxiliary", "seed", "deterministic")
"""The arguments that make a run another one."""

if TYPE_CHECKING:
    from losses import AuxiliaryLoss
    from tod.strategies.pool import Pool, Query


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
    sampling: Mapping[str, "Callable[[Pool], Query]"]
    auxiliary: Mapping[str, "type[AuxiliaryLoss]"]
    default: str


def main(script: EntryScript, argv: Sequence[str] | None = None) -> None:
    """Reads the command line of an entry script (None: the process's), then runs the experiment.

    Raises:
        InputError: the configuration is wrong, or the run's folder is not to be had.
        SystemExit: with status 2 after one line, where an argument is wrong.
    """
    arguments = parse(script, argv)
    identity, options = arguments.pop("identity"), arguments.pop("options")
    parallel, processes = arguments.pop("parallel"), arguments.pop("processes")
    sampling, auxiliary = script.sampling[identity.sampling], script.auxiliary[identity.auxiliary]

    from tod.runs.ranks import PROCESSES, ranks_from_environment, run_as_ranks, started_by
    from tod.strategies.pool import refuse_unsuitable

    refuse_unsuitable(sampling, identity.sampling, identity.config)
    if parallel == "trials":
        processes = min(processes, len(arguments.get("trials", [1])))
    if processes > 1 and started_by() is None:
        own = sys.argv[1:] if argv is None else argv
        command = [sys.executable, str(PROJECT_DIR / script.name), *own]
        sys.exit(run_as_ranks(command, processes))
    if processes > 1 and started_by() != PROCESSES:
        raise InputError("--processes: torchrun has started the processes; leave it out")
    if parallel == "data" and started_by() is None:
        raise InputError(
            "--parallel data: shares a trial among several processes; add --processes 2, say, or "
            f"start them by torchrun --nproc_per_node=2 {script.name} --parallel data"
        )
    if identity.config.dataset == OWN_IMAGES:
        from tod.engine.rounds import run_round as run
    else:
        from tod.engine.experiment import run_experiment as run

    ranks = ranks_from_environment()
    if parallel == "trials" or ranks.world_size == 1:
        run(identity, sampling, auxiliary, options, **arguments)
        return

    from tod.engine.data_parallel import DataParallel
    from tod.engine.follower import follow

    with DataParallel(ranks.rank, ranks.world_size, options.device) as group:
        if ranks.is_main_process:
            run(identity, sampling, auxiliary, options, group=group, **arguments)
        else:
            follow(identity, auxiliary, ranks, group, options.device, options.quiet)


def parse(script: EntryScript, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """What the command line asks for: the `identity` and the `options` of the run, `parallel`,
    `processes`, and the other arguments of `run_experiment`, or `run_round`, by name.

    Raises:
        InputError: the configuration is wrong, or the run's folder could not be made.
        SystemExit: with status 2 after one line, where an argument is wrong.
    """
    parser = _parser(script)
    arguments = vars(parser.parse_args(argv))
    name, overrides, data_dir = (arguments.pop(key) for key in ("config", "set", "data_dir"))
    config = load(name, overrides, data_dir)
    if config.dataset == OWN_IMAGES:
        overrides = [*_recorded_settings(config, script, arguments), *overrides]
        config = load(name, overrides, data_dir)
    strategy = script.sampling[arguments["sampling"]]
    settings = getattr(strategy, "settings", ())
    if settings and config.dataset != OWN_IMAGES:
        config = load(name, [*overrides, *settings], data_dir)
    num_trials = config.active_learning.trials
    trials = arguments["trials"] or range(1, num_trials + 1)
    if trials[-1] > num_trials:
        parser.error(f"argument --trials: there are {num_trials} trials (active_learning.trials)")
    if config.dataset == OWN_IMAGES:
        del arguments["trials"]
        if arguments["processes"] > 1 and arguments["parallel"] == "trials":
            parser.error(
                "argument --processes: people label for one trial; --parallel data shares it"
            )
        if arguments.pop("overwrite"):
            parser.error(
                "argument --overwrite: would lose the labels that people have given; name another "
                "--output-dir, and give them to it by --labels RUN_FOLDER/labels.csv"
            )
    else:
        arguments["trials"] = trials
        for name in ("labels", "relabel", "partial"):
            if arguments.pop(name):
                parser.error(f"argument --{name}: is for people's labels (--config {OWN_IMAGES})")
    digest = _digest_of_features(parser, arguments, config, strategy)
    identity = _identity(config, script, arguments, features=digest, settings=tuple(overrides))
    for name in CHOICES:
        del arguments[name]
    options = Options(**{field.name: arguments.pop(field.name) for field in fields(Options)})
    _refuse_what_is_no_folder(options.output_dir / identity.folder_name)
    return {**arguments, "identity": identity, "options": options}


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


def _digest_of_features(
    parser: Parser, arguments: dict[str, Any], config: Config, strategy: object
) -> str | None:
    """The SHA-256 of the file of `--features`; None where there is none, or no use for it."""
    features, choice = arguments["features"], config.active_learning.initial
    if config.dataset == OWN_IMAGES:
        if arguments.pop("features"):
            parser.error(
                f"argument --features: is for datasets whose order is known, not for {OWN_IMAGES}"
            )
        return None
    if features is None:
        if choice == "typical":
            parser.error("argument --features: active_learning.initial=typical needs a file")
        return None
    if choice != "typical" and not hasattr(strategy, "takes_features"):
        return None
    try:
        return sha256(features)
    except OSError as error:
        parser.error(f"argument --features: {features} cannot be read ({reason(error)})")


def _refuse_what_is_no_folder(path: Path) -> None:
    """Refuses a run folder that could not be made, before anything slow begins."""
    try:
        nearest = next(p for p in (path, *path.parents) if p.exists())
        if nearest.is_dir():
            return
        why = f"{nearest} is no folder"
    except OSError as error:
        why = reason(error)
    raise InputError(f"--output-dir: {path} cannot be written ({why}); name another place")


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
