"""What holds for every dataset once it has been read."""

import numpy as np
import pytest
from PIL import Image

import tod.config
from tests.support import formats
from tests.support.loading import load, refusal


@pytest.mark.parametrize("name", ["digits", "image_folder"])
def test_statistics_are_those_of_the_training_pixels(tmp_path, name):
    formats.write_image_folder(tmp_path)
    dataset = load(name, tmp_path)
    pixels = dataset.train.pixels.numpy() / 255
    np.testing.assert_allclose(dataset.mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(dataset.std, pixels.std(axis=(0, 2, 3)), rtol=1e-6)


def test_a_channel_without_contrast_keeps_its_scale(tmp_path):
    for place in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / place).mkdir(parents=True)
        for number in range(4):
            image = Image.new("RGB", (32, 32), (number * 50, 7, 9))
            image.save(tmp_path / place / f"{number}.png")
    dataset = load("image_folder", tmp_path)
    assert dataset.std[0] < 1
    assert dataset.std[1:].tolist() == [1, 1]


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn"])
def test_the_papers_datasets_are_normalised_as_configured(tmp_path, name):
    getattr(formats, f"write_{name}")(tmp_path)
    dataset = load(name, tmp_path)
    images = tod.config.load(name).images
    assert dataset.mean.tolist() == pytest.approx(images.mean)
    assert dataset.std.tolist() == pytest.approx(images.std)


@pytest.mark.parametrize("name", ["cifar10", "svhn", "image_folder"])
def test_too_few_images_for_the_configured_labels_are_refused(tmp_path, name):
    getattr(formats, f"write_{name}")(tmp_path)
    count = len(load(name, tmp_path).train)
    load(name, tmp_path, f"active_learning.initial_labels={count - 4}")
    message = refusal(name, tmp_path, f"active_learning.initial_labels={count - 3}")
    assert f"there are {count} training images" in message
