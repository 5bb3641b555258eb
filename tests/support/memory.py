"""How much memory a process holds."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def private_bytes() -> int:
    """What this process holds in memory that belongs to no file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise OSError("the kernel does not say how much memory is private")


@contextmanager
def most_private_bytes() -> Iterator[list[int]]:
    """The most that the process held during the block, sampled every two milliseconds."""
    most = [private_bytes()]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.002):
            most[0] = max(most[0], private_bytes())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()
        most[0] = max(most[0], private_bytes())
