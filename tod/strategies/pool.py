"""The input of a sampling strategy, `Pool`, and its output, `Query`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from losses import task_losses
from models import Outputs
from models.inference import OfOutputs, joined, logits_alone, logits_and_features, outputs_of
from models.lossnet import LossNet
from tod.config import Config

Batches = Callable[[], Iterator[Tensor]]
"""Returns the same images at each call, in batches (N, 3, H, W)."""


class Query(NamedTuple):
    """The choice of a strategy.

    Attributes:
        indices: of the queried images, (query_size,), in the order queried.
        scores: one for each image of the subset, (M,), in the subset's order.
        best_last: whether the most important image comes last, and not first.
    """

    indices: np.ndarray
    scores: np.ndarray
    best_last: bool = False

    @property
    def best_first(self) -> np.ndarray:
        """The queried images, (query_size,), the most important one first."""
        return self.indices[::-1] if self.best_last else self.indices


def run_here(network: nn.Module, of_outputs: OfOutputs, batches: Batches) -> tuple[Tensor, ...]:
    """What `of_outputs` keeps of a network's outputs, for all images of the batches, (N, …)."""
    return joined(outputs_of(network, of_outputs, batches()))


@dataclass
class Pool:
    """The input of a strategy: a random subset of the unlabelled images, and the networks.

    All networks are in evaluation mode. Each property is computed at its first use and kept; its
    values may be infinite or NaN if training diverges.

    Attributes:
        cycle: from 1.
        subset: indices of the images to score, (M,).
        labels: their classes, (M,), on the networks' device; only an oracle may look at them.
        known_labels: the classes of the L labelled images, (L,), on the networks' device.
        batches: returns the subset's images at each call, in batches (N, 3, H, W).
        labeled_batches: the same for the labelled images.
        backbone: the network at the end of this cycle.
        previous: the network at the end of the previous cycle; in the first, an untrained one.
        network: the backbone as it is trained, with its batch norm.
        modules: the networks that the auxiliary loss has trained, by name.
        random: the generator for the strategy's draws.
        given_features: from `--features`, of the subset (M, F) and the labelled images (L, F).
        run: runs a network over batches; see `compute`.
    """

    config: Config
    cycle: int
    subset: np.ndarray
    labels: Tensor
    known_labels: Tensor
    batches: Batches
    labeled_batches: Batches
    backbone: nn.Module
    previous: nn.Module
    network: nn.Module
    modules: dict[str, nn.Module]
    random: np.random.Generator
    given_features: tuple[Tensor, Tensor] | None = None
    run: Callable[[nn.Module, OfOutputs, Batches], tuple[Tensor, ...]] = run_here

    @property
    def query_size(self) -> int:
        """The number of images to query."""
        return self.config.active_learning.query_size

    @property
    def logits(self) -> Tensor:
        """f(x; w_c), (M, C)."""
        return self._outputs[0]

    @property
    def consistency_logits(self) -> Tensor:
        """The output of the second head, (M, C)."""
        return self._outputs[1]

    @property
    def features(self) -> Tensor:
        """The input of the heads, (M, F)."""
        return self._outputs[2]

    @property
    def predictions(self) -> Tensor:
        """The output of the auxiliary loss's module: LL4AL's losses (M,), TiDAL's logits (M, C)."""
        return self._outputs[3]

    @property
    def true_losses(self) -> Tensor:
        """The task loss of each image, (M,), which only an oracle can know."""
        return task_losses(self.logits, self.labels)

    @cached_property
    def previous_logits(self) -> Tensor:
        """f(x; w_{c−1}), (M, C)."""
        return self.compute(self.previous, logits_alone)[0]

    @property
    def labeled_logits(self) -> Tensor:
        """f(x; w_c) of the labelled images, (L, C)."""
        return self._of_labeled[0]

    @property
    def labeled_features(self) -> Tensor:
        """The features of the labelled images, (L, F)."""
        return self._of_labeled[1]

    @cached_property
    def _of_labeled(self) -> tuple[Tensor, ...]:
        return self.compute(self.backbone, logits_and_features, self.labeled_batches)

    @property
    def representation(self) -> tuple[Tensor, Tensor]:
        """The features by which images are compared, of the subset (M, F) and the labelled (L, F).

        They are the user's, if given, or else the network's.
        """
        return self.given_features or (self.features, self.labeled_features)

    @cached_property
    def _outputs(self) -> tuple[Tensor, ...]:
        lossnets = [m for m in self.modules.values() if isinstance(m, LossNet)]
        return self.compute(self.backbone, partial(_without_maps, lossnets))

    def compute(
        self, network: nn.Module, of_outputs: OfOutputs, batches: Batches | None = None
    ) -> tuple[Tensor, ...]:
        """Runs a network over the subset, or over other `batches`.

        Returns what `of_outputs` makes of a batch's logits, consistency logits, features and
        feature maps, for all images, (M, …).
        """
        for each in (network, *self.modules.values()):
            each.eval()
        return self.run(network, of_outputs, batches or self.batches)

    def torch_generator(self, device: torch.device) -> torch.Generator:
        """A generator for PyTorch's draws, which follows from `random`."""
        return torch.Generator(device).manual_seed(int(self.random.integers(2**63)))


def _without_maps(lossnets: Sequence[LossNet], outputs: Outputs) -> tuple[Tensor, ...]:
    """A backbone's outputs without feature maps, and the outputs of the loss's modules."""
    *others, feature_maps = outputs
    return (*others, *(lossnet(feature_maps) for lossnet in lossnets))
