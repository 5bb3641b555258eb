"""Pools of a few images whose answers are known."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from tod import config as configuration
from tod.strategies.pool import Pool, Query

FIRST_INDEX = 1000
"""The pool index of the subset's first image, so that indices cannot pass for positions."""


class Table(nn.Module):
    """A backbone whose answers stand in a table; an image is the number of its row."""

    def __init__(self, logits: Tensor, features: Tensor) -> None:
        super().__init__()
        self.answers = logits, features
        self.task_head = nn.Linear(features.shape[1], logits.shape[1])
        self.seen: list[int] = []

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        assert not self.training
        rows = images[:, 0, 0, 0].long()
        self.seen += rows.tolist()
        logits, features = (answer[rows] for answer in self.answers)
        return logits, logits, features, [features[:, :, None, None]] * 4


def pool_of(
    logits: Tensor | None = None,
    features: Tensor | None = None,
    labels: list[int] | None = None,
    labeled_features: Tensor | None = None,
    query_size: int = 1,
    dropout: float = 0.0,
) -> Pool:
    """A pool of which some answers matter and the others are random."""
    settings = (f"active_learning.query_size={query_size}", f"model.dropout={dropout}")
    size = len(features if logits is None else logits)
    random = torch.Generator().manual_seed(size)
    logits = torch.randn(size, 3, generator=random) if logits is None else logits
    features = torch.randn(size, 2, generator=random) if features is None else features
    if labeled_features is None:
        labeled_features = torch.randn(4, features.shape[1], generator=random)
    of_labeled = torch.zeros(len(labeled_features), logits.shape[1])
    backbone = Table(torch.cat([logits, of_labeled]), torch.cat([features, labeled_features]))

    def batches_of_rows(*ends: int) -> Callable:
        images = torch.arange(*ends).view(-1, 1, 1, 1).expand(-1, 3, 1, 1)
        return lambda: iter(images.split(2))

    return Pool(
        config=configuration.load("digits", settings),
        cycle=2,
        subset=FIRST_INDEX + np.arange(size),
        labels=torch.tensor([0] * size if labels is None else labels),
        known_labels=torch.arange(len(labeled_features)) % logits.shape[1],
        batches=batches_of_rows(0, size),
        labeled_batches=batches_of_rows(size, size + len(labeled_features)),
        backbone=backbone,
        previous=nn.Sequential(Table(logits.flip(0), features)),
        network=backbone,
        modules={},
        random=np.random.default_rng(0),
    )


def logits_of(*probabilities: list[float]) -> Tensor:
    return torch.tensor(probabilities).log()


def positions(query: Query) -> list[int]:
    return (query.indices - FIRST_INDEX).tolist()


def slow_farthest_first(features: np.ndarray, centers: np.ndarray, query_size: int) -> list[int]:
    """Positions of what is farthest from all centres, time and again, and becomes one itself."""
    picked: list[int] = []
    for _ in range(query_size):
        taken = [*centers, *features[picked]]
        distances = [min(np.linalg.norm(x - c) for c in taken) for x in features]
        picked.append(int(np.argmax(distances)))
    return picked
