"""How good a network is on the test set, beyond its accuracy."""

import warnings

import numpy as np
from torch import Tensor
from torch.nn.functional import cross_entropy

from tod.analysis.results import ACCURACY, METRICS

BINS = 15


def metrics_of_test_set(logits: Tensor, labels: Tensor) -> dict[str, str]:
    """The columns of `results.csv` about the test set; without an image, the accuracy is NaN.

    Args:
        logits: of the test images, (N, C), on the host.
        labels: their classes, (N,).

    Returns:
        `test_accuracy`: in %.
        `balanced_accuracy`: the mean over classes of the accuracy in each, in %.
        `macro_f1`: the mean over classes of the F1 score, in %. Both: of those with test images.
        `nll`: the mean negative log-likelihood of the true class, in nats.
        `ece`: the expected calibration error in %, see `calibration_error`.
    """
    if len(labels) == 0:
        return {ACCURACY: "nan", **dict.fromkeys(METRICS, "")}
    from sklearn.metrics import balanced_accuracy_score, f1_score  # seconds: only a run waits

    logits = logits.double()
    predicted, true = logits.argmax(dim=1).numpy(), labels.numpy()
    confidences = logits.softmax(dim=1).amax(dim=1).numpy()
    correct = predicted == true
    with warnings.catch_warnings():
        # It warns of a class that is predicted, but has no test image.
        warnings.simplefilter("ignore", UserWarning)
        balanced = balanced_accuracy_score(true, predicted)
    percents = (
        correct.sum() / len(true),
        balanced,
        f1_score(true, predicted, labels=np.unique(true), average="macro", zero_division=0),
        calibration_error(confidences, correct),
    )
    accuracy, balanced, f1, error = (f"{100 * share:.4f}" for share in percents)
    likelihood = f"{cross_entropy(logits, labels).item():.6g}"
    return {
        ACCURACY: accuracy,
        **dict(zip(METRICS, (balanced, f1, likelihood, error), strict=True)),
    }


def calibration_error(confidences: np.ndarray, correct: np.ndarray) -> float:
    """The expected calibration error, with 15 equal bins of confidence (Guo et al., ICML 2017).

    Args:
        confidences: the likeliest class's probability of each image, (N,).
        correct: whether that is its class, (N,) bool.

    Returns:
        `Σ_b n_b/N · |accuracy in b − mean confidence in b|`, from 0 to 1.
    """
    bins = np.ceil(confidences * BINS).astype(np.int64)  # ((b − 1)/15, b/15] is bin b
    gaps = np.bincount(bins, weights=correct - confidences)
    return float(np.abs(gaps).sum() / len(confidences))
