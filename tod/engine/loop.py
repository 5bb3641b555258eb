"""The method: train → evaluate → score the pool → query → label → record, cycle after cycle."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from tod.analysis import records
from tod.analysis.metrics import metrics_of_test_set, why_nothing_seems_learnt
from tod.analysis.results import ACCURACY, FEW_IMAGES
from tod.config import Config, InputError
from tod.config.identity import Identity, Options, cycle_name
from tod.data import Dataset
from tod.data.features import Features
from tod.engine.learner import DivergenceError, learning_rate
from tod.engine.trial import Experiment, Trial
from tod.runs.checkpoints import Progress, write_weights
from tod.runs.folder import RunFolder
from tod.runs.log import RunLog
from tod.runs.monitor import Monitor
from tod.runs.ranks import Ranks
from tod.strategies.pool import Pool, Query

log = logging.getLogger("tod")

EPOCHS_BETWEEN_SAVES = 20
SECONDS_BETWEEN_SAVES = 300.0


@dataclass
class Loop:
    """The loop over one trial, whose records rank 0 writes into the run's folder."""

    trial: Trial
    oracle: "Oracle"
    sampling: Callable[[Pool], Query]
    folder: RunFolder
    monitor: Monitor
    options: Options

    def __post_init__(self) -> None:
        self.config = self.trial.config
        self.ranks = self.trial.experiment.ranks
        self.writes = self.ranks.is_main
        self.progress = Progress(self.folder.path, self.trial.number)
        self.train_seconds = 0.0
        self.clock = time.monotonic()

    def run(self) -> bool:
        """Runs the trial from where it stopped to its end, or until it waits for labels.

        Returns:
            Whether this was the last trial of the run to end.
        """
        self.resume()
        try:
            while self.oracle.has_labels(self):
                row = self.train_and_evaluate()
                if self.trial.cycle == self.config.active_learning.cycles:
                    return self._finish(row)
                self.oracle.query(self, row)
                self.train_seconds = 0.0
                self.save()
        except (FloatingPointError, DivergenceError) as error:
            if not self.writes:  # all ranks raise it; rank 0 reports it
                raise SystemExit(2) from None
            if isinstance(error, DivergenceError):
                raise
            raise self.trial.learner.divergence(str(error)) from None
        return False

    def train_and_evaluate(self) -> dict[str, str]:
        """Trains and evaluates the cycle and writes its weights.

        Returns:
            The row of results, as far as it is known before the query.
        """
        trial = self.trial
        self.clock = time.monotonic()
        trial.train(self._after_step)
        logits = trial.test_logits()
        row = metrics_of_test_set(logits, trial.experiment.dataset.test.labels)
        if self.writes:
            self._record_evaluation(logits, float(row[ACCURACY]))
            networks = {"backbone": trial.backbone, **trial.auxiliary.modules()}
            place = (self.folder.path, trial.number, trial.cycle)
            write_weights(*place, networks, self.options.keep_weights)
        return {
            "trial": str(trial.number),
            "cycle": str(trial.cycle),
            "num_labeled": str(len(trial.labeled)),
            **row,
            "train_loss": f"{trial.learner.epoch_losses['loss']:.6g}",
            "train_seconds": f"{self.train_seconds:.1f}",
        }

    def _record_evaluation(self, logits: Tensor, accuracy: float) -> None:
        trial, settings = self.trial, self.config.active_learning
        dataset, num_labeled = trial.experiment.dataset, len(trial.labeled)
        log.info(
            f"{self.folder.identity.title} Trial:{trial.number}/{settings.trials} || "
            f"Cycle:{settings.among_cycles(trial.cycle)} || Label set size:{num_labeled} ||  "
            f"Test acc:{accuracy:.2f}"
        )
        self._warn_if_nothing_seems_learnt(accuracy)
        self.monitor.evaluated(num_labeled, accuracy)
        if len(dataset.test):
            path = self.cycle_file("confusion", trial.cycle)
            records.write_confusion(path, logits, dataset)
            if self.options.keep_predictions:
                path = self.cycle_file("predictions", trial.cycle, ".npz")
                records.write_predictions(path, logits, dataset)

    def _warn_if_nothing_seems_learnt(self, accuracy: float) -> None:
        trial, rows = self.trial, self.folder.rows()
        is_before = (rows["trial"] == str(trial.number)) & (rows["cycle"].astype(int) < trial.cycle)
        if "audited" in rows:  # on few images an accuracy means little
            is_before &= pd.to_numeric(rows["audited"]).fillna(FEW_IMAGES) >= FEW_IMAGES
        before = rows.loc[is_before, ACCURACY].astype(float).dropna().tolist()
        labels = trial.experiment.dataset.test.labels
        if why := why_nothing_seems_learnt([*before, accuracy], labels):
            settings = ["more training.epochs", "another training.lr"]
            if self.config.facts.are_files and not self.config.model.is_linear:
                settings += ["a larger images.size", "model.name=linear, which sees features"]
            log.warning(
                f"trial {trial.number}, cycle {trial.cycle}: {why}. Try more labels or, in another "
                f"--output-dir, {', '.join(settings)}"
            )

    def cycle_file(self, kind: str, cycle: int, ending: str = ".csv") -> Path:
        """The file of one kind of record of a cycle; cycle 0 is the state before the first."""
        return self.folder.path / kind / f"{cycle_name(self.trial.number, cycle)}{ending}"

    def _after_step(self) -> None:
        learner, interruption = self.trial.learner, self.trial.experiment.interruption
        seconds = time.monotonic() - self.clock
        epoch_ended = learner.step == 0
        cycle_trained = learner.epoch == self.config.training.epochs
        if epoch_ended:
            self.monitor.epoch_ended(
                self.trial.number,
                learner.cycle,
                learner.epoch,
                len(self.trial.labeled),
                learner.epoch_losses,
                learning_rate(self.config, learner.epoch - 1),
            )
        # All ranks save together, when rank 0's signals and clock say so.
        is_late = seconds > SECONDS_BETWEEN_SAVES
        wanted = self.ranks.agree(interruption.requested or -int(is_late))
        due = epoch_ended and (cycle_trained or learner.epoch % EPOCHS_BETWEEN_SAVES == 0)
        if due or wanted:
            self.train_seconds += seconds
            self.save()
            self.clock = time.monotonic()
            if wanted > 0:
                interruption.stop(wanted)

    def save(self) -> None:
        """Saves the state from which a killed run resumes."""
        self.trial.learner.check_finite()
        self.ranks.from_main(self._write_state)

    def _write_state(self) -> None:
        self.monitor.flush()
        state = {**self.trial.state_dict(), **self.oracle.state_dict()}
        self.progress.save({**state, "train_seconds": self.train_seconds})

    def resume(self) -> None:
        """Restores the state that an earlier process saved of the trial, if any."""
        learner, state = self.trial.learner, self.ranks.from_main(self._saved_state)
        if state is not None:
            try:
                self.trial.load_state_dict(state)
                self.oracle.load_state_dict(state)
                self.train_seconds = state["train_seconds"]
            except KeyError as error:
                raise InputError(
                    f"{self.folder.path}: was saved by another version of this project (there is "
                    f"no {error}); go on with that one, or {self.folder.afresh}"
                ) from None
            trained = learner.epoch == self.config.training.epochs
            where = "after its training" if trained else f"epoch {learner.epoch + 1}"
            log.info(f"continuing with trial {self.trial.number}, cycle {learner.cycle}, {where}")
        rate = learning_rate(self.config, learner.epoch - 1)
        self.monitor.start_trial(
            self.trial.number, learner.cycle, learner.epoch, learner.epoch_losses, rate
        )

    def _saved_state(self) -> dict[str, Any] | None:
        state = self.progress.load()
        if state is None:
            self.folder.refuse_without_state(self.trial.number)
        return state

    def _finish(self, row: dict[str, str]) -> bool:
        if not self.writes:
            return False
        self.monitor.flush()
        has_ended_the_run = self.folder.write_row(row)
        finish_trial(self.folder, self.trial.number)
        return has_ended_the_run


class Oracle:
    """Labels the queried images: the seam between the loop and a dataset or people.

    Attributes:
        advice: how to continue after an interruption.
        processes: this process among those that divide the trials.
        trials: those to run; known once the oracle is prepared.
        recorded: the section `run` of the run's `config.yaml`, if it has begun.
        num_labeled: the number of labelled images of each cycle.
        fingerprint: of the images, for `config.yaml`; known once they are loaded.
        content: a fingerprint that must be the same on all ranks of a trial.
        given_features: of the training images, (N, F), for strategies, if `--features` gives them.
        features_to_train_on: of the training and the test images, if `--features` gives them.
    """

    identity: Identity
    advice = "the same command again continues where it stopped"
    processes = Ranks()
    trials: Sequence[int]
    recorded: dict[str, Any]
    num_labeled: list[int]
    fingerprint: str
    content: str
    imagenet_weights: dict[str, Tensor] | None = None
    given_features: np.ndarray | None = None
    features_to_train_on: tuple[Features, Features] | None = None

    @property
    def config(self) -> Config:
        return self.identity.config

    def folder(self, path: Path) -> RunFolder:
        """The run's folder."""

    def prepare(self, folder: RunFolder, run_log: RunLog) -> None:
        """Finds out which trials to run, before anything slow begins."""

    def load(self) -> Dataset:
        """Loads the images, with the labels that are known."""

    def open(
        self, folder: RunFolder, experiment: Experiment, found: dict[str, Any], run_log: RunLog
    ) -> bool:
        """Makes the folder ready for results and records what was `found` in `config.yaml`.

        Returns:
            Whether there is anything to train.
        """
        folder.open(found)
        run_log.write_to(folder.path / "log.txt")
        records.write_unreadable(folder.path, experiment.dataset.unreadable, folder.mark)
        return True

    def trial(self, experiment: Experiment, number: int) -> Trial:
        """A trial in its initial state."""
        return Trial(experiment, number)

    def has_labels(self, loop: Loop) -> bool:
        """Whether the labels of the cycle are there; if not, the loop ends."""

    def query(self, loop: Loop, row: dict[str, str]) -> None:
        """Queries labels, records the query with this cycle's row, and starts the next cycle."""

    def state_dict(self) -> dict[str, Any]:
        """The oracle's part of the saved state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a `state_dict`."""

    def conclude(self, folder: RunFolder, has_ended: bool) -> None:
        """Logs the state of the run; `has_ended` says whether this command has finished it."""


def finish_trial(folder: RunFolder, trial: int) -> None:
    """Ends a trial whose last row is written; does nothing if it has ended already."""
    progress = Progress(folder.path, trial)
    if progress.exists():
        records.write_learning_curve(folder.path, folder.mark)
        progress.remove()
