"""Batches against the published transforms: crop from zero padding, flip, normalise."""

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as reference

from tests.support.harness import DEVICE
from tod.config.schema import Augmentation
from tod.data.batches import FeatureBatches, ImageBatches

MEAN, STD = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2023, 0.1994, 0.2010])


def batches(pixels, flip=True, padding=4, device="cpu", rows=None) -> ImageBatches:
    augmentation = Augmentation(flip=flip, crop_padding=padding)
    return ImageBatches(pixels, MEAN, STD, augmentation, torch.device(device), rows=rows)


@pytest.fixture
def pixels() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (50, 3, 32, 32), dtype=torch.uint8, generator=generator)


def normalised(image: torch.Tensor) -> torch.Tensor:
    return reference.normalize(image.float() / 255, MEAN.tolist(), STD.tolist())


def test_views_equal_the_published_transforms(pixels):
    views = batches(pixels).random_views(np.arange(50).repeat(4), np.random.default_rng(0))
    found = batches(pixels).augmented(views)
    for view, image in zip(views.tolist(), found, strict=True):
        index, flip, top, left = view
        expected = reference.crop(reference.pad(pixels[index], [4] * 4), top, left, 32, 32)
        expected = reference.hflip(expected) if flip else expected
        torch.testing.assert_close(image, normalised(expected), rtol=1e-5, atol=1e-6)


def test_plain_batches_are_only_normalised(pixels):
    found = batches(pixels).plain(torch.tensor([3, 1]))
    torch.testing.assert_close(found, normalised(pixels[[3, 1]]), rtol=1e-5, atol=1e-6)


def test_every_offset_and_both_flips_are_equally_likely_and_each_image_has_its_own():
    n = 81_000
    pixels = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    views = batches(pixels).random_views(np.zeros(n, dtype=np.int64), np.random.default_rng(1))
    assert views[:, 1].float().mean().item() == pytest.approx(0.5, abs=0.01)
    offsets = torch.bincount(9 * views[:, 2] + views[:, 3], minlength=81)
    # 1,000 expected at each of the 81 offsets, with a standard deviation of 31.
    assert len(offsets) == 81
    assert 850 < offsets.min() <= offsets.max() < 1150
    # Flip and offsets are drawn independently of each other and of the neighbour in the batch.
    correlations = np.corrcoef(torch.cat([views[:-1, 1:], views[1:, 1:]], dim=1).T.double())
    assert np.abs(correlations - np.eye(6)).max() < 0.02


def test_what_is_switched_off_does_not_happen(pixels):
    views = batches(pixels, False, 0).random_views(np.arange(50), np.random.default_rng(0))
    found = batches(pixels, False, 0).augmented(views)
    assert torch.equal(found, batches(pixels).plain(torch.arange(50)))


def test_images_need_not_be_square(pixels):
    wide = pixels[:, :, :20]
    (found,) = batches(wide).augmented(torch.tensor([[0, 1, 4, 4]]))
    torch.testing.assert_close(found, normalised(wide[0].flip(2)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device", sorted({"cpu", DEVICE}))
def test_some_of_the_stored_images_give_the_batches_of_their_copies(pixels, device):
    rows = torch.tensor([7, 3, 40, 3, 11, 49])
    both = batches(pixels, device=device, rows=rows), batches(pixels[rows], device=device)
    views = both[0].random_views(np.array([5, 0, 2, 2, 1]), np.random.default_rng(0))
    assert torch.equal(*(of.augmented(of.to_device(views)) for of in both))
    assert torch.equal(*(of.plain(of.to_device(torch.tensor([4, 0, 5]))) for of in both))


@pytest.mark.parametrize("device", sorted({"cpu", DEVICE}))
def test_batches_of_features_are_rows_of_unit_length(device):
    stored, rows = torch.randn(9, 5) * 100, torch.tensor([7, 3, 3, 0])
    batches = FeatureBatches(stored, rows, torch.device(device))
    views = batches.random_views(np.array([3, 0, 1]), np.random.default_rng(0))
    expected = stored[[0, 7, 3]] / stored[[0, 7, 3]].norm(dim=1, keepdim=True)
    for found in (
        batches.augmented(batches.to_device(views)),
        batches.plain(batches.to_device(torch.tensor([3, 0, 1]))),
    ):
        torch.testing.assert_close(found.cpu(), expected)
