"""What a dataset is: a training and a test set of labelled uint8 images."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

WITHOUT_DATA = "--config digits runs without any download"


@dataclass(frozen=True)
class ImageSet:
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

    def subset(self, indices: Sequence[int]) -> "ImageSet":
        """The images at `indices`, in their order."""
        names = None if self.names is None else [self.names[index] for index in indices]
        return ImageSet(self.pixels[indices], self.labels[indices], names)


@dataclass(frozen=True)
class Dataset:
    """A training and a test set; `mean` and `std` (3,) are of pixels from 0 to 1."""

    train: ImageSet
    test: ImageSet
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


Split = tuple[ImageSet, ImageSet, Sequence[str]]
"""The training set, the test set and the names of the classes."""
