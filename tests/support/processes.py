"""Processes: a run gone on with, waited for, interrupted, hung up, out of room; in a terminal."""

import fcntl
import os
import pty
import resource
import select
import struct
import sys
import termios
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, CompletedProcess, Popen

from tests.support import forks
from tests.support.forks import Process
from tests.support.harness import PROJECT_DIR, run_script
from tests.support.saves import wait_after_two_saves
from tests.support.soak import RUN, run_folder, start


def go_on(output_dir: Path, *arguments: str) -> CompletedProcess:
    """Runs main_TOD.py on the soak's run to its end, from where it stands."""
    return run_script("main_TOD.py", *RUN, f"--output-dir={output_dir}", *arguments)


def wait_for(path: Path, process: Popen, seconds: float = 120.0) -> None:
    """Waits until the process has written the file.

    Raises:
        AssertionError: it has ended without, or takes too long.
    """
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, f"ended without {path}"
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.02)


def interrupted(output_dir: Path, signal_number: int) -> Popen:
    """A run that was sent a signal once it had saved its second state."""
    process = start("main_TOD.py", output_dir, first=wait_after_two_saves)
    wait_for(run_folder("main_TOD.py", output_dir) / "progress" / "trial1.before.pt", process)
    process.send_signal(signal_number)
    return process


def lead_the_session() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def hung_up(output_dir: Path) -> Popen:
    """A run whose terminal, of 24 × 80, was closed once it had saved its second state."""
    ours, theirs = pty.openpty()

    process = Process(
        [sys.executable, PROJECT_DIR / "main_TOD.py", *RUN, f"--output-dir={output_dir}"],
        env=forks.one_thread(wait_after_two_saves),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=lead_the_session,
    )
    os.close(theirs)
    second_state = run_folder("main_TOD.py", output_dir) / "progress" / "trial1.before.pt"
    while not second_state.exists():
        if select.select([ours], [], [], 0.02)[0]:
            os.read(ours, 65536)  # its bar; fails where the process has ended
    os.close(ours)
    return process


def run_limited(limit: int, size: int, *arguments: object) -> CompletedProcess:
    """Runs main_TOD.py where a resource (`resource.RLIMIT_...`) has no more than `size`."""
    return forks.run(
        [sys.executable, PROJECT_DIR / "main_TOD.py", *arguments],
        preexec_fn=partial(resource.setrlimit, limit, (size, size)),
        stdin=DEVNULL,
    )


def shown_in_a_terminal(command: Sequence[object]) -> str:
    """All that a command, which succeeds on one thread, writes into a terminal of 24 × 80."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with Process(command, stdout=theirs, stderr=theirs, env=forks.one_thread()) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 65536):
                shown += chunk
        except OSError:  # the other end is closed
            pass
    assert process.returncode == 0
    return shown.decode()
