"""The scores, and the choice of what to query.

A sampling strategy is a function from a `Pool` to a `Query`; the entry scripts list them by name.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from tod.config import Config
from tod.strategies.calibration import held_out_temperature
from tod.strategies.clusters import pick_central
from tod.strategies.covering import pick_covering, purity_radius
from tod.strategies.diversity import (
    DRAWS,
    k_center_greedy,
    k_means_plus_plus,
    nearest_squared_distances,
)
from tod.strategies.fisher import fisher_vectors, pick_informative
from tod.strategies.herding import pick_herding, smallest_distance, unit_length
from tod.strategies.interpolation import class_means, number_of_flips
from tod.strategies.perturbation import changes_by_noise, logits_under_dropout
from tod.strategies.pool import Pool, Query
from tod.strategies.typicality import pick_typical
from tod.strategies.uncertainty import entropy, least_confidence, margin, mutual_information

DROPOUT_MASKS = 20
RIDGE = 0.01
"""λ of BAIT, for features whose mean square is 1."""


def temporal_output_discrepancy(logits: Tensor, previous_logits: Tensor) -> Tensor:
    """The TOD score between two cycles (cyclic output discrepancy, Huang et al., ICCV 2021).

    Logits f(x; w_c) and f(x; w_{c−1}), (N, C) → `½ · ‖p(x; w_c) − p(x; w_{c−1})‖²` of each image,
    (N,), where p = softmax(f); from 0 to 1.
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


def _finite(values: Tensor, *others: Tensor) -> np.ndarray:
    """The values; FloatingPointError if they, or the others, are not all finite."""
    if not all(each.isfinite().all() for each in (values, *others)):
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
    """BALD: the images on whose class 20 dropout masks disagree (Gal et al., ICML 2017)."""
    drawn = logits_under_dropout(pool, pool.config.model.dropout, DROPOUT_MASKS)
    return query_by_score(pool, mutual_information([each.softmax(dim=1) for each in drawn]))


def query_by_noise_stability(pool: Pool) -> Query:
    """NOISE_STABILITY: images whose predictions small noise changes most, and in different ways.

    Li et al., AAAI 2024. Of the vectors of changes, those farthest from 0 and from all picked ones
    are picked. An image's score is its vector's length.
    """
    vectors = changes_by_noise(pool)
    lengths = vectors.norm(dim=1)
    scores = _finite(lengths)
    picked = k_center_greedy(vectors, lengths.square(), pool.query_size)
    return Query(pool.subset[picked.cpu().numpy()], scores)


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
    _finite(features, labeled)
    delta = purity_radius(torch.cat([labeled, features]), pool.logits.shape[1], pool.random)
    picked, scores = pick_covering(features, labeled, delta, pool.query_size, pool.random)
    return Query(pool.subset[picked], scores.astype(np.float64))


def query_by_maxherding(pool: Pool) -> Query:
    """MAXHERDING: images that leave the fewest others far from a label (Bae et al., ECCV 2024).

    An image's score is what it adds to the mean kernel of an image with its nearest labelled one.
    """
    features, labeled = map(_unit_length, pool.representation)
    picked, scores = pick_herding(features, labeled, pool.query_size)
    return Query(pool.subset[picked], scores)


def query_by_uherding(pool: Pool) -> Query:
    """UHERDING: as MAXHERDING, where the uncertain images count most (Bae et al., ICLR 2025).

    An image counts by its `margin` at the temperature that calibrates the network, and the kernel
    is as wide as the two nearest labelled images are apart.
    """
    features, labeled = map(_unit_length, pool.representation)
    _finite(pool.logits, pool.labeled_features)
    decay = pool.config.training.weight_decay
    known = pool.labeled_features, pool.known_labels
    weights = margin(pool.logits / held_out_temperature(*known, decay, pool.random))
    width = smallest_distance(labeled)
    picked, scores = pick_herding(features, labeled, pool.query_size, weights, width)
    return Query(pool.subset[picked], scores)


def query_by_bait(pool: Pool) -> Query:
    """BAIT: images that together tell the most about the last layer (Ash et al., NeurIPS 2021).

    In its cheap form (Huseljic et al., 2024), which knows the likeliest class against the rest. An
    image's score is by how much it alone lowers the trace of the inverse Fisher information.
    """
    features, labeled = pool.representation
    scale = features.square().mean().sqrt()
    vectors = fisher_vectors(pool.logits, features / scale)
    known = fisher_vectors(pool.labeled_logits, labeled / scale)
    _finite(vectors, known)
    picked, scores = pick_informative(vectors, known, pool.query_size, RIDGE)
    return Query(pool.subset[picked], scores)


def query_by_dropquery(pool: Pool) -> Query:
    """DROPQUERY: different images whose prediction dropout changes (Gupte et al., 2024).

    Three masks leave a quarter of the features. Candidates are the images that more than one mask
    changes, or any, where those are fewer than 25 for each pick; the most central of as many
    clusters as picks are queried. An image's score is the number of masks that change it.
    """
    predicted = pool.logits.argmax(dim=1)
    drawn = logits_under_dropout(pool, dropout=0.75, masks=3)
    changes = sum((logits.argmax(dim=1) != predicted).long() for logits in drawn)
    several, any_ = ((changes > least).nonzero().squeeze(1) for least in (1, 0))
    candidates = several if len(several) >= 25 * pool.query_size else any_
    return _most_central(pool, candidates, changes)


def query_by_alfamix(pool: Pool) -> Query:
    """ALFAMIX: different images whose prediction flips on the way to a labelled class.

    Parvaneh et al., CVPR 2022. An image's score is the number of classes towards whose mean
    features it flips; of those that flip, the most central of as many clusters as picks are
    queried.
    """
    _finite(pool.features, pool.labeled_features)
    anchors = class_means(pool.labeled_features, pool.known_labels)
    weight = pool.network.task_head.weight
    flips = number_of_flips(pool.logits, pool.features, weight, anchors, pool.query_size)
    return _most_central(pool, flips.nonzero().squeeze(1), flips)


def _most_central(pool: Pool, candidates: Tensor, scores: Tensor) -> Query:
    _finite(pool.logits)
    features = _unit_length(pool.representation[0]).cpu().numpy()
    picked = pick_central(features, candidates.cpu().numpy(), pool.query_size, pool.random)
    return Query(pool.subset[picked], _finite(scores).astype(np.float64))


def _unit_length(features: Tensor) -> Tensor:
    _finite(features)
    return unit_length(features)


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
