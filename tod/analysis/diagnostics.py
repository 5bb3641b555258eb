"""Diagnostics of a query: how well its scores found the images that the network gets wrong.

They need the labels of images that were not queried. Only readers of the results see them, no
strategy does.
"""

import math
import warnings

import numpy as np
import pandas as pd

from tod.analysis.results import DIAGNOSTICS


def query_diagnostics(
    scores: np.ndarray,
    losses: np.ndarray,
    misclassified: np.ndarray,
    labels: np.ndarray,
    queried: np.ndarray,
) -> dict[str, str]:
    """The diagnostics of one query, as columns of `results.csv`; not finite values are empty.

    All arguments are (M,) and belong to the scored images: `losses` are true losses, `labels` are
    classes from 0, `queried` and `misclassified` are bool.

    The AUROC rates the score as a detector of misclassified images: 0.5 by chance, and no value if
    all or none are misclassified. The entropy of the queried images' classes is in nats, from 0 to
    ln C, which it reaches if all C classes are equally frequent.
    """
    # Importing these takes more than a second, for which only a run has to wait.
    from scipy.stats import entropy
    from sklearn.metrics import roc_auc_score

    # Ranks have the same ROC curve as the scores, and are finite even for infinite scores, unlike
    # those of rankdata in scipy 1.11.
    ranks, loss_ranks = (pd.Series(values).rank().to_numpy() for values in (scores, losses))
    has_curve = 0 < misclassified.sum() < len(ranks) and not np.isnan(ranks).any()
    with warnings.catch_warnings():
        # NumPy warns of a mean or a correlation without a value, which is NaN.
        warnings.simplefilter("ignore", RuntimeWarning)
        values = (
            np.corrcoef(ranks, loss_ranks)[1, 0],
            roc_auc_score(misclassified, ranks) if has_curve else math.nan,
            # Float32 loses digits over tens of thousands of images.
            losses[queried].mean(dtype=np.float64),
            losses[~queried].mean(dtype=np.float64),
            entropy(np.bincount(labels[queried])),
        )
    return {
        column: f"{value:.6g}" if math.isfinite(value) else ""
        for column, value in zip(DIAGNOSTICS, values, strict=True)
    }
