"""What a sampling strategy may look at, and what it answers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from losses import task_losses
from models import Outputs
from models.inference import OfOutputs, features_alone, joined, logits_alone, outputs_of
from models.lossnet import LossNet
from tod.config import Config

Batches = Callable[[], Iterator[Tensor]]
"""Gives the same images anew at each call, in batches (N, 3, H, W)."""


class Query(NamedTuple):
    """What a strategy chose.

    Attributes:
        indices: of the queried images, (query_size,), in the order queried.
        scores: one for each image of the subset, (M,), in the subset's order.
        best_last: whether the order ends with the image that matters most, and not begins with it.
    """

    indices: np.ndarray
    scores: np.ndarray
    best_last: bool = False

    @property
    def best_first(self) -> np.ndarray:
        """The queried images, (query_size,), beginning with the one that matters most."""
        return self.indices[::-1] if self.best_last else self.indices


def run_here(network: nn.Module, of_outputs: OfOutputs, batches: Batches) -> tuple[Tensor, ...]:
    """What `of_outputs` keeps of a network's outputs for all images of the batches, (N, …)."""
    return joined(outputs_of(network, of_outputs, batches()))


@dataclass
class Pool:
    """What a strategy may look at: a random subset of the unlabelled images, and the networks.

    All networks are in evaluation mode. Each property is computed when it is first asked for, and
    kept; values may be infinite or NaN where training diverges.

    Attributes:
        cycle: from 1.
        subset: indices of the images to score, (M,).
        labels: their classes, (M,), on the networks' device; only an oracle may look at them.
        batches: gives the subset's images anew at each call, in batches (N, 3, H, W).
        labeled_batches: the same for the L labelled images.
        backbone: the network at the end of this cycle.
        previous: the network at the end of the previous cycle; in the first, an untrained one.
        network: the backbone as it is trained, whose batch norm has not been folded away.
        modules: the networks that the auxiliary loss has trained, by name.
        random: for what the strategy draws.
        given_features: those of `--features`, of the subset (M, F) and of the labelled (L, F).
        run: takes a network over batches, as `compute` does.
    """

    config: Config
    cycle: int
    subset: np.ndarray
    labels: Tensor
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
        """How many images are to be queried."""
        return self.config.active_learning.query_size

    @property
    def logits(self) -> Tensor:
        """f(x; w_c), (M, C)."""
        return self._outputs[0]

    @property
    def consistency_logits(self) -> Tensor:
        """What the second head gives, (M, C)."""
        return self._outputs[1]

    @property
    def features(self) -> Tensor:
        """What the heads see, (M, F)."""
        return self._outputs[2]

    @property
    def predictions(self) -> Tensor:
        """What the auxiliary loss's module gives: LL4AL's losses (M,), TiDAL's logits (M, C)."""
        return self._outputs[3]

    @property
    def true_losses(self) -> Tensor:
        """The task loss of each image, (M,), which only an oracle can know."""
        return task_losses(self.logits, self.labels)

    @cached_property
    def previous_logits(self) -> Tensor:
        """f(x; w_{c−1}), (M, C)."""
        return self.compute(self.previous, logits_alone)[0]

    @cached_property
    def labeled_features(self) -> Tensor:
        """The features of the labelled images, (L, F)."""
        return self.compute(self.backbone, features_alone, self.labeled_batches)[0]

    @property
    def representation(self) -> tuple[Tensor, Tensor]:
        """What images are alike by, of the subset (M, F) and of the labelled (L, F): features that
        the user has given, or else the network's.
        """
        return self.given_features or (self.features, self.labeled_features)

    @cached_property
    def _outputs(self) -> tuple[Tensor, ...]:
        lossnets = [m for m in self.modules.values() if isinstance(m, LossNet)]
        return self.compute(self.backbone, partial(_without_maps, lossnets))

    def compute(
        self, network: nn.Module, of_outputs: OfOutputs, batches: Batches | None = None
    ) -> tuple[Tensor, ...]:
        """One pass of a network over the subset, or over other `batches`: what `of_outputs` makes
        of a batch's logits, consistency logits, features and feature maps, for all images, (M, …).
        """
        for each in (network, *self.modules.values()):
            each.eval()
        return self.run(network, of_outputs, batches or self.batches)


def _without_maps(lossnets: Sequence[LossNet], outputs: Outputs) -> tuple[Tensor, ...]:
    """Of a backbone's outputs, all but the feature maps, and what loss-prediction modules give."""
    *others, feature_maps = outputs
    return (*others, *(lossnet(feature_maps) for lossnet in lossnets))
