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
from tod.analysis.metrics import FEW_IMAGES, metrics_of_test_set, why_nothing_seems_learnt
from tod.analysis.results import ACCURACY
from tod.config import Config, InputError
from tod.config.identity import Identity, Options, cycle_name
from tod.data import Dataset
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
    """The loop over one trial, and what it leaves in the run's folder: rank 0 alone writes it."""

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
        """From where the trial stopped to its end, or to where it waits for labels.

        Returns:
            Whether the run has all its results with this trial's.
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
            if not self.writes:  # all ranks find it; one says so
                raise SystemExit(2) from None
            if isinstance(error, DivergenceError):
                raise
            raise self.trial.learner.divergence(str(error)) from None
        return False

    def train_and_evaluate(self) -> dict[str, str]:
        """Takes the cycle to its end, and keeps its network; gives its row of results, as far as
        it is known before the query.
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
        if "audited" in rows:  # of few, an accuracy means little
            is_before &= pd.to_numeric(rows["audited"]).fillna(FEW_IMAGES) >= FEW_IMAGES
        before = rows.loc[is_before, ACCURACY].astype(float).dropna().tolist()
        labels = trial.experiment.dataset.test.labels
        if why := why_nothing_seems_learnt([*before, accuracy], labels):
            settings = ["more training.epochs", "another training.lr"]
            if self.config.facts.are_files:
                settings.append("a larger images.size")
                if not self.config.model.pretrained:
                    settings.append("model.name=imagenet_resnet with model.pretrained=true")
            log.warning(
                f"trial {trial.number}, cycle {trial.cycle}: {why}. Try more labels or, in another "
                f"--output-dir, {', '.join(settings)}"
            )

    def cycle_file(self, kind: str, cycle: int, ending: str = ".csv") -> Path:
        """Where one kind of record of a cycle lies; 0: of what was before the first."""
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
        # All ranks save together: rank 0's signals and clock decide.
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
        """Saves where the trial stands: a killed run goes on from here."""
        self.trial.learner.check_finite()
        self.ranks.from_main(self._write_state)

    def _write_state(self) -> None:
        self.monitor.flush()
        state = {**self.trial.state_dict(), **self.oracle.state_dict()}
        self.progress.save({**state, "train_seconds": self.train_seconds})

    def resume(self) -> None:
        """Takes back what an earlier process has saved of the trial, if it has."""
        learner, state = self.trial.learner, self.ranks.from_main(self.progress.load)
        if state is not None:
            try:
                self.trial.load_state_dict(state)
                self.oracle.load_state_dict(state)
                self.train_seconds = state["train_seconds"]
            except KeyError as error:
                raise InputError(
                    f"{self.folder.path}: was saved by another version of this project (there is "
                    f"no {error}); go on with that one, or start afresh with --overwrite"
                ) from None
            trained = learner.epoch == self.config.training.epochs
            where = "after its training" if trained else f"epoch {learner.epoch + 1}"
            log.info(f"continuing with trial {self.trial.number}, cycle {learner.cycle}, {where}")
        rate = learning_rate(self.config, learner.epoch - 1)
        self.monitor.start_trial(
            self.trial.number, learner.cycle, learner.epoch, learner.epoch_losses, rate
        )

    def _finish(self, row: dict[str, str]) -> bool:
        if not self.writes:
            return False
        self.monitor.flush()
        has_ended_the_run = self.folder.write_row(row)
        finish_trial(self.folder, self.trial.number)
        return has_ended_the_run


class Oracle:
    """Labels what is queried: the seam between the loop, and datasets or people.

    Attributes:
        advice: how to go on after an interruption.
        processes: which process this is of those that share out the trials.
        trials: those that this command has something to do for, once it is prepared.
        recorded: what the run has recorded of itself, if it has begun.
        num_labeled: on how many labelled images each cycle of a trial is to train.
        fingerprint: of the images, for `config.yaml`, once they are loaded.
        content: what all ranks that share a trial must see alike.
        given_features: of the training images, (N, F), where the run uses given ones.
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

    @property
    def config(self) -> Config:
        return self.identity.config

    def folder(self, path: Path) -> RunFolder:
        """The run's folder."""

    def prepare(self, folder: RunFolder, run_log: RunLog) -> None:
        """Finds out what there is to do, before anything slow begins."""

    def load(self) -> Dataset:
        """The images, with the labels that are known."""

    def open(
        self, folder: RunFolder, dataset: Dataset, found: dict[str, Any], run_log: RunLog
    ) -> bool:
        """Makes the folder ready for results, whose `config.yaml` keeps what was `found`; whether
        there is anything to train for.
        """
        folder.open(found)
        run_log.write_to(folder.path / "log.txt")
        records.write_unreadable(folder.path, dataset.unreadable, folder.mark)
        return True

    def trial(self, experiment: Experiment, number: int) -> Trial:
        """One trial as it begins."""
        return Trial(experiment, number)

    def has_labels(self, loop: Loop) -> bool:
        """Whether the trial has the labels to train its cycle on; if not, the loop ends."""

    def query(self, loop: Loop, row: dict[str, str]) -> None:
        """Asks for the labels of the next cycle, records what for, and starts that cycle.

        `row` is this cycle's row of results, as far as it is known before the query.
        """

    def state_dict(self) -> dict[str, Any]:
        """What is saved beside the trial's state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""

    def conclude(self, folder: RunFolder, has_ended: bool) -> None:
        """Says how the run stands; `has_ended`: with this command."""


def finish_trial(folder: RunFolder, trial: int) -> None:
    """Ends a trial whose last row is written, unless that was done: a kill may come between."""
    progress = Progress(folder.path, trial)
    if progress.exists():
        records.write_learning_curve(folder.path, folder.mark)
        progress.remove()
