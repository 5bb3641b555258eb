"""One round: train on the labels that there are, and ask for the next ones."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tod.analysis.metrics import FEW_IMAGES
from tod.analysis.results import ACCURACY
from tod.config import Config, InputError
from tod.config.settings import counted
from tod.data import Dataset
from tod.data.own_images import UNKNOWN, indices_of
from tod.engine.loop import Loop, draw_learning_curve
from tod.people import asking
from tod.people.batch_files import write_batch
from tod.people.judging import audit_columns, judged_scores
from tod.people.label_store import LabelStore
from tod.people.trial import PeopleTrial
from tod.runs.folder import RunFolder
from utils import random_generator

log = logging.getLogger("tod")


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
        record: LabelStore,
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
        self.is_in_pool[indices_of(record.set_aside, digests)] = False

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
        chosen = asking.first_batch(candidates, size, self._audit_share, random)
        if not chosen:
            raise InputError(
                f"{self.record.found.root}: there is no image left to be labelled, and fewer than "
                "two have a label to train on; add images"
            )
        if number:
            log.info("too few labels to train on: that needs two, without the audited images'")
        self._write(chosen)

    def has_nothing_to_do(self, state: Mapping[str, Any] | None) -> bool:
        """Whether a cycle was trained on the same labels, and no image is left to ask for."""
        return (
            state is not None
            and state["trained"] == self.record.fingerprint()
            and not self.is_in_pool.any()
        )

    def begin(self, loop: Loop) -> None:
        """Begins a cycle on the labels that there are, and saves that it has begun."""
        trial = loop.trial
        self._judge_the_last_batch(trial)
        trial.labeled, trial.trained = self.for_training, self.record.fingerprint()
        trial.num_batches = trial.num_written = len(self.record.batches)
        trial.learner.start_cycle(trial.cycle)
        loop.save()

    def _judge_the_last_batch(self, trial: PeopleTrial) -> None:
        """Records what its labels tell of the scores, before the network has trained on them."""
        asked = self.record.batches[trial.num_batches :]
        if not asked or not any(request.predicted for request in asked[-1]):
            return
        batch, rows = asked[-1], self.folder.rows()
        judgement, count = judged_scores(batch, self.record.labels, self.digests, trial)
        for row in rows[rows["cycle"] == str(trial.cycle - 1)].to_dict("records"):
            self.folder.write_row(row | judgement)
        if count:
            log.info(
                f"batch {batch[0].batch}: Spearman correlation of score and true loss "
                f"{judgement['score_loss_spearman'] or 'unknown'} over "
                f"{counted(count, 'labelled image')}, before training on them"
            )

    def train_and_ask(self, loop: Loop) -> bool:
        """Takes the cycle to its end, and writes the batch that its network asks for.

        Returns:
            Whether the batch was there: a kill came between it and the state that is saved after.

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
        batch_is_there = len(self.record.batches) > trial.num_batches
        trial.num_written = trial.num_batches + (batch_is_there or self._ask(loop))
        trial.end_cycle()
        loop.train_seconds = 0.0
        loop.save()
        return batch_is_there

    def _ask(self, loop: Loop) -> bool:
        """Whether there is anything left to ask for."""
        active, number = self.config.active_learning, len(self.record.batches)
        chosen = asking.next_batch(
            self._candidates(),
            active.query_size,
            self._audit_share,
            random_generator(self.seed, "batch", number),
            loop.trial,
            loop.sampling,
        )
        if chosen:
            loop.monitor.scored(np.array([each.score for each in chosen]))
            self._write(chosen)
        else:
            self.say_that_all_is_labelled()
        return bool(chosen)

    def say_that_all_is_labelled(self) -> None:
        """Says that nothing is left to be asked for, and how it goes on all the same."""
        log.info(
            f"{self.record.found.root}: every image has its label, or was set aside; the same "
            "command goes on when images are added, or labels change"
        )

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
        few = f"; under {FEW_IMAGES} images it means little" if count < FEW_IMAGES else ""
        log.info(
            f"accuracy on {counted(count, 'audited image')}: {float(accuracy):.1f} % "
            f"(95 % interval: {low:.1f} to {high:.1f} %){few}"
        )
        return columns

    @property
    def _audit_share(self) -> float:
        return self.config.active_learning.audit_share if self.measures_by_audits else 0.0

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
        path = write_batch(self.folder.path, number, rows, found.root, found.class_names)
        log.info(
            f"{path}: asks for the labels of {counted(len(rows), 'image')}; open label.html there "
            "(or import label_studio.json), then run the same command with "
            f"--labels labels_batch{number}.csv"
        )
