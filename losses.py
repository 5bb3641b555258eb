"""The task, COD and ranking losses, and the auxiliary losses that training combines them into."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import NetworkFactory, Outputs
from models.lossnet import DynamicsNet, LossNet
from tod.config import Config
from utils import update_ema


def task_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each image: logits (N, C), labels (N,) → (N,). The task loss is its mean."""
    return F.cross_entropy(logits, labels, reduction="none")


def cod_loss(logits: Tensor, consistency_logits: Tensor, ema_logits: Tensor) -> Tensor:
    """The COD loss of one batch, without its weight λ (Huang et al., ICCV 2021, section 3.3).

    MSE(logits, consistency logits) + MSE(consistency logits, ema logits): each (N, C), averaged
    over all N·C elements. The teacher's `ema_logits` are taken as constants.
    """
    return F.mse_loss(logits, consistency_logits) + F.mse_loss(
        consistency_logits, ema_logits.detach()
    )


def ranking_loss(predicted_loss: Tensor, target_loss: Tensor, margin: float = 1.0) -> Tensor:
    """LL4AL's loss for the loss-prediction module (Yoo & Kweon, CVPR 2019, equation 2).

    Image i is paired with image N−1−i; the middle one of an odd batch is left out. A pair costs
    `max(0, ξ − s·(l̂_i − l̂_j))` with s = +1 where l_i > l_j and −1 elsewhere, ties included; the
    loss is the mean over the N // 2 pairs, 0 where there is none.

    Args:
        predicted_loss: l̂, (N,).
        target_loss: l, (N,), the true losses, taken as constants.
        margin: ξ.
    """
    if predicted_loss.shape != target_loss.shape or predicted_loss.ndim != 1:
        raise ValueError(
            "predicted and target losses must both be (N,), "
            f"not {tuple(predicted_loss.shape)} and {tuple(target_loss.shape)}"
        )
    pairs = len(predicted_loss) // 2
    if pairs == 0:
        return 0.0 * predicted_loss.sum()

    def difference(values: Tensor) -> Tensor:
        return values[:pairs] - values.flip(0)[:pairs]

    sign = 2.0 * (difference(target_loss.detach()) > 0).to(predicted_loss.dtype) - 1.0
    return F.relu(margin - sign * difference(predicted_loss)).mean()


class Step(NamedTuple):
    """The input of an auxiliary loss in one step.

    Attributes:
        epoch: of this cycle, from 0: a tensor () on the device, since a CUDA graph would replay a
            number for ever.
        indices: the training set indices of the labelled batch, and of the unlabelled one if there
            is one; (N,) each.
        outputs: of the backbone, in training mode, for the same batches.
        losses: the task loss of each labelled image, (N,).
        targets: from `AuxiliaryLoss.targets`, for the same batches, without gradients.
        predictions: from `AuxiliaryLoss.predictions`, with gradients.
    """

    epoch: Tensor
    indices: Sequence[Tensor]
    outputs: Sequence[Outputs]
    losses: Tensor
    targets: Sequence[Tensor] = ()
    predictions: Sequence[Tensor] = ()


class AuxiliaryLoss(ABC):
    """A loss that is added to the task loss, with the networks that it needs.

    Attributes:
        weight: of the sum of its parts in the total loss.
        parts: the names of its parts.
        uses_unlabeled_images: whether a step also has an unlabelled batch.
        repeats_unlabeled_batch: whether all steps of a trial's first cycle have the same one.
        decays_modules: whether the learning rate of its networks falls with the backbone's.
        advice: what else to try when training diverges.
        memory: holds buffers (`register_buffer`) with a row for each training image, which survive
            kills, images that come and go, several ranks and CUDA graphs.
    """

    weight = 1.0
    parts: tuple[str, ...] = ()
    uses_unlabeled_images = False
    repeats_unlabeled_batch = False
    decays_modules = False
    advice = ""

    def __init__(self, config: Config, networks: NetworkFactory) -> None:
        self.config = config
        self.memory = nn.Module()

    def targets(self, batches: Sequence[Tensor]) -> Sequence[Tensor]:
        """The constants of the loss, computed without gradients while the backbone runs.

        The labelled images, and the unlabelled ones if there are any, each (N, 3, H, W) → a tensor
        (N, …) for each batch, or nothing.
        """
        return []

    def predictions(self, outputs: Sequence[Outputs]) -> Sequence[Tensor]:
        """The outputs of the loss's own networks, with gradients.

        These run here and not in `losses`, since ranks that share a batch run them on their own
        images each, and `losses` sees the outputs of all. The backbone's outputs for the batches
        (without history in epochs in which the loss does not train it) → a tensor (N, …) for each
        batch, for the first one alone, or nothing.
        """
        return []

    @abstractmethod
    def losses(self, step: Step) -> Sequence[Tensor]:
        """The parts of the loss of one step, scalars without their weight.

        If several ranks share a batch, `step` is the whole batch's, without feature maps, which
        only `predictions` sees. The loss must not use parameters, whose gradients the ranks add up.
        """

    def trains_backbone(self, epoch: int) -> bool:
        """Whether the gradient of the loss reaches the backbone in this epoch, counted from 0."""
        return True

    def after_step(self, backbone: nn.Module) -> None:  # noqa: B027 - few need it
        """Called after each step of the optimisers."""

    def modules(self) -> dict[str, nn.Module]:
        """The networks that the loss trains, by their names in the published checkpoints."""
        return {}

    def networks(self) -> Sequence[nn.Module]:
        """All networks that a step runs or changes, except the backbone."""
        return [*self.modules().values(), self.memory]

    def _kept(self) -> dict[str, nn.Module]:
        return self.modules() | ({"memory": self.memory} if [*self.memory.buffers()] else {})

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs."""
        return {name: network.state_dict() for name, network in self._kept().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a `state_dict`."""
        for name, network in self._kept().items():
            network.load_state_dict(state[name])


class NoAuxiliary(AuxiliaryLoss):
    """The task loss alone."""

    def losses(self, step: Step) -> Sequence[Tensor]:
        return []


class CODLoss(AuxiliaryLoss):
    """TOD's semi-supervised loss, with its EMA teacher (Huang et al., ICCV 2021, section 3.3)."""

    parts = ("cod_labeled", "cod_unlabeled")
    uses_unlabeled_images = True
    advice = " or a smaller cod.weight"

    def __init__(self, config: Config, networks: NetworkFactory) -> None:
        super().__init__(config, networks)
        self.weight = config.cod.weight  # λ
        self.repeats_unlabeled_batch = config.cod.fixed_batch_in_first_cycle
        self.teacher = networks.backbone("teacher").train()
        self.steps_taken = 0

    def targets(self, batches: Sequence[Tensor]) -> Sequence[Tensor]:
        """The EMA logits of each batch."""
        return [self.teacher(images)[0] for images in batches]

    def losses(self, step: Step) -> Sequence[Tensor]:
        """The COD loss of the labelled batch, and of the unlabelled one if there is one."""
        return [
            cod_loss(logits, consistency_logits, ema_logits)
            for (logits, consistency_logits, *_), ema_logits in zip(
                step.outputs, step.targets, strict=True
            )
        ]

    def after_step(self, backbone: nn.Module) -> None:
        self.steps_taken += 1
        update_ema(self.teacher, backbone, self.steps_taken, self.config.cod.ema_decay)

    def networks(self) -> Sequence[nn.Module]:
        return [self.teacher]

    def state_dict(self) -> dict[str, Any]:
        return {"teacher": self.teacher.state_dict(), "steps_taken": self.steps_taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.teacher.load_state_dict(state["teacher"])
        self.steps_taken = state["steps_taken"]


class LossPrediction(AuxiliaryLoss):
    """LL4AL's loss-prediction module, trained beside the backbone (Yoo & Kweon, CVPR 2019)."""

    parts = ("ranking",)
    advice = " or a smaller ll4al.weight"

    def __init__(self, config: Config, networks: NetworkFactory) -> None:
        super().__init__(config, networks)
        self.weight = config.ll4al.weight
        self.lossnet = networks.module("lossnet", LossNet).train()

    def trains_backbone(self, epoch: int) -> bool:
        return epoch <= self.config.ll4al.detach_epoch

    def predictions(self, outputs: Sequence[Outputs]) -> Sequence[Tensor]:
        """The predicted losses of the labelled batch."""
        _, _, _, feature_maps = outputs[0]
        return [self.lossnet(feature_maps)]

    def losses(self, step: Step) -> Sequence[Tensor]:
        """The ranking loss of the labelled batch."""
        # Cross-entropy is computed in fp32 under autocast; so is what is compared with it.
        predicted_losses = step.predictions[0].to(step.losses.dtype)
        return [ranking_loss(predicted_losses, step.losses, self.config.ll4al.margin)]

    def modules(self) -> dict[str, nn.Module]:
        return {"module": self.lossnet}


class DetachedLossPrediction(LossPrediction):
    """The loss-prediction module alone: its loss never reaches the backbone."""

    def trains_backbone(self, epoch: int) -> bool:
        return False


class TrainingDynamics(AuxiliaryLoss):
    """TiDAL's module learns the mean of an image's predictions in a cycle (Kye et al., ICCV 2023).

    In epoch e, from 0, `p̄ ← (p̄ · e + softmax(f)) / (e + 1)` for each labelled image.
    """

    parts = ("dynamics",)
    decays_modules = True

    def __init__(self, config: Config, networks: NetworkFactory) -> None:
        super().__init__(config, networks)
        classes = networks.num_classes
        self.module = networks.module("dynamics", partial(DynamicsNet, num_classes=classes))
        mean = torch.zeros(networks.num_images, classes, device=networks.device)
        self.memory.register_buffer("mean_predictions", mean)

    def predictions(self, outputs: Sequence[Outputs]) -> Sequence[Tensor]:
        """The module's logits of the labelled batch."""
        _, _, _, feature_maps = outputs[0]
        return [self.module(feature_maps)]

    def losses(self, step: Step) -> Sequence[Tensor]:
        """KL(p̄ ‖ softmax of the module), the mean over the labelled batch; p̄ is a constant."""
        memory, (images, *_) = self.memory.mean_predictions, step.indices
        now = step.outputs[0][0].detach().to(memory.dtype).softmax(dim=1)
        mean = (memory[images] * step.epoch + now) / (step.epoch + 1)
        memory[images] = mean
        predicted = step.predictions[0].to(memory.dtype).log_softmax(dim=1)
        return [F.kl_div(predicted, mean, reduction="batchmean")]

    def modules(self) -> dict[str, nn.Module]:
        return {"module": self.module}
