"""The command line that all scripts that run cells share."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tod.config import InputError, cli, load
from tod.config.schema import OWN_IMAGES

OF_THE_CELLS = ("--config", "--sampling", "--auxiliary", "--seed", "--output-dir")
"""What each cell gives its entry script itself."""


def new_parser(description: str, output_dir: Path, seeds: Sequence[int] = (0,)) -> cli.Parser:
    """A parser of what those scripts offer; `parse` reads the command line with it.

    Args:
        description: what `--help` says of the script.
        output_dir: where the runs' folders are made unless another place is named.
        seeds: what they begin with unless others are named.
    """
    parser = cli.Parser(description=description)
    parser.add_argument(
        "--seed",
        nargs="+",
        type=cli.seed,
        default=[*seeds],
        help=f"default: {' '.join(map(str, seeds))}",
    )
    parser.add_argument(
        "--processes",
        type=cli.positive,
        metavar="N",
        help="runs at once (default: as many as there are GPUs, or else cores)",
    )
    parser.add_argument("--scale", type=float, default=1.0, help="of all epochs (default: 1)")
    parser.add_argument(
        "--output-dir",
        type=cli.path,
        default=output_dir,
        metavar="DIR",
        help="where the runs' folders are made (default: %(default)s)",
    )
    return parser


def parse(parser: cli.Parser, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command line, and what follows `--` in it: the entry scripts' further arguments.

    Raises:
        InputError: a configuration, the scale, or what follows `--` is wrong: before anything runs.
        SystemExit: with status 2 after one line, where an argument is wrong.
    """
    own, further = list(argv), []
    if "--" in own:
        place = own.index("--")
        own, further = own[:place], own[place + 1 :]
    arguments, unknown = parser.parse_known_args(own)
    if unknown:
        parser.error(
            f"unrecognized arguments: {' '.join(unknown)}; what is for the entry scripts comes "
            "after --, as in -- --set training.lr=0.05"
        )
    for config in arguments.config:
        if load(config).dataset == OWN_IMAGES:
            raise InputError(f"--config {config}: its labels come from people; name another one")
    refuse_doubles("--config", [Path(config).stem for config in arguments.config])
    refuse_doubles("--seed", arguments.seed)
    if not 0 < arguments.scale <= 1:
        raise InputError(f"--scale {arguments.scale:g}: must be above 0 and at most 1")
    for argument in further:
        name = argument.partition("=")[0]
        if name in OF_THE_CELLS:
            raise InputError(f"{name}: belongs before the --")
        if name in ("--processes", "--parallel"):
            raise InputError(f"{name}: here --processes, before the --, runs several cells at once")
        if name == "--overwrite":
            raise InputError("--overwrite: remove the runs' folders instead")
    return arguments, further


def refuse_doubles(option: str, values: Sequence[object]) -> None:
    """Refuses what is named twice.

    Raises:
        InputError: something is.
    """
    for value in values:
        if values.count(value) > 1:
            raise InputError(f"{option}: {value} is named twice")
