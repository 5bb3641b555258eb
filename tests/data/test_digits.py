"""scikit-learn's digits, which need no download."""

import numpy as np
import torch
from sklearn.datasets import load_digits

from tests.support.loading import load


def test_digits_split_is_stratified_and_the_same_for_every_seed(tmp_path):
    dataset, other = load("digits", tmp_path), load("digits", tmp_path, seed=1)
    assert (len(dataset.train), len(dataset.test)) == (1437, 360)
    assert dataset.train.pixels.shape == (1437, 3, 8, 8)
    assert torch.equal(dataset.train.pixels, other.train.pixels)
    assert torch.equal(dataset.test.labels, other.test.labels)
    counts = np.bincount(load_digits().target)
    np.testing.assert_allclose(dataset.test.labels.bincount(), counts / 5, atol=1)


def test_digits_are_scikit_learns_in_grey(tmp_path):
    dataset = load("digits", tmp_path)
    digits = load_digits()

    def lines(values: np.ndarray, labels: np.ndarray) -> list[list[float]]:
        return sorted(np.column_stack([values.reshape(-1, 64), labels]).tolist())

    pixels = torch.cat([dataset.train.pixels, dataset.test.pixels]).numpy()
    labels = torch.cat([dataset.train.labels, dataset.test.labels])
    for channel in range(3):
        found = lines(np.rint(pixels[:, channel] * (16 / 255)), labels)
        assert found == lines(digits.images, digits.target)
    assert (pixels.min(), pixels.max()) == (0, 255)
