"""A run whose labels come from people: one round a command.

A round takes labels → trains → evaluates → scores the pool → writes the next batch. The run's
folder says where it is: a saved state with labelled images is a round that has begun; without one,
the run waits for the labels of its last batch.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from losses import AuxiliaryLoss
from models import imagenet_weights
from samplers import query_by_true_loss
from tod.analysis import records
from tod.analysis.results import ACCURACY
from tod.config import Config, InputError
from tod.data import Dataset, own_images
from tod.data.own_images import UNKNOWN, indices_of
from tod.experiment import environment
from tod.loop import Loop, draw_learning_curve
from tod.people import asking
from tod.people.batches import Asking, Batch, batch_folder, write_batch
from tod.people.judging import audit_columns, judged_scores
from tod.people.record import Record
from tod.people.trial import PeopleTrial
from tod.pool import Pool, Query
from tod.runs.checkpoints import Progress
from tod.runs.folder import RunFolder
from tod.runs.identity import Identity
from tod.runs.log import RunLog
from tod.runs.monitor import Monitor
from tod.runs.ranks import ranks_from_environment
from tod.runs.signals import Interruption
from tod.settings import counted, shortened
from tod.training import device as devices
from tod.trial import Experiment, Trial
from utils import random_generator

log = logging.getLogger("tod")

FEW_AUDITS = 30
"""With fewer images, an accuracy means little."""


def run_round(
    identity: Identity,
    sampling: Callable[[Pool], Query],
    auxiliary: type[AuxiliaryLoss],
    *,
    output_dir: Path = Path("results"),
    device: str = "auto",
    precision: str = "auto",
    keep_weights: str = "all",
    quiet: bool = False,
    tensorboard: bool = False,
    labels: Sequence[Path] = (),
    relabel: bool = False,
    partial: bool = False,
) -> None:
    """Takes labels, and goes on as far as they reach: to the next batch.

    Args:
        identity: the configuration, the seed, and what the strategy and the loss are called.
        sampling: chooses what to query.
        auxiliary: the loss beside the task loss.
        output_dir: where the run's folder is made.
        device: `auto`, `cpu`, `cuda` or `mps`.
        precision: of training: `auto`, `fp32`, `tf32` or `bf16`.
        keep_weights: of `all` cycles, or of the `last` one.
        quiet: show warnings alone.
        tensorboard: write for TensorBoard too.
        labels: files in which people give labels.
        relabel: whether these may change labels taken before.
        partial: go on without what is missing of the last batch.

    Raises:
        InputError: something that the user must mend; what was saved before stays good.
        SystemExit: with status 130 or 143, when interrupted by SIGINT or SIGTERM.
    """
    if sampling is query_by_true_loss:
        raise InputError("--sampling LOSS looks at labels that nobody has given; choose another")
    config, ranks = identity.config, ranks_from_environment()
    if not ranks.is_main_process:
        return
    folder = RunFolder(output_dir / identity.folder_name, identity, trials=[1], chosen=[1])
    interruption = Interruption("the same command again continues where it stopped")
    with devices.out_of_memory_in_words(), RunLog(quiet, ranks) as run_log, folder:
        folder.claim()
        found = own_images.find(Path(config.data_dir))
        record = Record(folder.path, found)
        recorded = _recorded(folder)
        _refuse_other_classes(folder.path, recorded, found.class_names)
        record.take(labels, relabel)
        if recorded:
            record.write_labels()
        saved = Progress(folder.path, 1).load()
        has_begun = saved is not None and len(saved["labeled"]) > 0
        waiting = record.waiting()
        if waiting and not partial and not has_begun:
            _say_what_it_waits_for(record, waiting)
            return

        on = devices.select_device(device)
        precision = devices.select_precision(precision, on)
        devices.prepare(on, precision, identity.deterministic)
        read = own_images.read(found, config.images)
        dataset = record.dataset(read, config.images, recorded)
        fingerprint = recorded.get("data") or own_images.fingerprint(found)
        folder.open(environment(dataset, on, precision, fingerprint))
        run_log.write_to(folder.path / "log.txt")
        records.write_unreadable(folder.path, dataset.unreadable)
        record.write_labels()
        record.say_what_changed()
        this_round = Round(config, identity.seed, folder, record, read.digests, dataset)
        if not has_begun and this_round.has_too_few_labels():
            this_round.ask_at_random()
            return
        experiment = Experiment(
            config,
            identity.seed,
            auxiliary,
            dataset,
            on,
            precision,
            interruption,
            imagenet_weights() if config.model.pretrained else None,
        )
        trial = PeopleTrial(experiment, read.digests, this_round.is_in_pool)
        events = folder.path / "tensorboard" if tensorboard else None
        cycle = saved["learner"]["cycle"] if saved else 1
        training = saved["labeled"] if has_begun else this_round.for_training
        planned = [0] * (cycle - 1) + [len(training)]
        with interruption, Monitor(config, 1, quiet, True, events, planned) as monitor:
            loop = Loop(trial, sampling, folder, monitor, keep_weights)
            loop.continue_where_it_stopped()
            with loop.divergence_in_words():
                if not has_begun:
                    this_round.judge_the_last_batch(trial)
                    trial.labeled = this_round.for_training
                    loop.save()
                this_round.train_and_ask(loop)


class Round:
    """One round of a run, in its open folder.

    Args:
        config: the configuration.
        seed: decides everything random.
        folder: the run's.
        record: of its images.
        digests: of those that can be read, by index.
        dataset: these images; its test set is people's, or the images that were audited.

    Attributes:
        for_training: indices of the labelled images to train on, in the order labelled.
        is_in_pool: which images may be asked for, (N,) bool.
    """

    def __init__(
        self,
        config: Config,
        seed: int,
        folder: RunFolder,
        record: Record,
        digests: Sequence[str],
        dataset: Dataset,
    ) -> None:
        self.config = config
        self.seed = seed
        self.folder = folder
        self.record = record
        self.digests = digests
        self.dataset = dataset
        self.for_training = indices_of(record.for_training(), digests)
        self.is_in_pool = (dataset.train.labels == UNKNOWN).numpy()
        self.is_in_pool[indices_of(record.labels.set_aside, digests)] = False

    def has_too_few_labels(self) -> bool:
        """Whether images are to be asked for before there is a network."""
        active = self.config.active_learning
        begins_with = active.initial_labels or active.query_size
        return len(self.for_training) < (2 if self.record.batches else max(begins_with, 2))

    def ask_at_random(self) -> None:
        """Writes a batch for which no network is needed.

        Raises:
            InputError: nothing is left to be asked for.
        """
        active, number = self.config.active_learning, len(self.record.batches)
        size = active.query_size if number else active.initial_labels or active.query_size
        random = random_generator(self.seed, "first batch", number)
        candidates = self._candidates()
        chosen = asking.first_batch(candidates, size, self._num_audits(size), random)
        if not chosen:
            raise InputError(
                f"{self.record.found.root}: there is no image left to be labelled, and fewer than "
                "two have a label to train on; add images"
            )
        self._write(chosen)

    def judge_the_last_batch(self, trial: Trial) -> None:
        """Records what its labels tell of the scores, before the network has trained on them."""
        if not self.record.batches or not self.record.batches[-1].is_of_a_network:
            return
        batch, rows = self.record.batches[-1], self.folder.rows()
        judgement, count = judged_scores(batch, self.record.labels, self.digests, trial)
        for row in rows[rows["cycle"] == str(trial.cycle - 1)].to_dict("records"):
            self.folder.write_row(row | judgement)
        if count:
            log.info(
                f"batch {batch.number}: Spearman correlation of score and true loss "
                f"{judgement['score_loss_spearman'] or 'unknown'} over "
                f"{counted(count, 'labelled image')}, before training on them"
            )

    def train_and_ask(self, loop: Loop) -> None:
        """Takes the cycle to its end, and writes the batch that its network asks for.

        Raises:
            FloatingPointError: an output or a score is not finite.
        """
        trial = loop.trial
        row = loop.train_and_evaluate()
        if self.measures_by_audits:
            row |= self._audit(row[ACCURACY])
        self.folder.write_row(row)
        if (self.folder.rows()[ACCURACY] != "nan").any():
            draw_learning_curve(self.folder)
        if sum(batch.is_of_a_network for batch in self.record.batches) < trial.cycle:
            active, number = self.config.active_learning, len(self.record.batches)
            candidates, audits = self._candidates(), self._num_audits(active.query_size)
            random = random_generator(self.seed, "batch", number)
            chosen = asking.next_batch(
                candidates, active.query_size, audits, random, trial, loop.sampling
            )
            if not chosen:
                loop.monitor.flush()
                log.info(
                    f"{self.record.found.root}: every image has its label, or was set aside; "
                    "images that are added are asked for by the same command"
                )
                return
            loop.monitor.scored(np.array([each.score for each in chosen]))
            self._write(chosen)
        trial.labeled = trial.labeled[:0]
        trial.start_next_cycle()
        loop.train_seconds = 0.0
        loop.save()

    @property
    def measures_by_audits(self) -> bool:
        """Whether audited images stand in for a test set."""
        return self.record.found.test is None

    def _audit(self, accuracy: str) -> dict[str, str]:
        """The columns of `results.csv` about audits, said aloud."""
        count = len(self.dataset.test)
        columns = audit_columns(float(accuracy), count)
        if not count:
            log.info("no image is audited yet: the accuracy is unknown")
            return columns
        low, high = (float(columns[name]) for name in ("accuracy_low", "accuracy_high"))
        few = f"; under {FEW_AUDITS} images it means little" if count < FEW_AUDITS else ""
        log.info(
            f"accuracy on {counted(count, 'audited image')}: {float(accuracy):.1f} % "
            f"(95 % interval: {low:.1f} to {high:.1f} %){few}"
        )
        return columns

    def _num_audits(self, size: int) -> int:
        share = self.config.active_learning.audit_share if self.measures_by_audits else 0
        return max(round(share * size), 1) if share else 0

    def _candidates(self) -> asking.Candidates:
        again = self.record.to_ask_again()
        indices = indices_of(again, self.digests)
        is_audit = [again[self.digests[index]] for index in indices.tolist()]
        return asking.Candidates(np.flatnonzero(self.is_in_pool), indices, is_audit)

    def _write(self, chosen: Sequence[asking.Chosen]) -> None:
        """Writes a batch, and says what to do with it."""
        found, number = self.record.found, len(self.record.batches)
        rows = asking.as_rows(chosen, self.digests, found)
        self.record.write_pool()
        path = write_batch(self.folder.path, Batch(number, rows), found.root, found.class_names)
        log.info(
            f"{path}: asks for the labels of {counted(len(rows), 'image')}; open label.html there "
            "(or import label_studio.json), then run the same command with "
            f"--labels labels_batch{number}.csv"
        )


def _recorded(folder: RunFolder) -> dict[str, Any]:
    """What the run has written of itself; nothing, before its first round."""
    return folder.recorded()["run"] if (folder.path / "config.yaml").exists() else {}


def _refuse_other_classes(path: Path, recorded: dict[str, Any], class_names: list[str]) -> None:
    before = recorded.get("class_names", class_names)
    if before != class_names:
        odd = min({*before} ^ {*class_names}, default="their order")
        raise InputError(
            f"{path}: its network knows other classes ({shortened(odd)} is new or gone); bring "
            f"them back, or begin a run in another --output-dir with --labels {path / 'labels.csv'}"
        )


def _say_what_it_waits_for(record: Record, waiting: Sequence[Asking]) -> None:
    number, rows = record.batches[-1]
    log.info(
        f"{batch_folder(record.run_folder, number)}: waits for the labels of {len(waiting)} of "
        f"{counted(len(rows), 'image')}; give them by --labels FILE, or go on without by --partial"
    )
