"""k-means clusters of images, and the most central image of each."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from tod.strategies.diversity import common_offset

FEW_CLUSTERS = 50
"""Up to so many, k-means sees all images at each step."""
BATCH, PASSES = 5_000, 20
"""A step sees so many images, as the choice of the first centres does; beyond so many passes over
all images, clusters hardly change."""


@contextmanager
def fitting() -> Iterator[None]:
    """For what scikit-learn fits: it takes no more threads than PyTorch, and is silent.

    That labels are few, images twins or a fit not quite at its end is no news to who labels.
    """
    from threadpoolctl import threadpool_limits  # seconds: only a query waits for it

    with threadpool_limits(torch.get_num_threads()), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def clusters(features: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """The cluster of each image, (N,), from 0 to `count` − 1, by k-means on the features (N, F)."""
    # Seconds: only a query waits for it.
    from sklearn.cluster import KMeans, MiniBatchKMeans, kmeans_plusplus
    from threadpoolctl import threadpool_limits

    rows = torch.from_numpy(features)
    features = (rows - common_offset(rows)).numpy()
    seed = int(random.integers(2**31))
    with fitting():
        if count <= FEW_CLUSTERS:
            # Several threads add up in any order, and would give other bytes each time.
            with threadpool_limits(1, "openmp"):
                return KMeans(count, n_init=1, random_state=seed).fit_predict(features)
        size = min(max(BATCH, 3 * count), len(features))
        drawn = random.choice(len(features), size, replace=False)
        centers, _ = kmeans_plusplus(features[drawn], count, random_state=seed, n_local_trials=1)
        means = MiniBatchKMeans(
            count, init=centers, batch_size=BATCH, max_iter=PASSES, n_init=1, random_state=seed
        )
        return means.fit_predict(features)


def pick_central(
    features: np.ndarray, candidates: np.ndarray, count: int, random: np.random.Generator
) -> np.ndarray:
    """Picks, of each of `count` clusters of the candidates, the one nearest its mean.

    Where clusters are empty, random other candidates make up the number, and where candidates are
    too few, random other images. Features (N, F), and positions of candidates among them →
    positions in the order picked, (count,) int64, all different.
    """
    rows = features[candidates]
    of_each = np.arange(len(candidates))  # its own cluster, where they are too few
    if count < len(candidates):
        of_each = clusters(rows, count, random)
    means = np.zeros((of_each.max(initial=-1) + 1, features.shape[1]), dtype=np.float64)
    np.add.at(means, of_each, rows)
    means /= np.maximum(np.bincount(of_each, minlength=len(means)), 1)[:, None]
    distances = ((rows - means[of_each]) ** 2).sum(axis=1)
    order = np.lexsort((distances, of_each))
    first = np.unique(of_each[order], return_index=True)[1]
    picked = candidates[order[first]][:count]
    for others in (candidates, np.arange(len(features))):
        left = random.permutation(np.setdiff1d(others, picked))
        picked = np.concatenate([picked, left[: count - len(picked)]])
    return picked
