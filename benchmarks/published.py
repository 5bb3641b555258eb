"""Random images in the files, the format and nearly the number of the published datasets.

Each file has one image fewer than the published one, which has a checksum.
"""

import io
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import scipy.io
from PIL import Image


def _cifar_batch(random: np.random.Generator, count: int, labels: str, classes: int) -> dict:
    return {
        labels: random.integers(0, classes, count).tolist(),
        "data": random.integers(0, 256, (count, 3072), dtype=np.uint8),
        "filenames": [f"image_s_{i:06d}.png" for i in range(count)],
    }


def write_cifar10(root: Path) -> None:
    """`cifar-10-batches-py`: five training files, one test file, `batches.meta`."""
    folder, random = root / "cifar-10-batches-py", np.random.default_rng(0)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        write_python2_pickle(folder / name, _cifar_batch(random, 9_999, "labels", 10))
    write_python2_pickle(
        folder / "batches.meta", {"label_names": [f"class {c}" for c in range(10)]}
    )


def write_cifar100(root: Path) -> None:
    """`cifar-100-python`: `train`, `test` and `meta`."""
    folder, random = root / "cifar-100-python", np.random.default_rng(0)
    for name, count in (("train", 49_999), ("test", 9_999)):
        write_python2_pickle(folder / name, _cifar_batch(random, count, "fine_labels", 100))
    write_python2_pickle(folder / "meta", {"fine_label_names": [f"class {c}" for c in range(100)]})


def write_svhn(root: Path) -> None:
    """`svhn/{train,test}_32x32.mat`: X (32, 32, 3, N) and y (N, 1), from 1 to 10."""
    folder, random = root / "svhn", np.random.default_rng(0)
    folder.mkdir(parents=True)
    for name, count in (("train", 73_256), ("test", 26_031)):
        pixels = random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        labels = random.integers(1, 11, (count, 1), dtype=np.uint8)
        content = {"X": pixels.transpose(1, 2, 3, 0), "y": labels}
        scipy.io.savemat(folder / f"{name}_32x32.mat", content, do_compression=True)


def write_caltech101(root: Path) -> None:
    """`101_ObjectCategories/CLASS/image_NNNN.jpg`: 101 classes of 85 images."""
    random = np.random.default_rng(0)
    for label in range(101):
        folder = root / "101_ObjectCategories" / f"object_{label:03d}"
        folder.mkdir(parents=True)
        for number in range(1, 86):
            height, width = random.integers(24, 49, 2)
            pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"image_{number:04d}.jpg")


WRITERS: dict[str, Callable[[Path], None]] = {
    "digits": lambda root: None,  # they come with scikit-learn
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "svhn": write_svhn,
    "caltech101": write_caltech101,
}
"""By configuration."""


class _Python2Pickler(pickle._Pickler):
    """Pickles as the Python 2 did that wrote the CIFAR files, where text and bytes are one type.

    Read again, these take other memory than Python 3's.
    """

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
