"""Seeds, and the EMA teacher's update."""

import zlib

import numpy as np
import torch
from torch import nn


def random_generator(seed: int, purpose: str, *place: int) -> np.random.Generator:
    """The random numbers for one purpose at one place (trial, cycle, epoch …) of a run.

    Each place has a stream of its own, so nothing depends on what was drawn elsewhere: trials and
    strategies can be compared pairwise, and an epoch can be repeated without the ones before it.
    """
    key = (zlib.crc32(purpose.encode()), *place)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def seed_torch(seed: int, purpose: str, *place: int) -> None:
    """Seeds PyTorch's global generator, which initialises networks, for one purpose and place."""
    torch.manual_seed(int(random_generator(seed, purpose, *place).integers(2**63)))


@torch.no_grad()
def update_ema(ema_model: nn.Module, model: nn.Module, step: int, decay: float = 0.999) -> None:
    """Moves the teacher's parameters towards the backbone's (Huang et al., ICCV 2021, section 3.3).

    `w_ema ← α·w_ema + (1−α)·w` with α = min(1 − 1/(step + 1), decay). Buffers stay: the teacher's
    batch-norm statistics are its own.

    Args:
        ema_model: the teacher, changed in place.
        model: the backbone, of the same architecture.
        step: the optimiser steps taken in this trial, from 1.
        decay: the largest α.
    """
    alpha = min(1.0 - 1.0 / (step + 1), decay)
    # One call for all parameters.
    torch._foreach_lerp_(list(ema_model.parameters()), list(model.parameters()), 1.0 - alpha)
