"""The datasets as uint8 tensors, with their statistics, class names and file names."""

import hashlib
import logging
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torchvision.datasets.utils import check_integrity

from configuration import Config, InputError, too_many_labels
from image_files import alone, class_folders, list_images, load_images
from utils import random_generator

log = logging.getLogger("tod")

WITHOUT_DATA = "--config digits runs without any download"
CALTECH101_SOURCE = "https://data.caltech.edu/records/mzrjq-6wc02"


@dataclass(frozen=True)
class Images:
    """Labelled images: `pixels` (N, 3, H, W) uint8, channels-last in memory, `labels` (N,) int64,
    and where they are files, their `names` relative to the dataset's folder."""

    pixels: Tensor
    labels: Tensor
    names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        # Batches are made of these bytes as they lie; nothing copies them again.
        pixels = self.pixels.contiguous(memory_format=torch.channels_last)
        object.__setattr__(self, "pixels", pixels)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A training and a test set; `mean` and `std` (3,) are of pixels from 0 to 1."""

    train: Images
    test: Images
    class_names: Sequence[str]
    mean: Tensor
    std: Tensor

    def fingerprint(self) -> str:
        """Differs where the images, their order or their labels do."""
        digest = hashlib.blake2b(digest_size=16)
        for images in (self.train, self.test):
            digest.update(np.ascontiguousarray(images.pixels.permute(0, 2, 3, 1)).data)
            digest.update(images.labels.numpy().data)
        return digest.hexdigest()


def load(config: Config, seed: int) -> Dataset:
    """Reads the dataset that the configuration names; where torchvision can download it, it does.

    Args:
        config: the configuration.
        seed: decides Caltech-101's split, and nothing else.

    Raises:
        InputError: something is missing, unreadable, damaged or contradicts the configuration.
    """
    root = Path(config.data_dir)
    try:
        train, test, class_names = _splits(root, config, seed)
    except OSError as error:
        raise InputError(
            f"{root}: cannot be read ({error.strerror}); "
            f"--data-dir names the place of the images; {WITHOUT_DATA}"
        ) from None
    active = config.active_learning
    problem = too_many_labels(active.initial_labels, active.cycles, active.query_size, len(train))
    if problem is not None:
        raise InputError(f"{root}: {problem}")
    if len(test) == 0:
        raise InputError(f"{root}: the test set holds no image; it needs at least one")
    mean, std = config.images.mean, config.images.std
    if mean is None or std is None:
        computed_mean, computed_std = _statistics(train.pixels)
    return Dataset(
        train=train,
        test=test,
        class_names=class_names,
        mean=computed_mean if mean is None else torch.tensor(mean),
        std=computed_std if std is None else torch.tensor(std),
    )


def _splits(root: Path, config: Config, seed: int) -> "Split":
    if config.dataset == "digits":
        return _digits()
    if config.dataset == "cifar10":
        return _cifar(torchvision.datasets.CIFAR10, root)
    if config.dataset == "cifar100":
        return _cifar(torchvision.datasets.CIFAR100, root)
    if config.dataset == "svhn":
        return _svhn(root / "svhn")
    if config.dataset == "caltech101":
        return _caltech101(root / "101_ObjectCategories", config, seed)
    return _image_folder(root, config)


def _statistics(pixels: Tensor, chunk: int = 1000) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (3,) of each channel of pixels from 0 to 1."""
    total, total_of_squares = (
        torch.zeros(3, dtype=torch.float64),
        torch.zeros(3, dtype=torch.float64),
    )
    for images in pixels.split(chunk):
        values = images.double() / 255
        total += values.sum(dim=(0, 2, 3))
        total_of_squares += values.square().sum(dim=(0, 2, 3))
    count = pixels[:, 0].numel()
    mean = total / count
    variance = (total_of_squares / count - mean.square()).clamp(min=0)
    # A channel without contrast is centred and left at its scale.
    std = torch.where(variance > 1e-12, variance.sqrt(), 1.0)
    return mean.float(), std.float()


Split = tuple[Images, Images, Sequence[str]]


def _digits() -> Split:
    digits = load_digits()
    grey = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8))
    pixels = grey.unsqueeze(1).repeat(1, 3, 1, 1)
    labels = torch.from_numpy(digits.target).long()
    train, test = train_test_split(
        np.arange(len(labels)), test_size=0.2, stratify=digits.target, random_state=0
    )
    return (
        Images(pixels[train], labels[train]),
        Images(pixels[test], labels[test]),
        [str(name) for name in digits.target_names],
    )


_PLAIN_PICKLE_NAMES = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    *(
        (f"numpy.{core}.{module}", name)
        for core in ("core", "_core")
        for module, name in (
            ("multiarray", "_reconstruct"),
            ("multiarray", "scalar"),
            ("numeric", "_frombuffer"),
        )
    ),
}


class _PlainUnpickler(pickle.Unpickler):
    """Reads pickles of lists, dicts and arrays; anything else, code above all, is refused."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _PLAIN_PICKLE_NAMES:
            raise pickle.UnpicklingError(f"holds {module}.{name}, which no CIFAR file does")
        return super().find_class(module, name)


def _cifar(published: type[torchvision.datasets.CIFAR10], root: Path) -> Split:
    """CIFAR-10 or CIFAR-100 in the paper's folder, downloaded when absent."""
    folder = root / published.base_folder
    with alone(root):
        if not folder.exists():
            with _failed_download(folder, published.url):
                published(str(root), download=True)
    training_files = [name for name, _ in published.train_list]
    images_in_file = {name: 50_000 // len(training_files) for name in training_files}
    images_in_file[published.test_list[0][0]] = 10_000
    checksums = {**dict(published.train_list), **dict(published.test_list)}
    checksums[published.meta["filename"]] = published.meta["md5"]
    for name, md5 in checksums.items():
        _check_published_file(folder / name, published.url)
        if not check_integrity(folder / name, md5):
            entry = _plain_pickle(folder / name)
            if name in images_in_file:
                count = _number_of_cifar_images(folder / name, entry)
                _accept_reduced_copy(folder / name, count, images_in_file[name])

    unchecked = _without_checksums(
        published,
        train_list=[[name, None] for name, _ in published.train_list],
        test_list=[[name, None] for name, _ in published.test_list],
        meta={**published.meta, "md5": None},
    )
    splits = []
    for train in (True, False):
        try:
            data = unchecked(str(root), train=train)
            pixels = torch.from_numpy(data.data).permute(0, 3, 1, 2)
            labels = torch.tensor(data.targets, dtype=torch.int64)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{folder}: is no CIFAR data ({error}); {_REMOVE_IT}") from None
        class_names = data.classes
        _check_labels(folder, labels, len(pixels), len(class_names))
        splits.append(Images(pixels, labels))
        # The next split is read without a second copy of this one in memory.
        del data, pixels
    return splits[0], splits[1], class_names


_REMOVE_IT = "remove the folder and it is downloaded again"


def _plain_pickle(path: Path) -> dict:
    try:
        with path.open("rb") as file:
            entry = _PlainUnpickler(file, encoding="latin1").load()
        if not isinstance(entry, dict):
            raise pickle.UnpicklingError("holds no dictionary")
    # A damaged pickle can raise anything at all.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: cannot be read ({reason}); {_REMOVE_IT}") from None
    return entry


def _number_of_cifar_images(path: Path, entry: dict) -> int:
    """How many images a file holds that is not the published one, once it is known to be sound."""
    pixels, labels = entry.get("data"), entry.get("labels", entry.get("fine_labels"))
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 2:
        raise InputError(f"{path}: holds no rows of 8-bit pixels under 'data'; {_REMOVE_IT}")
    if pixels.shape[1] != 3 * 32 * 32:
        raise InputError(f"{path}: its rows are not 3×32×32 pixels; {_REMOVE_IT}")
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise InputError(f"{path}: holds no list of whole-numbered labels; {_REMOVE_IT}")
    return len(pixels)


def _svhn(folder: Path) -> Split:
    published = torchvision.datasets.SVHN
    images_in_file = {"train": 73_257, "test": 26_032}
    splits = []
    for split, count in images_in_file.items():
        url, name, md5 = published.split_list[split]
        with alone(folder):
            if not (folder / name).exists():
                with _failed_download(folder / name, url):
                    folder.mkdir(parents=True, exist_ok=True)
                    published(str(folder), split=split, download=True)

        unchecked = _without_checksums(published, split_list={split: [url, name, None]})
        try:
            data = unchecked(str(folder), split=split)
            pixels = torch.from_numpy(data.data)
            if pixels.shape[1:] != (3, 32, 32) or pixels.dtype != torch.uint8:
                found = f"{pixels.dtype} of {tuple(pixels.shape[1:])}"
                raise ValueError(f"its images are {found}, not 8-bit pixels of (3, 32, 32)")
        # A damaged .mat file can raise anything at all.
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(
                f"{folder / name}: cannot be read ({reason}); remove it and it is downloaded again"
            ) from None
        if not check_integrity(folder / name, md5):
            _accept_reduced_copy(folder / name, len(pixels), count)
        labels = torch.from_numpy(np.atleast_1d(data.labels)).long()
        _check_labels(folder / name, labels, len(pixels), num_classes=10)
        splits.append(Images(pixels, labels))
    return splits[0], splits[1], [str(digit) for digit in range(10)]


@contextmanager
def _failed_download(path: Path, url: str) -> Iterator[None]:
    log.info("%s is missing; downloading %s", path, url)
    try:
        yield
    except (OSError, RuntimeError, HTTPException) as error:
        raise InputError(
            f"{path}: is missing and could not be downloaded from {url} ({error}); "
            f"put it there, or name its place with --data-dir; {WITHOUT_DATA}"
        ) from None


def _without_checksums(published: type, **file_lists: Any) -> type:
    """A torchvision dataset that reads what is there, once its checksums have been dealt with."""
    return type(published.__name__, (published,), file_lists)


def _check_published_file(path: Path, url: str) -> None:
    if not path.is_file():
        raise InputError(
            f"{path}: is missing, though its folder is there; {_REMOVE_IT} from {url}; "
            f"{WITHOUT_DATA}"
        )


def _accept_reduced_copy(path: Path, count: int, published_count: int) -> None:
    """A file with another checksum is fine where it holds fewer images than the published one."""
    if count >= published_count:
        raise InputError(
            f"{path}: its checksum is not that of the published file; "
            "it is damaged: remove it and get it again"
        )
    log.warning(
        "%s: holds %s images, the published file %s: a reduced copy, not the paper's data",
        path,
        f"{count:,}",
        f"{published_count:,}",
    )


def _check_labels(path: Path, labels: Tensor, num_images: int, num_classes: int) -> None:
    if len(labels) != num_images:
        raise InputError(f"{path}: holds {num_images} images, but {len(labels)} labels")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise InputError(f"{path}: holds labels outside its {num_classes} classes")


def _caltech101(folder: Path, config: Config, seed: int) -> Split:
    if not folder.is_dir():
        raise InputError(
            f"{folder}: is missing; Caltech-101 comes from {CALTECH101_SOURCE}: unpack "
            f"101_ObjectCategories there, or name its place with --data-dir; {WITHOUT_DATA}"
        )
    class_names = [c for c in class_folders(folder) if c != "BACKGROUND_Google"]
    if len(class_names) > 101:
        raise InputError(
            f"{folder}: holds {len(class_names)} classes, Caltech-101 has 101; remove what does "
            "not belong there, or use --config image_folder for other images"
        )
    files, labels = list_images(folder, class_names)
    if len(class_names) < 101 or len(files) < 8_677:
        log.warning(
            "%s: holds %d classes and %s images, Caltech-101 has 101 and 8,677: "
            "a reduced copy, not the paper's data",
            folder,
            len(class_names),
            f"{len(files):,}",
        )
    random = random_generator(seed, "caltech101 split")
    train: list[int] = []
    test: list[int] = []
    for c in range(len(class_names)):
        members = random.permutation(np.flatnonzero(np.equal(labels, c)))
        cut = len(members) * 9 // 10
        train += sorted(members[:cut].tolist())
        test += sorted(members[cut:].tolist())
    pixels = load_images(folder, files, config.images)

    def split(indices: list[int]) -> Images:
        return Images(
            pixels[indices], torch.tensor(labels)[indices], [files[index] for index in indices]
        )

    return split(train), split(test), class_names


def _image_folder(root: Path, config: Config) -> Split:
    for folder in (root / "train", root / "test"):
        if not folder.is_dir():
            raise InputError(
                f"{folder}: is missing; images go to {folder}/CLASS/, "
                f"and --data-dir names the folder that holds train and test; {WITHOUT_DATA}"
            )
    class_names = class_folders(root / "train")
    test_names = class_folders(root / "test")
    unknown = set(test_names) - set(class_names)
    untested = set(class_names) - set(test_names)
    if untested:
        log.warning(
            "%s: is not there; the accuracy is over fewer classes", root / "test" / min(untested)
        )
    if unknown:
        raise InputError(
            f"{root / 'test' / min(unknown)}: is a class without training images; "
            "each test class needs a folder of the same name in train"
        )
    splits = []
    for folder in (root / "train", root / "test"):
        files, labels = list_images(folder, class_names)
        splits.append(
            Images(load_images(folder, files, config.images), torch.tensor(labels), files)
        )
    empty = set(range(len(class_names))) - set(splits[0].labels.tolist())
    if empty:
        raise InputError(f"{root / 'train' / class_names[min(empty)]}: holds no image")
    return splits[0], splits[1], class_names
