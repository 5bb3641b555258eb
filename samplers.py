"""The scores, and the choice of what to query.

A sampling strategy is a function from a `Pool` to a `Query`; the entry scripts list them by name.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from configuration import Config


def temporal_output_discrepancy(logits: Tensor, previous_logits: Tensor) -> Tensor:
    """The TOD score between two cycles (cyclic output discrepancy, Huang et al., ICCV 2021).

    Args:
        logits: f(x; w_c), (N, C).
        previous_logits: f(x; w_{c−1}), (N, C).

    Returns:
        `½ · ‖p(x; w_c) − p(x; w_{c−1})‖²` of each image, (N,), where p = softmax(f); from 0 to 1.
    """
    difference = logits.softmax(dim=1) - previous_logits.softmax(dim=1)
    return 0.5 * difference.square().sum(dim=1)


def select_queries(
    subset: np.ndarray | Tensor | list[int],
    scores: np.ndarray | Tensor | list[float],
    query_size: int,
    lowest: bool = False,
) -> np.ndarray:
    """The pool indices to query: those of the `query_size` highest scores, or of the lowest.

    Args:
        subset: the pool indices that were scored, (M,).
        scores: their scores, (M,).
        query_size: how many to query.
        lowest: whether to take the lowest scores instead.

    Returns:
        (query_size,) int64, in ascending order of score; equal scores in the order of `subset`.

    Raises:
        ValueError: scores and indices differ in number, are fewer than `query_size`, or hold NaN.
    """
    subset = np.asarray(subset, dtype=np.int64)
    scores = np.asarray(scores)
    if subset.shape != scores.shape or subset.ndim != 1:
        raise ValueError(f"{subset.shape} indices do not match {scores.shape} scores")
    if not 0 <= query_size <= len(subset):
        raise ValueError(f"{query_size} images cannot be queried from {len(subset)}")
    if np.isnan(scores).any():
        raise ValueError("some scores are not a number")
    ascending = subset[np.argsort(scores, kind="stable")]
    return ascending[:query_size] if lowest else ascending[len(ascending) - query_size :]


class Query(NamedTuple):
    """What a strategy chose: the queried `indices` in order; `scores` are those of the subset."""

    indices: np.ndarray
    scores: np.ndarray


@dataclass
class Pool:
    """What a strategy may look at: a random subset of the unlabelled images, and the networks.

    Args:
        config: the configuration.
        cycle: from 1.
        subset: indices of the images to score, (M,).
        batches: gives the subset's images anew at each call, in batches (N, 3, H, W).
        backbone: the network at the end of this cycle.
        previous: the network at the end of the previous cycle; in the first, an untrained one.
        modules: the auxiliary loss's networks, by name.
        random: for what the strategy draws.
    """

    config: Config
    cycle: int
    subset: np.ndarray
    batches: Callable[[], Iterator[Tensor]]
    backbone: nn.Module
    previous: nn.Module
    modules: dict[str, nn.Module]
    random: np.random.Generator

    @torch.inference_mode()
    def score(self, score_of_batch: Callable[[Tensor], Tensor]) -> np.ndarray:
        """The scores of the subset, (M,), all networks in evaluation mode.

        Args:
            score_of_batch: images (N, 3, H, W) → scores (N,).

        Raises:
            FloatingPointError: a score is not finite.
        """
        for network in (self.backbone, self.previous, *self.modules.values()):
            network.eval()
        scores = torch.cat([score_of_batch(images) for images in self.batches()])
        if not scores.isfinite().all():
            raise FloatingPointError("a score")
        return scores.cpu().numpy()

    def query(self, scores: np.ndarray, lowest: bool = False) -> Query:
        """The images with the highest scores, or with the lowest."""
        query_size = self.config.active_learning.query_size
        return Query(select_queries(self.subset, scores, query_size, lowest), scores)


def query_at_random(pool: Pool) -> Query:
    """RANDOM: each image gets a random score."""
    return pool.query(pool.random.random(len(pool.subset)))


def query_by_tod(pool: Pool) -> Query:
    """TOD: the images whose output moved most since the previous cycle (Huang et al., ICCV 2021).

    In the first cycle, where "previous" is an untrained network, the published code queries those
    that moved least.
    """
    scores = pool.score(
        lambda images: temporal_output_discrepancy(
            pool.backbone(images)[0], pool.previous(images)[0]
        )
    )
    return pool.query(scores, lowest=pool.cycle == 1 and pool.config.scoring.lowest_in_first_cycle)


def query_by_predicted_loss(pool: Pool) -> Query:
    """LL4AL: the images with the largest predicted loss (Yoo & Kweon, CVPR 2019)."""
    return pool.query(pool.score(lambda images: pool.modules["module"](pool.backbone(images)[3])))
