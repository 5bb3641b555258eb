"""Picking images whose balls cover the most: ProbCover (Yehuda et al., NeurIPS 2022)."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from tod.strategies.clusters import clusters
from tod.strategies.diversity import ROWS, nearest_squared_distances, squared_distances

PURITY = 0.95
"""The share of balls that may hold images of one class only, which sets their radius."""
BALLS = 5_000
"""So many balls, drawn at random, tell the radius; at most."""


@torch.inference_mode()
def purity_radius(features: Tensor, num_classes: int, random: np.random.Generator) -> float:
    """δ: the largest radius at which 95 % of the balls around images hold one class only.

    The classes are those of k-means with as many clusters. A ball is pure as long as it does not
    reach the nearest image of another cluster; these distances are taken over at most 5,000 images
    drawn at random from the features (N, F).
    """
    pseudo_labels = torch.from_numpy(
        clusters(features.cpu().numpy(), min(num_classes, len(features)), random)
    ).to(features.device)
    drawn = random.choice(len(features), min(BALLS, len(features)), replace=False)
    rows = torch.from_numpy(drawn).to(features.device)
    nearest = []
    for block, labels in zip(
        squared_distances(features[rows], features), pseudo_labels[rows].split(ROWS), strict=True
    ):
        same = labels[:, None] == pseudo_labels[None, :]
        nearest.append(block.masked_fill_(same, torch.inf).amin(dim=1))
    # Up to the next of these distances, all but the 5 % that come before it are pure.
    ascending = torch.cat(nearest).sqrt().sort().values
    return float(ascending[len(ascending) - math.ceil(PURITY * len(ascending))])


@torch.inference_mode()
def pick_covering(
    features: Tensor, labeled: Tensor, delta: float, query_size: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Picks, time and again, the image in whose ball the most images are not covered yet.

    A ball holds the images nearer than δ; those in the balls of labelled images are covered, as
    these are themselves. Where everything is covered, the rest is drawn at random.

    Args:
        features: of the images to pick from, (M, F).
        labeled: of the labelled images, (L, F).
        delta: δ, the radius.
        query_size: at most M.
        random: for what is left when everything is covered.

    Returns:
        Positions among the M images in the order picked, (query_size,) int64; of equal ones, the
        first is picked; and how many uncovered images each one's ball holds before any pick, (M,).
    """
    reach = _reach(features, delta)
    uncovered = (nearest_squared_distances(features, labeled) >= delta * delta).cpu().numpy()
    left = _num_reached(reach, uncovered)
    scores = left.copy()
    picked: list[int] = []
    for _ in range(query_size):
        position = int(left.argmax())
        if left[position] <= 0:
            rest = random.permutation(np.setdiff1d(np.arange(len(features)), picked))
            return np.array([*picked, *rest[: query_size - len(picked)]], dtype=np.int64), scores
        picked.append(position)
        is_near = np.unpackbits(reach[position], count=len(features)).astype(bool)
        covered = is_near & uncovered
        uncovered &= ~covered
        left -= _num_reaching(reach, covered)
        # Of two images δ apart, rounding may find the one near the other and not the other way.
        left.clip(min=0, out=left)
        left[picked] = -1
    return np.array(picked, dtype=np.int64), scores


def _reach(features: Tensor, delta: float) -> np.ndarray:
    """Which images each one's ball holds, (N, N), at a bit each; always the image itself."""
    rows, start = [], 0
    for block in squared_distances(features, features):
        is_near = block < delta * delta
        is_near.diagonal(start).fill_(True)
        rows.append(np.packbits(is_near.cpu().numpy(), axis=1))
        start += len(block)
    return np.concatenate(rows)


def _num_reached(reach: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """How many of the wanted images, (N,) bool, each one's ball holds, (N,)."""
    bits = np.packbits(wanted)
    blocks = (np.unpackbits(rows & bits, axis=1) for rows in _in_blocks(reach))
    return np.concatenate([block.sum(axis=1, dtype=np.int64) for block in blocks])


def _num_reaching(reach: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The same number, counted by the wanted images' balls, since nearness is mutual."""
    number = np.zeros(len(reach), dtype=np.int64)
    for rows in _in_blocks(reach[wanted]):
        number += np.unpackbits(rows, axis=1, count=len(reach)).sum(axis=0, dtype=np.int64)
    return number


def _in_blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + ROWS] for start in range(0, len(rows), ROWS))
