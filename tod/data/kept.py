"""Decoded images, kept in a file that is mapped into memory; it fills over interruptions."""

import logging
import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from tqdm import tqdm

from tod.data.picture import Pixels
from tod.system.files import atomic_file, refuse_what_the_machine_lacks, remove

KEY_SIZE = 16
NO_KEY = bytes(KEY_SIZE)
"""Stands for an image that has not been decoded, or could not be read."""
ENTRY_SIZE = KEY_SIZE + 1
"""A key, and whether the image is dim."""
CHUNK = 2**24
SECONDS = 5.0
"""The bytes of decoded images, and the time, after which they are safe on the disk."""
AHEAD = 256
"""At most so many images wait, decoded, for the one before them."""

Decoded = Callable[[Sequence[int], int], Generator[tuple[int, Pixels | str], None, None]]
"""Positions of images → their pixels in that order, or why there are none; so many wait at most."""


class Kept(NamedTuple):
    """Decoded images.

    Attributes:
        pixels: (N, *shape) uint8, mapped: all processes share them, and the system can take their
            memory back.
        keys: (N, KEY_SIZE) uint8.
        is_dim: (N,) bool.
    """

    pixels: np.ndarray
    keys: np.ndarray
    is_dim: np.ndarray

    @property
    def missing(self) -> list[int]:
        """The positions of those that have not been decoded, or could not be read."""
        return np.flatnonzero(~self.keys.any(axis=1)).tolist()


class KeptImages:
    """Decoded images in one file: the pixels of each, then the key of each and whether it is dim.

    A key is written into the file that has its pixels, once they are on the disk: whenever the
    process is killed or the power fails, none stands for other pixels. Whoever writes holds the
    folder's lock.

    Args:
        path: the file.
        shape: of one image.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.path = path
        self.shape = shape
        self.size = int(np.prod(shape))

    def find(self, keys: Sequence[bytes]) -> Kept | None:
        """What the file has of these images; None: it is of others, or not whole."""
        kept = self._read()
        wanted = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_SIZE)
        if len(kept.keys) != len(wanted):
            return None
        is_missing = ~kept.keys.any(axis=1)
        return kept if (is_missing | (kept.keys == wanted).all(axis=1)).all() else None

    def needed(self, keys: Sequence[bytes]) -> int:
        """The bytes that the disk must have free for `fill`."""
        kept = self.find(keys)
        if kept is None:
            return len(keys) * (self.size + ENTRY_SIZE)
        return len(kept.missing) * self.size

    def fill(self, keys: Sequence[bytes], decoded: Decoded) -> dict[int, str]:
        """Makes the file hold these; what it has of them already is not decoded again.

        Args:
            keys: of all images.
            decoded: gives the pixels of some of them.

        Returns:
            Why which could not be read, by position.

        Raises:
            InputError, OSError: the file cannot be written; what was decoded stays.
        """
        kept = self.find(keys)
        if kept is None:
            self._begin(keys)
            kept = self.find(keys)
        missing = kept.missing
        problems: dict[int, str] = {}
        entries: dict[int, bytes] = {}
        with (
            self.path.open("r+b") as file,
            closing(decoded(missing, min(AHEAD, 1 + CHUNK // self.size))) as results,
            progress_bar(
                f"decoding {self.path.parent}", len(keys), len(keys) - len(missing)
            ) as bar,
        ):
            saved_at = time.monotonic()
            try:
                for index, found in results:
                    bar.update()
                    if isinstance(found, str):
                        problems[index] = found
                        continue
                    file.seek(index * self.size)
                    file.write(found.content)
                    entries[index] = keys[index] + bytes([found.is_dim])
                    if len(entries) * self.size >= CHUNK or time.monotonic() > saved_at + SECONDS:
                        self._save(file, len(keys), entries)
                        saved_at = time.monotonic()
            finally:
                self._save(file, len(keys), entries)
        # What a kill has left, and earlier versions' files, which are never read.
        for pattern in (f".{self.path.name}.partial", f"{self.path.name}.*", ".decoded_*.npy"):
            for stale in self.path.parent.glob(pattern):
                remove(stale)
        return problems

    def _begin(self, keys: Sequence[bytes]) -> None:
        """Makes the file one of these images, with what it has had of them."""
        before = self._read()
        rows = {key.tobytes(): row for row, key in enumerate(before.keys)}
        entries = np.zeros((len(keys), ENTRY_SIZE), np.uint8)
        with atomic_file(self.path) as file:
            for index, key in enumerate(keys):
                if key != NO_KEY and key in rows:
                    row = rows[key]
                    file.seek(index * self.size)
                    file.write(before.pixels[row].data)
                    entries[index] = *key, before.is_dim[row]
            file.seek(len(keys) * self.size)  # what is left out takes no room yet
            file.write(entries.data)

    def _read(self) -> Kept:
        """What the file has; nothing where it is not there or not whole."""
        pixels, entries = np.empty((0, *self.shape), np.uint8), np.empty((0, ENTRY_SIZE), np.uint8)
        try:
            with self.path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                count, rest = divmod(size, self.size + ENTRY_SIZE)
                if rest == 0:
                    file.seek(count * self.size)
                    content = np.frombuffer(file.read(count * ENTRY_SIZE), np.uint8)
                    entries = content.reshape(count, ENTRY_SIZE)
                    pixels = mapped(file, count, self.shape)
        except OSError as error:
            refuse_what_the_machine_lacks(self.path, error)
        return Kept(pixels, entries[:, :KEY_SIZE], entries[:, KEY_SIZE].astype(bool))

    def _save(self, file: BinaryIO, count: int, entries: dict[int, bytes]) -> None:
        """Puts pixels on the disk, and then their entries: a key says that its pixels are there."""
        if not entries:
            return
        content = list(entries.items())
        entries.clear()  # also where they cannot be written: never without their pixels
        _flush(file)
        for index, entry in content:
            file.seek(count * self.size + index * ENTRY_SIZE)
            file.write(entry)
        _flush(file)


def mapped(file: BinaryIO, count: int, shape: tuple[int, ...]) -> np.ndarray:
    """The first images of a file, (count, *shape); what is written to them stays in the process."""
    if count == 0:  # nothing cannot be mapped
        return np.empty((0, *shape), np.uint8)
    return np.memmap(file, np.uint8, "c", shape=(count, *shape))


def progress_bar(what: str, total: int, done: int) -> tqdm:
    """A bar over files; none where there is no terminal, or with `--quiet`."""
    disable = None if logging.getLogger("tod.progress").isEnabledFor(logging.INFO) else True
    return tqdm(desc=what, total=total, initial=done, leave=False, disable=disable)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
