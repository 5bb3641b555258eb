"""Processes: a run gone on with, waited for, interrupted, hung up, out of room; in a terminal."""

import fcntl
import os
import pty
import resource
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support.harness import PROJECT_DIR, run_script
from tests.support.soak import RUN, run_folder, start


def go_on(output_dir: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Runs main_TOD.py on the soak's run to its end, from where it stands."""
    return run_script("main_TOD.py", *RUN, f"--output-dir={output_dir}", *arguments)


def wait_for(path: Path, process: subprocess.Popen, seconds: float = 120.0) -> None:
    """Waits until the process has written the file.

    Raises:
        AssertionError: it has ended without, or takes too long.
    """
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, f"ended without {path}"
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.02)


def interrupted(output_dir: Path, signal_number: int) -> subprocess.Popen:
    """A run that was sent a signal once it had saved its second state."""
    process = start("main_TOD.py", output_dir)
    wait_for(run_folder("main_TOD.py", output_dir) / "progress" / "trial1.before.pt", process)
    process.send_signal(signal_number)
    return process


def hung_up(output_dir: Path) -> subprocess.Popen:
    """A run whose terminal, of 24 × 80, was closed once it had saved its second state."""
    ours, theirs = pty.openpty()

    def lead_the_session() -> None:
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [sys.executable, PROJECT_DIR / "main_TOD.py", *RUN, f"--output-dir={output_dir}"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=lead_the_session,
    )
    os.close(theirs)
    second_state = run_folder("main_TOD.py", output_dir) / "progress" / "trial1.before.pt"
    while not second_state.exists():
        os.read(ours, 65536)  # its bar; fails where the process has ended
    os.close(ours)
    return process


def run_limited(limit: int, size: int, *arguments: object) -> subprocess.CompletedProcess:
    """Runs main_TOD.py where a resource (`resource.RLIMIT_...`) has no more than `size`."""
    return subprocess.run(
        [sys.executable, PROJECT_DIR / "main_TOD.py", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(limit, (size, size)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def shown_in_a_terminal(command: Sequence[object]) -> str:
    """All that a command, which succeeds on one thread, writes into a terminal of 24 × 80."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with subprocess.Popen(
        command, stdout=theirs, stderr=theirs, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 65536):
                shown += chunk
        except OSError:  # the other end is closed
            pass
    assert process.returncode == 0
    return shown.decode()
