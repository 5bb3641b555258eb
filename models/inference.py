"""Passes of a network over images, without gradients."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

OfOutputs = Callable[[Any], tuple[Tensor, ...]]
"""What of a network's outputs for n images is kept: tensors (n, …)."""


@torch.inference_mode()
def outputs_of(
    network: nn.Module, of_outputs: OfOutputs, batches: Iterable[Tensor]
) -> list[tuple[Tensor, ...]]:
    """What a network, in evaluation mode, gives for each batch (n, 3, H, W)."""
    network.eval()
    return [of_outputs(network(images)) for images in batches]


def joined(found: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """The same tensors for all batches, (N, …)."""
    return tuple(map(torch.cat, zip(*found, strict=True)))


def logits_alone(outputs: Sequence[Any]) -> tuple[Tensor, ...]:
    """Of a backbone's outputs, the logits."""
    return tuple(outputs[:1])


def logits_and_features(outputs: Sequence[Any]) -> tuple[Tensor, ...]:
    """Of a backbone's outputs, the logits and the features."""
    return outputs[0], outputs[2]


def allow_tf32(allowed: bool) -> None:
    """Whether CUDA may round the inputs of fp32 products and convolutions to TF32's 10 bits."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


@contextmanager
def without_tf32() -> Iterator[None]:
    """Computes in fp32 what is smaller than TF32's rounding."""
    flags = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [each.allow_tf32 for each in flags]
    allow_tf32(False)
    try:
        yield
    finally:
        for each, allowed in zip(flags, before, strict=True):
            each.allow_tf32 = allowed
