"""What all scripts share of their command lines: arguments, and exit statuses."""

import argparse
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from tod.config import InputError
from tod.config.settings import expanded


class Parser(argparse.ArgumentParser):
    """An argument parser that takes no abbreviations, and answers an error with one line."""

    def __init__(self, **settings: Any) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(allow_abbrev=False, formatter_class=formatter, **settings)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help lists the arguments)\n")


def path(value: str) -> Path:
    """A path from the command line; `~` is the user's own folder."""
    return Path(expanded(value))


def seed(value: str) -> int:
    """A seed from the command line.

    Raises:
        ArgumentTypeError: it is none.
    """
    return whole_number(value, minimum=0, maximum=2**63 - 1)


def positive(value: str) -> int:
    """A count from the command line.

    Raises:
        ArgumentTypeError: it is none.
    """
    return whole_number(value, minimum=1, maximum=10**9)


def whole_number(value: str, minimum: int, maximum: int) -> int:
    """A number of these bounds from the command line.

    Raises:
        ArgumentTypeError: it is none.
    """
    with suppress(ValueError):
        if value.isdecimal() and minimum <= int(value) <= maximum:
            return int(value)
    raise argparse.ArgumentTypeError(f"{value} is not a whole number from {minimum} to {maximum:,}")


@contextmanager
def exit_status() -> Iterator[None]:
    """Turns bad input into its message and status 2, and an early SIGINT into status 130.

    What a terminal's encoding lacks is shown as a question mark; where nobody reads on, nothing is.
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
        sys.exit(130)


def _open_closed_streams() -> None:
    """Standard streams that the shell has closed, as by `>&-`, lead nowhere from now on.

    Else the next files that are opened would get their numbers, and what is written to these.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123
