"""Predictions of a disturbed network: under dropout, and with noise on its weights."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from models import fold_batch_norm, with_noise
from models.inference import logits_alone, without_tf32
from tod.strategies.pool import Pool

NOISE_DRAWS = 30
NOISE_NORM = 0.001


def logits_under_dropout(pool: Pool, dropout: float, masks: int) -> Iterator[Tensor]:
    """The logits (M, C) under each of so many dropout masks on the features, before the task head.

    The features themselves are computed without dropout.
    """
    kept, device = 1 - dropout, pool.features.device
    generator = pool.torch_generator(device)
    for _ in range(masks):
        draws = torch.rand(pool.features.shape, generator=generator, device=device)
        with torch.inference_mode():
            yield pool.network.task_head(pool.features * (draws < kept) / kept)


def changes_by_noise(pool: Pool) -> Tensor:
    """By how much noise changes the softmax output, by the output's norm, (M, 30·C).

    Li et al., AAAI 2024. Each weight tensor (no biases) gets Gaussian noise whose norm is 0.001 of
    its own, 30 times; each is a pass over the subset, after a clean one.
    """
    generator = pool.torch_generator(torch.device("cpu"))

    def predictions_of(network: nn.Module) -> Tensor:
        (logits,) = pool.compute(network, logits_alone)
        return logits.softmax(dim=1)

    changes = []
    with without_tf32():
        clean = predictions_of(pool.backbone)
        for _ in range(NOISE_DRAWS):
            noisy = fold_batch_norm(with_noise(pool.network, NOISE_NORM, generator))
            changes.append((predictions_of(noisy) - clean) / clean.norm(dim=1, keepdim=True))
    return torch.cat(changes, dim=1)
