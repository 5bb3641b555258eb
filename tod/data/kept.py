"""Decoded images, kept in a file that is mapped into memory; it grows over interruptions."""

import logging
import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from tod.files import remove

KEY_SIZE = 16
NO_KEY = bytes(KEY_SIZE)
"""Stands for an image that could not be read."""
CHUNK = 2**24
SECONDS = 5.0
"""The bytes of decoded images, and the time, after which they are safe on the disk."""
AHEAD = 256
"""At most so many images wait, decoded, for the one before them."""

Decoded = Callable[[Sequence[int], int], Generator[tuple[int, bytes | str], None, None]]
"""Positions of images → their pixels in that order, or why there are none; so many wait at most."""


class KeptImages:
    """Decoded images in a file: the pixels of each, then the key of each.

    While the file grows, it is called `.partial`, and the keys lie beside it; what was made of
    another list of files is called `.before` meanwhile, so that what both have is copied. Whoever
    writes holds the folder's lock.

    Args:
        path: the file.
        shape: of one image.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.path = path
        self.shape = shape
        self.size = int(np.prod(shape))
        self.partial, self.before = (
            path.with_name(f"{path.name}.{state}") for state in ("partial", "before")
        )

    def find(self, keys: Sequence[bytes]) -> tuple[np.ndarray, list[int]] | None:
        """The file's images, if it has just these.

        Returns:
            (N, *shape), mapped: all processes share it, and the system can take its memory back;
            and the positions of those that could not be read. None: it has others, or is not whole.
        """
        rows, kept = self._finished()
        if len(kept) != len(keys) or not _agree(kept, keys):
            return None
        return rows, [i for i, key in enumerate(kept) if key == NO_KEY]

    def put(self, count: int, index: int, pixels: bytes, key: bytes) -> None:
        """Writes one of the file's `count` images, which could not be read before."""
        with self.path.open("r+b") as file:
            file.seek(index * self.size)
            file.write(pixels)
            _flush(file)
            file.seek(count * self.size + index * KEY_SIZE)
            file.write(key)

    def needed(self, keys: Sequence[bytes]) -> int:
        """The bytes that the disk must have free for `fill`."""
        if self.find(keys) is not None:
            return 0
        begun = self._begun(self.partial)
        done = len(begun) if _is_beginning(begun, keys) else 0
        return (len(keys) - done) * (self.size + KEY_SIZE)

    def fill(self, keys: Sequence[bytes], decoded: Decoded) -> dict[int, str]:
        """Makes the file hold these; what it, or a part of it, has already is not decoded again.

        Args:
            keys: of all images.
            decoded: gives the pixels of some of them.

        Returns:
            Why which could not be read, by position.

        Raises:
            OSError: the file cannot be written; what was decoded stays.
        """
        begun = self._begun(self.partial)
        if not _is_beginning(begun, keys):
            for end in ("", ".keys"):
                Path(f"{self.partial}{end}").replace(f"{self.before}{end}")
            begun = []
        # Where the pixels of each key are: in all rows of a file, and which.
        known = {}
        for rows, kept in (self._finished(), self._rows(self.before)):
            known |= {key: (rows, i) for i, key in enumerate(kept) if key != NO_KEY}

        to_decode = [i for i in range(len(begun), len(keys)) if keys[i] not in known]
        problems: dict[int, str] = {}
        with (
            self.partial.open("ab") as rows,
            _keys_of(self.partial).open("ab") as row_keys,
            closing(decoded(to_decode, min(AHEAD, 1 + CHUNK // self.size))) as results,
            progress_bar(f"decoding {self.path.parent}", len(keys), len(begun)) as bar,
        ):
            rows.truncate(len(begun) * self.size)
            row_keys.truncate(len(begun) * KEY_SIZE)
            unsaved, saved_at = [], time.monotonic()
            try:
                for index in range(len(begun), len(keys)):
                    key = keys[index]
                    if key in known:
                        kept, row = known[key]
                        content = kept[row].tobytes()
                    else:
                        _, content = next(results)
                    if isinstance(content, str):
                        problems[index], content, key = content, bytes(self.size), NO_KEY
                    rows.write(content)
                    unsaved.append(key)
                    bar.update()
                    if len(unsaved) * self.size >= CHUNK or time.monotonic() > saved_at + SECONDS:
                        _save(rows, row_keys, unsaved)
                        saved_at = time.monotonic()
            finally:
                _save(rows, row_keys, unsaved)
        with self.partial.open("ab") as rows:
            rows.write(_keys_of(self.partial).read_bytes())
            _flush(rows)
        self.partial.replace(self.path)
        # An earlier version's are named after their content.
        for stale in (
            *(_keys_of(self.partial), self.before, _keys_of(self.before)),
            *self.path.parent.glob(".decoded_*.npy"),
        ):
            remove(stale)
        return problems

    def _finished(self) -> tuple[np.ndarray, list[bytes]]:
        """The pixels and the keys of the finished file; none where it is not there or not whole."""
        with suppress(OSError), self.path.open("rb") as file:
            count, rest = divmod(os.fstat(file.fileno()).st_size, self.size + KEY_SIZE)
            if rest == 0:
                file.seek(count * self.size)
                keys = _split(file.read(count * KEY_SIZE))
                return mapped(file, count, self.shape), keys
        return np.empty((0, *self.shape), np.uint8), []

    def _rows(self, path: Path) -> tuple[np.ndarray, list[bytes]]:
        """The pixels and the keys of a file that has not been finished."""
        keys = self._begun(path)
        if not keys:
            return np.empty((0, *self.shape), np.uint8), []
        with path.open("rb") as file:
            return mapped(file, len(keys), self.shape), keys

    def _begun(self, path: Path) -> list[bytes]:
        """The keys of those images that a file has which has not been finished."""
        if not (path.exists() and _keys_of(path).exists()):
            return []
        return _split(_keys_of(path).read_bytes())[: path.stat().st_size // self.size]


def mapped(file: BinaryIO, count: int, shape: tuple[int, ...]) -> np.ndarray:
    """The first images of a file, (count, *shape); what is written to them stays in the process."""
    if count == 0:  # nothing cannot be mapped
        return np.empty((0, *shape), np.uint8)
    return np.memmap(file, np.uint8, "c", shape=(count, *shape))


def progress_bar(what: str, total: int, done: int) -> tqdm:
    """A bar over files; none where there is no terminal, or with `--quiet`."""
    disable = None if logging.getLogger("tod.progress").isEnabledFor(logging.INFO) else True
    return tqdm(desc=what, total=total, initial=done, leave=False, disable=disable)


def _keys_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.keys")


def _split(keys: bytes) -> list[bytes]:
    return [keys[i : i + KEY_SIZE] for i in range(0, len(keys) // KEY_SIZE * KEY_SIZE, KEY_SIZE)]


def _agree(kept: Sequence[bytes], wanted: Sequence[bytes]) -> bool:
    return all(key in (NO_KEY, other) for key, other in zip(kept, wanted, strict=False))


def _is_beginning(kept: Sequence[bytes], wanted: Sequence[bytes]) -> bool:
    return len(kept) <= len(wanted) and _agree(kept, wanted)


def _save(rows: BinaryIO, row_keys: BinaryIO, keys: list[bytes]) -> None:
    """Puts rows on the disk, and then their keys: a key says that its pixels are there."""
    _flush(rows)
    content = b"".join(keys)
    keys.clear()  # also where they cannot be written: never twice
    row_keys.write(content)
    _flush(row_keys)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
