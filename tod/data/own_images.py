"""People's own images, most of them without a label; each is known by its content."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tod.config import InputError
from tod.config.schema import Images
from tod.data.dataset import ImageSet
from tod.data.decoding import load_images
from tod.data.image_folder import same_pixels
from tod.data.listing import Scan, below, check_classes, class_name_of, listed, refuse, shown
from tod.data.of_files import digests as digests_of
from tod.system.files import reason

log = logging.getLogger("tod")

UNKNOWN = -1
"""The label of an image that has none yet."""
CONTROLS = {chr(code) for code in range(32)} - {*"\t\n\r"}
"""No XML file can hold these."""


class Found(NamedTuple):
    """What there is in people's folder, `root`; names of files are relative to it.

    Attributes:
        files: of each image of the pool or of `train`, by its SHA-256 in hex, a file that shows it;
            in the order of the digests, so that no file's name or place matters.
        digests: of each file, also where several show one image.
        labels: of the images in `train`, their classes, by digest.
        test: the label of each file of `test`; None where there is no such folder.
    """

    root: Path
    class_names: list[str]
    files: dict[str, str]
    digests: dict[str, str]
    labels: dict[str, str]
    test: dict[str, int] | None


class Read(NamedTuple):
    """The images of `Found` that can be read.

    Attributes:
        images: without labels, in the order of `digests`, which ascend; none shows what a test
            image shows.
        test: with labels; None where there is no such folder.
        unreadable: files that were left out, and why each.
    """

    images: ImageSet
    digests: list[str]
    test: ImageSet | None
    unreadable: list[tuple[str, str]]


def find(root: Path) -> Found:
    """What there is in `root`: `unlabeled`, `train/CLASS`, `classes.txt` and `test/CLASS`."""
    if not (root / "unlabeled").is_dir():
        raise InputError(
            f"{root / 'unlabeled'}: is missing; images to be labelled go there, at any depth; the "
            f"classes are the folders in {root / 'train'}, or the lines of {root / 'classes.txt'}; "
            "--data-dir names the folder that holds them"
        )
    problems: list[str] = []
    train, test = _labelled(root, problems), None
    if (root / "test").is_dir():
        scan = listed(root / "test", problems, train.class_names, "train or classes.txt")
        test = {f"test/{file}": label for file, label in scan.labels.items()}
        if not test:
            problems.append(f"{root / 'test'}: holds no image; add some, or remove it")
    names = [f"unlabeled/{file}" for file in below(root / "unlabeled", problems)]
    names += [*(f"train/{file}" for file in train.labels), *(test or ())]
    digests = dict(zip(names, digests_of(root, names, problems), strict=True))
    labels = _labels_of(train, digests, problems)
    refuse(problems)
    # A test image's label is to judge, not to be asked for.
    tested = {digests[file] for file in test or ()}
    files: dict[str, str] = {}
    for name, digest in digests.items():
        if digest not in tested:
            files.setdefault(digest, name)
    labels = {digest: label for digest, label in labels.items() if digest in files}
    return Found(root, train.class_names, dict(sorted(files.items())), digests, labels, test)


def _labelled(root: Path, problems: list[str]) -> Scan:
    """The classes, at least two, and the images in `train` that are of them."""
    train, file = root / "train", root / "classes.txt"
    class_names = _class_names(file, problems)
    scan = Scan(train, class_names or [], {})
    if train.is_dir():
        scan = listed(train, problems, class_names, "classes.txt")
    if not problems and not scan.class_names:
        problems.append(
            f"{root}: names no class; make a folder for each in {train}, empty ones too, or "
            f"write them into {file}, one a line"
        )
    for name in scan.class_names:
        if not CONTROLS.isdisjoint(name) or any("\ud800" <= c <= "\udfff" for c in name):
            problems.append(f"class {name!r}: has characters that no page can show; rename it")
    refuse(problems)
    check_classes(train if train.is_dir() else file, scan.class_names, problems)
    return scan


def _class_names(path: Path, problems: list[str]) -> list[str] | None:
    """The lines of `classes.txt`; None where there is none."""
    if not path.exists():
        return None
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path}: cannot be read ({reason(error)}); write one class a line")
        return []
    names = [class_name_of(line.strip()) for line in lines if line.strip()]
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.append(f"{path}: names {name} twice")
    return list(dict.fromkeys(names))


def _labels_of(train: Scan, digests: dict[str, str], problems: list[str]) -> dict[str, str]:
    """The class of each image in the class folders, by its digest."""
    first: dict[str, str] = {}
    for file, label in train.labels.items():
        before = first.setdefault(digests[f"train/{file}"], file)
        if train.labels[before] != label:
            words = f"and {shown(train.folder / file)} are one image under two classes; remove one"
            problems.append(f"{shown(train.folder / before)} {words}")
    return {digest: train.class_names[train.labels[file]] for digest, file in first.items()}


def read(found: Found, config: Images) -> Read:
    """The pixels of what there is."""
    labels, problems = dict.fromkeys(found.files.values(), UNKNOWN) | (found.test or {}), []
    scan = Scan(found.root, found.class_names, dict(sorted(labels.items())))
    (everything,), unreadable = load_images([scan], config, problems)
    refuse(problems)
    place = {file: i for i, file in enumerate(everything.names)}
    digests = [digest for digest, file in found.files.items() if file in place]
    images = everything.subset([place[found.files[digest]] for digest in digests])
    test = everything.subset([place[file] for file in found.test or () if file in place])
    copies = _copies_of(test, images) if found.test else set()
    rest = [index for index in range(len(images)) if index not in copies]
    return Read(
        images.subset(rest),
        [digests[index] for index in rest],
        test if found.test else None,
        [(file.removeprefix(f"{found.root.name}/"), why) for file, why in unreadable],
    )


def _copies_of(test: ImageSet, images: ImageSet) -> set[int]:
    """Which images have all pixels of a test image, most with other metadata; the log says so."""
    groups = [g for g in same_pixels((test, images)) if {place for place, _ in g} == {0, 1}]
    if not groups:
        return set()
    copies = {index for group in groups for place, index in group if place == 1}
    original, copy = test.names[groups[0][0][1]], images.names[groups[0][-1][1]]
    log.warning(
        f"{shown(Path(copy))} shows what {shown(Path(original))} shows, pixel for pixel: such "
        f"images are neither asked for nor trained on ({len(copies)} in all)"
    )
    return copies


def fingerprint(found: Found) -> str:
    """Differs where there are other images."""
    return hashlib.blake2b("".join(found.files).encode(), digest_size=16).hexdigest()


def fingerprint_of_order(found: Found, read: Read) -> str:
    """Differs where an index may be another image's: by names and contents, in their order."""
    digest = hashlib.blake2b(digest_size=16)
    for images in (read.images, *([read.test] if read.test else [])):
        for name in images.names:
            digest.update(f"{name}\0{found.digests[name]}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def indices_of(wanted: Iterable[str], digests: Sequence[str]) -> np.ndarray:
    """Where these digests are among all, in their order, (n,) int64; others are left out."""
    place = {digest: index for index, digest in enumerate(digests)}
    return np.array([place[digest] for digest in wanted if digest in place], dtype=np.int64)
