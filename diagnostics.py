"""How well a strategy's scores have found the images that the network gets wrong.

The answers need the labels of images that were not queried. They are for the reader of the results
alone: no strategy sees them.
"""

import math

import numpy as np
from scipy.stats import entropy, rankdata, spearmanr
from sklearn.metrics import roc_auc_score

from results import DIAGNOSTICS


def query_diagnostics(
    scores: np.ndarray,
    losses: np.ndarray,
    misclassified: np.ndarray,
    labels: np.ndarray,
    queried: np.ndarray,
) -> dict[str, str]:
    """The columns of `results.csv` that judge one query; a cell without a finite value is empty.

    Args:
        scores: the strategy's score of each image of the subset, (M,).
        losses: its true loss, (M,).
        misclassified: whether the network's prediction is wrong, (M,) bool.
        labels: its class, (M,), from 0.
        queried: whether it was queried, (M,) bool.

    Returns:
        `score_loss_spearman`: Spearman's rank correlation of score and true loss, from −1 to 1; it
        has no value where all scores or all losses are equal.
        `score_error_auroc`: the area under the ROC curve of the score as a detector of
        misclassified images: 1 where each of these has a higher score than all others, 0.5 by
        chance; it has no value where all images are misclassified, or none.
        `queried_mean_loss`, `unqueried_mean_loss`: the mean true loss of either part of the
        subset; the latter has no value where all images were queried.
        `queried_class_entropy`: the entropy of the class frequencies among the queried, in nats:
        from 0, where all are of one class, to ln C, where all C classes are equally frequent.
    """
    values = (
        _spearman(scores, losses),
        _auroc(scores, misclassified),
        _mean(losses[queried]),
        _mean(losses[~queried]),
        float(entropy(np.bincount(labels[queried]))),
    )
    return {
        column: f"{value:.6g}" if math.isfinite(value) else ""
        for column, value in zip(DIAGNOSTICS, values, strict=True)
    }


def _spearman(scores: np.ndarray, losses: np.ndarray) -> float:
    if len(np.unique(scores)) < 2 or len(np.unique(losses)) < 2:
        return math.nan
    return float(spearmanr(scores, losses).statistic)


def _auroc(scores: np.ndarray, misclassified: np.ndarray) -> float:
    if misclassified.all() or not misclassified.any():
        return math.nan
    # Ranks have the same curve as the scores, and are finite whatever these are.
    return float(roc_auc_score(misclassified, rankdata(scores)))


def _mean(losses: np.ndarray) -> float:
    # Float32 would lose digits over tens of thousands of images.
    return float(losses.mean(dtype=np.float64)) if losses.size else math.nan
