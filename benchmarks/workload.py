"""What is trained and scored in the measurements: the paper's CIFAR-10 step, on random bytes."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tod.config import Config, load

NUM_CLASSES = 10


class Workload(NamedTuple):
    """An epoch over the first `num_labeled` images, and scores of all of them."""

    config: Config
    pixels: np.ndarray  # (N, 32, 32, 3) uint8
    labels: Tensor  # (N,)
    num_labeled: int
    device: torch.device
    auxiliary: str = "NONE"


def workload(
    width: int, batch_size: int, num_images: int, num_labeled: int, device: torch.device
) -> Workload:
    """An epoch of CIFAR-10's configuration on a network of this width."""
    overrides = (
        f"model.width={width}",
        f"training.batch_size={batch_size}",
        "training.epochs=1",
        "training.milestones=[]",
    )
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (num_images, 32, 32, 3), dtype=np.uint8)
    labels = torch.from_numpy(random.integers(0, NUM_CLASSES, num_images))
    config = load("cifar10", overrides)
    return Workload(config, pixels, labels, num_labeled, device)
