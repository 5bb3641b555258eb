"""Which images have a label before the first cycle."""

import numpy as np

from tod.strategies.typicality import pick_typical


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
            TypiClust picks while nothing is labelled (Hacohen et al., ICML 2022).
        labels: the classes of all training images, (N,), at which `balanced` alone looks.
        features: of all training images, (N, F), which `typical` alone needs.
    """
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
