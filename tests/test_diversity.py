"""Picking images that differ: k-means++ seeding, and what it and k-centre greedy need."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tod.diversity import (
    CENTERS_AT_ONCE,
    DRAWS,
    k_center_greedy,
    k_means_plus_plus,
    nearest_squared_distances,
)


def draws_of(*shares: float) -> Tensor:
    return torch.tensor([int(share * DRAWS) for share in shares])


@pytest.mark.parametrize(("share", "picked"), [(0.0, 1), (0.09, 1), (0.11, 2), (0.999999, 2)])
def test_k_means_plus_plus_picks_in_proportion_to_squared_distances(share, picked):
    # From image 0, images 1 and 2 are 1 and 3 away: the probabilities are 1/10 and 9/10.
    features = torch.tensor([[1.0], [2.0], [4.0]])
    order = k_means_plus_plus(torch.ones(3, 1), features, draws_of(0.0, share))
    assert order.tolist() == [0, picked]


def test_k_means_plus_plus_picks_the_first_image_uniformly():
    gradients, features = torch.rand(4, 3), torch.rand(4, 2) * 100
    for share, picked in [(0.0, 0), (0.24, 0), (0.26, 1), (0.51, 2), (0.999999, 3)]:
        assert k_means_plus_plus(gradients, features, draws_of(share)).tolist() == [picked]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.999])
def test_k_means_plus_plus_passes_over_the_twin_of_what_it_picked(share):
    gradients = torch.tensor([[2.0, -2.0], [2.0, -2.0], [2.0, -1.0]])
    features = torch.tensor([[1.0, 3.0], [1.0, 3.0], [1.0, 3.0]])
    # All but one draw in 10⁹, the very first, fall on the third image.
    draws = draws_of(0.0, share + 1e-6)
    assert k_means_plus_plus(gradients, features, draws).tolist() == [0, 2]


def test_k_means_plus_plus_picks_no_image_twice_where_all_are_the_same():
    for value in (0.0, 2.0):
        gradients, features = torch.full((6, 3), value), torch.ones(6, 2)
        order = k_means_plus_plus(gradients, features, draws_of(0.9, 0.9, 0.5, 0.0, 0.7, 0.999))
        assert sorted(order.tolist()) == [0, 1, 2, 3, 4, 5]
        assert order[0] == 5


class LargestTensor(TorchDispatchMode):
    """Remembers how many numbers the largest result of an operation holds."""

    size = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor):
                self.size = max(self.size, tensor.numel())
        return result


def test_core_set_and_badge_need_no_table_of_pairs_and_no_embeddings():
    images, labeled, classes = 3000, 2000, 50
    features, gradients = torch.rand(images, 16), torch.rand(images, classes)
    with LargestTensor() as largest:
        nearest = nearest_squared_distances(features, torch.rand(labeled, 16))
        k_center_greedy(features, nearest, 5)
        k_means_plus_plus(gradients, features, draws_of(0.1, 0.5, 0.9))
    # Far from 3000 × 3000, 3000 × 2000 and 3000 × 50 × 16.
    assert images * classes < largest.size <= images * CENTERS_AT_ONCE
