"""What is trained and scored in the measurements: the paper's CIFAR-10 step, on random bytes."""

import numpy as np
import torch
from torch import Tensor

from tod.config import Config, load

NUM_CLASSES = 10


def one_epoch(width: int, batch_size: int) -> Config:
    """CIFAR-10's configuration, for a single epoch on a network of this width."""
    overrides = (
        f"model.width={width}",
        f"training.batch_size={batch_size}",
        "training.epochs=1",
        "training.milestones=[]",
    )
    return load("cifar10", overrides)


def random_images(count: int) -> tuple[np.ndarray, Tensor]:
    """Pixels (count, 32, 32, 3) uint8 and labels (count,); their content costs nothing."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return pixels, torch.from_numpy(random.integers(0, NUM_CLASSES, count))
