"""A folder of pictures, decoded and kept: each image is compared with what its file alone gives."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tod.data import decoding, picture
from tod.schema import Images

CONFIG = Images(size=8, resize=12)
STORE = ".decoded_12_8"
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


def decode(
    folder: Path, files: Sequence[str] | None = None, config: Images = CONFIG
) -> tuple[torch.Tensor, dict[int, str]]:
    """The pixels of these files, or of all, and why which could not be read."""
    files = names(folder) if files is None else files
    ((pixels, problems),) = decoding.load_images([(folder, files)], config)
    for index, (image, name) in enumerate(zip(pixels, files, strict=True)):
        if index not in problems:
            sides = {"resize": config.resize or config.size, "size": config.size}
            content, _ = decode_one(folder / name, **sides, read=picture.as_shown)
            assert image.permute(1, 2, 0).contiguous().numpy().tobytes() == content, name
    return pixels, problems


def load(folder: Path, files: Sequence[str] | None = None, config: Images = CONFIG) -> torch.Tensor:
    """The pixels of these files, or of all, each of which can be read."""
    pixels, problems = decode(folder, files, config)
    assert not problems
    return pixels


SAVED = {
    ".jpg": {"quality": 100, "subsampling": 0},
    ".webp": {"lossless": True},
    ".ico": {"sizes": [(16, 16)]},
}
"""How formats keep what they are given."""


def written(path: Path, content: bytes | Image.Image, **options: object) -> Path:
    """A file of this content, or of an image without loss."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content.save(path, **{**SAVED.get(path.suffix, {}), **options})
    return path


def shown(path: Path, side: int = 16) -> np.ndarray:
    """(side, side, 3), as the image folders load it."""
    content, _ = picture.decode(path, side, side, picture.as_shown)
    return np.frombuffer(content, np.uint8).reshape(side, side, 3)


def forbid_locks(folder: Path) -> None:
    """Nothing can be locked there any more, and so nothing kept."""
    (folder / ".lock").unlink(missing_ok=True)
    (folder / ".lock").mkdir()


def forked(work: Callable[[], int]) -> int:
    """The process id of a child of this process, which ends with the status that it works out."""
    process = os.fork()
    if process == 0:
        status = 99
        try:
            status = work()
        finally:
            os._exit(status)
    return process


def status_of(process: int) -> int:
    """The status with which a child ends, or minus the signal's number."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
