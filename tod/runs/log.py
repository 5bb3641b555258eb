"""What a run says: on the terminal, and in its log.txt."""

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
    """Shows the project's log while the run goes on, and leaves the loggers as it found them.

    With `quiet` it shows warnings alone; of several ranks, each says which it is.
    """

    def __init__(self, quiet: bool, ranks: Ranks) -> None:
        self.level = logging.WARNING if quiet else logging.INFO
        name = f"[rank {ranks.rank}] " if ranks.world_size > 1 else ""
        self._format = logging.Formatter(f"{name}%(message)s")

    def __enter__(self) -> "RunLog":
        self._before = (log.handlers, log.level, log.propagate, progress.level)
        self._terminal = _TerminalHandler(self.level)
        self._terminal.setFormatter(self._format)
        # What is said before there is a file goes into it, too.
        self._memory = logging.handlers.MemoryHandler(capacity=1000, flushLevel=100)
        log.handlers = [self._terminal, self._memory]
        log.setLevel(logging.INFO)
        log.propagate = False
        progress.setLevel(self.level)
        return self

    def write_to(self, path: Path) -> None:
        """From now on the log goes into this file too; another call changes nothing."""
        if self._memory not in log.handlers:
            return
        try:
            file = logging.FileHandler(path, encoding="utf-8", errors=NAMES)
        except OSError as error:
            advice = f"{MEND}, or name another place with --output-dir"
            raise cannot(path, "written", error, advice) from None
        # It must not stop the run, whose results say so themselves.
        file.handleError = lambda record: None
        file.setFormatter(self._format)
        self._memory.setTarget(file)
        self._memory.close()
        log.handlers = [self._terminal, file]

    def __exit__(self, *exception: object) -> None:
        for handler in log.handlers:
            # What a full disk has no room for is said where the results are written.
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
            # Nobody reads on, or there is no room: log.txt and the results go on without it.
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
