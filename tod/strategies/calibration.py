"""How far a network's confidence is from its accuracy, and the temperature that mends it."""

import numpy as np
import torch
from torch import Tensor

from tod.strategies.clusters import fitting

BINS = 15
HELD_OUT = 0.3
TEMPERATURES = torch.arange(10, 200) / 10
"""1.0 to 19.9, of which Uncertainty Herding takes the best."""


def calibration_error(confidences: np.ndarray, correct: np.ndarray) -> float:
    """The expected calibration error, with 15 equal bins of confidence (Guo et al., ICML 2017).

    It is `Σ_b n_b/N · |accuracy in b − mean confidence in b|`, from 0 to 1. `confidences` are the
    probabilities of the likeliest classes, (N,); `correct` says whether these are right, (N,).
    """
    bins = np.ceil(confidences * BINS).astype(np.int64)  # ((b − 1)/15, b/15] is bin b
    gaps = np.bincount(bins, weights=correct - confidences)
    return float(np.abs(gaps).sum() / len(confidences))


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """Of 1.0, 1.1, … 19.9, the T whose `softmax(logits / T)` is calibrated best.

    Logits are (N, C), the classes (N,); of equally good ones, the lowest.
    """
    correct = (logits.argmax(dim=1) == labels).cpu().numpy()
    errors = [
        calibration_error((logits / T).softmax(dim=1).amax(dim=1).cpu().numpy(), correct)
        for T in TEMPERATURES
    ]
    return float(TEMPERATURES[int(np.argmin(errors))])


def held_out_temperature(
    features: Tensor, labels: Tensor, weight_decay: float, random: np.random.Generator
) -> float:
    """The temperature of a fresh classifier on the 30 % of the images on which it is not trained.

    Bae et al., ICLR 2025. The classifier is the one linear layer on the features (L, F) that has
    the least mean cross-entropy and `weight_decay / 2 · ‖W‖²`. Where these 70 %
    are all of one class, the temperature is 1. Labels are the classes, (L,).
    """
    from sklearn.linear_model import LogisticRegression  # seconds: only a query waits for it

    order = random.permutation(len(features))
    held = round(HELD_OUT * len(features))
    rows, known = features.cpu().numpy(), labels.cpu().numpy()
    train = order[held:]
    num_classes = len(np.unique(known[train]))
    if not held or num_classes < 2:
        return 1.0
    strength = 1 / (len(train) * max(weight_decay, 1e-12))
    # Of two classes it fits w alone, where two rows, w/2 and −w/2, have half the squared norm.
    strength *= 2 if num_classes == 2 else 1
    classifier = LogisticRegression(C=strength, max_iter=1000)
    with fitting():
        classifier.fit(rows[train], known[train])
    scores = classifier.decision_function(rows[order[:held]])
    if scores.ndim == 1:  # of two classes, the second one's alone
        scores = np.stack([0 * scores, scores], axis=1)
    places = np.searchsorted(classifier.classes_, known[order[:held]])
    is_seen = np.isin(known[order[:held]], classifier.classes_)
    places[~is_seen] = -1  # a class that it has not seen is never right
    return best_temperature(torch.from_numpy(scores), torch.from_numpy(places))
