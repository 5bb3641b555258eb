"""The datasets as uint8 tensors, with their statistics, class names and file names."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tod.config import Config, InputError, too_many_labels
from tod.config.schema import Images
from tod.data import image_folder, published
from tod.data.dataset import Dataset, Draw, ImageSet
from tod.system.files import cannot
from utils import random_generator

__all__ = ["Dataset", "ImageSet", "in_long_tail", "load", "statistics"]

LOADERS: dict[str, Callable[[Path, Images, int], Dataset]] = {
    "digits": published.digits,
    "cifar10": partial(published.cifar, 10),
    "cifar100": partial(published.cifar, 100),
    "svhn": published.svhn,
    "caltech101": published.caltech101,
    "image_folder": image_folder.load,
}
"""The loader of each dataset: from `data_dir`, with the section `images` and the split's seed."""


def load(config: Config, seed: int) -> Dataset:
    """Reads the dataset that the configuration names; torchvision downloads what it can.

    `seed` decides the split of Caltech-101 and of `images.test_share`, and the long tail of
    `active_learning.imbalance`.
    """
    root = Path(config.data_dir)
    try:
        found = LOADERS[config.dataset](root, config.images, seed)
    except OSError as error:
        advice = f"--data-dir names the place of the images; {published.WITHOUT_DATA}"
        raise cannot(root, "read", error, advice) from None
    active, train, draw = config.active_learning, found.train, found.draw
    if active.imbalance is not None:
        kept = np.flatnonzero(in_long_tail(train.labels.numpy(), active.imbalance, seed))
        draw = draw._replace(places=draw.places[kept]) if draw else Draw(kept, len(train))
        train = train.subset(kept)
    problem = too_many_labels(active.initial_labels, active.cycles, active.query_size, len(train))
    if len(found.test) == 0:
        problem = problem or "the test set holds no image; it needs at least one"
    if problem is not None:
        raise InputError(f"{root}: {problem}")
    mean, std = config.images.mean, config.images.std
    if mean is None or std is None:
        computed_mean, computed_std = statistics(train)
        mean, std = mean or computed_mean, std or computed_std
    mean, std = torch.as_tensor(mean), torch.as_tensor(std)
    return replace(found, train=train, mean=mean, std=std, draw=draw)


def in_long_tail(labels: np.ndarray, ratio: float, seed: int) -> np.ndarray:
    """The images of a long-tailed part of a training set (Cui et al., CVPR 2019), (N,) bool.

    Class sizes fall exponentially: of C classes, the k-th most frequent (from 0; of equal ones, the
    first) keeps `n_0 · R^(−k / (C − 1))` images, drawn at random, where n_0 is the largest class's
    size and `ratio` is R; at most what it has, and at least one.
    """
    random = random_generator(seed, "long tail")
    sizes = np.bincount(labels)
    most_frequent_first = np.argsort(-sizes, kind="stable")
    kept = np.zeros(len(labels), dtype=bool)
    for k, c in enumerate(most_frequent_first):
        size = round(sizes.max() * ratio ** (-k / max(len(sizes) - 1, 1)))
        members = np.flatnonzero(labels == c)
        kept[random.permutation(members)[: max(size, 1)]] = True
    return kept


def statistics(images: ImageSet) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (3,) of each channel of pixels from 0 to 1."""
    sums, count = torch.zeros(2, 3, dtype=torch.float64), 0
    for pixels in images.chunks():
        values = torch.from_numpy(pixels).double().flatten(0, 2) / 255
        sums[0] += values.sum(dim=0)
        sums[1] += values.square().sum(dim=0)
        count += len(values)
    mean, mean_of_squares = sums / count
    variance = (mean_of_squares - mean.square()).clamp(min=0)
    # A channel without contrast is centred and left at its scale.
    std = torch.where(variance > 1e-12, variance.sqrt(), 1.0)
    return mean.float(), std.float()
