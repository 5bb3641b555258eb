"""Which images have a label before the first cycle."""

import numpy as np
import torch

from tod.strategies.herding import pick_herding, unit_length
from tod.strategies.typicality import pick_typical

MOST_CANDIDATES = 35_000
"""Herding chooses among so many images at most, drawn at random, as its published code does."""


def choose_first(
    how: str,
    count: int,
    labels: np.ndarray,
    features: np.ndarray | None,
    random: np.random.Generator,
) -> np.ndarray:
    """The indices of the first labelled images, (count,) int64.

    Args:
        how: `random`; `balanced`: as many of each class, or all that it has; `typical`: those that
            TypiClust picks while nothing is labelled (Hacohen et al., ICML 2022); `herding`: those
            that MaxHerding picks then (Bae et al., ECCV 2024).
        labels: the classes of all training images, (N,), which `balanced` alone looks at.
        features: of all training images, (N, F), which the last two alone need.
    """
    if how == "herding":
        size = min(len(features), max(count, MOST_CANDIDATES))
        candidates = np.sort(random.choice(len(features), size, replace=False))
        rows = unit_length(torch.from_numpy(features[candidates]))
        picked, _ = pick_herding(rows, rows[:0], count)
        return candidates[picked]
    if how == "typical":
        picked, _ = pick_typical(features, np.zeros(len(features), dtype=bool), count, random)
        return picked
    if how == "random":
        return random.choice(len(labels), count, replace=False)
    shuffled = random.permutation(len(labels))
    # Each class's first images, then their second ones, and so on.
    turns = np.empty(len(labels), dtype=np.int64)
    for c in np.unique(labels):
        members = labels[shuffled] == c
        turns[members] = np.arange(members.sum())
    return shuffled[np.argsort(turns, kind="stable")[:count]]
