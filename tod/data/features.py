"""Features that a network of somebody else's has made of the images, as a file gives them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tod.config import InputError
from tod.data.dataset import Dataset, Draw
from tod.system.files import reason

SHORTEST = 1e-12
"""Shorter rows are not brought to length 1 (`torch.nn.functional.normalize`)."""


class Features(NamedTuple):
    """Features of N images: `rows` (N,) int64 of those `stored` (M, F) float32, perhaps mapped."""

    stored: Tensor
    rows: Tensor

    def numpy(self) -> np.ndarray:
        """(N, F) float32; a copy."""
        return self.stored[self.rows].numpy()


def load_features(path: Path, dataset: Dataset) -> np.ndarray:
    """The features (N, F) float32 of the N training images, from a `.npy` file in their order.

    Where the seed decides which images are for training (Caltech-101, `images.test_share`, a long
    tail), the file has a row for each image that it draws from, and so is the same for all seeds.
    """
    if draw := dataset.draw:
        return _rows(path, draw.places, draw.size, "images that the seed draws from")
    everything = np.arange(len(dataset.train))
    return _rows(path, everything, len(everything), "training images")


def load_features_to_train_on(path: Path, dataset: Dataset) -> tuple[Features, Features]:
    """Those of the training and of the test images, from a file with the rows of the former, as in
    `load_features`, and after them, unless the seed draws the test images too, of the latter.
    """
    everything = np.arange(len(dataset.train))
    draw = dataset.draw or Draw(everything, len(everything))
    size, test = draw.size, draw.test
    if test is None:
        size += len(dataset.test)
        test = np.arange(draw.size, size)
    chosen, train = np.concatenate([draw.places, test]), draw.places
    stored = torch.from_numpy(_rows(path, chosen, size, "training and test images"))
    rows = torch.arange(len(stored))
    return Features(stored, rows[: len(train)]), Features(stored, rows[len(train) :])


def _rows(path: Path, chosen: np.ndarray, size: int, which: str) -> np.ndarray:
    """The chosen rows of a file, which has `size` of them."""

    def refused(words: str) -> InputError:
        return InputError(f"--features {path}: {words}")

    try:
        found = np.load(path, allow_pickle=False)
    # A damaged file can raise anything at all, with advice that is none.
    except Exception as error:
        why = reason(error) if isinstance(error, OSError) else "it is no .npy file of numbers"
        raise refused(f"cannot be read ({why}); write it by numpy.save") from None
    is_array = isinstance(found, np.ndarray)
    if not is_array or found.ndim != 2 or not np.issubdtype(found.dtype, np.floating):
        what = f"{found.dtype} of shape {found.shape}" if is_array else "several arrays"
        raise refused(f"holds {what}; it should be one float array (N, F)")
    if len(found) != size or found.shape[1] == 0:
        raise refused(
            f"has the shape {found.shape}, and there are {size:,} {which}; it "
            "needs a row for each, in their order (docs/configuration.md says which)"
        )
    with np.errstate(over="ignore"):
        found = found[chosen].astype(np.float32)
    odd = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(odd):
        raise refused(f"row {odd[0]} is not finite ({len(odd):,} such); compute it anew")
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(found, axis=1)
    odd = np.flatnonzero(~((lengths > SHORTEST) & (lengths < np.inf)))
    if len(odd):
        words = f"row {odd[0]} has the length {lengths[odd[0]]:.2g}, so no direction"
        raise refused(f"{words} ({len(odd):,} such); scale the features, or compute it anew")
    return found
