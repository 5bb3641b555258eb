"""The trials × cycles loop: train → evaluate → score → query → label → record."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

import datasets
from augmentation import ImageBatches
from command_line import Run
from configuration import InputError
from diagnostics import query_diagnostics
from models import fold_batch_norm, imagenet_weights
from monitoring import Monitor
from ranks import in_turn
from results import Row
from run_folder import RunFolder
from samplers import Pool, Query
from training import Learner, NoAuxiliary, accuracy, learning_rate, new_backbone
from utils import (
    Interruption,
    allow_tf32,
    fastest_memory_format,
    is_out_of_memory,
    keep_freed_memory,
    make_deterministic,
    random_generator,
    select_device,
    select_precision,
)

log = logging.getLogger("tod")

EPOCHS_BETWEEN_SAVES = 20
SECONDS_BETWEEN_SAVES = 300.0
OUT_OF_MEMORY = (
    "out of memory; what was saved stays. Try a smaller training.batch_size, model.width or "
    "images.size, or another --device, in another --output-dir"
)


def run_experiment(
    run: Run, sampling: Callable[[Pool], Query], auxiliary: type[NoAuxiliary]
) -> None:
    """Runs the chosen trials, or what an earlier run of the same command has left of them.

    Args:
        run: the configuration and the command line.
        sampling: chooses what to query.
        auxiliary: the loss beside the task loss.

    Raises:
        InputError: something that the user must mend; what was saved before stays good.
        SystemExit: with status 130 or 143, when interrupted by SIGINT or SIGTERM.
    """
    with ExitStack() as stack:
        stack.enter_context(out_of_memory_is_an_input_error())
        with in_turn(run):
            folder = stack.enter_context(RunFolder(run))
            unfinished = folder.unfinished_trials()
            found_finished = not unfinished and folder.is_finished()
            if unfinished:
                experiment = Experiment(run, sampling, auxiliary, folder)
            elif run.trials and folder.names_other_data():
                folder.refuse_other_images(datasets.load(run.config, run.seed))
        for trial in set(run.trials) - set(unfinished):
            folder.finish_trial(trial)
        if unfinished:
            with experiment.interruption, experiment.monitor:
                for trial in unfinished:
                    Trial(experiment, trial).run()
        # Of several ranks, one shows the table.
        speaks = run.world_size == 1 or (run.rank == 0 and found_finished)
        if speaks and not unfinished:
            log.info("%s: is finished; --overwrite starts it afresh", folder.path)
        if speaks or folder.has_ended_the_run:
            folder.log_table()


@contextmanager
def out_of_memory_is_an_input_error() -> Iterator[None]:
    """Says in words what to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise InputError(OUT_OF_MEMORY) from None
        raise


class Experiment:
    """What the trials of a run share: the data on the device, the choices made, the run folder."""

    def __init__(
        self,
        run: Run,
        sampling: Callable[[Pool], Query],
        auxiliary: type[NoAuxiliary],
        folder: RunFolder,
    ) -> None:
        self.run = run
        self.sampling = sampling
        self.auxiliary = auxiliary
        self.folder = folder
        self.device = select_device(run.device, run.local_rank)
        self.precision = select_precision(run.precision, self.device)
        allow_tf32(self.precision == "tf32")
        torch.backends.cudnn.benchmark = not run.deterministic
        if run.deterministic:
            make_deterministic()
        self.dataset = datasets.load(run.config, run.seed)
        self.num_classes = len(self.dataset.class_names)
        self.train_images = self._on_device(self.dataset.train)
        self.train_labels = self.dataset.train.labels.to(self.device)
        self.test_images = self._on_device(self.dataset.test)
        self.test_labels = self.dataset.test.labels.to(self.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.imagenet_weights = imagenet_weights() if run.config.model.pretrained else None
        folder.start(self.device, self.precision, self.dataset)
        without = " without --overwrite" if run.overwrite else ""
        self.interruption = Interruption(
            f"the same command again{without} continues where it stopped"
        )
        self.monitor = Monitor(run, len(folder.unfinished_trials()), folder.path / "tensorboard")

    def _on_device(self, images: datasets.Images) -> ImageBatches:
        data, config = self.dataset, self.run.config
        memory_format = fastest_memory_format(self.device, config.model.width)
        return ImageBatches(
            images.pixels, data.mean, data.std, config.augmentation, self.device, memory_format
        )

    def new_backbone(self, role: str, trial: int) -> nn.Module:
        """A randomly initialised backbone for one role in one trial."""
        return new_backbone(self.run, self.num_classes, self.device, role, trial)


class Trial:
    """One trial: what goes from cycle to cycle, and the method's loop over it.

    Attributes:
        cycle: from 1.
        labeled: indices of the labelled images, in the order in which they were labelled.
        backbone: the network under training.
        previous: the network at the end of the previous cycle.
    """

    def __init__(self, experiment: Experiment, number: int) -> None:
        self.experiment = experiment
        self.number = number
        self.config = experiment.run.config
        self.folder = experiment.folder
        self.cycle = 1
        self.labeled = self._random("initial labels").choice(
            len(experiment.dataset.train), self.config.active_learning.initial_labels, replace=False
        )
        self.backbone = experiment.new_backbone("backbone", number)
        if experiment.imagenet_weights is not None:
            self.backbone.load_imagenet_weights(experiment.imagenet_weights)
        # The first cycle has no predecessor: an untrained network stands in for it.
        self.previous = experiment.new_backbone("previous", number)
        self.auxiliary = experiment.auxiliary(
            experiment.run, experiment.num_classes, experiment.device, number
        )
        self.learner = Learner(
            experiment.run, number, self.backbone, self.auxiliary, experiment.precision
        )
        self.train_seconds = 0.0
        self.clock = time.monotonic()

    def run(self) -> None:
        """The method's loop, from where it stopped to the last cycle's accuracy.

        Raises:
            InputError: training has diverged, or a file cannot be written.
        """
        self._continue_where_it_stopped()
        learner = self.learner
        self.experiment.monitor.start_trial(
            *(self.number, self.cycle, learner.epoch, learner.epoch_losses),
            learning_rate(self.config, learner.epoch - 1),
        )
        try:
            self._run()
        except FloatingPointError as error:
            raise self.learner.divergence(str(error)) from None

    def _run(self) -> None:
        while True:
            self._train()
            row = self._evaluate()
            networks = {"backbone": self.backbone, **self.auxiliary.modules()}
            self.folder.write_weights(self.number, self.cycle, networks)
            if self.cycle == self.config.active_learning.cycles:
                break
            pool = self._pool()
            query = self._query(pool)
            self.folder.write_row(row | self._diagnostics(pool, query))
            self.folder.write_learning_curve()
            self._start_next_cycle(query)
        self.experiment.monitor.flush()
        self.folder.write_row(row)
        self.folder.finish_trial(self.number)

    def _train(self) -> None:
        self.clock = time.monotonic()
        self.learner.train_cycle(
            self.experiment.train_images,
            self.experiment.train_labels,
            self.labeled,
            self._unlabeled(),
            self.cycle,
            self._after_step,
        )

    def _evaluate(self) -> Row:
        experiment = self.experiment
        batches = self._plain_batches(
            experiment.test_images, np.arange(len(experiment.dataset.test))
        )
        backbone = fold_batch_norm(self.backbone)
        test_accuracy = accuracy(backbone, batches, experiment.test_labels)
        log.info(
            "%s Trial:%d/%d || Cycle:%d/%d || Label set size:%d ||  Test acc:%.2f",
            experiment.run.title,
            self.number,
            self.config.active_learning.trials,
            self.cycle,
            self.config.active_learning.cycles,
            len(self.labeled),
            test_accuracy,
        )
        experiment.monitor.evaluated(len(self.labeled), test_accuracy)
        return {
            "trial": str(self.number),
            "cycle": str(self.cycle),
            "num_labeled": str(len(self.labeled)),
            "test_accuracy": f"{test_accuracy:.4f}",
            "train_loss": f"{self.learner.epoch_losses['loss']:.6g}",
            "train_seconds": f"{self.train_seconds:.1f}",
        }

    def _pool(self) -> Pool:
        unlabeled = self._unlabeled()
        size = min(self.config.active_learning.subset_size, len(unlabeled))
        subset = self._random("subset", self.cycle).choice(unlabeled, size, replace=False)
        return Pool(
            config=self.config,
            cycle=self.cycle,
            subset=subset,
            labels=self.experiment.train_labels[
                torch.from_numpy(subset).to(self.experiment.device)
            ],
            batches=lambda: self._scoring_batches(subset, "scoring views"),
            labeled_batches=lambda: self._scoring_batches(self.labeled, "labeled scoring views"),
            backbone=fold_batch_norm(self.backbone),
            previous=fold_batch_norm(self.previous),
            modules=self.auxiliary.modules(),
            random=self._random("sampling", self.cycle),
        )

    def _query(self, pool: Pool) -> Query:
        query = self.experiment.sampling(pool)
        self.experiment.monitor.scored(query.scores)
        dataset = self.experiment.dataset
        self.folder.write_queries(self.number, self.cycle, pool.subset, query, dataset)
        return query

    def _diagnostics(self, pool: Pool, query: Query) -> Row:
        misclassified = pool.logits().argmax(dim=1) != pool.labels
        return query_diagnostics(
            query.scores,
            pool.true_losses().cpu().numpy(),
            misclassified.cpu().numpy(),
            pool.labels.cpu().numpy(),
            np.isin(pool.subset, query.indices),
        )

    def _start_next_cycle(self, query: Query) -> None:
        self.labeled = np.concatenate([self.labeled, query.indices])
        self.previous.load_state_dict(self.backbone.state_dict())
        self.cycle += 1
        self.train_seconds = 0.0
        self.learner.start_cycle()
        self._save()

    def _unlabeled(self) -> np.ndarray:
        """The pool: indices of all training images that are not labelled, in order."""
        return np.setdiff1d(np.arange(len(self.experiment.dataset.train)), self.labeled)

    def _random(self, purpose: str, *place: int) -> np.random.Generator:
        return random_generator(self.experiment.run.seed, purpose, self.number, *place)

    @property
    def _inference_batch_size(self) -> int:
        """Without gradients, twice a training batch takes less memory than training does."""
        return 2 * self.config.training.batch_size

    def _plain_batches(self, images: ImageBatches, indices: np.ndarray) -> Iterator[Tensor]:
        for batch in images.placed(torch.from_numpy(indices)).split(self._inference_batch_size):
            self.experiment.interruption.stop_if_requested()
            yield images.plain(batch)

    def _scoring_batches(self, indices: np.ndarray, purpose: str) -> Iterator[Tensor]:
        """The images in the configured view; the random views for a purpose are always the same."""
        images = self.experiment.train_images
        if not self.config.scoring.augment:
            yield from self._plain_batches(images, indices)
            return
        views = images.random_views(indices, self._random(purpose, self.cycle))
        for batch in images.placed(views).split(self._inference_batch_size):
            self.experiment.interruption.stop_if_requested()
            yield images.augmented(batch)

    def _after_step(self) -> None:
        learner, interruption = self.learner, self.experiment.interruption
        seconds = time.monotonic() - self.clock
        epoch_ended = learner.step == 0
        due = seconds > SECONDS_BETWEEN_SAVES or (
            epoch_ended
            and (
                learner.epoch % EPOCHS_BETWEEN_SAVES == 0
                or learner.epoch == self.config.training.epochs
            )
        )
        if epoch_ended:
            self.experiment.monitor.epoch_ended(
                self.number,
                self.cycle,
                learner.epoch,
                len(self.labeled),
                learner.epoch_losses,
                learning_rate(self.config, learner.epoch - 1),
            )
        if due or interruption.requested:
            self.train_seconds += seconds
            self._save()
            self.clock = time.monotonic()
            interruption.stop_if_requested()

    def _save(self) -> None:
        self.learner.check_finite()
        state = {
            "cycle": self.cycle,
            "labeled": torch.from_numpy(self.labeled),
            "previous": self.previous.state_dict(),
            "learner": self.learner.state_dict(),
            "train_seconds": self.train_seconds,
        }
        self.experiment.monitor.flush()
        self.folder.save_progress(self.number, state)

    def _continue_where_it_stopped(self) -> None:
        state = self.folder.load_progress(self.number, self.experiment.device)
        if state is None:
            return
        try:
            self.cycle = state["cycle"]
            self.labeled = state["labeled"].cpu().numpy()
            self.previous.load_state_dict(state["previous"])
            self.learner.load_state_dict(state["learner"])
            self.train_seconds = state["train_seconds"]
        except KeyError as error:
            raise InputError(
                f"{self.folder.path}: was saved by another version of this project (there is no "
                f"{error}); go on with that one, or start afresh with --overwrite"
            ) from None
        trained = self.learner.epoch == self.config.training.epochs
        where = "after its training" if trained else f"epoch {self.learner.epoch + 1}"
        log.info("continuing with trial %d, cycle %d, %s", self.number, self.cycle, where)
