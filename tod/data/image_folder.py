"""People's own labelled images, in a folder for each class."""

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tod.config import InputError
from tod.config.schema import Images
from tod.config.settings import shortened
from tod.data.dataset import Dataset, Draw, ImageSet
from tod.data.decoding import load_images
from tod.data.listing import check_classes, listed, refuse
from utils import random_generator

log = logging.getLogger("tod")

STAND_INS = ("val", "valid")
"""Folders that stand in for a missing `test`."""


def load(root: Path, config: Images, seed: int) -> Dataset:
    """The images in `root`/train/CLASS and `root`/test/CLASS.

    Without a test folder, `seed` draws the share `config.test_share` of each class for it.
    """
    train_folder, test_folder = _folders(root, config)
    problems: list[str] = []
    train_scan = listed(train_folder, problems)
    class_names = train_scan.class_names
    check_classes(train_folder, class_names, problems)
    scans = [train_scan]
    if test_folder is not None:
        scans.append(listed(test_folder, problems, class_names))
    (train, *tests), unreadable = load_images(scans, config, problems)
    for label, name in enumerate(class_names):
        if not (train.labels == label).any():
            problems.append(f"{train_folder / name}: holds no image; add some, or remove it")
    refuse(problems)
    draw = None
    if tests:
        (test,) = tests
    else:
        train, test, draw = held_out(train, config.test_share, seed)
    tested = test_folder or train_folder
    _warn_of_untested_classes(test, class_names, tested)
    _warn_of_copies((train, test), (train_folder.name, tested.name))
    return Dataset(train, test, class_names, unreadable=unreadable, draw=draw)


def _folders(root: Path, config: Images) -> tuple[Path, Path | None]:
    """The folders of training and test images; None if test images are to be held out."""
    train, test = root / "train", root / "test"
    tests = [path for path in (test, *(root / name for name in STAND_INS)) if path.is_dir()]
    for path, may_lack in ((train, False), (test, tests or config.test_share is not None)):
        is_there = os.path.lexists(path)
        if not path.is_dir() and (is_there or not may_lack):
            raise InputError(
                f"{path}: is {'no folder; mend or remove it' if is_there else 'missing'}; images "
                f"go to {train}/CLASS/ and {test}/CLASS/, and --data-dir names the folder that "
                "holds both (--set images.test_share=0.2 holds out a fifth of train instead)"
            )
    if tests and tests[0] != test:
        log.info("%s: stands in for the folder test", tests[0])
    if tests and config.test_share is not None:
        log.warning("%s: is the test set; images.test_share is not used", tests[0])
    return train, tests[0] if tests else None


def held_out(images: ImageSet, share: float, seed: int) -> tuple[ImageSet, ImageSet, Draw]:
    """A training and a test set: `share` of each class, rounded, is drawn for the test set.

    It gets at least one image of each class, but never all of them.
    """
    random = random_generator(seed, "held-out test images")
    labels = images.labels.numpy()
    is_test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        is_test[random.choice(members, count, replace=False)] = True
    train, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
    return images.subset(train), images.subset(test), Draw(train, len(images), test)


def _warn_of_untested_classes(test: ImageSet, class_names: Sequence[str], folder: Path) -> None:
    tested = set(test.labels.tolist())
    untested = [folder / name for label, name in enumerate(class_names) if label not in tested]
    if len(tested) == 1:
        log.warning("%s: all images are of one class; the accuracy says little", folder)
    elif untested and tested:
        words = f"({len(untested)} such in all); the accuracy is over fewer classes"
        log.warning("%s: holds no image %s", untested[0], words)


def _warn_of_copies(sets: tuple[ImageSet, ImageSet], folders: tuple[str, str]) -> None:
    """Warns of test images that are also training images, and of pictures with two classes."""

    def named(place: int, index: int) -> str:
        return shortened(f"{folders[place]}/{sets[place].names[index]}", 300)

    groups = same_pixels(sets)
    leaks = [g for g in groups if {place for place, _ in g} == {0, 1}]
    if leaks:
        count = sum(place == 1 for group in leaks for place, _ in group)
        first, last = named(*leaks[0][0]), named(*leaks[0][-1])
        log.warning(f"{count} test images are training images too, as {last} is {first}")
    # The first image of each label in each group.
    by_label = [{int(sets[s].labels[i]): (s, i) for s, i in reversed(group)} for group in groups]
    doubtful = [sorted(images.values()) for images in by_label if len(images) > 1]
    if doubtful:
        words = " and ".join(named(*image) for image in doubtful[0][:2])
        log.warning(f"{len(doubtful)} pictures are there under two classes, as {words}")


def same_pixels(sets: Sequence[ImageSet]) -> list[list[tuple[int, int]]]:
    """Groups of images with the same pixels, each as the place of its set and its index."""
    # The middle line distinguishes most images, and is quickly read.
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
