"""Metrics of the test set, and whether a network has learnt anything."""

import warnings
from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.nn.functional import cross_entropy

from tod.analysis.results import ACCURACY, FEW_IMAGES, METRICS, accuracy_interval
from tod.strategies.calibration import calibration_error

PATIENCE = 3
"""The number of cycles without a higher accuracy that count as a standstill."""
NEARLY_SOLVED = 95.0
"""A trial that may have reached this accuracy in % has little left to learn: no standstill."""


def metrics_of_test_set(logits: Tensor, labels: Tensor) -> dict[str, str]:
    """The columns of `results.csv` about the test set, of logits (N, C) and labels (N,).

    All are in %, except `nll`, the mean negative log-likelihood of the true class in nats. Balanced
    accuracy and macro F1 are means over the classes with test images. Without images, the accuracy
    is NaN.
    """
    if len(labels) == 0:
        return {ACCURACY: "nan", **dict.fromkeys(METRICS, "")}
    from sklearn.metrics import balanced_accuracy_score, f1_score  # takes seconds

    logits = logits.double()
    predicted, true = logits.argmax(dim=1).numpy(), labels.numpy()
    confidences = logits.softmax(dim=1).amax(dim=1).numpy()
    correct = predicted == true
    with warnings.catch_warnings():
        # It warns of predicted classes without a test image.
        warnings.simplefilter("ignore", UserWarning)
        balanced = balanced_accuracy_score(true, predicted)
    f1 = f1_score(true, predicted, labels=np.unique(true), average="macro", zero_division=0)
    shares = (correct.mean(), balanced, f1, calibration_error(confidences, correct))
    *percents, error = (f"{100 * share:.4f}" for share in shares)
    likelihood = f"{cross_entropy(logits, labels).item():.6g}"
    return dict(zip((ACCURACY, *METRICS), (*percents, likelihood, error), strict=True))


def why_nothing_seems_learnt(accuracies: Sequence[float], labels: Tensor) -> str:
    """Why the accuracies of a trial's cycles, in %, cast doubt on its learning; '' if they do not.

    Chance is the share of the largest class of the test set, whose labels are (N,).
    """
    count = len(labels)
    if count < FEW_IMAGES:
        return ""
    low, high = accuracy_interval(accuracies[-1], count)
    chance = 100 * labels.bincount().max().item() / count
    if low <= chance:
        return (
            f"an accuracy of {accuracies[-1]:.1f} % on {count:,} images (95 % interval: {low:.1f} "
            f"to {high:.1f} %) is not shown to be better than chance, {chance:.1f} %: the share of "
            "the largest class"
        )
    before, recent = accuracies[:-PATIENCE], accuracies[-PATIENCE:]
    if before and high < NEARLY_SOLVED and max(recent) <= max(before):
        return (
            f"the accuracy has not risen for {PATIENCE} cycles: {max(before):.1f} % before, "
            f"{max(recent):.1f} % at most since then"
        )
    return ""
