"""Small datasets and weights in exactly the formats in which they are published.

Every function writes files and returns the `Written` images: what a reader must find in them.
"""

import colorsys
import io
import pickle
import struct
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import scipy.io
import torch
import torchvision
from PIL import Image
from torch import nn

from tests.support.pictures import plain, write_classes

CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


class Written(NamedTuple):
    """`pixels` (N, H, W, 3) uint8 and `labels` (N,), in the order of the files."""

    pixels: np.ndarray
    labels: np.ndarray


def coloured(labels: np.ndarray, num_classes: int, side: int = 32, seed: int = 0) -> Written:
    """Images that a network learns in no time: each class has a hue, under some noise."""
    random = np.random.default_rng(seed)
    hues = [colorsys.hsv_to_rgb(c / num_classes, 0.9, 0.8) for c in range(num_classes)]
    colours = 255 * np.array(hues)[labels][:, None, None, :]
    noise = random.normal(0, 25, size=(len(labels), side, side, 3))
    return Written((colours + noise).clip(0, 255).astype(np.uint8), labels)


def two_sets(train_size: int, test_size: int, num_classes: int) -> dict[str, Written]:
    """Of all classes equally often, as far as the sizes allow, in random order."""
    sets = {}
    for seed, (name, size) in enumerate((("train", train_size), ("test", test_size)), 1):
        labels = np.random.default_rng(seed).permutation(np.arange(size) % num_classes)
        sets[name] = coloured(labels, num_classes, seed=seed)
    return sets


class _Python2Pickler(pickle._Pickler):
    """Pickles as the Python 2 did that wrote the CIFAR files, where text and bytes are one type."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def _save_string(self, value: str | bytes) -> None:
        content = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = _save_string


def write_python2_pickle(path: Path, content: object) -> None:
    """Writes a pickle as the published CIFAR files are; its folder is made where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    _Python2Pickler(buffer, protocol=2).dump(content)
    # NumPy 2 has moved what the published files call by its old name.
    path.write_bytes(buffer.getvalue().replace(b"cnumpy._core.", b"cnumpy.core."))


def _write_cifar(path: Path, images: Written, **labels: list[int]) -> None:
    """A file in which a row (3072,) is the red plane, then the green, then the blue."""
    content = {
        "batch_label": path.name,
        "data": images.pixels.transpose(0, 3, 1, 2).reshape(len(images.labels), 3072),
        "filenames": [f"image_s_{i:06d}.png" for i in range(len(images.labels))],
        **labels,
    }
    write_python2_pickle(path, content)


def write_cifar10(root: Path, train_size: int = 100, test_size: int = 40) -> tuple[Written, ...]:
    """`cifar-10-batches-py`: five training files, one test file, `batches.meta`."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    train, test = two_sets(train_size, test_size, 10).values()
    fifths = zip(*(np.array_split(values, 5) for values in train), strict=True)
    files = {f"data_batch_{i}": Written(*fifth) for i, fifth in enumerate(fifths, 1)}
    for name, images in {**files, "test_batch": test}.items():
        _write_cifar(folder / name, images, labels=images.labels.tolist())
    meta = {"num_cases_per_batch": 10_000, "label_names": list(CIFAR10_CLASSES), "num_vis": 3072}
    write_python2_pickle(folder / "batches.meta", meta)
    return train, test


def write_cifar100(root: Path) -> tuple[Written, ...]:
    """`cifar-100-python`: `train`, `test` and `meta`, with fine and coarse labels."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    sets = two_sets(200, 100, 100)
    for name, images in sets.items():
        coarse, fine = (images.labels // 5).tolist(), images.labels.tolist()
        _write_cifar(folder / name, images, fine_labels=fine, coarse_labels=coarse)
    counts = {"fine": 100, "coarse": 20}
    meta = {f"{k}_label_names": [f"{k}_{c:02d}" for c in range(n)] for k, n in counts.items()}
    write_python2_pickle(folder / "meta", meta)
    return tuple(sets.values())


def write_svhn(root: Path) -> tuple[Written, ...]:
    """`svhn/{train,test}_32x32.mat`: X (32, 32, 3, N) and y (N, 1), where 10 stands for 0."""
    folder = root / "svhn"
    folder.mkdir(parents=True)
    sets = two_sets(100, 40, 10)
    for name, (pixels, labels) in sets.items():
        y = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
        content = {"X": pixels.transpose(1, 2, 3, 0), "y": y}
        scipy.io.savemat(folder / f"{name}_32x32.mat", content, do_compression=True)
    return tuple(sets.values())


def caltech101_classes(num_classes: int = 101) -> list[str]:
    """Some of its names begin with a capital letter, and so come first."""
    capitals = ["Faces", "Faces_easy", "Leopards", "Motorbikes"][:num_classes]
    return capitals + [f"object_{c:03d}" for c in range(num_classes - len(capitals))]


def write_caltech101(root: Path, images_per_class: int = 2, num_classes: int = 101) -> list[str]:
    """`101_ObjectCategories/CLASS/image_NNNN.jpg` of mixed sizes, some grey; gives the class names.

    Beside the classes lies `BACKGROUND_Google`, as published.
    """
    random = np.random.default_rng(0)
    folder = root / "101_ObjectCategories"
    class_names = caltech101_classes(num_classes)
    for label, name in enumerate([*class_names, "BACKGROUND_Google"]):
        (folder / name).mkdir(parents=True)
        hue = min(label, num_classes - 1)
        images, _ = coloured(np.full(images_per_class, hue), num_classes, side=48, seed=label)
        for number, pixels in enumerate(images, 1):
            height, width = random.integers(24, 49, size=2)
            image = Image.fromarray(pixels[:height, :width])
            if (label + number) % 5 == 0:
                image = image.convert("L")
            image.save(folder / name / f"image_{number:04d}.jpg")
    return class_names


IMAGE_KINDS = {
    "rgb.png": "RGB",
    "palette.png": "P",
    "transparent.png": "RGBA",
    "grey.png": "L",
    "grey_transparent.png": "LA",
    "bilevel.png": "1",
    "photo.jpg": "RGB",
    "grey.JPEG": "L",
    "print.jpeg": "CMYK",
    "bitmap.bmp": "RGB",
    "animation.gif": "P",
    "web.webp": "RGB",
    "web_transparent.webp": "RGBA",
}
"""One image a file name: in each of the formats and modes that people have."""

FOLDER_CLASSES = ("apple pie", "Banane", "größe")


def write_image_folder(root: Path) -> None:
    """`{train,test}/CLASS/*`: `IMAGE_KINDS` in mixed sizes; the test set has the first four."""
    random = np.random.default_rng(0)
    for split, kinds in (("train", list(IMAGE_KINDS)), ("test", list(IMAGE_KINDS)[:4])):
        for label, name in enumerate(FOLDER_CLASSES):
            (root / split / name).mkdir(parents=True)
            images, _ = coloured(np.full(len(kinds), label), 3, side=60, seed=label)
            for kind, pixels in zip(kinds, images, strict=True):
                height, width = random.integers(20, 61, size=2)
                image = Image.fromarray(pixels[:height, :width]).convert(IMAGE_KINDS[kind])
                image.save(root / split / name / kind)


def write_small_folder(root: Path) -> None:
    """`{train,test}/CLASS/N.png`: of each class, four training images and a test image."""
    images = plain(5 * len(FOLDER_CLASSES))
    places = [*(f"train/{{}}/{number}.png" for number in range(4)), "test/{}/4.png"]
    write_classes(root, {p.format(name): next(images) for name in FOLDER_CLASSES for p in places})


def write_imagenet_weights(path: Path, legacy: bool = False) -> dict[str, torch.Tensor]:
    """ImageNet ResNet-18 weights with torchvision's keys, and random values.

    They are as in `resnet18-f37072fd.pth`, or `legacy` ones as in `resnet18-5c106cde.pth`, by a
    PyTorch that neither knew zip files nor counted batches, and saved `nn.Parameter`s.
    """
    torch.manual_seed(0)
    network = torchvision.models.resnet18()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    state = dict(network.state_dict())
    if legacy:
        state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
        state |= dict(network.named_parameters())
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    return state
