"""One cycle: epochs of SGD on the labelled images with an auxiliary loss; evaluation."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from augmentation import ImageBatches
from command_line import Run
from configuration import Config, InputError
from cuda_graph import GraphedGradients
from losses import cod_loss, ranking_loss, task_losses
from models import Outputs, build_backbone, build_lossnet
from utils import fastest_memory_format, random_generator, seed_torch, update_ema


def new_backbone(
    run: Run, num_classes: int, device: torch.device, role: str, trial: int
) -> nn.Module:
    """A randomly initialised backbone for one role (backbone, teacher, previous) in a trial."""
    seed_torch(run.seed, role, trial)
    memory_format = fastest_memory_format(device, run.config.model.width)
    return build_backbone(run.config.model, num_classes).to(device, memory_format=memory_format)


def sgd(network: nn.Module, config: Config) -> torch.optim.SGD:
    """The optimiser that every network gets anew in every cycle."""
    settings = config.training
    return torch.optim.SGD(
        network.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        # One call for all parameters.
        fused=next(network.parameters()).device.type in ("cpu", "cuda"),
    )


class Step(NamedTuple):
    """What an auxiliary loss may look at in one step.

    Attributes:
        epoch: of this cycle, from 0.
        images: the labelled batch, (N, 3, H, W).
        outputs: what the backbone, in training mode, gave for it.
        losses: the task loss of each of its images, (N,).
        unlabeled_images: the unlabelled batch, (M, 3, H, W); M is 0 where there is none.
    """

    epoch: int
    images: Tensor
    outputs: Outputs
    losses: Tensor
    unlabeled_images: Tensor


class NoAuxiliary:
    """The task loss alone; also what the auxiliary losses have in common."""

    uses_unlabeled_images = False
    parts: tuple[str, ...] = ()
    """The names of what `losses` gives."""
    weight = 1.0
    """Of the sum of `losses` beside the task loss."""
    advice = ""
    """What else to try when training diverges."""

    def __init__(self, run: Run, num_classes: int, device: torch.device, trial: int) -> None:
        self.config = run.config

    def start_cycle(self) -> None:
        """Called before each cycle's training."""

    def kind_of_step(self, epoch: int) -> bool:
        """Epochs that give the same answer compute the same function of the batches."""
        return False

    def losses(self, backbone: nn.Module, step: Step) -> list[Tensor]:
        """The parts of the auxiliary loss of one step, scalars without their weight."""
        return []

    def zero_grad(self) -> None:
        """Called before a step's gradients are computed."""

    def after_optimizer_step(self, backbone: nn.Module) -> None:
        """Called after the backbone's optimiser has taken its step."""

    def modules(self) -> dict[str, nn.Module]:
        """Networks that belong into a cycle's published checkpoint, by name."""
        return {}

    def networks(self) -> list[nn.Module]:
        """All networks that a step runs beside the backbone."""
        return list(self.modules().values())

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""


class CODLoss(NoAuxiliary):
    """TOD's semi-supervised loss, with its EMA teacher (Huang et al., ICCV 2021, section 3.3)."""

    uses_unlabeled_images = True
    parts = ("cod_labeled", "cod_unlabeled")
    advice = " or a smaller cod.weight"

    def __init__(self, run: Run, num_classes: int, device: torch.device, trial: int) -> None:
        super().__init__(run, num_classes, device, trial)
        self.weight = run.config.cod.weight
        self.teacher = new_backbone(run, num_classes, device, "teacher", trial).train()
        self.teacher_stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.steps_taken = 0

    def losses(self, backbone: nn.Module, step: Step) -> list[Tensor]:
        """The COD losses of the labelled and, where there is one, of the unlabelled batch."""
        batches = [step.images]
        if len(step.unlabeled_images) > 0:
            batches.append(step.unlabeled_images)
        with self._teacher_joined():
            with torch.no_grad(), self._beside_the_backbone():
                ema_logits = [self.teacher(images)[0] for images in batches]
            outputs = [step.outputs, *map(backbone, batches[1:])]
        return [
            cod_loss(*of_batch[:2], ema) for of_batch, ema in zip(outputs, ema_logits, strict=True)
        ]

    def _beside_the_backbone(self) -> AbstractContextManager[Any]:
        """A GPU has room for the teacher and the backbone at once."""
        if self.teacher_stream is None:
            return nullcontext()
        self.teacher_stream.wait_stream(torch.cuda.current_stream())
        return torch.cuda.stream(self.teacher_stream)

    @contextmanager
    def _teacher_joined(self) -> Iterator[None]:
        """Waits for the teacher, also after an error: a capture must end on one stream."""
        try:
            yield
        finally:
            if self.teacher_stream:
                torch.cuda.current_stream().wait_stream(self.teacher_stream)

    def after_optimizer_step(self, backbone: nn.Module) -> None:
        self.steps_taken += 1
        update_ema(self.teacher, backbone, self.steps_taken, self.config.cod.ema_decay)

    def networks(self) -> list[nn.Module]:
        return [self.teacher]

    def state_dict(self) -> dict[str, Any]:
        return {"teacher": self.teacher.state_dict(), "steps_taken": self.steps_taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.teacher.load_state_dict(state["teacher"])
        self.steps_taken = state["steps_taken"]


class LossPrediction(NoAuxiliary):
    """LL4AL's loss-prediction module, trained beside the backbone (Yoo & Kweon, CVPR 2019)."""

    parts = ("ranking",)
    advice = " or a smaller ll4al.weight"

    def __init__(self, run: Run, num_classes: int, device: torch.device, trial: int) -> None:
        super().__init__(run, num_classes, device, trial)
        self.weight = run.config.ll4al.weight
        seed_torch(run.seed, "lossnet", trial)
        self.lossnet = build_lossnet(run.config.model).to(device).train()
        self.start_cycle()

    def start_cycle(self) -> None:
        # Its learning rate is never decayed, the backbone's is: so it is in the published code.
        self.optimizer = sgd(self.lossnet, self.config)

    def reaches_backbone(self, epoch: int) -> bool:
        """Whether the ranking loss trains the backbone too in this epoch, counted from 0."""
        return epoch <= self.config.ll4al.detach_epoch

    def kind_of_step(self, epoch: int) -> bool:
        return self.reaches_backbone(epoch)

    def losses(self, backbone: nn.Module, step: Step) -> list[Tensor]:
        """The ranking loss of the labelled batch."""
        _, _, _, feature_maps = step.outputs
        if not self.reaches_backbone(step.epoch):
            feature_maps = [feature_map.detach() for feature_map in feature_maps]
        # Cross-entropy is computed in fp32 under autocast; so is what is compared with it.
        predicted_losses = self.lossnet(feature_maps).to(step.losses.dtype)
        return [ranking_loss(predicted_losses, step.losses, self.config.ll4al.margin)]

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()

    def after_optimizer_step(self, backbone: nn.Module) -> None:
        self.optimizer.step()

    def modules(self) -> dict[str, nn.Module]:
        return {"module": self.lossnet}

    def state_dict(self) -> dict[str, Any]:
        return {"lossnet": self.lossnet.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.lossnet.load_state_dict(state["lossnet"])
        self.optimizer.load_state_dict(state["optimizer"])


class DetachedLossPrediction(LossPrediction):
    """The loss-prediction module as an onlooker: its loss never reaches the backbone."""

    def reaches_backbone(self, epoch: int) -> bool:
        return False


class Learner:
    """A backbone under training: its weights last through all cycles, its optimiser for one.

    `epoch` and `step` say where in the cycle it stands; both count from 0.
    """

    def __init__(
        self, run: Run, trial: int, backbone: nn.Module, auxiliary: NoAuxiliary, precision: str
    ) -> None:
        self.config = run.config
        self.seed = run.seed
        self.trial = trial
        self.cycle = 1
        self.backbone = backbone
        self.auxiliary = auxiliary
        self.device = next(backbone.parameters()).device
        self.precision = precision
        self.graphs = None
        if self.device.type == "cuda":
            self.graphs = GraphedGradients([backbone, *auxiliary.networks()])
        self.start_cycle()

    def start_cycle(self) -> None:
        """A new optimiser and the learning-rate schedule from its start; the weights stay."""
        self.optimizer = sgd(self.backbone, self.config)
        self.auxiliary.start_cycle()
        self.epoch = 0
        self.step = 0
        self.total_losses = torch.zeros((), device=self.device)
        self.epoch_losses: dict[str, float] = {}

    def _end_epoch(self) -> None:
        self.check_finite()
        means = [total / self.step for total in self.total_losses.tolist()]
        # Without a pool, the COD loss has its first part alone.
        self.epoch_losses = dict(zip(("loss", "task", *self.auxiliary.parts), means, strict=False))
        self.total_losses = torch.zeros_like(self.total_losses)
        self.epoch += 1
        self.step = 0

    def check_finite(self) -> None:
        """Makes sure that training has not diverged; on a GPU, this waits for it.

        Raises:
            InputError: the loss since the epoch began, or a weight, is not finite.
        """
        networks = (self.backbone, *self.auxiliary.modules().values())
        norms = torch._foreach_norm([p for network in networks for p in network.parameters()])
        if not torch.stack([self.total_losses.sum(), *norms]).isfinite().all():
            raise self.divergence("the loss")

    def divergence(self, what: str) -> InputError:
        """The error that says where training was when something was found not to be finite."""
        epoch = min(self.epoch, self.config.training.epochs - 1)
        rate = learning_rate(self.config, epoch)
        where = f"trial {self.trial}, cycle {self.cycle}, epoch {epoch + 1}"
        return InputError(
            f"{where}, learning rate {rate:g}: {what} is not finite; what was saved stays. "
            f"Try --set training.lr={self.config.training.lr / 10:g}{self.auxiliary.advice}, "
            "in another --output-dir"
        )

    def train_cycle(
        self,
        images: ImageBatches,
        labels: Tensor,
        labeled: np.ndarray,
        unlabeled: np.ndarray,
        cycle: int,
        after_step: Callable[[], None] = lambda: None,
    ) -> None:
        """Trains from where it stands to the end of the cycle.

        Args:
            images: the training set.
            labels: its labels, (N,), on the device.
            labeled: indices of the labelled images.
            unlabeled: indices of the pool.
            cycle: from 1.
            after_step: called after each optimiser step, when `epoch` and `step` say what is next.
        """
        self.cycle = cycle
        self.backbone.train()
        while self.epoch < self.config.training.epochs:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.config, self.epoch)
            batches = self._batches(images, labeled, unlabeled, cycle)
            for views, num_labeled in batches[self.step :]:
                batch = images.augmented(views)
                targets = labels[views.to(self.device, non_blocking=True)[:num_labeled, 0]]
                losses = self._step(batch[:num_labeled], targets, batch[num_labeled:])
                self.total_losses = self.total_losses + losses
                self.step += 1
                if self.step == len(batches):
                    self._end_epoch()
                after_step()

    def _step(self, images: Tensor, labels: Tensor, unlabeled_images: Tensor) -> Tensor:
        """One optimiser step; gives its loss, then the task loss and the auxiliary parts, (K,)."""
        inputs = (images, labels, unlabeled_images)
        if self.graphs is None:
            self.optimizer.zero_grad()
            self.auxiliary.zero_grad()
            losses = self._backward(*inputs)
        else:
            kind = self.auxiliary.kind_of_step(self.epoch)
            losses = self.graphs(self._backward, kind, *inputs)
        self.optimizer.step()
        self.auxiliary.after_optimizer_step(self.backbone)
        return losses

    def _autocast(self) -> AbstractContextManager[Any]:
        # MPS has no autocast in all versions, not even one that is switched off.
        bf16 = self.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16) if bf16 else nullcontext()

    def _backward(self, images: Tensor, labels: Tensor, unlabeled_images: Tensor) -> Tensor:
        """The losses of one step; the gradients of the first are added to the parameters'."""
        with self._autocast():
            outputs = self.backbone(images)
            losses = task_losses(outputs[0], labels)
            step = Step(self.epoch, images, outputs, losses, unlabeled_images)
            parts = self.auxiliary.losses(self.backbone, step)
            task_loss = losses.mean()
            loss = task_loss + self.auxiliary.weight * sum(parts)
        loss.backward()
        return torch.stack([term.detach().to(loss.dtype) for term in (loss, task_loss, *parts)])

    def _batches(
        self, images: ImageBatches, labeled: np.ndarray, unlabeled: np.ndarray, cycle: int
    ) -> list[tuple[Tensor, int]]:
        """One epoch's batches of views, and how many of each are of labelled images.

        The labelled come first. All are drawn and sent to the device at the epoch's start; the
        draws depend on trial, cycle and epoch alone, so that a run can go on anywhere.
        """
        config, seed = self.config, self.seed
        place = (self.trial, cycle, self.epoch)
        random = random_generator(seed, "labeled batches", *place)
        views = images.random_views(random.permutation(labeled), random)
        batches = split_into_batches(views, config.training.batch_size)
        sizes = [len(batch) for batch in batches]
        # Batch norm needs more than one image.
        if self.auxiliary.uses_unlabeled_images and len(unlabeled) >= 2:
            batch_size = min(config.training.batch_size, len(unlabeled))
            random = random_generator(seed, "unlabeled batches", *place)
            if cycle == 1 and config.cod.fixed_batch_in_first_cycle:
                once = random_generator(seed, "fixed unlabeled batch", self.trial)
                chosen = [once.choice(unlabeled, batch_size, replace=False)] * len(batches)
            else:
                chosen = [random.choice(unlabeled, batch_size, replace=False) for _ in batches]
            unlabeled_views = images.random_views(np.concatenate(chosen), random).split(batch_size)
            batches = list(map(torch.cat, zip(batches, unlabeled_views, strict=True)))
        views = images.placed(torch.cat(batches)).split([len(batch) for batch in batches])
        return list(zip(views, sizes, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to end bit for bit as an uninterrupted one."""
        return {
            "backbone": self.backbone.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "auxiliary": self.auxiliary.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "total_losses": self.total_losses,
            "epoch_losses": self.epoch_losses,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.backbone.load_state_dict(state["backbone"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.auxiliary.load_state_dict(state["auxiliary"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.total_losses, self.epoch_losses = state["total_losses"], state["epoch_losses"]


def learning_rate(config: Config, epoch: int) -> float:
    """The backbone's learning rate in an epoch, from 0: ×0.1 at each milestone."""
    passed = sum(milestone <= epoch for milestone in config.training.milestones)
    return config.training.lr * 0.1**passed


def split_into_batches(rows: Tensor, batch_size: int) -> list[Tensor]:
    """Batches of `batch_size` rows; the last one is smaller, but never a single row.

    A lone row joins the batch before it: batch norm cannot train on one image whose feature map
    is 1×1.
    """
    sizes = [batch_size] * (len(rows) // batch_size)
    rest = len(rows) % batch_size
    if rest == 1 and sizes:
        sizes[-1] += 1
    elif rest:
        sizes.append(rest)
    return list(rows.split(sizes))


@torch.inference_mode()
def accuracy(backbone: nn.Module, batches: Iterable[Tensor], labels: Tensor) -> float:
    """The percentage of images that the backbone, in evaluation mode, classifies correctly.

    Args:
        backbone: the network.
        batches: the images in order, each batch (N, 3, H, W).
        labels: of all images, on the device.

    Raises:
        FloatingPointError: a logit is not finite.
    """
    backbone.eval()
    logits = torch.cat([backbone(images)[0] for images in batches])
    if not logits.isfinite().all():
        raise FloatingPointError("the network's output")
    return 100.0 * (logits.argmax(dim=1) == labels).sum().item() / len(labels)
