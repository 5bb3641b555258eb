"""What holds for every dataset once it has been read."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support import formats
from tests.support.loading import load, refusal
from tests.support.pictures import write_classes
from tod.data import Dataset, ImageSet


@pytest.mark.parametrize("name", ["digits", "image_folder"])
def test_statistics_are_those_of_the_training_pixels(tmp_path, name):
    formats.write_image_folder(tmp_path)
    dataset = load(name, tmp_path)
    pixels = dataset.train.pixels.numpy() / 255
    np.testing.assert_allclose(dataset.mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(dataset.std, pixels.std(axis=(0, 2, 3)), rtol=1e-6)


def test_a_channel_without_contrast_keeps_its_scale(tmp_path):
    for place in ("train/a", "train/b", "test/a", "test/b"):
        images = [Image.new("RGB", (32, 32), (number * 50, 7, 9)) for number in range(4)]
        write_classes(tmp_path, {f"{place}/{n}.png": image for n, image in enumerate(images)})
    dataset = load("image_folder", tmp_path)
    assert dataset.std[0] < 1
    assert dataset.std[1:].tolist() == [1, 1]


@pytest.mark.parametrize("name", ["cifar10", "svhn", "image_folder"])
def test_too_few_images_for_the_configured_labels_are_refused(tmp_path, name):
    getattr(formats, f"write_{name}")(tmp_path)
    count = len(load(name, tmp_path).train)
    load(name, tmp_path, f"active_learning.initial_labels={count - 4}")
    message = refusal(name, tmp_path, f"active_learning.initial_labels={count - 3}")
    assert f"there are {count} training images" in message


def test_a_subset_is_its_images_and_copies_none():
    random = np.random.default_rng(0)
    stored = torch.from_numpy(random.integers(0, 256, (9, 3, 4, 4), dtype=np.uint8))
    images = ImageSet(stored, torch.arange(9), [f"{n}.png" for n in range(9)])
    subset = images.subset([8, 2, 5]).subset([2, 0])
    assert subset.stored.data_ptr() == images.stored.data_ptr()
    assert torch.equal(subset.pixels, stored[[5, 8]])
    assert subset.labels.tolist() == [5, 8]
    assert subset.names == ["5.png", "8.png"]
    np.testing.assert_array_equal(subset.image(1), stored[8])
    chunks = np.concatenate([*subset.chunks()])
    np.testing.assert_array_equal(chunks, subset.pixels.permute(0, 2, 3, 1))
    copied = ImageSet(stored[[5, 8]], torch.tensor([5, 8]))
    parts = [Dataset(part, part, [], torch.zeros(3), torch.ones(3)) for part in (subset, copied)]
    assert parts[0].fingerprint() == parts[1].fingerprint()
