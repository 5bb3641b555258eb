"""The training of one cycle: epochs of SGD on the task loss and an auxiliary loss."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from losses import AuxiliaryLoss, Step, task_losses
from models import Outputs
from tod.config import Config, InputError
from tod.data.batches import ImageBatches, split_into_batches
from tod.engine.cuda_graph import GraphedGradients, SideStream
from tod.engine.ranks import DataParallel
from utils import random_generator, seed_torch


def sgd(network: nn.Module, config: Config) -> torch.optim.SGD:
    """A new optimiser, as every network gets in every cycle."""
    settings = config.training
    return torch.optim.SGD(
        network.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        # One kernel for all parameters.
        fused=_has_fused_kernel(next(network.parameters())),
    )


def learning_rate(config: Config, epoch: int) -> float:
    """The backbone's learning rate in an epoch, counted from 0: ×0.1 at each milestone."""
    passed = sum(milestone <= epoch for milestone in config.training.milestones)
    return config.training.lr * 0.1**passed


PLACE = ("cycle", "epoch", "step", "total_losses", "epoch_losses")
STATEFUL = ("backbone", "auxiliary", "optimizer")
"""The parts of a learner that are saved, besides the optimisers of the loss's modules."""


class DivergenceError(InputError):
    """A loss, a weight or an output is not finite."""


class Learner:
    """Trains a backbone: its weights last through all cycles, its optimiser for one.

    Attributes:
        cycle: from 1.
        epoch: the number of finished epochs of the cycle.
        step: the number of finished steps of the epoch.
        epoch_losses: the last epoch's mean losses, by name.
    """

    def __init__(
        self,
        config: Config,
        seed: int,
        trial: int,
        backbone: nn.Module,
        auxiliary: AuxiliaryLoss,
        precision: str,
        cuda_graphs: bool = True,
        ranks: DataParallel | None = None,
    ) -> None:
        self.config = config
        self.seed = seed
        self.trial = trial
        self.backbone = backbone
        self.auxiliary = auxiliary
        self.device = next(backbone.parameters()).device
        self.precision = precision
        self.side_stream = SideStream(self.device)
        self.ranks = ranks = ranks or DataParallel()
        own_predictions = type(auxiliary).predictions is not AuxiliaryLoss.predictions
        if ranks.world_size > 1 and auxiliary.modules() and not own_predictions:
            raise InputError(
                f"--parallel data: {type(auxiliary).__name__} must run its networks in "
                "predictions(), not in losses(); or leave --parallel out"
            )
        ranks.share_statistics([backbone, *auxiliary.networks()])
        self.graphs = None
        # A graph would replay its first dropout mask for ever.
        can_replay = not config.model.dropout and ranks.world_size == 1
        if self.device.type == "cuda" and cuda_graphs and can_replay:
            self.graphs = GraphedGradients([backbone, *auxiliary.networks()])
        self.start_cycle(1)

    @property
    def _trained(self) -> list[nn.Module]:
        return [self.backbone, *self.auxiliary.modules().values()]

    def start_cycle(self, cycle: int) -> None:
        """Starts a cycle with new optimisers and the first learning rate; the weights stay."""
        self.cycle = cycle
        self.forget_graphs()  # batches of other sizes come
        self.optimizer = sgd(self.backbone, self.config)
        modules = self.auxiliary.modules().values()
        self.module_optimizers = [sgd(module, self.config) for module in modules]
        self.epoch = 0
        self.restart_epoch()
        self.epoch_losses: dict[str, float] = {}

    def forget_graphs(self) -> None:
        """Frees the memory of CUDA graphs; the next step captures its own."""
        if self.graphs is not None:
            self.graphs.forget()

    def restart_epoch(self) -> None:
        """Starts the epoch again; the weights stay as they are."""
        self.step = 0
        self.total_losses = torch.zeros((), device=self.device)

    def train_cycle(
        self,
        images: ImageBatches,
        labels: Tensor,
        labeled: np.ndarray,
        unlabeled: np.ndarray,
        after_step: Callable[[], None] = lambda: None,
    ) -> None:
        """Trains from the current step to the end of the cycle.

        `images` is the training set, with its labels (N,) on the device; `labeled` and `unlabeled`
        are indices. `after_step` is called once `epoch` and `step` point to the next step.
        """
        # Scoring leaves them in evaluation mode.
        for network in self._trained:
            network.train()
        while self.epoch < self.config.training.epochs:
            # The published code of LL4AL never decays its module's rate.
            decayed = self.module_optimizers if self.auxiliary.decays_modules else []
            for group in chain(*(each.param_groups for each in (self.optimizer, *decayed))):
                group["lr"] = learning_rate(self.config, self.epoch)
            batches = self._batches(images, labeled, unlabeled)
            for views, num_labeled in batches[self.step :]:
                indices = views.to(self.device, non_blocking=True)[:, 0]
                own, num_own = self.ranks.own_share(views, num_labeled)
                batch = images.augmented(own)
                if self.config.model.dropout:
                    place = (self.trial, self.cycle, self.epoch, self.step)
                    seed_torch(self.seed, "dropout", *place, *self.ranks.place)
                targets = labels[indices[:num_labeled]]
                losses = self._step(batch[:num_own], targets, batch[num_own:], indices)
                self.total_losses = self.total_losses + losses
                self.step += 1
                if self.step == len(batches):
                    self._end_epoch()
                after_step()

    def draws_from(self, unlabeled: np.ndarray) -> bool:
        """Whether each step also has a batch of these unlabelled images, and a loss on it."""
        # Batch norm needs more than one image.
        return self.auxiliary.uses_unlabeled_images and len(unlabeled) >= 2

    def _batches(
        self, images: ImageBatches, labeled: np.ndarray, unlabeled: np.ndarray
    ) -> list[tuple[Tensor, int]]:
        """The batches of views of one epoch, each with the number of labelled ones at its start.

        The draws depend on trial, cycle and epoch alone, so a run can resume anywhere.
        """
        config, seed = self.config, self.seed
        place = (self.trial, self.cycle, self.epoch)
        random = random_generator(seed, "labeled batches", *place)
        views = images.random_views(random.permutation(labeled), random)
        batches = split_into_batches(views, config.training.batch_size)
        sizes = [len(batch) for batch in batches]
        if self.draws_from(unlabeled):
            batch_size = min(config.training.batch_size, len(unlabeled))
            random = random_generator(seed, "unlabeled batches", *place)
            if self.cycle == 1 and self.auxiliary.repeats_unlabeled_batch:
                once = random_generator(seed, "fixed unlabeled batch", self.trial)
                chosen = [once.choice(unlabeled, batch_size, replace=False)] * len(batches)
            else:
                chosen = [random.choice(unlabeled, batch_size, replace=False) for _ in batches]
            unlabeled_views = images.random_views(np.concatenate(chosen), random).split(batch_size)
            batches = list(map(torch.cat, zip(batches, unlabeled_views, strict=True)))
        views = images.to_device(torch.cat(batches)).split([len(batch) for batch in batches])
        return list(zip(views, sizes, strict=True))

    def _step(
        self, images: Tensor, labels: Tensor, unlabeled_images: Tensor, indices: Tensor
    ) -> Tensor:
        """Takes one optimiser step; returns its loss, the task loss and the auxiliary parts, (K,).

        The images are this rank's share. Labels and indices, those of labelled images first, are
        the whole batch's.
        """
        epoch = torch.full((), self.epoch, device=self.device)
        inputs = (images, labels, unlabeled_images, indices, epoch)
        optimizers = (self.optimizer, *self.module_optimizers)
        if self.graphs is None:
            for optimizer in optimizers:
                optimizer.zero_grad()
            losses = self._backward(*inputs)
        else:
            graph_key = self.auxiliary.trains_backbone(self.epoch)
            losses = self.graphs(self._backward, graph_key, *inputs)
        for optimizer in optimizers:
            optimizer.step()
        self.auxiliary.after_step(self.backbone)
        return losses

    def _backward(self, *inputs: Tensor) -> Tensor:
        """The losses of one step; adds the gradients of the first to the parameters' gradients."""
        loss, *others = self._losses(*inputs)
        self.ranks.backward(loss, self._trained)
        return torch.stack([term.detach().to(loss.dtype) for term in (loss, *others)])

    def _losses(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The loss of one step, the task loss and the auxiliary parts."""
        images, labels, unlabeled_images, indices, epoch = inputs
        counts = [count for count in (len(labels), len(indices) - len(labels)) if count]
        batches = [images, unlabeled_images][: len(counts)]
        with self._autocast():
            with self.side_stream.joined():
                with torch.no_grad(), self.side_stream.work():
                    targets = self.auxiliary.targets(batches)
                # One batch at a time, since each has its own batch-norm statistics.
                outputs = [self.backbone(batch) for batch in batches]
            seen = outputs
            if not self.auxiliary.trains_backbone(self.epoch):
                seen = list(map(_detached, outputs))
            predictions = self.auxiliary.predictions(seen)
            outputs, targets, predictions = (
                list(map(self.ranks.whole, of_batches, counts))
                for of_batches in (outputs, targets, predictions)
            )
            losses = task_losses(outputs[0][0], labels)
            step = Step(epoch, indices.split(counts), outputs, losses, targets, predictions)
            parts = self.auxiliary.losses(step)
            task_loss = losses.mean()
            loss = task_loss + self.auxiliary.weight * sum(parts)
        return loss, task_loss, *parts

    def _autocast(self) -> AbstractContextManager[Any]:
        # Some versions have no autocast for MPS, not even a disabled one.
        bf16 = self.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16) if bf16 else nullcontext()

    def _end_epoch(self) -> None:
        self.check_finite()
        means = [total / self.step for total in self.total_losses.tolist()]
        # Without a pool, the COD loss has only its first part.
        self.epoch_losses = dict(zip(("loss", "task", *self.auxiliary.parts), means, strict=False))
        self.total_losses = torch.zeros_like(self.total_losses)
        self.epoch += 1
        self.step = 0

    def check_finite(self) -> None:
        """Raises DivergenceError if the epoch's loss so far, or a weight, is not finite.

        It waits for a GPU.
        """
        norms = torch._foreach_norm([p for network in self._trained for p in network.parameters()])
        if not torch.stack([self.total_losses.sum(), *norms]).isfinite().all():
            raise self.divergence("the loss")

    def divergence(self, what: str) -> "DivergenceError":
        """The error that says where in the training `what` was not finite."""
        epoch = min(self.epoch, self.config.training.epochs - 1)
        rate = learning_rate(self.config, epoch)
        where = f"trial {self.trial}, cycle {self.cycle}, epoch {epoch + 1}"
        return DivergenceError(
            f"{where}, learning rate {rate:g}: {what} is not finite; what was saved stays. "
            f"Try --set training.lr={self.config.training.lr / 10:g}{self.auxiliary.advice}, "
            "in another --output-dir"
        )

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to end bit for bit like an uninterrupted one."""
        place = {name: getattr(self, name) for name in PLACE}
        parts = {name: getattr(self, name).state_dict() for name in STATEFUL}
        of_modules = [optimizer.state_dict() for optimizer in self.module_optimizers]
        return {**place, **parts, "module_optimizers": of_modules}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a `state_dict`; KeyError if another version saved it."""
        for name in PLACE:
            setattr(self, name, state[name])
        self.total_losses = self.total_losses.to(self.device)
        for name in STATEFUL:
            getattr(self, name).load_state_dict(state[name])
        saved = state["module_optimizers"]
        for optimizer, of_optimizer in zip(self.module_optimizers, saved, strict=True):
            optimizer.load_state_dict(of_optimizer)
        for optimizer in (self.optimizer, *self.module_optimizers):
            _make_at_home(optimizer)


def _make_at_home(optimizer: torch.optim.SGD) -> None:
    """Brings a loaded state to this device: fused kernels take a momentum of the parameter's
    memory format alone, and that of the device which saved it may be another.
    """
    for parameter, of_parameter in optimizer.state.items():
        momentum = of_parameter["momentum_buffer"]
        of_parameter["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)
    for group in optimizer.param_groups:
        group["fused"] = _has_fused_kernel(group["params"][0])


def _has_fused_kernel(parameter: nn.Parameter) -> bool:
    return parameter.device.type in ("cpu", "cuda")


def _detached(outputs: Outputs) -> Outputs:
    *of_images, feature_maps = outputs
    return (*(tensor.detach() for tensor in of_images), [each.detach() for each in feature_maps])
