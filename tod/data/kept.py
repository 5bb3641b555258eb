"""Decoded images, kept in a file that is mapped into memory; it grows over interruptions."""

import logging
import os
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from tod.config import InputError
from tod.files import reason, remove

KEY_SIZE = 16
NO_KEY = bytes(KEY_SIZE)
"""Stands for an image that could not be read."""
CHUNK = 2**24
"""The bytes of decoded images after which they are safe on the disk."""

Decoded = Callable[[Sequence[int], int], Generator[tuple[int, bytes | str], None, None]]


class KeptImages:
    """Decoded images in a file: the pixels of each, then the key of each.

    While the file grows, it is called `.partial`, and the keys lie beside it; what was made of
    another list of files is called `.before` meanwhile, so that what both have is copied.

    Args:
        path: the file.
        shape: of one image.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.path = path
        self.shape = shape
        self.size = int(np.prod(shape))
        self.partial = path.with_name(f"{path.name}.partial")
        self.partial_keys = path.with_name(f"{path.name}.partial.keys")
        self.keys: list[bytes] = []

    def holds(self, keys: Sequence[bytes]) -> bool:
        """Whether the file has just these, but for some that could not be read."""
        self.keys = _split(self._trailer())
        return len(keys) == len(self.keys) and _agree(self.keys, keys)

    def unread(self) -> list[int]:
        """The positions of those that could not be read."""
        return [i for i, key in enumerate(self.keys) if key == NO_KEY]

    def pixels(self) -> np.ndarray:
        """(N, *shape), mapped: all processes share it, and the system can take its memory back."""
        return _mapped(self.path, len(self.keys), self.shape)

    def put(self, index: int, pixels: bytes, key: bytes) -> None:
        """Writes one that could not be read before."""
        with self.path.open("r+b") as file:
            file.seek(index * self.size)
            file.write(pixels)
            file.seek(len(self.keys) * self.size + index * KEY_SIZE)
            file.write(key)
        self.keys[index] = key

    def fill(self, keys: Sequence[bytes], decoded: Decoded) -> dict[int, str]:
        """Makes the file hold these; what it, or a part of it, has already is not decoded again.

        Args:
            keys: of all images.
            decoded: gives the pixels of some of them, by position, or why there are none; of so
                many at a time.

        Returns:
            Why which could not be read, by position.

        Raises:
            InputError: there is no room for it.
        """
        try:
            return self._fill(keys, decoded)
        except OSError as error:
            raise InputError(
                f"{self.partial}: cannot be written ({reason(error)}); what was decoded is kept: "
                "mend this and run the same command again"
            ) from None

    def _fill(self, keys: Sequence[bytes], decoded: Decoded) -> dict[int, str]:
        known = self._known(self.path, self.keys)
        begun = _split(self.partial_keys.read_bytes()) if self.partial_keys.exists() else []
        begun = begun[: self.partial.stat().st_size // self.size] if self.partial.exists() else []
        before = self.path.with_name(f"{self.path.name}.before")
        if not (len(begun) <= len(keys) and _agree(begun, keys)):
            self.partial.replace(before)
            known |= self._known(before, begun)
            begun = []
        self._refuse_a_small_disk((len(keys) - len(begun)) * (self.size + KEY_SIZE))
        problems: dict[int, str] = {}
        at_once = max(1, CHUNK // self.size)
        to_decode = [i for i in range(len(begun), len(keys)) if keys[i] not in known]
        with (
            self.partial.open("ab") as rows,
            self.partial_keys.open("ab") as row_keys,
            closing(decoded(to_decode, at_once)) as results,
            self._bar(len(keys), len(begun)) as bar,
        ):
            rows.truncate(len(begun) * self.size)
            row_keys.truncate(len(begun) * KEY_SIZE)
            for start in range(len(begun), len(keys), at_once):
                chunk = range(start, min(start + at_once, len(keys)))
                for index in chunk:
                    if keys[index] in known:
                        kept, row = known[keys[index]]
                        content = kept[row].tobytes()
                    else:
                        _, content = next(results)
                    if isinstance(content, str):
                        problems[index], content = content, bytes(self.size)
                    rows.write(content)
                    bar.update()
                # A key on the disk says that its pixels are.
                _flush(rows)
                written = (NO_KEY if i in problems else keys[i] for i in chunk)
                row_keys.write(b"".join(written))
                _flush(row_keys)
        self.keys = _split(self.partial_keys.read_bytes())
        with self.partial.open("ab") as rows:
            rows.write(b"".join(self.keys))
            _flush(rows)
        self.partial.replace(self.path)
        # An earlier version's are named after their content.
        for stale in (self.partial_keys, before, *self.path.parent.glob(".decoded_*.npy")):
            remove(stale)
        return problems

    def _refuse_a_small_disk(self, needed: int) -> None:
        free = shutil.disk_usage(self.path.parent).free
        if needed > free:
            raise InputError(
                f"{self.path.parent}: the decoded images need {needed / 1e9:.3g} GB there, and "
                f"{free / 1e9:.3g} GB are free; make room, or choose a smaller images.size"
            )

    def _bar(self, total: int, done: int) -> tqdm:
        # None leaves the bar out where there is no terminal.
        disable = None if logging.getLogger("tod.progress").isEnabledFor(logging.INFO) else True
        name = f"decoding {self.path.parent}"
        return tqdm(desc=name, total=total, initial=done, leave=False, disable=disable)

    def _known(self, path: Path, keys: Sequence[bytes]) -> dict[bytes, tuple[np.ndarray, int]]:
        """Where the pixels of each key are, in a file of them: all rows, and which."""
        rows = _mapped(path, len(keys), self.shape)
        return {key: (rows, i) for i, key in enumerate(keys) if key != NO_KEY}

    def _trailer(self) -> bytes:
        """The keys of the finished file; none where it is not there or not whole."""
        try:
            with self.path.open("rb") as file:
                count, rest = divmod(self.path.stat().st_size, self.size + KEY_SIZE)
                file.seek(count * self.size)
                return b"" if rest else file.read()
        except OSError:
            return b""


def _mapped(path: Path, count: int, shape: tuple[int, ...]) -> np.ndarray:
    if count == 0:  # nothing cannot be mapped
        return np.empty((0, *shape), np.uint8)
    return np.memmap(path, np.uint8, "c", shape=(count, *shape))


def _split(keys: bytes) -> list[bytes]:
    return [keys[i : i + KEY_SIZE] for i in range(0, len(keys) // KEY_SIZE * KEY_SIZE, KEY_SIZE)]


def _agree(kept: Sequence[bytes], wanted: Sequence[bytes]) -> bool:
    return all(key in (NO_KEY, other) for key, other in zip(kept, wanted, strict=False))


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
