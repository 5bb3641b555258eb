"""Files written whole or not at all, tables as CSV, and locks that end with their process."""

import codecs
import csv
import errno
import hashlib
import io
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from filelock import FileLock

from tod.config import InputError
from tod.config.settings import shortened

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("tod")

NAMES = "surrogateescape"
"""How Python keeps bytes of file names that are no text, so that they can be restored."""
SECONDS_BETWEEN_TRIES = (0.1, 0.2, 0.4, 0.6, 0.7)
"""Between the renames to a file that another program holds."""
MEND = "mend this and run the same command again"


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while content := file.read(2**20):
            digest.update(content)
    return digest.hexdigest()


def reason(error: Exception | str) -> str:
    """Why a file cannot be read or written, in one line."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    words = getattr(error, "strerror", None) or str(error)
    return shortened(" ".join(words.split()) or type(error).__name__, 300)


def cannot(path: Path, done: str, error: Exception | str, advice: str) -> InputError:
    """The error for a file that cannot be read or written, with the reason and what to do."""
    return InputError(f"{path}: cannot be {done} ({reason(error)}); {advice}")


def machine_lacks(error: Exception) -> bool:
    """Whether an error is about memory or open files, and not about the file itself."""
    few = getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
    return few or isinstance(error, MemoryError)


def refuse_what_the_machine_lacks(path: Path, error: Exception) -> None:
    """Raises an InputError if the machine, and not the file, is why it could not be read."""
    if machine_lacks(error):
        raise InputError(
            f"{shortened(str(path), 300)}: cannot be read now ({reason(error)}), which says "
            "nothing of the file; what was saved is intact: leave more memory or open files "
            "(ulimit -n) to this, and run the same command again"
        ) from None


@contextmanager
def atomic_file(path: Path, spare: Path | None = None, mark: str = "") -> Iterator[BinaryIO]:
    """A file to write; whatever happens, it is the old one or the new one, never a part of it.

    A missing folder is made. InputError if the disk is full, the folder cannot be written to, or
    another program holds the file; the OSError is its cause.

    Args:
        spare: the new name of the old file, if it is kept.
        mark: distinguishes this process's unfinished file, if several processes may write the file
            at once; after a kill, the next process with this mark replaces it.
    """
    partial = path.with_name(f".{path.name}{mark}.partial")
    with _one_line(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if spare is not None and path.exists():
                _replace(path, spare)
            _replace(partial, path)
        except BaseException:
            remove(partial)
            raise
        _sync_folder(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which exists with all its files or not at all; errors as `atomic_file`."""
    partial = path.with_name(f".{path.name}.partial")
    with _one_line(path):
        remove(partial)
        partial.mkdir(parents=True)
        yield partial
        for file in partial.iterdir():
            with file.open("rb") as content:
                os.fsync(content.fileno())
        _replace(partial, path)
        _sync_folder(path.parent)


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot(path, "written", error, f"what was saved before is intact: {MEND}") from error


def _replace(source: Path, target: Path) -> None:
    """Renames; waits two seconds for programs that hold either file, as on Windows."""
    for seconds in SECONDS_BETWEEN_TRIES:
        with suppress(PermissionError):
            source.replace(target)
            return
        time.sleep(seconds)
    source.replace(target)


def _sync_folder(folder: Path) -> None:
    """Without this, a power cut may undo a rename."""
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_atomically(path: Path, content: bytes | str, mark: str = "") -> None:
    """Writes a whole file as `atomic_file` does; text in UTF-8, with the bytes of file names."""
    with atomic_file(path, mark=mark) as file:
        file.write(content.encode("utf-8", NAMES) if isinstance(content, str) else content)


def refuse_unwritable(path: Path) -> None:
    """Refuses, before the work that ends with it, a file that cannot be written; errors as
    `atomic_file`.
    """
    with _one_line(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass


def as_csv(table: "pd.DataFrame") -> str:
    """A table as CSV that every reader parses into the same cells."""
    text = table.to_csv(index=False, lineterminator="\n")
    # By default pandas does not quote a lone carriage return.
    return text if "\r" not in text else table.to_csv(index=False, quoting=csv.QUOTE_ALL)


def decoded(content: bytes) -> str:
    """The text of a file in UTF-8, or in UTF-16 with a byte-order mark, as spreadsheets save it.

    Other bytes are kept as in file names. ValueError for UTF-16 without its mark, or with a part of
    a character.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    if re.match(rb"(\0[^\0]){4}|([^\0]\0){4}", content):
        raise ValueError("it is UTF-16 without its mark; save it as UTF-8")
    return content.decode("utf-8", NAMES).removeprefix("\ufeff")


def rows_of_csv(text: str) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns and rows of a CSV text; each cell is exactly as written.

    Cells are separated by commas, semicolons or tabs; a first line such as `sep=;` may say by
    which. Column names are in lower case. Each row that is not empty has the number of its last
    line and its cells, of which the last ones may be missing. ValueError if the text is no table.
    """
    lines = io.StringIO(text, newline="")
    first = lines.readline()
    told = re.match(r'"?sep=([,;\t])"?\s*$', first, re.IGNORECASE)
    # The header tells the separator: no column name contains one.
    delimiter = told[1] if told else max(",;\t", key=first.count)
    lines.seek(0)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    csv.field_size_limit(2**27)
    rows = []
    try:
        if told:
            next(reader)
        columns = [name.strip().lower() for name in next(reader, [])]
        while columns and not columns[-1]:
            columns.pop()
        for cells in reader:
            if any(cells[len(columns) :]):
                words = f"{len(cells)} cells, but there are {len(columns)} columns"
                raise ValueError(f"line {reader.line_num} has {words}")
            if any(cells):
                rows.append((reader.line_num, dict(zip(columns, cells, strict=False))))
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from None
    return columns, rows


def damaged(path: Path, why: str) -> InputError:
    """The error for a damaged file of the run."""
    return cannot(path, "read back", why, "bring back the file as it was")


def read_table(
    path: Path, columns: Sequence[str], added: Sequence[str] = ()
) -> list[dict[str, str]]:
    """The rows of a CSV file made by `as_csv`, even if a spreadsheet has saved it again.

    They have `columns`, which must exist, in this order, and those `added` since an earlier
    version, whose files leave them empty. InputError if the file cannot be read back.
    """
    try:
        text = decoded(path.read_bytes())
        found, rows = rows_of_csv(text)
        if missing := [name for name in columns if name not in found]:
            raise ValueError(f"it has no column {missing[0]}")
        # A spreadsheet may leave out the last cells, but ends the line; a truncated file does not.
        if rows and found[-1] not in rows[-1][1] and not text.endswith(("\n", "\r")):
            raise ValueError("its last line is not whole")
    except (OSError, ValueError) as error:
        raise damaged(path, reason(error)) from None
    return [{name: row.get(name, "") for name in (*columns, *added)} for _, row in rows]


def remove(path: Path) -> bool:
    """Removes a file or a folder, if it exists; returns whether it is gone, and warns if not."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        log.warning(f"{path}: cannot be removed ({reason(error)})")
        return False
    return True


def locked(path: Path, wait: bool = True) -> FileLock:
    """The lock of a file, to hold by `with`; the system releases it when its process ends.

    Timeout if another process holds it and `wait` is False; OSError if nothing can be locked.
    """
    # No soft lock on file systems without locks: its file would outlive a kill.
    return FileLock(path, timeout=-1 if wait else 0, fallback_to_soft=False)
