"""The digits, CIFAR-10, CIFAR-100, SVHN and Caltech-101, in their published formats.

CIFAR and SVHN are downloaded if they are missing. A reduced copy, with fewer images in the same
files, is used with a warning. Large libraries are imported by the datasets that need them.
"""

import logging
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch

from tod.config import InputError
from tod.config.schema import Images
from tod.data import listing, picture
from tod.data.dataset import Dataset, Draw, ImageSet
from tod.data.decoding import load_images
from tod.data.store import folder_lock
from tod.system.files import cannot, reason
from utils import random_generator

log = logging.getLogger("tod")

WITHOUT_DATA = "--config digits runs without any download"


def digits(*_: object) -> Dataset:
    """scikit-learn's grey 8×8 digits; a fifth of each class is the test set."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    published = load_digits()
    grey = torch.from_numpy(np.rint(published.images * (255 / 16)).astype(np.uint8))
    pixels = grey.unsqueeze(1).repeat(1, 3, 1, 1)
    everything = ImageSet(pixels, torch.from_numpy(published.target).long())
    train, test = train_test_split(
        np.arange(len(everything)), test_size=0.2, stratify=published.target, random_state=0
    )
    class_names = [str(name) for name in published.target_names]
    return Dataset(everything.subset(train), everything.subset(test), class_names)


def cifar(num_classes: int, root: Path, *_: object) -> Dataset:
    """CIFAR-10 or CIFAR-100, from the folder of its archive in `root`."""
    from torchvision.datasets import CIFAR10, CIFAR100
    from torchvision.datasets.utils import download_and_extract_archive

    archive = {10: CIFAR10, 100: CIFAR100}[num_classes]
    folder = root / archive.base_folder
    _download(folder, archive.url, download_and_extract_archive, archive.tgz_md5)
    meta = folder / archive.meta["filename"]
    with _reading(meta):
        class_names = _plain_pickle(meta)[archive.meta["key"]]

    def image_set(files: Sequence[tuple[str, str]], count: int) -> ImageSet:
        parts = []
        for name, md5 in files:
            with _reading(folder / name):
                batch = _plain_pickle(folder / name)
                pixels = np.reshape(batch["data"], (-1, 3, 32, 32))
                labels = batch.get("labels", batch.get("fine_labels"))
                parts.append(_checked(pixels, labels, num_classes))
                _check_copy(folder / name, len(parts[-1]), count // len(files), md5)
        pixels = torch.cat([part.stored for part in parts])
        return ImageSet(pixels, torch.cat([part.labels for part in parts]))

    train, test = image_set(archive.train_list, 50_000), image_set(archive.test_list, 10_000)
    return Dataset(train, test, class_names)


def svhn(root: Path, *_: object) -> Dataset:
    """SVHN's cropped digits from the two files in `root`/svhn."""
    from scipy.io import loadmat
    from torchvision.datasets import SVHN
    from torchvision.datasets.utils import download_url

    sets = []
    for split, count in (("train", 73_257), ("test", 26_032)):
        url, name, md5 = SVHN.split_list[split]
        path = root / "svhn" / name
        _download(path, url, download_url, md5)
        with _reading(path):
            content = loadmat(path)
            # In the files, the label of the digit 0 is 10.
            labels = np.where(content["y"] == 10, 0, content["y"])
            sets.append(_checked(content["X"].transpose(3, 2, 0, 1), labels, 10))
            _check_copy(path, len(sets[-1]), count, md5)
    return Dataset(*sets, [str(digit) for digit in range(10)])


def caltech101(root: Path, config: Images, seed: int) -> Dataset:
    """Caltech-101 without its background; `seed` draws nine tenths of each class for training."""
    folder = root / "101_ObjectCategories"
    if not folder.is_dir():
        raise InputError(
            f"{folder}: is missing; Caltech-101 comes from "
            "https://data.caltech.edu/records/mzrjq-6wc02: unpack 101_ObjectCategories there, "
            f"or name its place with --data-dir; {WITHOUT_DATA}"
        )
    problems: list[str] = []
    left_out = (*listing.SYSTEM_FOLDERS, "BACKGROUND_Google")
    found = listing.listed(folder, problems, left_out=left_out)
    class_names = found.class_names
    listing.check_classes(folder, class_names, problems)
    if len(class_names) > 101:
        raise InputError(
            f"{folder}: holds {len(class_names)} classes, Caltech-101 has 101; remove what does "
            "not belong there, or use --config image_folder for other images"
        )
    (images,), unreadable = load_images([found], config, problems, picture.as_published)
    listing.refuse(problems)
    if len(class_names) < 101 or len(images) < 8_677:
        count = f"{len(class_names)} classes and {len(images):,} images"
        _warn_of_reduced_copy(folder, count, "Caltech-101 has 101 and 8,677")
    random = random_generator(seed, "caltech101 split")
    train, test = [], []
    for c in range(len(class_names)):
        members = random.permutation(np.flatnonzero(images.labels.numpy() == c))
        cut = len(members) * 9 // 10
        train += sorted(members[:cut].tolist())
        test += sorted(members[cut:].tolist())
    draw = Draw(np.array(train), len(images), np.array(test))
    parts = images.subset(train), images.subset(test)
    return Dataset(*parts, class_names, unreadable=unreadable, draw=draw)


def _download(path: Path, url: str, fetch: Callable, md5: str) -> None:
    """Downloads `path` if it is missing; one process does, and others wait for it."""
    with folder_lock(path.parent):
        if path.exists():
            return
        log.info("%s is missing; downloading %s", path, url)
        try:
            fetch(url, str(path.parent), md5=md5)
        except (OSError, RuntimeError, HTTPException) as error:
            raise InputError(
                f"{path}: is missing and could not be downloaded from {url} ({reason(error)}); "
                f"put it there, or name its place with --data-dir; {WITHOUT_DATA}"
            ) from None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    # A damaged pickle or .mat file can raise anything at all.
    except Exception as error:
        advice = f"remove {path.parent} and it is downloaded again"
        raise cannot(path, "read", error, advice) from None


class _PlainUnpickler(pickle.Unpickler):
    """Reads pickles of lists, dicts and arrays; refuses anything else, above all code."""

    def find_class(self, module: str, name: str) -> object:
        plain = (
            r"numpy\.(ndarray|dtype)|_codecs\.encode|"
            r"numpy\._?core\.(multiarray\.(_reconstruct|scalar)|numeric\._frombuffer)"
        )
        if not re.fullmatch(plain, f"{module}.{name}"):
            raise pickle.UnpicklingError(f"holds {module}.{name}, which no CIFAR file does")
        return super().find_class(module, name)


def _plain_pickle(path: Path) -> dict:
    with path.open("rb") as file:
        return _PlainUnpickler(file, encoding="latin1").load()


def _checked(pixels: np.ndarray, labels: object, num_classes: int) -> ImageSet:
    """Images (N, 3, 32, 32) with N labels; ValueError if they are not that."""
    labels = np.ravel(labels)
    if pixels.shape != (len(labels), 3, 32, 32) or pixels.dtype != np.uint8:
        raise ValueError("holds no 3×32×32 images of 8 bits, each with a label")
    if not np.isin(labels, np.arange(num_classes)).all():
        raise ValueError(f"holds labels outside its {num_classes} classes")
    return ImageSet(torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64)))


def _check_copy(path: Path, count: int, published_count: int, md5: str) -> None:
    """Accepts another checksum only from a file with fewer images than the published one."""
    from torchvision.datasets.utils import check_integrity

    if not check_integrity(path, md5):
        if count >= published_count:
            raise ValueError("its checksum is not that of the published file: it is damaged")
        _warn_of_reduced_copy(path, f"{count:,} images", f"the published file {published_count:,}")


def _warn_of_reduced_copy(path: Path, found: str, published: str) -> None:
    log.warning("%s: holds %s, %s: a reduced copy, not the paper's data", path, found, published)
