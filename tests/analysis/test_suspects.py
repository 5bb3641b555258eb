"""Which labels are perhaps wrong, on clouds of features."""

import numpy as np
import pytest

from tod.analysis.suspects import suspects


def clouds(*counts: int) -> tuple[np.ndarray, np.ndarray]:
    """So many features of each class, around a direction of its own, in a random order."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    noise = np.random.default_rng(1).normal(0, 0.1, (len(labels), 8))
    return (np.eye(8)[labels] + noise).astype(np.float32), labels


def test_wrong_labels_come_first_with_the_class_that_is_meant():
    features, truth = clouds(20, 20, 20)
    wrong = [3, 30, 41]
    labels = truth.copy()
    labels[wrong] = (truth[wrong] + 1) % 3
    found = suspects(features, labels)
    assert sorted(found.places[:3]) == wrong
    np.testing.assert_array_equal(found.suggested[:3], truth[found.places[:3]])
    assert [*found.probability] == sorted(found.probability)
    assert found.probability[:3].max() < 0.5


def test_a_label_does_not_speak_for_itself():
    # In sample, a regression on so many features is right about every label.
    random = np.random.default_rng(0)
    found = suspects(random.normal(size=(40, 500)), np.arange(40) % 2)
    assert len(found.places) > 10


@pytest.mark.parametrize("counts", [(30, 2), (3, 3), (2, 2), (12, 4, 3, 2)])
def test_classes_of_few_labels_are_known_to_each_regression(counts):
    features, labels = clouds(*counts)
    found = suspects(features, labels)
    assert found.probability.min(initial=1) > 0
    labels[np.flatnonzero(labels == 0)[0]] = 1
    if max(counts) > 10:
        assert suspects(features, labels).suggested[0] == 0


@pytest.mark.parametrize("counts", [(), (1,), (5,), (1, 1), (20, 1), (1, 1, 9)])
def test_without_a_second_class_of_two_labels_nothing_is_doubted(counts):
    assert [len(column) for column in suspects(*clouds(*counts))] == [0, 0, 0]


def test_a_class_with_a_single_label_is_left_out_and_changes_nothing():
    features, labels = clouds(20, 20)
    labels[5] = 1 - labels[5]
    alone = suspects(features, labels)
    more = suspects(np.vstack([features, features[:1]]), np.append(labels, 7))
    for before, after in zip(alone, more, strict=True):
        np.testing.assert_array_equal(before, after)
