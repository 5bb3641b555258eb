"""Image files in one folder a class: which there are, and people's own datasets of them."""

import hashlib
import logging
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from tod.config import Images, InputError
from tod.data import picture
from tod.data.dataset import WITHOUT_DATA, ImageSet, Split
from tod.data.decoding import load_images
from tod.files import reason
from tod.settings import shortened
from utils import random_generator

log = logging.getLogger("tod")

SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "lost+found", "System Volume Information", "$RECYCLE.BIN")
STAND_INS = ("val", "valid")
"""What is taken for `test` where there is none."""
NAMED = 10
"""How many of many problems a message names."""


class Listing(NamedTuple):
    """The image files of a folder: its classes, the files' names in it, and their labels."""

    folder: Path
    class_names: list[str]
    files: list[str]
    labels: list[int]

    def without(self, class_name: str) -> "Listing":
        """The other classes' images."""
        names = [name for name in self.class_names if name != class_name]
        kept = [
            (file, names.index(self.class_names[label]))
            for file, label in zip(self.files, self.labels, strict=True)
            if self.class_names[label] != class_name
        ]
        return Listing(self.folder, names, [f for f, _ in kept], [label for _, label in kept])


def load(root: Path, config: Images, seed: int) -> Split:
    """The images in `root`/train/CLASS and `root`/test/CLASS.

    Without a test folder, `seed` draws the share `config.test_share` of each class for it.

    Raises:
        InputError: a folder or an image is missing or unreadable; all that are, in one message.
    """
    train_folder = root / "train"
    test_folder = next((p for p in (root / n for n in ("test", *STAND_INS)) if p.is_dir()), None)
    for folder, missing in (
        (train_folder, not train_folder.is_dir()),
        (root / "test", test_folder is None and config.test_share is None),
    ):
        if missing:
            raise InputError(
                f"{folder}: is missing; images go to {folder}/CLASS/, and --data-dir names the "
                "folder that holds train and test (--set images.test_share=0.2 holds out a fifth "
                f"of train instead); {WITHOUT_DATA}"
            )
    train_listing = listed(train_folder)
    class_names = train_listing.class_names
    refuse_few_classes(train_folder, class_names)
    if test_folder is None:
        images, unreadable = load_all([(train_listing, "train")], config)
        train, test = held_out(*images, config.test_share, seed)
    else:
        if test_folder.name != "test":
            log.info("%s: stands in for the folder test", test_folder)
        test_listing = listed(test_folder, class_names)
        named = [(train_listing, train_folder.name), (test_listing, test_folder.name)]
        (train, test), unreadable = load_all(named, config)
    for label, name in enumerate(class_names):
        if not (train.labels == label).any():
            raise InputError(f"{train_folder / name}: holds no image")
    _warn_of_untested_classes(test, class_names, test_folder or root / "test")
    _warn_of_copies(train, test, class_names)
    return Split(train, test, class_names, unreadable)


def listed(folder: Path, class_names: Sequence[str] | None = None) -> Listing:
    """The image files in `folder`/CLASS, in the order of the classes and of their names.

    Names that look the same, in whatever Unicode form, are one class.

    Args:
        folder: of the classes.
        class_names: those that there may be; None: those that there are.

    Raises:
        InputError: something there leads nowhere or cannot be entered; all that does.
    """
    problems: list[str] = []
    others: list[Path] = []
    folders: dict[str, list[Path]] = defaultdict(list)
    for path in _entries(folder, problems):
        if path.is_dir() and path.name not in SYSTEM_FOLDERS:
            folders[unicodedata.normalize("NFC", path.name)].append(path)
        elif not path.is_dir():
            others.append(path)
    if class_names is None:
        class_names = in_order(folders)
    for name in folders.keys() - {*class_names}:
        problems.append(
            f"{folder / name}: is a class without training images; "
            "each test class needs a folder of the same name in train"
        )
    files, labels = [], []
    for label, name in enumerate(class_names):
        for path in (path for f in folders.get(name, ()) for path in _entries(f, problems)):
            if path.suffix.lower() in picture.ENDINGS and not path.is_dir():
                files.append(str(path.relative_to(folder)))
                labels.append(label)
            else:
                others.append(path)
    if problems:
        raise InputError("\n".join(problems))
    if others:
        first = others[0].relative_to(folder)
        words = "images lie in their class's folder itself, with an image's ending"
        log.warning(f"{folder}: {first} is left out ({len(others)} such in all): {words}")
    return Listing(folder, list(class_names), files, labels)


def _entries(folder: Path, problems: list[str]) -> list[Path]:
    """What is in a folder, in order; what is hidden is left out without a word."""
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        problems.append(f"{folder}: cannot be entered ({reason(error)}); mend or remove it")
        return []
    lost = [path for path in entries if path.is_symlink() and not path.exists()]
    problems += [f"{path}: is a link to nothing; mend or remove it" for path in lost]
    return [path for path in entries if path not in lost]


def image_files(folder: Path) -> list[str]:
    """The names of all image files below a folder, at any depth, relative to it, in order.

    What is hidden is left out without a word, and with one what has no image's ending.

    Raises:
        InputError: there is none, or something there leads nowhere or cannot be entered.
    """
    problems: list[str] = []
    found, others = [], []
    folders = [folder]
    while folders:
        for path in _entries(folders.pop(), problems):
            if path.is_dir():
                if path.name not in SYSTEM_FOLDERS:
                    folders.append(path)
            elif path.suffix.lower() in picture.ENDINGS:
                found.append(str(path.relative_to(folder)))
            else:
                others.append(path)
    if not found and not problems:
        problems.append(f"{folder}: holds no image file")
    if problems:
        raise InputError("\n".join(problems))
    if others:
        words = f"{min(others).relative_to(folder)} is left out ({len(others)} such in all)"
        log.warning(f"{folder}: {words}: it has no image's ending")
    return sorted(found)


def in_order(names: Iterable[str]) -> list[str]:
    """Class names in their order, which is that of numbers where all are numbers."""
    names = sorted(names)
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else names


def refuse_few_classes(folder: Path, class_names: Sequence[str]) -> None:
    """Refuses what is no classification.

    Raises:
        InputError: there are fewer than two classes.
    """
    if len(class_names) < 2:
        count = len(class_names)
        raise InputError(f"{folder}: holds {count} class folders; there must be at least two")


def load_all(
    listings: Sequence[tuple[Listing, str]], config: Images, read: picture.Read = picture.as_shown
) -> tuple[list[ImageSet], list[tuple[str, str]]]:
    """The images of several folders.

    Args:
        listings: of each folder, and what it is called in the list of what is unreadable.
        config: the sizes, and whether to go on without unreadable images.
        read: what makes RGB pixels of an open picture.

    Returns:
        The images of each folder; and the files that were left out, with the reason.

    Raises:
        InputError: images cannot be read, and are not to be left out; it names the first ten.
    """
    images, unreadable, lines = [], [], []
    for (folder, _, files, labels), called in listings:
        pixels, problems = load_images(folder, files, config, read)
        everything = ImageSet(pixels, torch.tensor(labels, dtype=torch.int64), files)
        readable = [i for i in range(len(files)) if i not in problems]
        images.append(everything.subset(readable) if problems else everything)
        for index, why in sorted(problems.items()):
            unreadable.append((f"{called}/{files[index]}", why))
            path = shortened(str(folder / files[index]), 300)
            lines.append(f"{path}: cannot be read as an image ({why})")
    if not lines:
        return images, []
    if config.unreadable == "skip":
        log.warning(f"{lines[0]}; the run goes on without it ({len(lines)} such in all)")
        return images, unreadable
    go_on = "by images.unreadable=skip"
    if len(lines) == 1:
        raise InputError(f"{lines[0]}; mend or remove it, or go on without it {go_on}")
    shown = "\n".join(lines[:NAMED])
    count = f"{len(lines)} images cannot be read"
    raise InputError(f"{shown}\n{count}; mend or remove them, or go on without them {go_on}")


def held_out(images: ImageSet, share: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """A training and a test set: `share` of each class, rounded, is drawn for the latter.

    At least one image of a class is, but never all of them.
    """
    random = random_generator(seed, "held-out test images")
    labels = images.labels.numpy()
    is_test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        is_test[random.choice(members, count, replace=False)] = True
    return images.subset(np.flatnonzero(~is_test)), images.subset(np.flatnonzero(is_test))


def _warn_of_untested_classes(test: ImageSet, class_names: Sequence[str], folder: Path) -> None:
    tested = set(test.labels.tolist())
    untested = [folder / name for label, name in enumerate(class_names) if label not in tested]
    if len(tested) == 1:
        log.warning("%s: all images are of one class; the accuracy says little", folder)
    elif untested and tested:
        words = f"({len(untested)} such in all); the accuracy is over fewer classes"
        log.warning("%s: holds no image %s", untested[0], words)


def _warn_of_copies(train: ImageSet, test: ImageSet, class_names: Sequence[str]) -> None:
    """Says which test images are training images too, and which pictures are of two classes."""
    groups = same_pixels((train, test))
    leaks = [g for g in groups if {place for place, _ in g} == {0, 1}]
    if leaks:
        count = sum(place == 1 for group in leaks for place, _ in group)
        pair = _named(leaks[0], (train, test))
        log.warning(f"{count} test images are training images too, as {pair[-1]} is {pair[0]}")
    doubtful = [g for g in groups if len({int((train, test)[s].labels[i]) for s, i in g}) > 1]
    if doubtful:
        pair = _named(doubtful[0], (train, test))
        words = f"{pair[0]} and {pair[-1]}"
        log.warning(f"{len(doubtful)} pictures are there under two classes, as {words}")


def _named(group: Sequence[tuple[int, int]], sets: Sequence[ImageSet]) -> list[str]:
    return [f"{('train', 'test')[place]}/{sets[place].names[index]}" for place, index in group]


def same_pixels(sets: Sequence[ImageSet]) -> list[list[tuple[int, int]]]:
    """The groups of images that have all pixels in common: of each, the set's place and index."""
    # The middle line alone tells most images apart, and is quickly read.
    alike: dict[bytes, list[tuple[int, int]]] = defaultdict(list)
    for place, images in enumerate(sets):
        for index in range(len(images)):
            pixels = images.image(index)
            alike[pixels[:, pixels.shape[1] // 2].tobytes()].append((place, index))
    groups: dict[bytes, list[tuple[int, int]]] = defaultdict(list)
    for candidates in alike.values():
        if len(candidates) > 1:
            for place, index in candidates:
                digest = hashlib.blake2b(sets[place].image(index).tobytes()).digest()
                groups[digest].append((place, index))
    return [group for group in groups.values() if len(group) > 1]
