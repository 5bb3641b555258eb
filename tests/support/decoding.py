"""A folder of pictures, decoded and kept: each image is compared with what its file alone gives."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tod.config.schema import Images
from tod.data import decoding, picture

CONFIG = Images(size=8, resize=12)
STORE = ".decoded_12_8"
WHITE = Image.new("RGB", (14, 10), "white")
decode_one = picture.decode


class Decoded(list[str]):
    """The names of the files that are decoded, in the order of their beginning.

    Attributes:
        errors: what is raised instead, by the file's name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.errors: dict[str, BaseException] = {}

    def __call__(self, path: Path, **options: object) -> picture.Pixels:
        self.append(path.name)
        if path.name in self.errors:
            raise self.errors[path.name]
        return decode_one(path, **options)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.png"))


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(".*decoded*"))


def clear(folder: Path) -> None:
    for name in kept(folder):
        (folder / name).unlink()


def decode(
    folder: Path, files: Sequence[str] | None = None, config: Images = CONFIG
) -> tuple[torch.Tensor, dict[int, str]]:
    """The pixels of these files, or of all, and why which could not be read."""
    files = names(folder) if files is None else files
    ((stored, rows, problems),) = decoding.load_images([(folder, files)], config)
    assert {*problems} == {*torch.where(rows < 0)[0].tolist()}
    pixels = stored[rows] if len(stored) else stored.new_zeros(len(rows), 3, *stored.shape[2:])
    sides = (config.resize or config.size, config.size)
    for index, (image, name) in enumerate(zip(pixels, files, strict=True)):
        if index not in problems:
            content, _ = decode_one(folder / name, *sides, picture.as_shown)
            assert image.permute(1, 2, 0).contiguous().numpy().tobytes() == content, name
    return pixels, problems


def load(folder: Path, files: Sequence[str] | None = None, config: Images = CONFIG) -> torch.Tensor:
    """The pixels of these files, or of all, each of which can be read."""
    pixels, problems = decode(folder, files, config)
    assert not problems
    return pixels


def shown(path: Path, side: int = 16) -> np.ndarray:
    """(side, side, 3), as the image folders load it."""
    content, _ = picture.decode(path, side, side, picture.as_shown)
    return np.frombuffer(content, np.uint8).reshape(side, side, 3)


def no_locks(folder: Path) -> None:
    """Nothing can be locked there any more, and so nothing kept."""
    (folder / ".lock").unlink(missing_ok=True)
    (folder / ".lock").mkdir()
