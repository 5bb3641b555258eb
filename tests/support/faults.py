"""File operations that fail once, as on a full, a broken or a read-only disk."""

import builtins
import errno
import fcntl
import io
import os
import pathlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tod.config import InputError


@dataclass
class Fault:
    """One kind of operation: it counts how often it is done, and fails at one of the times."""

    error: OSError
    at: int
    """Which time fails, from 1; 0: none."""
    count: int = 0

    def strikes(self) -> bool:
        """Counts one more operation, and says whether it is to fail."""
        self.count += 1
        return self.count == self.at

    def before(self, operation: Callable, concerns: Callable[..., bool]) -> Callable:
        """The operation, but for those that concern us when it is to fail."""

        def faulty(*arguments: Any, **settings: Any) -> Any:
            if concerns(*arguments, **settings) and self.strikes():
                raise self.error
            return operation(*arguments, **settings)

        return faulty


class _FullFile(io.FileIO):
    """Takes nothing of what is written to it, whenever that is noticed."""

    def write(self, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


KINDS = {
    "replace": errno.EIO,
    "fsync": errno.EIO,
    "unlink": errno.EPERM,
    "rmdir": errno.EACCES,
    "mkdir": errno.EACCES,
    "open for writing": errno.ENOSPC,
    "write": errno.ENOSPC,
    "open for reading": errno.EIO,
    "open a folder": errno.EMFILE,
    "lock": errno.ENOLCK,
}


@contextmanager
def failing(kind: str, place: Path, at: int = 0) -> Iterator[Fault]:
    """Makes an operation of this kind on what is in `place` fail in this process, the `at`th.

    With `at` 0 none fails, and they are only counted.
    """
    fault = Fault(OSError(KINDS[kind], os.strerror(KINDS[kind])), at)

    def is_here(path: object, *_: object, **settings: object) -> bool:
        folder = settings.get("dir_fd")
        descriptor = path if isinstance(path, int) else folder
        if descriptor is not None:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
        return Path(path).is_relative_to(place)

    def is_missing_here(path: object, *_: object, **__: object) -> bool:
        return is_here(path) and not Path(path).exists()

    def is_folder_here(path: object, *_: object, **settings: object) -> bool:
        # How a lock is opened is filelock's affair, which bears some faults itself.
        is_folder = is_here(path, **settings) and Path(path).is_dir()
        return is_folder and Path(path).name != ".locks"

    def is_taken_here(descriptor: int, operation: int) -> bool:
        return operation != fcntl.LOCK_UN and is_here(descriptor)

    def opens(written: bool) -> Callable[..., bool]:
        def concerns(path: object, mode: str = "r", *_: object, **__: object) -> bool:
            is_written = not {*"wax+"}.isdisjoint(mode)
            return not isinstance(path, int) and is_here(path) and is_written == written

        return concerns

    def open_full(path: object, mode: str = "r", *arguments: Any, **settings: Any) -> Any:
        concerned = opens(written=True)(path, mode) and "b" in mode
        if concerned and fault.strikes():
            return io.BufferedWriter(_FullFile(path, mode.replace("b", "")))
        return actual_open(path, mode, *arguments, **settings)

    actual_open = builtins.open
    # In Python 3.10, paths keep functions of their own.
    of_paths = [vars(pathlib)["_normal_accessor"]] if "_normal_accessor" in vars(pathlib) else []
    openers, removers = [builtins, io, *of_paths], [os, *of_paths]
    faulty = {
        "replace": [(Path, "replace", is_here)],
        "fsync": [(os, "fsync", is_here)],
        "unlink": [(m, "unlink", is_here) for m in removers],
        "rmdir": [(m, "rmdir", is_here) for m in removers],
        "mkdir": [(m, "mkdir", is_missing_here) for m in removers],
        "open for writing": [(m, "open", opens(written=True)) for m in openers],
        "open for reading": [(m, "open", opens(written=False)) for m in openers],
        "open a folder": [(os, "open", is_folder_here)],
        "lock": [(fcntl, "flock", is_taken_here)],
        "write": [],
    }[kind]
    patches = [
        patch.object(module, name, fault.before(getattr(module, name), concerns))
        for module, name, concerns in faulty
    ]
    if kind == "write":
        patches = [patch.object(module, "open", open_full) for module in openers]
    with ExitStack() as stack:
        for each in patches:
            stack.enter_context(each)
        yield fault


def moments(count: int, wanted: int) -> list[int]:
    """So many of the operations, from the first to the last."""
    if count <= max(wanted, 4):  # as many as a run removes
        return [*range(1, count + 1)]
    return [1 + i * (count - 1) // max(wanted - 1, 1) for i in range(wanted)]


def why_it_ends(call: Callable, *arguments: Any, **settings: Any) -> str:
    """The line that says it, if it ends early; any other exception is a failure."""
    try:
        call(*arguments, **settings)
    except InputError as error:
        assert len(str(error).splitlines()) == 1
        return str(error)
    return ""
