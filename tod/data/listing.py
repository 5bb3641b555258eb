"""The image files in a folder, and everything that is wrong there."""

import logging
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
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
    folders: dict[str, list[Path]] = defaultdict(list)
    others: list[Path] = []
    for path in _entries(folder, problems):
        if not path.is_dir():
            others.append(path)
        elif path.name not in left_out:
            folders[class_name_of(path.name)].append(path)
    class_names = in_order(folders) if class_names is None else list(class_names)
    for name in in_order(folders.keys() - {*class_names}):
        place = shown(folders[name][0])
        problems.append(f"{place}: is no class of {where}; add it there, or rename it")
    labels: dict[str, int] = {}
    for label, name in enumerate(class_names):
        for path in (path for f in folders.get(name, ()) for path in _entries(f, problems)):
            if _is_image(path):
                labels[str(path.relative_to(folder))] = label
            else:
                others.append(path)
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
    folders, entered = [folder], {folder.resolve()}
    while folders:
        for path in _entries(folders.pop(), problems):
            if path.is_dir():
                if path.name not in SYSTEM_FOLDERS and path.resolve() not in entered:
                    entered.add(path.resolve())
                    folders.append(path)
            elif _is_image(path):
                found.append(str(path.relative_to(folder)))
            else:
                others.append(path)
    _warn_of_others(folder, others, "they have no image's ending")
    return sorted(found)


def in_order(names: Iterable[str]) -> list[str]:
    """Class names in order, as numbers if all of them are numbers."""
    names = sorted(names)
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else names


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in picture.ENDINGS and path.is_file()


def _entries(folder: Path, problems: list[str]) -> list[Path]:
    """The entries of a folder in order, without hidden ones."""
    found = []
    try:
        for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
            if path.is_symlink() and not path.exists():
                problems.append(f"{shown(path)}: is a link to nothing; mend or remove it")
            else:
                path.is_dir()  # raises if the folder may be listed, but not entered
                found.append(path)
    except OSError as error:
        refuse_what_the_machine_lacks(folder, error)
        problems.append(f"{shown(folder)}: cannot be entered ({reason(error)}); mend or remove it")
    return found


def _warn_of_others(folder: Path, others: Sequence[Path], words: str) -> None:
    """Warns of files that are left out, with the reason, and of photographs with what to do."""
    convert = "this format is not read; convert them to JPEG or PNG"
    for is_photograph, why in ((True, convert), (False, words)):
        paths = [p for p in others if (p.suffix.lower() in NOT_READ) == is_photograph]
        if paths:
            first = shown(paths[0].relative_to(folder))
            log.warning(f"{folder}: {first} is left out ({len(paths)} such in all): {why}")
