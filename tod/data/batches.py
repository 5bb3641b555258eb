"""Batches on the device: of images, index, flip, crop, normalise; of features, index alone.

A *view* of an image is a row of four integers: its index in the training set, whether it is
flipped, and the row and column at which the crop starts in the zero-padded image.
"""

import math
import os

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tod.config.schema import Augmentation


class RowBatches:
    """Makes batches of images, or of what stands for them, which stay on the device as they are.

    `stored` (M, D) has a row each; `rows` (N,) says which of them the N are, if not all. What would
    fill more than half of a GPU's free memory stays on the host; then the bytes of one batch travel
    while the GPU trains on the one before.
    """

    def __init__(self, stored: Tensor, rows: Tensor | None, device: torch.device) -> None:
        self.stored = stored
        self.rows = torch.arange(len(stored)) if rows is None else rows
        self.device = device
        self.copy_stream = None
        nbytes = len(self.rows) * stored.shape[1] * stored.element_size()
        if device.type == "cuda" and nbytes > _free_memory(device) / 2:
            self.copy_stream = torch.cuda.Stream(device)
            self.last_fetch: torch.cuda.Event | None = None
        elif device.type != "cpu":
            # Without a copy of all of them on the host.
            shape = (len(self.rows), stored.shape[1])
            on_device = torch.empty(shape, dtype=stored.dtype, device=device)
            for some, chosen in zip(on_device.split(1024), self.rows.split(1024), strict=True):
                some.copy_(stored[chosen])
            self.stored, self.rows = on_device, None

    def to_device(self, indices: Tensor) -> Tensor:
        """Indices (N,) or views (N, …), from the host, as the batches want them."""
        # Pinned memory travels without being waited for.
        return indices.pin_memory() if self.copy_stream else indices.to(self.device)

    def select(self, indices: Tensor) -> Tensor:
        """Rows (n, D) on the device, of indices (n,) from `to_device`."""
        if self.rows is not None:
            indices = self.rows[indices]
        if self.copy_stream is None:
            return self.stored.index_select(0, indices)
        training_stream = torch.cuda.current_stream(self.device)
        # The host waits for the step before the last: each that is queued holds its images.
        if self.last_fetch is not None:
            self.last_fetch.synchronize()
        self.last_fetch = training_stream.record_event()
        shape = (len(indices), *self.stored.shape[1:])
        rows = torch.empty(shape, dtype=self.stored.dtype, pin_memory=True)
        torch.index_select(self.stored, 0, indices, out=rows)
        # On a stream that does not wait for the training's.
        with torch.cuda.stream(self.copy_stream):
            on_device = rows.to(self.device, non_blocking=True)
        training_stream.wait_stream(self.copy_stream)
        on_device.record_stream(training_stream)
        return on_device


class FeatureBatches(RowBatches):
    """Makes batches of features `stored` (M, F) float32, each of unit length.

    There are no random views of features: one view is the index alone.
    """

    def plain(self, indices: Tensor) -> Tensor:
        """Indices (N,) from `to_device` → (N, F) float32."""
        return F.normalize(self.select(indices))

    def augmented(self, views: Tensor) -> Tensor:
        """Views (N, 1) from `to_device` → (N, F) float32."""
        return self.plain(views[:, 0])

    def random_views(self, indices: np.ndarray, random: np.random.Generator) -> Tensor:
        """Indices (N,) → (N, 1) int64, on the host."""
        return torch.from_numpy(indices[:, None])

    def numpy(self) -> np.ndarray:
        """All N, (N, F); a part at a time, since a GPU may not hold all of them."""
        count = len(self.stored if self.rows is None else self.rows)
        parts = torch.arange(count).split(4096)
        return torch.cat([self.plain(self.to_device(part)).cpu() for part in parts]).numpy()


class ImageBatches(RowBatches):
    """Makes normalised batches of `pixels` (N, 3, H, W) uint8.

    `mean` and `std` (3,) are of pixels from 0 to 1.
    """

    def __init__(
        self,
        pixels: Tensor,
        mean: Tensor,
        std: Tensor,
        augmentation: Augmentation,
        device: torch.device,
        memory_format: torch.memory_format = torch.contiguous_format,
        rows: Tensor | None = None,
    ) -> None:
        _, _, self.height, self.width = pixels.shape
        # An image is one row of bytes, pixel by pixel: channels-last, as the networks want it.
        super().__init__(pixels.permute(0, 2, 3, 1).flatten(1), rows, device)
        # (pixel / 255 − mean) / std as one multiplication and addition, for each byte of a row.
        self.scale = (1 / (255 * std)).repeat(self.width).to(device)
        self.shift = (-mean / std).repeat(self.width).to(device)
        self.augmentation = augmentation
        self.memory_format = memory_format

    def plain(self, indices: Tensor) -> Tensor:
        """Images as they are: indices (N,) from `to_device` → (N, 3, H, W) float32, normalised."""
        return self._normalise(self._select(indices))

    def augmented(self, views: Tensor) -> Tensor:
        """Random views (N, 4) from `to_device` → (N, 3, H, W) float32, normalised.

        The padding is black before normalisation, as in the published transforms.
        """
        images = self._select(views[:, 0])
        flip, top, left = views.to(self.device, non_blocking=True)[:, 1:].unbind(1)
        position = torch.arange(len(views), device=self.device)
        padding = self.augmentation.crop_padding
        if padding > 0 and len(views):
            images = F.pad(images, (0, 0, *(padding,) * 4))
            images = self._crop(images, position, top, left)
        if self.augmentation.flip:
            both = torch.cat([images, images.flip(2)])
            images = both.index_select(0, position + flip * len(views))
        return self._normalise(images)

    def random_views(self, indices: np.ndarray, random: np.random.Generator) -> Tensor:
        """One random view of each image: indices (N,) → (N, 4) int64, on the host.

        With padding p, the crop starts anywhere from (0, 0) to (2p, 2p); half are flipped.
        """
        offsets = 2 * self.augmentation.crop_padding + 1
        draws = random.integers([2, offsets, offsets], size=(len(indices), 3))
        return torch.from_numpy(np.column_stack([indices, draws]))

    def _select(self, indices: Tensor) -> Tensor:
        """Images (N, H, W, 3) uint8 on the device."""
        return self.select(indices).view(len(indices), self.height, self.width, 3)

    def _crop(self, images: Tensor, position: Tensor, top: Tensor, left: Tensor) -> Tensor:
        """Crops (N, H, W, 3) of `images[position]` from row `top` and column `left`, each (N,)."""
        _, height, width, channels = images.shape
        # Each run of as many pixels as a crop is wide, wherever it starts; a crop is H such runs.
        runs = images.flatten().unfold(0, self.width * channels, 1)
        row = torch.arange(self.height, device=self.device)
        first = ((position * height + top).view(-1, 1) + row) * width + left.view(-1, 1)
        crops = runs.index_select(0, first.flatten() * channels)
        return crops.view(len(position), self.height, self.width, channels)

    def _normalise(self, images: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 → (N, 3, H, W) float32."""
        rows = images.flatten(2).float().mul_(self.scale).add_(self.shift)
        batch = rows.view_as(images).permute(0, 3, 1, 2)
        return batch.contiguous(memory_format=self.memory_format)


def _free_memory(device: torch.device) -> float:
    """This process's share of what is free: ranks may share a GPU, and ask at once."""
    ranks_of_node = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    sharing = math.ceil(ranks_of_node / torch.cuda.device_count())
    return torch.cuda.mem_get_info(device)[0] / sharing


def split_into_batches(rows: Tensor, batch_size: int) -> list[Tensor]:
    """Batches of `batch_size` rows; the last one is smaller, but never a single row.

    A lone row joins the batch before it: batch norm cannot train on one image whose feature map
    is 1×1.
    """
    batches = [*rows.split(batch_size)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches
