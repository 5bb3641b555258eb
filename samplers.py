"""The scores, and the choice of what to query.

A sampling strategy is a function from a `Pool` to a `Query`; the entry scripts list them by name.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from configuration import Config
from losses import task_losses
from models import Outputs

CENTERS_AT_ONCE = 512
"""25,000 × 512 distances at once are 51 MB."""

DRAWS = 2**31
"""Random numbers for D² sampling are whole numbers below this; so is about the sum of its weights,
and a product of the two fits into 64 bits."""


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


def entropy(logits: Tensor) -> Tensor:
    """The entropy of the prediction, as in Joshi et al., CVPR 2009.

    Args:
        logits: f(x; w), (N, C).

    Returns:
        `−Σ_i p_i · ln p_i` of each image in nats, (N,), where p = softmax(f); from 0 to ln C.
    """
    probabilities = logits.softmax(dim=1)
    return -probabilities.xlogy(probabilities).sum(dim=1)


def margin(logits: Tensor) -> Tensor:
    """How close the two likeliest classes are (Scheffer et al., IDA 2001).

    Args:
        logits: f(x; w), (N, C), of at least two classes.

    Returns:
        `1 − (p_1 − p_2)` of each image, (N,), where p_1 and p_2 are the largest two of softmax(f);
        from 0 to 1, so that the smallest margin has the highest score.
    """
    largest, second = logits.softmax(dim=1).topk(2, dim=1).values.unbind(1)
    return 1.0 - (largest - second)


def least_confidence(logits: Tensor) -> Tensor:
    """How unlikely the likeliest class is (Lewis & Gale, SIGIR 1994).

    Args:
        logits: f(x; w), (N, C).

    Returns:
        `1 − max_i p_i` of each image, (N,), where p = softmax(f); from 0 to 1 − 1/C.
    """
    return 1.0 - logits.softmax(dim=1).amax(dim=1)


@torch.inference_mode()
def nearest_squared_distances(features: Tensor, centers: Tensor) -> Tensor:
    """The squared distance of each image to the nearest centre.

    Args:
        features: h, (M, F).
        centers: c, (L, F).

    Returns:
        `min_c ‖h − c‖²` of each image, (M,).
    """
    nearest = torch.full_like(features[:, 0], torch.inf)
    for chunk in centers.split(CENTERS_AT_ONCE):
        # ‖h − c‖² = ‖h‖² + ‖c‖² − 2 h·c, of which ‖h‖² is the same for all centres.
        without_own = torch.addmm(chunk.square().sum(dim=1), features, chunk.T, alpha=-2)
        nearest = torch.minimum(nearest, without_own.amin(dim=1))
    return (nearest + features.square().sum(dim=1)).clamp_min(0)


@torch.inference_mode()
def k_center_greedy(features: Tensor, nearest: Tensor, query_size: int) -> Tensor:
    """Picks, time and again, the image farthest from all centres, which becomes one itself.

    Sener & Savarese, ICLR 2018, algorithm 1. It takes one matrix-vector product a pick, and never
    waits for the device.

    Args:
        features: h, (M, F).
        nearest: squared distance of each image to the nearest centre that there is, (M,).
        query_size: how many to pick, from 1 to M.

    Returns:
        Positions among the M images in the order picked, (query_size,) int64; of equally far
        images, the first is picked.
    """
    norms = features.square().sum(dim=1)
    picked = []
    for _ in range(query_size):
        position = nearest.argmax(dim=0, keepdim=True)
        picked.append(position)
        products = features @ features[position].squeeze(0)
        distances = (norms + norms[position] - 2 * products).clamp_min(0)
        # Below every distance, so that no image is picked twice.
        nearest = torch.minimum(nearest, distances).index_fill_(0, position, -1)
    return torch.cat(picked)


@torch.inference_mode()
def k_means_plus_plus(gradients: Tensor, features: Tensor, draws: Tensor) -> Tensor:
    """k-means++ seeding on gradient embeddings `g = a ⊗ h` (Arthur & Vassilvitskii, SODA 2007).

    The first image is picked uniformly, each further one with a probability in proportion to its
    squared distance to the nearest one picked (D² sampling). The embeddings, (M, C·F), are never
    made: `‖g − g'‖² = ‖a‖²·‖h‖² + ‖a'‖²·‖h'‖² − 2·(a·a')·(h·h')`.

    Args:
        gradients: a, the loss's gradient with respect to the logits, (M, C).
        features: h, (M, F).
        draws: a uniform whole number from 0 to 2³¹ − 1 for each pick, (query_size,) int64; as many
            as there are to be picks, from 1 to M.

    Returns:
        Positions among the M images in the order picked, (query_size,) int64, all different.
    """
    norms = gradients.square().sum(dim=1) * features.square().sum(dim=1)
    nearest = torch.full_like(norms, torch.inf)
    unpicked = torch.ones_like(norms, dtype=torch.int64)
    weights = unpicked
    picked = []
    for draw in draws.split(1):
        # Whole numbers add up exactly on every device, so that a weight of 0 is never drawn.
        cumulative = weights.cumsum(dim=0)
        threshold = draw * cumulative[-1] // DRAWS
        position = torch.searchsorted(cumulative, threshold, right=True)
        picked.append(position)
        products = (gradients @ gradients[position].squeeze(0)) * (
            features @ features[position].squeeze(0)
        )
        distances = (norms + norms[position] - 2 * products).clamp_min(0)
        nearest = torch.minimum(nearest, distances).index_fill_(0, position, 0)
        unpicked = unpicked.index_fill(0, position, 0)
        # Each unpicked image gets 1 more, M / 2³¹ in all, for where all distances are 0.
        shares = nearest / nearest.sum().clamp_min(torch.finfo(nearest.dtype).tiny)
        weights = (shares * DRAWS).long() + unpicked
    return torch.cat(picked)


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
    """What a strategy chose.

    Attributes:
        indices: of the queried images, (query_size,), in the order queried.
        scores: one for each image of the subset, (M,), in the subset's order.
    """

    indices: np.ndarray
    scores: np.ndarray


@dataclass
class Pool:
    """What a strategy may look at: a random subset of the unlabelled images, and the networks.

    Args:
        config: the configuration.
        cycle: from 1.
        subset: indices of the images to score, (M,).
        labels: their classes, (M,), on the networks' device; only an oracle may look at them.
        batches: gives the subset's images anew at each call, in batches (N, 3, H, W).
        labeled_batches: the same for the L labelled images.
        backbone: the network at the end of this cycle.
        previous: the network at the end of the previous cycle; in the first, an untrained one.
        modules: the auxiliary loss's networks, by name.
        random: for what the strategy draws.
    """

    config: Config
    cycle: int
    subset: np.ndarray
    labels: Tensor
    batches: Callable[[], Iterator[Tensor]]
    labeled_batches: Callable[[], Iterator[Tensor]]
    backbone: nn.Module
    previous: nn.Module
    modules: dict[str, nn.Module]
    random: np.random.Generator
    _logits: Tensor | None = field(default=None, init=False, repr=False)

    def compute(self, of_batch: Callable[[Tensor, Outputs], Tensor]) -> Tensor:
        """What `of_batch` gives for the subset, (M, …), all networks in evaluation mode.

        The backbone runs once a batch, and its logits are kept for `logits`.

        Args:
            of_batch: images (N, 3, H, W), and what the backbone gives for them: logits (N, C),
                consistency logits (N, C), features (N, F), feature maps → (N, …).

        Raises:
            FloatingPointError: a value is not finite.
        """
        logits = []

        def keeping_logits(images: Tensor, outputs: Outputs) -> Tensor:
            logits.append(outputs[0])
            return of_batch(images, outputs)

        values = self._pass(self.batches(), keeping_logits)
        self._logits = torch.cat(logits)
        return _finite(values)

    def score(self, score_of_batch: Callable[[Tensor, Outputs], Tensor]) -> np.ndarray:
        """The scores of the subset, (M,): `compute` of a function that gives (N,), as an array.

        Raises:
            FloatingPointError: a score is not finite.
        """
        return self.compute(score_of_batch).cpu().numpy()

    def logits(self) -> Tensor:
        """f(x; w_c) of the subset, (M, C), from what `compute` has kept or else a pass of its own.

        They may be infinite or NaN where training diverges.
        """
        if self._logits is None:
            self._logits = self._pass(self.batches(), lambda images, outputs: outputs[0])
        return self._logits

    def true_losses(self) -> Tensor:
        """The task loss of each image of the subset, (M,), which only an oracle can know."""
        return task_losses(self.logits(), self.labels)

    def labeled_features(self) -> Tensor:
        """The features of the labelled images, (L, F), the backbone in evaluation mode.

        Raises:
            FloatingPointError: a feature is not finite.
        """
        return _finite(self._pass(self.labeled_batches(), lambda images, outputs: outputs[2]))

    def query(self, scores: np.ndarray, lowest: bool = False) -> Query:
        """The images with the highest scores, or with the lowest, in ascending order of score."""
        query_size = self.config.active_learning.query_size
        return Query(select_queries(self.subset, scores, query_size, lowest), scores)

    @torch.inference_mode()
    def _pass(
        self, batches: Iterator[Tensor], of_batch: Callable[[Tensor, Outputs], Tensor]
    ) -> Tensor:
        for network in (self.backbone, self.previous, *self.modules.values()):
            network.eval()
        return torch.cat([of_batch(images, self.backbone(images)) for images in batches])


def _finite(values: Tensor) -> Tensor:
    if not values.isfinite().all():
        raise FloatingPointError("a score")
    return values


def query_at_random(pool: Pool) -> Query:
    """RANDOM: each image gets a random score."""
    return pool.query(pool.random.random(len(pool.subset)))


def query_by_entropy(pool: Pool) -> Query:
    """ENTROPY: the images whose prediction has the largest entropy (Joshi et al., CVPR 2009)."""
    return pool.query(pool.score(lambda images, outputs: entropy(outputs[0])))


def query_by_margin(pool: Pool) -> Query:
    """MARGIN: the images whose two likeliest classes are closest (Scheffer et al., IDA 2001)."""
    return pool.query(pool.score(lambda images, outputs: margin(outputs[0])))


def query_by_least_confidence(pool: Pool) -> Query:
    """LEAST_CONFIDENCE: the images whose prediction is least sure (Lewis & Gale, SIGIR 1994)."""
    return pool.query(pool.score(lambda images, outputs: least_confidence(outputs[0])))


def query_by_core_set(pool: Pool) -> Query:
    """CORESET: images that cover the pool in feature space (Sener & Savarese, ICLR 2018).

    An image's score is the distance of its features to those of the nearest labelled image, before
    any pick.
    """
    features = pool.compute(lambda images, outputs: outputs[2])
    nearest = _finite(nearest_squared_distances(features, pool.labeled_features()))
    picked = k_center_greedy(features, nearest, pool.config.active_learning.query_size)
    return Query(pool.subset[picked.cpu().numpy()], nearest.sqrt().cpu().numpy())


def query_by_badge(pool: Pool) -> Query:
    """BADGE: images whose gradients are large and diverse (Ash et al., ICLR 2020).

    An image's gradient embedding is the gradient, with respect to the last layer's weights, of its
    loss if the predicted class were the true one; k-means++ picks among these. An image's score is
    its embedding's squared norm. The first pick is uniform, as in the paper's k-means++; the
    published code begins with the largest norm.
    """
    features = pool.compute(lambda images, outputs: outputs[2])
    logits = pool.logits()
    predicted = nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1])
    gradients = logits.softmax(dim=1) - predicted
    scores = _finite(gradients.square().sum(dim=1) * features.square().sum(dim=1))
    draws = pool.random.integers(DRAWS, size=pool.config.active_learning.query_size)
    picked = k_means_plus_plus(gradients, features, torch.from_numpy(draws).to(features.device))
    return Query(pool.subset[picked.cpu().numpy()], scores.cpu().numpy())


def query_by_true_loss(pool: Pool) -> Query:
    """LOSS: the images with the largest true loss: the oracle that TOD and LL4AL estimate.

    No real strategy: it looks at the labels that it is to ask for.
    """
    return pool.query(_finite(pool.true_losses()).cpu().numpy())


def query_by_tod(pool: Pool) -> Query:
    """TOD: the images whose output moved most since the previous cycle (Huang et al., ICCV 2021).

    In the first cycle, where "previous" is an untrained network, the published code queries those
    that moved least.
    """
    scores = pool.score(
        lambda images, outputs: temporal_output_discrepancy(outputs[0], pool.previous(images)[0])
    )
    return pool.query(scores, lowest=pool.cycle == 1 and pool.config.scoring.lowest_in_first_cycle)


def query_by_predicted_loss(pool: Pool) -> Query:
    """LL4AL: the images with the largest predicted loss (Yoo & Kweon, CVPR 2019)."""
    return pool.query(pool.score(lambda images, outputs: pool.modules["module"](outputs[3])))
