"""Signals as requests: which are answered, and when."""

import logging
import os
import signal
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import NoReturn, TypeVar

log = logging.getLogger("tod")
Item = TypeVar("Item")


def answered() -> list[signal.Signals]:
    """SIGINT, SIGTERM, and the SIGHUP of a closed terminal unless it is ignored, as under nohup."""
    hangup = getattr(signal, "SIGHUP", None)  # there is none on Windows
    heard = hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([hangup] if heard else [])]


class Interruption:
    """Turns a signal into a request, which the loop answers once its progress is saved.

    A second SIGINT leaves at once.

    Args:
        advice: how to go on.
        leaves: whether this process leaves by itself, and not where another rank tells it to.
    """

    def __init__(self, advice: str, leaves: bool = True) -> None:
        self.advice = advice
        self.leaves = leaves
        self.requested: int | None = None
        """The signal that has come."""

    def stop(self, number: int) -> NoReturn:
        """Leaves with the shell's exit status for a signal: 130, 143 or 129."""
        log.warning(f"interrupted; {self.advice}")
        raise SystemExit(128 + number)

    def watched(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, one after the other; leaves before the next one where a signal has come."""
        for item in items:
            if self.requested and self.leaves:
                self.stop(self.requested)
            yield item

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            os._exit(128 + signal.SIGINT)
        self.requested = number

    def __enter__(self) -> "Interruption":
        self._before = {number: signal.signal(number, self._request) for number in answered()}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
