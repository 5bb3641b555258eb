"""The log of a run: on the terminal and in `log.txt`."""

import logging
import logging.handlers
import os
import sys
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from tod.runs.ranks import Ranks
from tod.system.files import MEND, NAMES, cannot

log = logging.getLogger("tod")
progress = logging.getLogger("tod.progress")
"""Its level says whether a bar may be shown."""


class RunLog:
    """Shows the project's log during the run, and restores the loggers afterwards.

    `quiet` shows only warnings. With several ranks, each line names its rank.
    """

    def __init__(self, quiet: bool, ranks: Ranks) -> None:
        self.level = logging.WARNING if quiet else logging.INFO
        name = f"[rank {ranks.rank}] " if ranks.world_size > 1 else ""
        self._format = logging.Formatter(f"{name}%(message)s")

    def __enter__(self) -> "RunLog":
        self._before = (log.handlers, log.level, log.propagate, progress.level)
        self._terminal = _TerminalHandler(self.level)
        self._terminal.setFormatter(self._format)
        # Earlier messages go into the file, too.
        self._memory = logging.handlers.MemoryHandler(capacity=1000, flushLevel=100)
        log.handlers = [self._terminal, self._memory]
        log.setLevel(logging.INFO)
        log.propagate = False
        progress.setLevel(self.level)
        return self

    def write_to(self, path: Path) -> None:
        """Also writes the log into this file from now on; further calls change nothing."""
        if self._memory not in log.handlers:
            return
        try:
            file = logging.FileHandler(path, encoding="utf-8", errors=NAMES)
        except OSError as error:
            advice = f"{MEND}, or name another place with --output-dir"
            raise cannot(path, "written", error, advice) from None
        # A failure must not stop the run, which reports it when it writes results.
        file.handleError = lambda record: None
        file.setFormatter(self._format)
        self._memory.setTarget(file)
        self._memory.close()
        log.handlers = [self._terminal, file]

    def __exit__(self, *exception: object) -> None:
        for handler in log.handlers:
            # A full disk is reported when results are written.
            with suppress(OSError):
                handler.close()
        log.handlers, level, log.propagate, progress_level = self._before
        log.setLevel(level)
        progress.setLevel(progress_level)


class _TerminalHandler(logging.Handler):
    """Writes to standard output without tearing the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record))
            sys.stdout.flush()
        except OSError:
            # The reader has gone, or the disk is full: log.txt and the results go on.
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
