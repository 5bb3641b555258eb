"""Image files in one folder a class: which there are, and people's own datasets of them."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from tod.config import Images, InputError
from tod.data.dataset import WITHOUT_DATA, ImageSet, Split
from tod.data.decoding import load_images

log = logging.getLogger("tod")


def load(root: Path, config: Images) -> Split:
    """The images in `root`/train/CLASS and `root`/test/CLASS."""
    train, test = root / "train", root / "test"
    for folder in (train, test):
        if not folder.is_dir():
            raise InputError(
                f"{folder}: is missing; images go to {folder}/CLASS/, "
                f"and --data-dir names the folder that holds train and test; {WITHOUT_DATA}"
            )
    class_names, test_names = class_folders(train), class_folders(test)
    unknown, untested = set(test_names) - set(class_names), set(class_names) - set(test_names)
    if untested:
        log.warning("%s: is not there; the accuracy is over fewer classes", test / min(untested))
    if unknown:
        raise InputError(
            f"{test / min(unknown)}: is a class without training images; "
            "each test class needs a folder of the same name in train"
        )
    images = image_set(train, class_names, config)
    empty = set(range(len(class_names))) - set(images.labels.tolist())
    if empty:
        raise InputError(f"{train / class_names[min(empty)]}: holds no image")
    return images, image_set(test, class_names, config), class_names


def class_folders(folder: Path) -> list[str]:
    """The names of the folders in `folder`, each a class, in order."""
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(names) < 2:
        raise InputError(f"{folder}: holds {len(names)} class folders; there must be at least two")
    return names


def image_set(folder: Path, class_names: Sequence[str], config: Images) -> ImageSet:
    """The images of each class in `folder`, in the order of their names."""
    endings = {e for e, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    files, labels = [], []
    # What is hidden is left out without a word.
    others = [path for path in sorted(folder.glob("[!.]*")) if not path.is_dir()]
    for label, name in enumerate(class_names):
        for path in sorted((folder / name).glob("[!.]*")):
            if path.suffix.lower() in endings and not path.is_dir():
                files.append(f"{name}/{path.name}")
                labels.append(label)
            else:
                others.append(path)
    if others:
        first = others[0].relative_to(folder)
        words = "images lie in their class's folder itself, with an image's ending"
        log.warning(f"{folder}: {first} is left out ({len(others)} such in all): {words}")
    pixels = load_images(folder, files, config)
    return ImageSet(pixels, torch.tensor(labels, dtype=torch.int64), files)
