"""What is kept of images: rows of one array, in a file beside them that only grows."""

import itertools
import logging
import os
import struct
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from tqdm import tqdm

from tod.config import InputError
from tod.system.files import atomic_file, locked, reason, refuse_what_the_machine_lacks, remove

KEY_SIZE = 16
NO_KEY = bytes(KEY_SIZE)
"""The key of a file that is not there."""
ENTRY = np.dtype([("key", "u1", KEY_SIZE), ("flag", "?")])
HEADER = struct.Struct("<16sqq")
MAGIC = b"tod.data.store 1"
CHUNK = 2**24
SECONDS = 5.0
"""The bytes of rows, and the time, after which they are safe on the disk."""

Made = tuple[bytes, bool]
"""A row, and a flag that is kept beside it."""
Make = Callable[[Sequence[int]], Generator[Made | str, None, None]]
"""Makes what images at these positions have, in their order, or says why one has nothing."""


class Kept(NamedTuple):
    """What a store has.

    Attributes:
        values: (M, *shape), mapped: they may be more than fits into memory.
        entries: of the values, (M,) of `ENTRY`.
        rows: which of the values are the images', (N,) int64; −1: none.
        capacity: how many values the store can take.
    """

    values: np.ndarray
    entries: np.ndarray
    rows: np.ndarray
    capacity: int

    @property
    def missing(self) -> list[int]:
        """The positions of the images without a value."""
        return np.flatnonzero(self.rows < 0).tolist()

    @property
    def flagged(self) -> list[int]:
        """The positions of the images whose value has the flag."""
        flags = np.append(self.entries["flag"], False)  # of row −1
        return np.flatnonzero(flags[self.rows]).tolist()

    @property
    def is_to_be_replaced(self) -> bool:
        """Whether the missing ones find no room in the file, or too much there would be stale."""
        count = len(self.values) + len(self.missing)
        return bool(self.missing) and count > min(self.capacity, 2 * len(self.rows))


class Store:
    """A file of rows of one shape and type, and of an entry for each: its key and its flag.

    A row's entry is written once the row is on the disk: whenever the process is killed or the
    power fails, no key stands for another row. A row that has its entry never changes, so that
    others may have it mapped. What is stale stays until it is more than the rest: then a new file
    replaces this one. Writers hold the folder's lock.
    """

    def __init__(
        self, path: Path, keys: Sequence[bytes], row: np.dtype, verb: str = "reading"
    ) -> None:
        """A key of `KEY_SIZE` bytes an image tells what is kept of it from all else; `verb` is said
        of the work.
        """
        self.path = path
        self.keys = keys
        self.row = row
        self.verb = verb

    def needed(self) -> int:
        """The bytes that the disk must have free for `load`."""
        kept = self.find()
        count = len(self.keys) if kept.is_to_be_replaced else len(kept.missing)
        return count * (self.row.itemsize + ENTRY.itemsize)

    def load(
        self, make: Make, rows_at_once: int | None = None
    ) -> tuple[Kept, dict[int, str], str | None]:
        """What there is of the images; what is missing is made, and kept: at once so many rows, or
        what took `SECONDS`.

        And why which could not be made, by position; and, where the folder cannot be written to,
        the reason: then all is in a temporary file, and is made each time.
        """
        kept = self.find()
        if not kept.missing:
            return kept, {}, None
        failures: dict[int, str] = {}
        with folder_lock(self.path.parent) as problem:
            kept = self.find()  # others may have written meanwhile
            with closing(self._made(kept.missing, make, failures)) as rows:
                first = next(rows, None)
                if first is None:
                    return kept, failures, None
                with self._opened(kept, problem) as file:
                    self._append(file, itertools.chain([first], rows), rows_at_once)
                    return self._found(file), failures, problem

    def find(self) -> Kept:
        """What the file has; nothing, where it is not there or not whole."""
        try:
            with self.path.open("rb") as file:
                return self._found(file)
        except (OSError, ValueError) as error:
            refuse_what_the_machine_lacks(self.path, error)
        return Kept(np.empty(0, self.row), np.empty(0, ENTRY), np.full(len(self.keys), -1), 0)

    def _made(
        self, chosen: Sequence[int], make: Make, failures: dict[int, str]
    ) -> Generator[tuple[bytes, bytes], None, None]:
        """The rows of these images, each with its entry; `failures` takes why there is none.

        Of images with the same key, one is made.
        """
        alike: dict[bytes | int, list[int]] = {}
        for index in chosen:
            key = self.keys[index]
            alike.setdefault(index if key == NO_KEY else key, []).append(index)
        results, count = make([first for first, *_ in alike.values()]), len(self.keys)
        # No bar where there is no terminal, or with `--quiet`.
        disable = None if logging.getLogger("tod.progress").isEnabledFor(logging.INFO) else True
        words = f"{self.verb} {self.path.parent}"
        bar = tqdm(desc=words, total=count, leave=False, disable=disable)
        with closing(results), bar:
            bar.update(count - len(chosen))
            for indices, made in zip(alike.values(), results, strict=True):
                bar.update(len(indices))
                key = self.keys[indices[0]]
                if isinstance(made, str):
                    failures |= dict.fromkeys(indices, made)
                elif key == NO_KEY:
                    failures[indices[0]] = "it came after the others were listed"
                else:
                    row, flag = made
                    yield row, key + bytes([flag])

    @contextmanager
    def _opened(self, kept: Kept, problem: str | None) -> Iterator[BinaryIO]:
        """The file to append to; where it has a problem, a temporary one with what there is."""
        try:
            if problem is not None:
                with tempfile.TemporaryFile() as file:
                    self._copy(kept, file)
                    yield file
                return
            # What a kill has left, and earlier versions' files, which are never read.
            name = self.path.name
            for pattern in (f".{name}.partial", f"{name}.*", f"{name}_*.npy"):
                for stale in self.path.parent.glob(pattern):
                    remove(stale)
            if kept.is_to_be_replaced:
                with atomic_file(self.path) as file:
                    self._copy(kept, file)
            with self.path.open("r+b") as file:
                yield file
        except OSError as error:
            why = reason(error)
            raise InputError(
                f"{self.path}: cannot be written ({why}); what was written is kept: mend this and "
                "run the same command again"
                if problem is None
                else f"{self.path}: cannot be written ({problem}), nor a temporary file ({why}); "
                "make room, or name another place by TMPDIR"
            ) from None

    def _found(self, file: BinaryIO) -> Kept:
        """A ValueError, if the file is not whole."""
        file.seek(0)
        magic, itemsize, capacity = HEADER.unpack(file.read(HEADER.size).ljust(HEADER.size))
        length = os.fstat(file.fileno()).st_size - _place_of_rows(capacity)
        if (magic, itemsize) != (MAGIC, self.row.itemsize) or length < 0:
            raise ValueError
        entries = np.frombuffer(file.read(capacity * ENTRY.itemsize), ENTRY)
        used = np.flatnonzero(entries["key"].any(axis=1))
        count = used[-1] + 1 if len(used) else 0
        if length < count * itemsize:
            raise ValueError
        values = np.empty(0, self.row)
        if count:  # nothing cannot be mapped
            shape = (count, *self.row.shape)
            values = np.memmap(file, self.row.base, "c", _place_of_rows(capacity), shape)
        place = {key.tobytes(): row for row, key in enumerate(entries["key"][:count])}
        place.pop(NO_KEY, None)
        rows = np.array([place.get(key, -1) for key in self.keys], np.int64)
        return Kept(values, entries[:count], rows, capacity)

    def _copy(self, kept: Kept, file: BinaryIO) -> None:
        """Writes what there is of the keys, with room for all of them, and for as many."""
        rows = np.unique(kept.rows[kept.rows >= 0])
        capacity = 2 * len(kept.rows)
        file.write(HEADER.pack(MAGIC, self.row.itemsize, capacity))
        file.write(kept.entries[rows].tobytes())
        file.truncate(_place_of_rows(capacity))
        file.seek(_place_of_rows(capacity))
        for row in rows:
            file.write(kept.values[row].data)
        file.flush()

    def _append(
        self, file: BinaryIO, made: Iterable[tuple[bytes, bytes]], rows_at_once: int | None
    ) -> None:
        """Appends rows, each with its entry, behind those that a file has."""
        kept = self._found(file)
        rows_at_once = rows_at_once or -(-CHUNK // self.row.itemsize)
        count, waiting = len(kept.values), []

        def save() -> None:
            nonlocal count
            if waiting:
                rows, entries = zip(*waiting, strict=True)
                start = _place_of_rows(kept.capacity)
                _write(file, start + count * self.row.itemsize, rows)
                _write(file, HEADER.size + count * ENTRY.itemsize, entries)
                count += len(waiting)
                waiting.clear()

        saved_at = time.monotonic()
        try:
            for row_and_entry in made:
                waiting.append(row_and_entry)
                if len(waiting) >= rows_at_once or time.monotonic() > saved_at + SECONDS:
                    save()
                    saved_at = time.monotonic()
        finally:
            save()


def _place_of_rows(capacity: int) -> int:
    return HEADER.size + capacity * ENTRY.itemsize


def _write(file: BinaryIO, place: int, contents: Iterable[bytes]) -> None:
    """Writes this at a place of a file, and on the disk."""
    file.seek(place)
    file.writelines(contents)
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def folder_lock(folder: Path) -> Iterator[str | None]:
    """While one process decodes images or downloads data into a folder, others wait for it.

    Gives None, or where nothing can be locked, and nobody waits, the reason.
    """
    with ExitStack() as stack:
        problem = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder / ".lock"))
        except OSError as error:
            problem = reason(error)
        yield problem
