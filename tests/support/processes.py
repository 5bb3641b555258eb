"""Processes: a run gone on with, waited for, stopped, hung up, out of room; in a terminal."""

import fcntl
import os
import pty
import resource
import select
import struct
import sys
import termios
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, CompletedProcess, Popen
from typing import Any

from tests.support import forks
from tests.support.forks import Process
from tests.support.harness import PROJECT_DIR, run_script
from tests.support.saves import wait_after_two_saves
from tests.support.soak import RUN, run_folder, start
from tod.runs.checkpoints import Progress


def go_on(output_dir: Path, *arguments: str) -> str:
    """Runs main_TOD.py on the soak's run to its good end, from where it stands; what it shows."""
    done = run_script("main_TOD.py", *RUN, f"--output-dir={output_dir}", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_for(
    path: Path,
    process: Popen,
    former: int | None = None,
    meanwhile: Callable[[], object] = lambda: time.sleep(0.02),
) -> None:
    """Waits two minutes at most until the process has written a file with another inode."""
    deadline = time.monotonic() + 120
    while inode(path) in (None, former):
        assert process.poll() is None, f"ended without {path}"
        assert time.monotonic() < deadline, f"no {path}"
        meanwhile()


def inode(path: Path) -> int | None:
    """The number of a file, which differs from that of the one that it replaces."""
    return path.stat().st_ino if path.exists() else None


def begun(
    output_dir: Path,
    *arguments: object,
    trials: Sequence[int] = (1,),
    meanwhile: Callable[[], object] = lambda: time.sleep(0.02),
    **settings: Any,
) -> Popen:
    """The soak's run once these trials have saved twice, or once more; they wait for a signal."""
    folder = run_folder("main_TOD.py", output_dir)
    states = [Progress(folder, trial) for trial in trials]
    former = [inode(state.spare) for state in states]
    first = wait_after_two_saves
    process = start("main_TOD.py", output_dir, *arguments, first=first, **settings)
    for state, inode_before in zip(states, former, strict=True):
        wait_for(state.spare, process, inode_before, meanwhile)
        wait_for(state.newest, process, meanwhile=meanwhile)  # which comes after the spare
    return process


def lead_the_session() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def hung_up(output_dir: Path) -> Popen:
    """A run whose terminal was closed once it had begun."""
    ours, theirs = pty.openpty()

    def read_its_bar() -> None:
        if select.select([ours], [], [], 0.02)[0]:
            os.read(ours, 65536)  # fails where the process has ended

    streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    process = begun(output_dir, meanwhile=read_its_bar, preexec_fn=lead_the_session, **streams)
    for end in (theirs, ours):
        os.close(end)
    return process


def run_limited(limit: int, size: int, *arguments: object) -> CompletedProcess:
    """Runs main_TOD.py where a resource (`resource.RLIMIT_...`) has no more than `size`."""
    command = [sys.executable, PROJECT_DIR / "main_TOD.py", *arguments]
    limited = partial(resource.setrlimit, limit, (size, size))
    return forks.run(command, preexec_fn=limited, stdin=DEVNULL)


def shown_in_a_terminal(command: Sequence[object]) -> str:
    """All that a command, which succeeds on one thread, writes into a terminal of 24 × 80."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with Process(command, stdout=theirs, stderr=theirs, env=forks.one_thread()) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # the other end is closed
            while chunk := os.read(ours, 65536):
                shown += chunk
    assert process.returncode == 0
    return shown.decode()
