"""Labels that are perhaps wrong."""

from typing import NamedTuple

import numpy as np

from tod.strategies.clusters import fitting

FOLDS = 5


class Suspects(NamedTuple):
    """The labels that predictions contradict, the most doubtful first.

    Attributes:
        places: of these labels among all, (S,).
        suggested: the class that is predicted instead, (S,).
        probability: of the label, out of sample, (S,), ascending.
    """

    places: np.ndarray
    suggested: np.ndarray
    probability: np.ndarray


def suspects(features: np.ndarray, labels: np.ndarray) -> Suspects:
    """The labels (N,) that a logistic regression on the features (N, F) contradicts out of sample.

    Each label is predicted by a regression, on features of unit length, that has seen the other
    four fifths; the less probable, the more doubtful: self-confidence (Northcutt et al., JAIR
    2021), without thresholds for the classes. A class with a single label is left out: without this
    label, nothing is known of the class.
    """
    counts = np.bincount(labels)
    places = np.flatnonzero(counts[labels] > 1)
    labels = labels[places]
    if len(np.unique(labels)) < 2:
        nothing = np.empty(0, np.int64)
        return Suspects(nothing, nothing, np.empty(0))
    probabilities = out_of_sample(features[places], labels)
    classes, column = np.unique(labels, return_inverse=True)
    own = probabilities[np.arange(len(labels)), column]
    predicted = classes[probabilities.argmax(axis=1)]
    order = np.argsort(own, kind="stable")
    order = order[predicted[order] != labels[order]]
    return Suspects(places[order], predicted[order], own[order])


def out_of_sample(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The probabilities (N, C) of each image, by a regression that has not seen its label.

    C counts the classes that there are, in order; each has two labels or more.
    """
    # These take seconds to import.
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import PredefinedSplit, cross_val_predict
    from sklearn.preprocessing import normalize

    # A class of two labels or more is in several folds, so that every regression knows it.
    folds = np.empty(len(labels), np.int64)
    folds[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % FOLDS
    with fitting():
        return cross_val_predict(
            LogisticRegression(C=10.0, max_iter=1000),
            normalize(features),
            labels,
            cv=PredefinedSplit(folds),
            method="predict_proba",
        )
