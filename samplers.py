"""The scores, and the choice of what to query.

A sampling strategy is a function from a `Pool` to a `Query`; the entry scripts list them by name.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from models import fold_batch_norm, with_noise
from models.inference import logits_alone, without_tf32
from tod.config import Config
from tod.strategies.covering import pick_covering, purity_radius
from tod.strategies.diversity import (
    DRAWS,
    k_center_greedy,
    k_means_plus_plus,
    nearest_squared_distances,
)
from tod.strategies.pool import Pool, Query
from tod.strategies.typicality import pick_typical

DROPOUT_MASKS = 20
NOISE_DRAWS = 30
NOISE_NORM = 0.001
ALL_LABELS = (
    "active_learning.initial_labels=null",
    "active_learning.initial=random",
    "active_learning.cycles=1",
)
"""What FULL means, whatever the configuration says."""


def temporal_output_discrepancy(logits: Tensor, previous_logits: Tensor) -> Tensor:
    """The TOD score between two cycles (cyclic output discrepancy, Huang et al., ICCV 2021).

    Logits f(x; w_c) and f(x; w_{c−1}), (N, C) → `½ · ‖p(x; w_c) − p(x; w_{c−1})‖²` of each image,
    (N,), where p = softmax(f); from 0 to 1.
    """
    difference = logits.softmax(dim=1) - previous_logits.softmax(dim=1)
    return 0.5 * difference.square().sum(dim=1)


def entropy(logits: Tensor) -> Tensor:
    """The entropy of the prediction, as in Joshi et al., CVPR 2009.

    Logits f(x; w), (N, C) → `−Σ_i p_i · ln p_i` of each image in nats, (N,), where p = softmax(f);
    from 0 to ln C.
    """
    return _entropy_of(logits.softmax(dim=1))


def _entropy_of(probabilities: Tensor) -> Tensor:
    return -probabilities.xlogy(probabilities).sum(dim=1)


def mutual_information(probabilities: Sequence[Tensor]) -> Tensor:
    """What the prediction and the weights tell of each other (BALD; Houlsby et al., 2011).

    The predictions p_t, (N, C), with each of T draws of the weights → of each image in nats, (N,),
    `H[mean_t p_t] − mean_t H[p_t]`; from 0 to ln C.
    """
    of_mean = _entropy_of(torch.stack([*probabilities]).mean(dim=0))
    return of_mean - torch.stack([_entropy_of(p) for p in probabilities]).mean(dim=0)


def margin(logits: Tensor) -> Tensor:
    """How close the two likeliest classes are (Scheffer et al., IDA 2001).

    Logits f(x; w), (N, C), of at least two classes → `1 − (p_1 − p_2)` of each image, (N,), where
    p_1 and p_2 are the largest two of softmax(f); from 0 to 1: the smallest margin scores highest.
    """
    largest, second = logits.softmax(dim=1).topk(2, dim=1).values.unbind(1)
    return 1.0 - (largest - second)


def least_confidence(logits: Tensor) -> Tensor:
    """How unlikely the likeliest class is (Lewis & Gale, SIGIR 1994).

    Logits f(x; w), (N, C) → `1 − max_i p_i` of each image, (N,), where p = softmax(f); from 0 to
    1 − 1/C.
    """
    return 1.0 - logits.softmax(dim=1).amax(dim=1)


def select_queries(
    subset: np.ndarray | Tensor | list[int],
    scores: np.ndarray | Tensor | list[float],
    query_size: int,
    lowest: bool = False,
) -> np.ndarray:
    """The pool indices to query: those of the `query_size` highest scores, or of the lowest.

    Of the pool indices `subset`, (M,), and their scores, (M,), it gives (query_size,) int64 in
    ascending order of score; equal scores in the order of `subset`.
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


def query_by_score(pool: Pool, scores: Tensor, lowest: bool = False) -> Query:
    """The images with the highest scores (M,), or with the lowest, in ascending order of score."""
    values = _finite(scores)
    queried = select_queries(pool.subset, values, pool.query_size, lowest)
    return Query(queried, values, best_last=not lowest)


def _finite(values: Tensor) -> np.ndarray:
    if not values.isfinite().all():
        raise FloatingPointError("a score")
    return values.cpu().numpy()


def query_at_random(pool: Pool) -> Query:
    """RANDOM: each image gets a random score."""
    return query_by_score(pool, torch.from_numpy(pool.random.random(len(pool.subset))))


def query_by_entropy(pool: Pool) -> Query:
    """ENTROPY: the images whose prediction has the largest entropy (Joshi et al., CVPR 2009)."""
    return query_by_score(pool, entropy(pool.logits))


def query_by_margin(pool: Pool) -> Query:
    """MARGIN: the images whose two likeliest classes are closest (Scheffer et al., IDA 2001)."""
    return query_by_score(pool, margin(pool.logits))


def query_by_least_confidence(pool: Pool) -> Query:
    """LEAST_CONFIDENCE: the images whose prediction is least sure (Lewis & Gale, SIGIR 1994)."""
    return query_by_score(pool, least_confidence(pool.logits))


def query_by_core_set(pool: Pool) -> Query:
    """CORESET: images that cover the pool in feature space (Sener & Savarese, ICLR 2018).

    An image's score is the distance of its features to those of the nearest labelled image, before
    any pick.
    """
    nearest = nearest_squared_distances(pool.features, pool.labeled_features)
    scores = _finite(nearest.sqrt())
    picked = k_center_greedy(pool.features, nearest, pool.query_size)
    return Query(pool.subset[picked.cpu().numpy()], scores)


def query_by_badge(pool: Pool) -> Query:
    """BADGE: images whose gradients are large and diverse (Ash et al., ICLR 2020).

    An image's gradient embedding is the gradient, with respect to the last layer's weights, of its
    loss if the predicted class were the true one; k-means++ picks among these. An image's score is
    its embedding's squared norm. The first pick is uniform, as in the paper's k-means++; the
    published code begins with the largest norm.
    """
    predicted = one_hot(pool.logits.argmax(dim=1), pool.logits.shape[1])
    gradients = pool.logits.softmax(dim=1) - predicted
    scores = _finite(gradients.square().sum(dim=1) * pool.features.square().sum(dim=1))
    draws = torch.from_numpy(pool.random.integers(DRAWS, size=pool.query_size))
    picked = k_means_plus_plus(gradients, pool.features, draws.to(pool.features.device))
    return Query(pool.subset[picked.cpu().numpy()], scores)


def needs_dropout(config: Config) -> str | None:
    """Why BALD cannot work with a configuration; None where it can."""
    return None if config.model.dropout else "needs dropout: add --set model.dropout=0.5, say"


def query_by_bald(pool: Pool) -> Query:
    """BALD: the images on whose class networks drawn by dropout disagree (Gal et al., ICML 2017).

    The features are those of the whole network; 20 dropout masks for each of them go through the
    task head alone.
    """
    kept = 1 - pool.config.model.dropout
    generator = _torch_generator(pool, pool.features.device)
    predictions = []
    for _ in range(DROPOUT_MASKS):
        draws = torch.rand(pool.features.shape, generator=generator, device=pool.features.device)
        with torch.inference_mode():
            logits = pool.network.task_head(pool.features * (draws < kept) / kept)
        predictions.append(logits.softmax(dim=1))
    return query_by_score(pool, mutual_information(predictions))


def query_by_noise_stability(pool: Pool) -> Query:
    """NOISE_STABILITY: images whose predictions small noise changes most, and in different ways.

    Li et al., AAAI 2024. Each weight tensor (no biases) gets Gaussian noise whose norm is 0.001 of
    its own, 30 times, each of which takes a pass over the subset, after a clean one. The changes of
    the softmax output by its norm, one after the other, are an image's vector; those farthest from
    0 and from all picked ones are picked. An image's score is its vector's length.
    """
    generator = _torch_generator(pool, torch.device("cpu"))

    def predictions_of(network: nn.Module) -> Tensor:
        (logits,) = pool.compute(network, logits_alone)
        return logits.softmax(dim=1)

    changes = []
    with without_tf32():
        clean = predictions_of(pool.backbone)
        for _ in range(NOISE_DRAWS):
            noisy = fold_batch_norm(with_noise(pool.network, NOISE_NORM, generator))
            changes.append((predictions_of(noisy) - clean) / clean.norm(dim=1, keepdim=True))
    vectors = torch.cat(changes, dim=1)
    lengths = vectors.norm(dim=1)
    scores = _finite(lengths)
    picked = k_center_greedy(vectors, lengths.square(), pool.query_size)
    return Query(pool.subset[picked.cpu().numpy()], scores)


def _torch_generator(pool: Pool, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(int(pool.random.integers(2**63)))


def query_by_typiclust(pool: Pool) -> Query:
    """TYPICLUST: the most typical images of many clusters (Hacohen et al., ICML 2022).

    An image's score is its typicality within its cluster, before any pick.
    """
    features, labeled = map(_finite, pool.representation)
    is_labeled = np.arange(len(labeled) + len(features)) < len(labeled)
    everything = np.concatenate([labeled, features])
    picked, scores = pick_typical(everything, is_labeled, pool.query_size, pool.random)
    return Query(pool.subset[picked - len(labeled)], scores[len(labeled) :])


def query_by_probcover(pool: Pool) -> Query:
    """PROBCOVER: images whose balls cover what is not covered yet (Yehuda et al., NeurIPS 2022).

    An image's score is how many uncovered images its ball holds, before any pick.
    """
    features, labeled = pool.representation
    for each in (features, labeled):
        _finite(each)
    delta = purity_radius(torch.cat([labeled, features]), pool.logits.shape[1], pool.random)
    picked, scores = pick_covering(features, labeled, delta, pool.query_size, pool.random)
    return Query(pool.subset[picked], scores.astype(np.float64))


def needs_all_labels(config: Config) -> str | None:
    """Why an oracle, or FULL, cannot work with a configuration; None where it can."""
    people = config.facts.from_people
    return "looks at labels that nobody has given; choose another" if people else None


def query_by_true_loss(pool: Pool) -> Query:
    """LOSS: the images with the largest true loss: the oracle that TOD and LL4AL estimate.

    No real strategy: it looks at the labels that it is to ask for.
    """
    return query_by_score(pool, pool.true_losses)


def query_nothing(pool: Pool) -> Query:
    """FULL: the training set has all its labels in its only cycle: what no strategy can exceed."""
    return Query(pool.subset[:0], np.zeros(len(pool.subset)))


def query_by_tod(pool: Pool) -> Query:
    """TOD: the images whose output moved most since the previous cycle (Huang et al., ICCV 2021).

    In the first cycle, where "previous" is an untrained network, the published code queries those
    that moved least.
    """
    lowest = pool.cycle == 1 and pool.config.scoring.lowest_in_first_cycle
    scores = temporal_output_discrepancy(pool.logits, pool.previous_logits)
    return query_by_score(pool, scores, lowest)


def query_by_predicted_loss(pool: Pool) -> Query:
    """LL4AL: the images with the largest predicted loss (Yoo & Kweon, CVPR 2019)."""
    return query_by_score(pool, pool.predictions)


def query_by_dynamics(pool: Pool) -> Query:
    """TIDAL: the images of whose mean prediction the module is least sure (Kye et al., ICCV 2023).

    An image's score is the entropy of the module's softmax.
    """
    return query_by_score(pool, entropy(pool.predictions))
