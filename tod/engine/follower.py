"""What all ranks but the leader do where several share the work on one trial."""

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch

from losses import AuxiliaryLoss
from models.inference import allow_tf32, outputs_of
from tod import data
from tod.config import Config, InputError
from tod.config.identity import Identity
from tod.config.schema import OWN_IMAGES
from tod.data import Dataset, own_images
from tod.data.dataset import ImageSet
from tod.engine import device as devices
from tod.engine.data_parallel import DataParallel, LostRankError, Pass, TrainCycle
from tod.engine.learner import DivergenceError, Learner
from tod.engine.trial import Experiment, Views
from tod.runs.log import RunLog
from tod.runs.ranks import Ranks
from tod.runs.signals import Interruption


class Begin(NamedTuple):
    """The first order: with which images, and how.

    Attributes:
        fingerprint: of the images that there are.
        dataset: the leader's, without its pixels.
        device: of which type.
        precision: of training.
        threads: of the leader.
    """

    fingerprint: str
    dataset: Dataset
    device: str
    precision: str
    threads: int


def begin(dataset: Dataset, fingerprint: str, device: torch.device, precision: str) -> Begin:
    """The order to begin on the leader's dataset."""
    nothing = torch.empty(0, 3, 1, 1, dtype=torch.uint8)
    parts = (dataset.train, dataset.test)
    train, test = (ImageSet(nothing, images.labels, rows=images.rows) for images in parts)
    without_pixels = Dataset(train, test, dataset.class_names, dataset.mean, dataset.std)
    return Begin(fingerprint, without_pixels, device.type, precision, torch.get_num_threads())


def follow(
    identity: Identity,
    auxiliary: type[AuxiliaryLoss],
    ranks: Ranks,
    group: DataParallel,
    device: str,
    quiet: bool,
) -> None:
    """Does what the leader orders, until there is nothing left to do.

    Args:
        identity: the configuration and the seed.
        auxiliary: the loss beside the task loss.
        ranks: which process this is.
        group: the ranks of the trial.
        device: `auto`, `cpu` or `cuda`.
        quiet: show warnings alone.

    Raises:
        InputError: something that the user must mend.
        SystemExit: with status 130, 143 or 129, when interrupted by a signal.
    """
    interruption = _Noted("")
    with devices.explain_out_of_memory(), RunLog(quiet, ranks), interruption:
        try:
            order = group.next_order()
            if order is not None:
                on = devices.select_device(device, ranks.local_rank)
                if on.type != order.device:
                    raise InputError(
                        f"--device {device}: is {on.type} on this machine, and {order.device} on "
                        "rank 0's; name one that all have"
                    )
                devices.prepare(on, order.precision, identity.deterministic, order.threads)
                group.use(on)
                dataset = _same_dataset(identity.config, identity.seed, order)
                experiment = Experiment(
                    identity.config,
                    identity.seed,
                    auxiliary,
                    dataset,
                    on,
                    order.precision,
                    interruption,
                    ranks=group,
                )
                _Follower(experiment, group).work()
        except LostRankError:
            if interruption.requested:  # so was the leader, which says so
                raise SystemExit(128 + interruption.requested) from None
            raise


def _same_dataset(config: Config, seed: int, order: Begin) -> Dataset:
    """The leader's dataset, read by this process.

    Raises:
        InputError: this process sees other images.
    """
    if config.dataset == OWN_IMAGES:
        found = own_images.find(Path(config.data_dir))
        read = own_images.read(found, config.images)
        fingerprint = own_images.fingerprint_of_rows(found, read)
        train, test = (
            ImageSet(read.images.stored, images.labels, rows=images.rows)
            for images in (order.dataset.train, order.dataset.test)
        )
        dataset = order.dataset
        dataset = Dataset(train, test, dataset.class_names, dataset.mean, dataset.std)
    else:
        dataset = data.load(config, seed)
        fingerprint = dataset.fingerprint()
    if fingerprint != order.fingerprint:
        raise InputError(
            f"{config.data_dir}: holds other images here than for rank 0; all ranks must see the "
            "same, and none may come while they read them"
        )
    return dataset


class _Noted(Interruption):
    """Signals are the leader's to answer: a follower that left by itself would leave it waiting."""

    def stop_if_requested(self) -> None:
        pass


class _LeaderHasLeft(Exception):  # noqa: N818 - no error
    pass


class _Follower:
    def __init__(self, experiment: Experiment, group: DataParallel) -> None:
        self.experiment = experiment
        self.group = group
        self.learner: Learner | None = None

    def work(self) -> None:
        """Takes orders until the last, or until the leader leaves between two steps."""
        with suppress(_LeaderHasLeft):
            while (order := self.group.next_order()) is not None:
                if isinstance(order, TrainCycle):
                    self._train(order)
                else:
                    self._pass(order)

    def _train(self, order: TrainCycle) -> None:
        allow_tf32(self.experiment.precision == "tf32")
        learner = self._learner_of(order.trial)
        learner.load_state_dict(order.state)
        with suppress(DivergenceError):  # which the leader finds too, and says
            learner.train_cycle(
                self.experiment.train_images,
                self.experiment.train_labels,
                order.labeled,
                order.unlabeled,
                self._after_step,
            )

    def _after_step(self) -> None:
        if not self.group.agree():
            raise _LeaderHasLeft

    def _pass(self, order: Pass) -> None:
        allow_tf32(order.allow_tf32)
        views = Views(self.experiment, order.rows.cpu(), order.of_test)
        batches = views(self.group.batches)
        self.group.gather(outputs_of(order.network, order.of_outputs, batches))

    def _learner_of(self, trial: int) -> Learner:
        if self.learner is None or self.learner.trial != trial:
            networks = self.experiment.networks(trial)
            auxiliary = self.experiment.auxiliary(self.experiment.config, networks)
            backbone = networks.backbone("backbone")
            self.learner = self.experiment.learner(trial, backbone, auxiliary)
        return self.learner
