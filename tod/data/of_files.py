"""What is made of image files, several at once, and the keys by which a store knows them again."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from tod.data.listing import shown
from tod.data.store import KEY_SIZE, NO_KEY, Made, Make, Store
from tod.system.files import reason, refuse_what_the_machine_lacks, sha256
from tod.system.machine import cores

T = TypeVar("T")
R = TypeVar("R")


def made_of(path: Path, make: Callable[[Path], R]) -> R | str:
    """What is made of a file, or why it cannot be."""
    try:
        return make(path)
    # Pillow's decoders raise many kinds of errors on damaged files.
    except Exception as error:
        refuse_what_the_machine_lacks(path, error)
        return reason(error)


def in_threads(
    make: Callable[[T], R], items: Iterable[T], threads: int = 0
) -> Generator[R, None, None]:
    """For each item, in order, what is made of it; a few for each thread before they are asked
    for, in as many threads as there are cores.
    """
    threads = threads or cores()
    waiting: deque[Future] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > 4 * threads:  # what is made waits in memory for its turn
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def of_files(folder: Path, files: Sequence[str], make: Callable[[Path], Made]) -> Make:
    """Makes a row of each file of a folder, in threads."""
    return lambda chosen: in_threads(
        partial(made_of, make=make), (folder / files[index] for index in chosen)
    )


def file_key(folder: Path, name: str, reader: str) -> bytes:
    """Differs where the file does, to the system, or what reads it; of none, if it is not there."""
    try:
        status = os.stat(os.path.join(folder, name))  # noqa: PTH116, PTH118 - many: no Path of each
    except OSError:
        return NO_KEY
    seen = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    digest = hashlib.blake2b(os.fsencode(name), digest_size=KEY_SIZE, key=b"tod")
    digest.update("\0".join(["", reader, *map(str, seen)]).encode())
    return digest.digest()


def digests(folder: Path, names: Sequence[str], problems: list[str]) -> list[str]:
    """The SHA-256 of each file in hex; a hidden file remembers those that have not changed.

    `problems` takes what cannot be read; it has its name instead.
    """
    row = np.dtype((np.uint8, hashlib.sha256().digest_size))
    keys = [file_key(folder, name, "sha256") for name in names]
    store = Store(folder / ".digests_of_images", keys, row)
    make = of_files(folder, names, lambda path: (bytes.fromhex(sha256(path)), False))
    kept, unread, _ = store.load(make)
    for index, why in unread.items():
        problems.append(
            f"{shown(folder / names[index])}: cannot be read ({why}); mend or remove it"
        )
    return [
        name if row < 0 else kept.values[row].tobytes().hex()
        for name, row in zip(names, kept.rows, strict=True)
    ]
