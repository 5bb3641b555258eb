"""The image files in a folder, and everything that is wrong there."""

import logging
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tod.config import InputError
from tod.config.settings import shortened
from tod.data import picture
from tod.system.files import reason, refuse_what_the_machine_lacks

log = logging.getLogger("tod")

SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "lost+found", "System Volume Information", "$RECYCLE.BIN")
NOT_READ = {
    *(".heic", ".heif", ".hif", ".avif", ".jxl", ".psd"),
    *(".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"),
}
"""Endings of photographs in formats that are not read."""
NAMED = 10
"""The number of problems that a message names."""


class Scan(NamedTuple):
    """The image files of a folder: the classes, and the label of each file by its relative name."""

    folder: Path
    class_names: list[str]
    labels: dict[str, int]


def refuse(problems: Sequence[str], ending: str | None = None) -> None:
    """Raises an InputError if there are problems: the first ten, their number, and `ending`."""
    lines = list(problems[:NAMED])
    if len(problems) > 1:
        lines.append(f"{len(problems)} problems in all")
    if lines:
        raise InputError("\n".join([*lines, *([ending] if ending else [])]))


def check_classes(folder: Path, class_names: Sequence[str], problems: list[str]) -> None:
    """Refuses fewer than two classes, along with the other problems.

    Warns of classes whose names differ only in case, blanks or Unicode form.
    """
    if len(class_names) < 2:
        few = f"{folder}: names {len(class_names)} classes; there must be at least two"
        refuse([*problems, few])
    alike: dict[str, list[str]] = defaultdict(list)
    for name in class_names:
        alike["".join(unicodedata.normalize("NFKC", name).casefold().split())].append(name)
    doubtful = [names for names in alike.values() if len(names) > 1]
    if doubtful:
        words = " and ".join(repr(shortened(name)) for name in doubtful[0])
        log.warning(
            f"{folder}: {words} look alike, but are {len(doubtful[0])} classes "
            f"({len(doubtful)} such in all); if one is meant, give them one name"
        )


def listed(
    folder: Path,
    problems: list[str],
    class_names: Sequence[str] | None = None,
    where: str = "train",
    left_out: Sequence[str] = SYSTEM_FOLDERS,
) -> Scan:
    """The image files in `folder`/CLASS, in the order of the classes and of the files' names.

    Names that look the same are one class, whatever their Unicode form. With `class_names`, which
    come from `where`, other classes are a problem. `problems` also gets broken links, and folders
    that cannot be entered.
    """
    folders: dict[str, list[str]] = defaultdict(list)
    others: list[str] = []
    for entry in _entries(folder, problems):
        if not entry.is_dir():
            others.append(entry.name)
        elif entry.name not in left_out:
            folders[class_name_of(entry.name)].append(entry.name)
    class_names = in_order(folders) if class_names is None else list(class_names)
    for name in in_order(folders.keys() - {*class_names}):
        place = shown(folder / folders[name][0])
        problems.append(f"{place}: is no class of {where}; add it there, or rename it")
    labels: dict[str, int] = {}
    for label, name in enumerate(class_names):
        for place in folders.get(name, ()):
            for entry in _entries(folder / place, problems):
                file = os.path.join(place, entry.name)  # noqa: PTH118 - many: a Path takes longer
                if _is_image(entry):
                    labels[file] = label
                else:
                    others.append(file)
    _warn_of_others(folder, others, "images lie in their class's folder, with an image's ending")
    return Scan(folder, class_names, labels)


def class_name_of(name: str) -> str:
    """A class's name in the Unicode form in which names that look the same are equal."""
    return unicodedata.normalize("NFC", name)


def shown(path: Path) -> str:
    """A path for a message."""
    return shortened(str(path), 300)


def image_files(folder: Path) -> list[str]:
    """The names of all image files below a folder, as `below` returns them; at least one."""
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder; name the one in which the images lie")
    problems: list[str] = []
    found = below(folder, problems)
    if not found and not problems:
        problems.append(f"{folder}: holds no image file")
    refuse(problems)
    return found


def below(folder: Path, problems: list[str]) -> list[str]:
    """The names of all image files below a folder, at any depth, relative to it, in order.

    Hidden files are left out silently, those without an image's ending with a warning. A folder is
    entered once, however many links lead to it. `problems` gets broken links, and folders that
    cannot be entered.
    """
    found, others = [], []
    folders, entered = [""], {folder.resolve()}
    while folders:
        place = folders.pop()
        for entry in _entries(folder / place, problems):
            file = os.path.join(place, entry.name)  # noqa: PTH118 - many: a Path takes longer
            if entry.is_dir():
                if entry.name not in SYSTEM_FOLDERS and Path(entry).resolve() not in entered:
                    entered.add(Path(entry).resolve())
                    folders.append(file)
            elif _is_image(entry):
                found.append(file)
            else:
                others.append(file)
    _warn_of_others(folder, others, "they have no image's ending")
    return sorted(found)


def in_order(names: Iterable[str]) -> list[str]:
    """Class names in order, as numbers if all of them are numbers."""
    names = sorted(names)
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else names


def _is_image(entry: os.DirEntry) -> bool:
    return Path(entry.name).suffix.lower() in picture.ENDINGS and entry.is_file()


def _entries(folder: Path, problems: list[str]) -> list[os.DirEntry]:
    """The entries of a folder in order, without hidden ones."""
    found = []
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
        for entry in sorted(visible, key=lambda entry: entry.name):
            if entry.is_symlink() and not Path(entry).exists():
                problems.append(f"{shown(Path(entry))}: is a link to nothing; mend or remove it")
            else:
                found.append(entry)
        with suppress(FileNotFoundError):  # of what somebody has just removed
            for entry in found[:1]:
                os.lstat(entry)  # raises if the folder may be listed, but not entered
    except OSError as error:
        refuse_what_the_machine_lacks(folder, error)
        problems.append(f"{shown(folder)}: cannot be entered ({reason(error)}); mend or remove it")
    return found


def _warn_of_others(folder: Path, others: Sequence[str], words: str) -> None:
    """Warns of files that are left out, with the reason, and of photographs with what to do."""
    convert = "this format is not read; convert them to JPEG or PNG"
    for is_photograph, why in ((True, convert), (False, words)):
        names = [
            file for file in others if (Path(file).suffix.lower() in NOT_READ) == is_photograph
        ]
        if names:
            first = shown(Path(names[0]))
            log.warning(f"{folder}: {first} is left out ({len(names)} such in all): {why}")
