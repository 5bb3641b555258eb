"""Batches on the device: index, flip, crop, normalise.

A *view* of an image is a row of four integers: its index in the training set, whether it is
flipped, and the row and column at which the crop starts in the zero-padded image.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import configuration


class ImageBatches:
    """Makes normalised batches of images that stay on a device as uint8.

    Args:
        pixels: (N, 3, H, W) uint8.
        mean: (3,), of pixels from 0 to 1.
        std: (3,), likewise.
        augmentation: which random views there are.
        device: where the images stay and the batches are made.
    """

    def __init__(
        self,
        pixels: Tensor,
        mean: Tensor,
        std: Tensor,
        augmentation: configuration.Augmentation,
        device: torch.device,
    ) -> None:
        self.pixels = pixels.to(device)
        self.mean = mean.view(3, 1, 1).to(device)
        self.std = std.view(3, 1, 1).to(device)
        self.augmentation = augmentation
        self.device = device

    def plain(self, indices: Tensor) -> Tensor:
        """Images as they are: indices (N,) → (N, 3, H, W) float32, normalised."""
        return self._normalise(self.pixels[indices])

    def augmented(self, views: Tensor) -> Tensor:
        """Random views (N, 4) → (N, 3, H, W) float32, normalised.

        The padding is black before normalisation, as in the published transforms.
        """
        index, flip, top, left = views.unbind(1)
        images = self.pixels[index]
        if padding := self.augmentation.crop_padding:
            height, width = images.shape[2:]
            padded = F.pad(images, (padding,) * 4)
            crops = padded.unfold(2, height, 1).unfold(3, width, 1)
            images = crops[torch.arange(len(index), device=self.device), :, top, left]
        if self.augmentation.flip:
            images = torch.where(flip.bool().view(-1, 1, 1, 1), images.flip(3), images)
        return self._normalise(images)

    def random_views(self, indices: np.ndarray, random: np.random.Generator) -> Tensor:
        """One random view of each image: indices (N,) → (N, 4) int64, on the device.

        With padding p, the crop starts anywhere from (0, 0) to (2p, 2p); half are flipped.
        """
        offsets = 2 * self.augmentation.crop_padding + 1
        draws = random.integers([2, offsets, offsets], size=(len(indices), 3))
        views = np.column_stack([indices, draws])
        return torch.from_numpy(views).to(self.device, non_blocking=True)

    def _normalise(self, pixels: Tensor) -> Tensor:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        return (pixels.float() / 255 - self.mean) / self.std
