"""The command lines of all scripts: arguments and exit statuses."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import MISSING, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin

from tod.config import InputError
from tod.config.settings import expanded

Record = TypeVar("Record")


class Parser(argparse.ArgumentParser):
    """An argument parser without abbreviations, whose errors are one line."""

    def __init__(self, **settings: Any) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(allow_abbrev=False, formatter_class=formatter, **settings)

    def add_fields(self, record: type, **own: dict[str, Any]) -> None:
        """Adds an argument for each `argument` of a dataclass, with `own` settings by field."""
        for each in fields(record):
            if each.metadata:
                settings = {"default": each.default, **each.metadata, **own.get(each.name, {})}
                self._add_field(each.name, each.type, **settings)

    def _add_field(self, name: str, kind: Any, flag: str = "", **settings: Any) -> None:
        default = settings["default"]
        if kind is bool:
            settings["action"] = "store_false" if default else "store_true"
        elif default == ():
            settings["default"] = []  # a list, which argparse extends
        elif default is not None:
            settings["help"] += " (default: %(default)s)"
        if get_origin(kind) is Literal:
            settings["choices"] = get_args(kind)
        elif Path in (kind, *get_args(kind)):
            settings["type"] = path
        self.add_argument(flag or f"--{name.replace('_', '-')}", dest=name, **settings)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help lists the arguments)\n")


def argument(help: str, default: Any = MISSING, **settings: Any) -> Any:
    """A field of a dataclass that the command line fills.

    The argument has the field's name, unless `flag` gives another. The field's type decides whether
    it takes a value, and which. Further settings are those of `add_argument`.
    """
    return field(default=default, metadata={"help": help, **settings})


def filled(record: type[Record], typed: argparse.Namespace, /, **values: Any) -> Record:
    """A dataclass filled from the command line; `values` replace arguments."""
    names = [each.name for each in fields(record) if each.metadata]
    return record(**{name: getattr(typed, name) for name in names} | values)


def path(value: str) -> Path:
    """A path from the command line; `~` is the user's own folder."""
    return Path(expanded(value))


def file_type(*endings: str) -> Callable[[str], Path]:
    """The type of an argument for a file whose name must have one of these endings."""
    named = " or ".join(endings).replace(" or ", ", ", len(endings) - 2)

    def checked(value: str) -> Path:
        file = path(value)
        if file.name.lower() in endings or not file.name.lower().endswith(endings):
            raise argparse.ArgumentTypeError(f"{value} does not end in {named}")
        return file

    return checked


def whole_number(value: str, minimum: int, maximum: int) -> int:
    """A number within these bounds from the command line."""
    with suppress(ValueError):
        if value.isdecimal() and minimum <= int(value) <= maximum:
            return int(value)
    raise argparse.ArgumentTypeError(f"{value} is not a whole number from {minimum} to {maximum:,}")


seed = partial(whole_number, minimum=0, maximum=2**63 - 1)
positive = partial(whole_number, minimum=1, maximum=10**9)
processes = partial(whole_number, minimum=1, maximum=1024)


def number_or_range(value: str) -> range:
    """A trial, like 2, or a range of trials, like 1-3, from the command line."""
    first, dash, last = value.partition("-")
    with suppress(argparse.ArgumentTypeError):
        if trials := range(positive(first), positive(last if dash else first) + 1):
            return trials
    raise argparse.ArgumentTypeError(f"{value} is not a trial, like 2, or a range, like 1-3")


def percent(value: str) -> float:
    """An accuracy in %, from 1, from the command line: a share, as 0.95, is a mistake."""
    with suppress(ValueError):
        if 1 <= float(value) <= 100:
            return float(value)
    raise argparse.ArgumentTypeError(f"{value} is not an accuracy in %, from 1 to 100")


def add_runs(parser: Parser) -> None:
    """Adds `RUN ...`."""
    parser.add_argument("runs", nargs="+", type=path, metavar="RUN", help="a run's folder")


def add_target(parser: Parser) -> None:
    """Adds `--target`."""
    shows = "draw and say how many labels this test accuracy, such as 95, would take"
    parser.add_argument("--target", type=percent, metavar="PERCENT", help=shows)


@contextmanager
def exit_status() -> Iterator[None]:
    """Turns bad input into its message and status 2, and an early SIGINT into status 130.

    Characters that the terminal's encoding lacks become question marks. If the reader of the output
    has gone, the script ends silently.
    """
    _open_closed_streams()
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
        sys.stderr.write("interrupted\n")
        sys.exit(130)


def _open_closed_streams() -> None:
    """Opens standard streams that the shell has closed, as by `>&-`, on the null device.

    Otherwise the next files to be opened would get their numbers, and the output to them.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123
