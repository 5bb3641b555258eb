"""Signals as requests, which a run answers when its state is saved."""

import logging
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn, TypeVar

log = logging.getLogger("tod")
Item = TypeVar("Item")


@contextmanager
def handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Lets a function handle SIGINT, SIGTERM, and the SIGHUP of a closed terminal.

    SIGHUP stays ignored where it was, as under nohup.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)  # there is none on Windows
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
        numbers.append(hangup)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@dataclass
class Interruption:
    """Turns a signal into a request, which the loop answers once its state is saved.

    A second SIGINT leaves at once.
    """

    advice: str  # how to go on
    leaves: bool = True  # by itself; else when another rank tells it to
    requested: int | None = None  # the signal's number

    def stop(self, number: int) -> NoReturn:
        """Leaves with the shell's exit status for a signal: 130, 143 or 129."""
        log.warning(f"interrupted; {self.advice}")
        raise SystemExit(128 + number)

    def watched(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yields the items, and leaves before the next one if a signal has come."""
        for item in items:
            if self.requested and self.leaves:
                self.stop(self.requested)
            yield item

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal."""
        if self.requested and number == signal.SIGINT:
            os._exit(128 + signal.SIGINT)
        self.requested = number
