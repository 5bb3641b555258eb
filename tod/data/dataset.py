"""A dataset: a training and a test set of labelled uint8 images."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

CHUNK = 2**20
"""The bytes of images that are looked at in one go."""


@dataclass(frozen=True)
class ImageSet:
    """Labelled images.

    Attributes:
        stored: (M, 3, H, W) uint8, channels-last in memory; perhaps mapped from a file.
        labels: (N,) int64.
        names: of the files, relative to `folder`, if the images are files.
        rows: which of the stored images these are, (N,) int64; by default all, in order.
        folder: where the files lie.
    """

    stored: Tensor
    labels: Tensor
    names: Sequence[str] | None = None
    rows: Tensor | None = None
    folder: Path | None = None

    def __post_init__(self) -> None:
        # Batches are gathered from this layout without another copy.
        stored = self.stored.contiguous(memory_format=torch.channels_last)
        object.__setattr__(self, "stored", stored)
        if self.rows is None:
            object.__setattr__(self, "rows", torch.arange(len(stored)))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def pixels(self) -> Tensor:
        """(N, 3, H, W) uint8; a copy."""
        return self.stored[self.rows]

    def image(self, index: int) -> np.ndarray:
        """One image, (3, H, W) uint8."""
        return self.stored[self.rows[index]].numpy()

    def chunks(self) -> Iterator[np.ndarray]:
        """The images (n, H, W, 3) in order, a few at a time, since they may not fit into memory."""
        stored = self.stored.permute(0, 2, 3, 1)
        at_once = max(1, CHUNK // max(1, self.stored[:1].nbytes))
        return (stored[rows].numpy() for rows in self.rows.split(at_once))

    def subset(self, indices: Sequence[int]) -> "ImageSet":
        """The images at `indices`, in their order, without a copy."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        names = None if self.names is None else [self.names[index] for index in chosen.tolist()]
        return ImageSet(self.stored, self.labels[chosen], names, self.rows[chosen], self.folder)


class Draw(NamedTuple):
    """The (N,) `places`, among `size` images in order, that a seed has drawn for training, and
    those for the test, (T,), if it has drawn these too.
    """

    places: np.ndarray
    size: int
    test: np.ndarray | None = None


@dataclass(frozen=True)
class Dataset:
    """A training and a test set.

    Attributes:
        class_names: by label.
        mean, std: (3,), of pixels from 0 to 1; None until `tod.data.load` knows them.
        unreadable: files that were left out, each with the reason.
        draw: the images for training, if the seed decides which these are.
    """

    train: ImageSet
    test: ImageSet
    class_names: Sequence[str]
    mean: Tensor | None = None
    std: Tensor | None = None
    unreadable: Sequence[tuple[str, str]] = ()
    draw: Draw | None = None

    def fingerprint(self) -> str:
        """A fingerprint of the images, their order and their labels."""
        digest = hashlib.blake2b(digest_size=16)
        for images in (self.train, self.test):
            for pixels in images.chunks():
                digest.update(np.ascontiguousarray(pixels).data)
            digest.update(images.labels.numpy().data)
        return digest.hexdigest()
