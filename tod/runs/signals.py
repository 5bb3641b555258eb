"""Signals as requests: which are answered, and when."""

import logging
import os
import signal
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TypeVar

log = logging.getLogger("tod")
Item = TypeVar("Item")


def answered() -> list[signal.Signals]:
    """SIGINT, SIGTERM, and the SIGHUP of a closed terminal unless it is ignored, as under nohup."""
    hangup = getattr(signal, "SIGHUP", None)  # there is none on Windows
    heard = hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([hangup] if heard else [])]


class Interruption:
    """Turns a signal into a request, which the loop answers once its progress is saved.

    A second SIGINT leaves at once. `advice` says how to go on.
    """

    def __init__(self, advice: str) -> None:
        self.advice = advice
        self.requested: int | None = None
        """The signal that has come."""

    def stop_if_requested(self) -> None:
        """Leaves with the shell's exit status for the signal: 130, 143 or 129.

        Raises:
            SystemExit: where a signal has come.
        """
        if self.requested:
            log.warning(f"interrupted; {self.advice}")
            raise SystemExit(128 + self.requested)

    def watched(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, one after the other; leaves before the next one where a signal has come."""
        for item in items:
            self.stop_if_requested()
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
