"""One trial: what goes from cycle to cycle, and what is computed of it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import models
from losses import AuxiliaryLoss
from models.inference import OfOutputs, joined, logits_alone, outputs_of
from tod.config import Config
from tod.data import Dataset, extraction
from tod.data.batches import FeatureBatches, ImageBatches, RowBatches
from tod.data.features import Features
from tod.data.own_images import UNKNOWN, indices_of
from tod.engine.learner import Learner
from tod.engine.ranks import DataParallel
from tod.runs.signals import Interruption
from tod.strategies.first_labels import choose_first
from tod.strategies.pool import Batches, Pool, Query, run_here
from utils import random_generator


class Views(NamedTuple):
    """Images in a view; called, it gives them anew in batches (n, …), all or some of them.

    `rows` has their indices (N,), or random views of them (N, …).
    """

    experiment: "Experiment"
    images: RowBatches
    rows: Tensor

    def __call__(self, which: slice = slice(None)) -> Iterator[Tensor]:
        # Without gradients, twice a training batch takes less memory than training does.
        size = 2 * self.experiment.config.training.batch_size
        batches = self.images.to_device(self.rows).split(size)[which]
        view = self.images.plain if self.rows.ndim == 1 else self.images.augmented
        return map(view, self.experiment.interruption.watched(batches))


@dataclass
class Experiment:
    """What the trials of a run share: the settings, and the data on the device."""

    config: Config
    seed: int
    auxiliary: type[AuxiliaryLoss]
    dataset: Dataset
    device: torch.device
    precision: str
    interruption: Interruption
    imagenet_weights: dict[str, Tensor] | None = None
    features: np.ndarray | None = None
    cuda_graphs: bool = True
    ranks: DataParallel = field(default_factory=DataParallel)

    def __post_init__(self) -> None:
        dataset, model = self.dataset, self.config.model
        self.train_labels = dataset.train.labels.to(self.device)
        self.num_features = 0
        if model.is_linear:
            return  # see `load_features`
        memory_format = models.fastest_memory_format(self.device, model.width)
        settings = (self.config.augmentation, self.device, memory_format)
        self.train_images, self.test_images = (
            ImageBatches(images.stored, dataset.mean, dataset.std, *settings, images.rows)
            for images in (dataset.train, dataset.test)
        )

    def load_features(self, given: tuple[Features, Features] | None = None) -> None:
        """For a network on features, takes those `given`, or those that its extractor makes."""
        config = self.config
        if not config.model.is_linear:
            return
        if given is None:
            given = extraction.as_configured(self.dataset, config, self.device)
        self.train_images, self.test_images = (
            FeatureBatches(features.stored, features.rows, self.device) for features in given
        )
        self.num_features = given[0].stored.shape[1]
        is_asked = config.active_learning.initial_compares_images and not config.facts.from_people
        if is_asked and self.features is None:
            self.features = self.train_images.numpy()

    def networks(self, trial: int, cycle: int = 1) -> models.NetworkFactory:
        """Makes the networks of one trial, as it begins or as this cycle does."""
        num_classes, place = len(self.dataset.class_names), (self.seed, trial, cycle)
        sizes = (num_classes, self.device, *place, len(self.train_labels), self.num_features)
        return models.NetworkFactory(self.config.model, *sizes)

    def run(self, network: nn.Module, of_outputs: OfOutputs, views: Batches) -> tuple[Tensor, ...]:
        """See `run_here`; of the images of `Views`, each rank takes its share of the batches."""
        if not isinstance(views, Views):  # a strategy's own images
            return run_here(network, of_outputs, views)
        found = outputs_of(network, of_outputs, views(self.ranks.batches))
        return joined(self.ranks.gather(found))


class Trial:
    """One trial of an experiment, in one of its cycles.

    Args:
        number: from 1.
        labeled: indices of the labelled images, in the order in which they were labelled; None:
            chosen as configured.
        pool: indices of all images that may ever be queried; None: all training images.
        names: the lasting names of all images, by index, where images come and go between two
            commands; elsewhere an index is the name.
    """

    def __init__(
        self,
        experiment: Experiment,
        number: int,
        labeled: np.ndarray | None = None,
        pool: np.ndarray | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self.experiment = experiment
        self.config = experiment.config
        self.number = number
        if labeled is None:
            settings, train = self.config.active_learning, experiment.dataset.train
            labeled = experiment.ranks.from_main(
                lambda: choose_first(
                    settings.initial,
                    settings.labels_of_cycles(len(train))[0],
                    train.labels.numpy(),
                    experiment.features,
                    self.random("initial labels"),
                )
            )
        self.labeled = labeled
        self._pool = np.arange(len(experiment.dataset.train)) if pool is None else pool
        self._names = names
        networks = experiment.networks(number)
        self.backbone = self._initial_backbone(networks)
        # The first cycle has no predecessor: an untrained network stands in for it.
        self.previous = networks.backbone("previous")
        self.auxiliary = experiment.auxiliary(self.config, networks)
        self.learner = Learner(
            self.config,
            experiment.seed,
            number,
            self.backbone,
            self.auxiliary,
            experiment.precision,
            experiment.cuda_graphs,
            experiment.ranks,
        )

    @property
    def cycle(self) -> int:
        """From 1."""
        return self.learner.cycle

    @property
    def unlabeled(self) -> np.ndarray:
        """Indices of all images that may be queried, in order."""
        return np.setdiff1d(self._pool, self.labeled)

    def train(self, after_step: Callable[[], None] = lambda: None) -> None:
        """Trains to the end of the cycle; `after_step` is called after each optimiser step."""
        images, labels = self.experiment.train_images, self.experiment.train_labels
        networks = [self.backbone, *self.auxiliary.networks()]
        self.experiment.ranks.synchronize(networks)
        self.learner.train_cycle(images, labels, self.labeled, self.unlabeled, after_step)
        self.learner.forget_graphs()  # scoring needs their memory
        self.experiment.ranks.synchronize(networks)

    def test_logits(self) -> Tensor:
        """f(x; w_c) of the test images, (N, C), on the host; FloatingPointError: not all finite."""
        dataset = self.experiment.dataset
        if len(dataset.test) == 0:
            return torch.empty(0, len(dataset.class_names))
        network = models.fold_batch_norm(self.backbone)
        views = Views(self.experiment, self.experiment.test_images, torch.arange(len(dataset.test)))
        (logits,) = self.experiment.run(network, logits_alone, views)
        if not logits.isfinite().all():
            raise FloatingPointError("the network's output")
        return logits.cpu()

    def pool(self) -> Pool:
        """What the strategy may look at: a random subset of the unlabelled images."""
        return self.pool_of(self.random_subset(self.unlabeled))

    def random_subset(self, indices: np.ndarray) -> np.ndarray:
        """Of these images, those that this cycle scores: as many as are configured, at most all."""
        size = min(self.config.active_learning.subset_size, len(indices))
        return self.random("subset", self.cycle).choice(indices, size, replace=False)

    def pool_of(
        self, subset: np.ndarray, query_size: int | None = None, purpose: str = "sampling"
    ) -> Pool:
        """What the strategy may look at, if it is to query `query_size` of these images; what it
        draws depends on the purpose.
        """
        config = self.config
        if query_size is not None:
            active = config.active_learning.model_copy(update={"query_size": query_size})
            config = config.model_copy(update={"active_learning": active})
        features, labels = self.experiment.features, self.experiment.train_labels
        given = None if features is None else (features[subset], features[self.labeled])
        return Pool(
            config=config,
            cycle=self.cycle,
            subset=subset,
            labels=labels[torch.from_numpy(subset).to(labels.device)],
            known_labels=labels[torch.from_numpy(self.labeled).to(labels.device)],
            batches=self._scoring_views(subset, "scoring views"),
            labeled_batches=self._scoring_views(self.labeled, "labeled scoring views"),
            backbone=models.fold_batch_norm(self.backbone),
            previous=models.fold_batch_norm(self.previous),
            network=self.backbone,
            modules=self.auxiliary.modules(),
            random=self.random(purpose, self.cycle),
            given_features=given and tuple(torch.from_numpy(x).to(labels.device) for x in given),
            run=self.experiment.run,
        )

    def label(self, query: Query) -> None:
        """Labels what was queried, with which the next cycle starts."""
        self.labeled = np.concatenate([self.labeled, query.indices])
        self.start_next_cycle()

    def start_next_cycle(self) -> None:
        """This cycle's network becomes the previous one; it trains on, or a fresh one starts."""
        self.previous.load_state_dict(self.backbone.state_dict())
        self.learner.start_cycle(self.cycle + 1)
        if self.config.training.fresh_weights:
            networks = self.experiment.networks(self.number, self.cycle)
            self.backbone.load_state_dict(self._initial_backbone(networks).state_dict())
            auxiliary = self.experiment.auxiliary(self.config, networks)
            self.auxiliary.load_state_dict(auxiliary.state_dict())

    def _initial_backbone(self, networks: models.NetworkFactory) -> nn.Module:
        backbone = networks.backbone("backbone")
        if self.experiment.imagenet_weights is not None:
            backbone.load_imagenet_weights(self.experiment.imagenet_weights)
        return backbone

    def random(self, purpose: str, *place: int) -> np.random.Generator:
        """The random numbers for one purpose in this trial."""
        return random_generator(self.experiment.seed, purpose, self.number, *place)

    def _scoring_views(self, indices: np.ndarray, purpose: str) -> Views:
        """The images in the configured view; the random views for a purpose are always the same."""
        images, rows = self.experiment.train_images, torch.from_numpy(indices)
        if self.config.scoring.augment:
            rows = images.random_views(indices, self.random(purpose, self.cycle))
        return Views(self.experiment, images, rows)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to end bit for bit as an uninterrupted one."""
        state: dict[str, Any] = {
            "labeled": torch.from_numpy(self.labeled),
            "previous": self.previous.state_dict(),
            "learner": self.learner.state_dict(),
        }
        if self._names is not None:
            state["labeled"] = [self._names[index] for index in self.labeled.tolist()]
            state["draws_from_pool"] = self.learner.draws_from(self.unlabeled)
            if [*self.auxiliary.memory.buffers()]:
                state["names"] = [*self._names]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave, but for images that have gone or lost their label.

        The epoch that was under way begins anew where its other steps would be of another kind:
        in other batches of labelled images, or with unlabelled ones where it had none, or the
        other way round. Else it goes on, and draws unlabelled images from the pool as it is now.
        KeyError: another version has saved it.
        """
        self.previous.load_state_dict(state["previous"])
        if "names" in state:
            self._move_memory(state["learner"]["auxiliary"]["memory"], state["names"])
        self.learner.load_state_dict(state["learner"])
        if self._names is None:
            self.labeled = state["labeled"].numpy()
            return
        labeled = indices_of(state["labeled"], self._names)
        is_labeled = self.experiment.dataset.train.labels[labeled] != UNKNOWN
        self.labeled = labeled[is_labeled.numpy()]
        # Earlier versions have not saved whether there was a pool.
        has_same_losses = state.get("draws_from_pool") == self.learner.draws_from(self.unlabeled)
        if len(self.labeled) < len(state["labeled"]) or not has_same_losses:
            self.learner.restart_epoch()

    def _move_memory(self, memory: dict[str, Tensor], names: Sequence[str]) -> None:
        """Puts what the loss remembers of the images of these names where they are now."""
        there = {*self._names}
        stay = [name for name in names if name in there]
        for key, fresh in self.auxiliary.memory.state_dict().items():
            moved = fresh.cpu().clone()
            moved[indices_of(stay, self._names)] = memory[key][indices_of(stay, names)]
            memory[key] = moved
