"""How well a strategy's scores have found the images that the network gets wrong.

The answers need the labels of images that were not queried. They are for the reader of the results
alone: no strategy sees them.
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
    """The columns of `results.csv` that judge one query; a cell without a finite value is empty.

    All arguments are (M,), of the images that were scored: `losses` are the true ones, `labels` the
    classes from 0, and `queried` and `misclassified` are of bool.

    The AUROC is of the score as a detector of misclassified images: 0.5 by chance, no value where
    all are misclassified, or none. The entropy, of the queried images' classes, is in nats: from 0
    to ln C, where all C classes are equally frequent.
    """
    # Together more than a second: only a run waits for them.
    from scipy.stats import entropy
    from sklearn.metrics import roc_auc_score

    # Ranks have the scores' ROC curve, and are finite where scores are infinite (in scipy 1.11,
    # rankdata's are not).
    ranks, loss_ranks = (pd.Series(values).rank().to_numpy() for values in (scores, losses))
    has_curve = 0 < misclassified.sum() < len(ranks) and not np.isnan(ranks).any()
    with warnings.catch_warnings():
        # NumPy warns where a mean or a correlation has no value, which is NaN.
        warnings.simplefilter("ignore", RuntimeWarning)
        values = (
            np.corrcoef(ranks, loss_ranks)[1, 0],
            roc_auc_score(misclassified, ranks) if has_curve else math.nan,
            # Float32 would lose digits over tens of thousands of images.
            losses[queried].mean(dtype=np.float64),
            losses[~queried].mean(dtype=np.float64),
            entropy(np.bincount(labels[queried])),
        )
    return {
        column: f"{value:.6g}" if math.isfinite(value) else ""
        for column, value in zip(DIAGNOSTICS, values, strict=True)
    }
