"""A folder of pictures, decoded and kept: each image is compared with what its file alone gives."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tod.config.schema import Images
from tod.data import ImageSet, decoding, picture
from tod.data.listing import Scan

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

    def __call__(self, path: Path, **options: object) -> tuple[bytes, bool]:
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
) -> tuple[torch.Tensor, dict[str, str]]:
    """The pixels of these files, or of all, that can be read, and why which could not."""
    files = names(folder) if files is None else files
    images, problems = load_folders([(folder, files)], config)
    sides = (config.resize or config.size, config.size)
    for image, name in zip(images[0].pixels, images[0].names, strict=True):
        content, _ = decode_one(folder / name, *sides, picture.as_shown)
        assert image.permute(1, 2, 0).contiguous().numpy().tobytes() == content, name
    assert {*images[0].names}.isdisjoint(problems)
    assert len(images[0]) + len(problems) == len(files)
    return images[0].pixels, problems


def load_folders(
    listings: Sequence[tuple[Path, Sequence[str]]], config: Images = CONFIG
) -> tuple[list[ImageSet], dict[str, str]]:
    """The images of these files of folders, and why which could not be read."""
    scans = [Scan(folder, [], dict.fromkeys(files, 0)) for folder, files in listings]
    skips = config.model_copy(update={"unreadable": "skip"})
    images, unreadable = decoding.load_images(scans, skips, [])
    return images, {file.partition("/")[2]: why for file, why in unreadable}


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
