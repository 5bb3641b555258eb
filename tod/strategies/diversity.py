"""Picking images one by one so that they differ: k-centre greedy and k-means++ seeding."""

from collections.abc import Iterator

import torch
from torch import Tensor

CENTERS_AT_ONCE = 512
"""25,000 × 512 distances at once are 51 MB."""

DRAWS = 2**31
"""Random numbers for D² sampling are whole numbers below this; so is about the sum of its weights,
and a product of the two fits into 64 bits."""

ROWS = 1024
"""So many distances to all images at a time: 1,024 × 42,500 are 174 MB."""

ROUNDING = 1e-5
"""So large an error of a squared distance, beside a usual one, changes no pick to speak of."""


def off_mps(tensor: Tensor) -> Tensor:
    """The tensor where float64 is known, which it is not on Apple's GPUs."""
    return tensor.cpu() if tensor.device.type == "mps" else tensor


def common_offset(features: Tensor) -> Tensor:
    """What to take off features before their distances, (F,): their mean, where it is large, or 0.

    `‖h − c‖² = ‖h‖² + ‖c‖² − 2 h·c` is as inexact as ‖h‖². Features h, (N, F), that lie around 0,
    as a network's do, stay as they are to the last bit.
    """
    mean = features.mean(dim=0)
    spread = (features - mean).square().sum(dim=1).mean()
    error = torch.finfo(features.dtype).eps * mean.square().sum()
    return torch.where(error > ROUNDING * spread, mean, torch.zeros_like(mean))


@torch.inference_mode()
def squared_distances(centers: Tensor, features: Tensor) -> Iterator[Tensor]:
    """‖c − h‖² between centres (M, F) and features (N, F), in blocks of rows (m, N)."""
    offset = common_offset(features)
    features, centers = features - offset, centers - offset
    norms = features.square().sum(dim=1)
    for block in centers.split(ROWS):
        own = block.square().sum(dim=1, keepdim=True)
        yield torch.addmm(norms, block, features.T, alpha=-2).add_(own).clamp_min_(0)


@torch.inference_mode()
def squared_distances_to_others(features: Tensor) -> Iterator[Tensor]:
    """‖h − h′‖² between features (N, F), in blocks of rows (m, N); infinite of each to itself."""
    start = 0
    for block in squared_distances(features, features):
        block.diagonal(start).fill_(torch.inf)
        start += len(block)
        yield block


@torch.inference_mode()
def nearest_squared_distances(features: Tensor, centers: Tensor) -> Tensor:
    """`min_c ‖h − c‖²`, (M,), of features h, (M, F), to the nearest of the centres c, (L, F)."""
    offset = common_offset(features)
    features, centers = features - offset, centers - offset
    nearest = torch.full_like(features[:, 0], torch.inf)
    for chunk in centers.split(CENTERS_AT_ONCE) if len(centers) else ():
        # ‖h − c‖² = ‖h‖² + ‖c‖² − 2 h·c, of which ‖h‖² is the same for all centres.
        without_own = torch.addmm(chunk.square().sum(dim=1), features, chunk.T, alpha=-2)
        nearest = torch.minimum(nearest, without_own.amin(dim=1))
    return (nearest + features.square().sum(dim=1)).clamp_min(0)


@torch.inference_mode()
def k_center_greedy(features: Tensor, nearest: Tensor, query_size: int) -> Tensor:
    """Picks, time and again, the image farthest from all centres, which becomes one itself.

    Sener & Savarese, ICLR 2018, algorithm 1. It takes one matrix-vector product a pick, and never
    waits for the device. Features (M, F), and their squared distances to the nearest centre that
    there is, (M,) → positions among the M images in the order picked, (query_size,) int64; of
    equally far images, the first is picked.
    """
    features = features - common_offset(features)
    norms = features.square().sum(dim=1)
    picked = []
    for _ in range(query_size):
        position = nearest.argmax(dim=0, keepdim=True)
        picked.append(position)
        products = features @ features[position].squeeze(0)
        distances = (norms + norms[position] - 2 * products).clamp_min(0)
        # Below every distance, so that no image is picked twice.
        nearest = torch.minimum(nearest, distances).index_fill_(0, position, -1)
    return torch.cat(picked)


@torch.inference_mode()
def k_means_plus_plus(gradients: Tensor, features: Tensor, draws: Tensor) -> Tensor:
    """k-means++ seeding on gradient embeddings `g = a ⊗ h` (Arthur & Vassilvitskii, SODA 2007).

    The first image is picked uniformly, each further one with a probability in proportion to its
    squared distance to the nearest one picked (D² sampling). The embeddings, (M, C·F), are never
    made: `‖g − g'‖² = ‖a‖²·‖h‖² + ‖a'‖²·‖h'‖² − 2·(a·a')·(h·h')`.

    Args:
        gradients: a, the loss's gradient with respect to the logits, (M, C).
        features: h, (M, F).
        draws: a uniform whole number from 0 to 2³¹ − 1 for each pick, (query_size,) int64.

    Returns:
        Positions among the M images in the order picked, (query_size,) int64, all different.
    """
    norms = gradients.square().sum(dim=1) * features.square().sum(dim=1)
    nearest = torch.full_like(norms, torch.inf)
    unpicked = torch.ones_like(norms, dtype=torch.int64)
    weights = unpicked
    picked = []
    for draw in draws.split(1):
        # Whole numbers add up exactly on every device, so that a weight of 0 is never drawn.
        cumulative = weights.cumsum(dim=0)
        threshold = draw * cumulative[-1] // DRAWS
        position = torch.searchsorted(cumulative, threshold, right=True)
        picked.append(position)
        products = (gradients @ gradients[position].squeeze(0)) * (
            features @ features[position].squeeze(0)
        )
        distances = (norms + norms[position] - 2 * products).clamp_min(0)
        nearest = torch.minimum(nearest, distances).index_fill_(0, position, 0)
        unpicked = unpicked.index_fill(0, position, 0)
        # Each unpicked image gets 1 more, M / 2³¹ in all, for where all distances are 0.
        shares = nearest / nearest.sum().clamp_min(torch.finfo(nearest.dtype).tiny)
        weights = (shares * DRAWS).long() + unpicked
    return torch.cat(picked)
