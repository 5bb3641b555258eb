"""One trial's loop: train → evaluate → score → query → label → record, cycle after cycle."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from tod.analysis import records
from tod.analysis.diagnostics import query_diagnostics
from tod.analysis.metrics import FEW_IMAGES, metrics_of_test_set, why_nothing_seems_learnt
from tod.analysis.results import ACCURACY
from tod.config import InputError
from tod.config.identity import Options, cycle_name
from tod.config.schema import FILE_DATASETS
from tod.engine.learner import learning_rate
from tod.engine.trial import Trial
from tod.runs.checkpoints import Progress, write_weights
from tod.runs.folder import RunFolder
from tod.runs.monitor import Monitor
from tod.strategies.pool import Pool, Query

log = logging.getLogger("tod")

EPOCHS_BETWEEN_SAVES = 20
SECONDS_BETWEEN_SAVES = 300.0


class Loop:
    """The method's loop over one trial, and what it leaves in the run's folder.

    Args:
        trial: where it begins.
        sampling: chooses what to query.
        folder: the run's.
        monitor: follows the loop.
        options: which weights are kept, and whether each cycle's probabilities are.
    """

    def __init__(
        self,
        trial: Trial,
        sampling: Callable[[Pool], Query],
        folder: RunFolder,
        monitor: Monitor,
        options: Options,
    ) -> None:
        self.trial = trial
        self.config = trial.config
        self.sampling = sampling
        self.folder = folder
        self.monitor = monitor
        self.options = options
        self.progress = Progress(folder.path, trial.number)
        self.train_seconds = 0.0
        self.clock = time.monotonic()

    def run(self) -> bool:
        """From where the trial stopped to the last cycle's accuracy.

        Returns:
            Whether the run has all its results with this trial's.

        Raises:
            InputError: training has diverged, or a file cannot be written.
        """
        self.continue_where_it_stopped()
        if self.trial.cycle == 1:
            records.write_first_labels(
                self._query_path(0), self.trial.labeled, self.trial.experiment.dataset
            )
        with self.explain_divergence():
            row = self.train_and_evaluate()
            while self.trial.cycle < self.config.active_learning.cycles:
                self._query(row)
                row = self.train_and_evaluate()
        self.monitor.flush()
        has_ended_the_run = self.folder.write_row(row)
        finish_trial(self.folder, self.trial.number)
        return has_ended_the_run

    @contextmanager
    def explain_divergence(self) -> Iterator[None]:
        """Says where training was when an output or a score is found not to be finite.

        Raises:
            InputError: one is.
        """
        try:
            yield
        except FloatingPointError as error:
            raise self.trial.learner.divergence(str(error)) from None

    def train_and_evaluate(self) -> dict[str, str]:
        """Takes the cycle to its end, and keeps its network.

        Returns:
            Its row of results, as far as it is known before the query.
        """
        trial = self.trial
        self.clock = time.monotonic()
        trial.train(self._after_step)
        row = self._evaluate()
        networks = {"backbone": trial.backbone, **trial.auxiliary.modules()}
        place = (self.folder.path, trial.number, trial.cycle)
        write_weights(*place, networks, self.options.keep_weights)
        return row

    def _query(self, row: dict[str, str]) -> None:
        """Queries what the next cycle learns of, and completes this one's row of results."""
        pool = self.trial.pool()
        query = self.sampling(pool)
        self._record(pool, query, row)
        self.trial.label(query)
        self.train_seconds = 0.0
        self.save()

    def _evaluate(self) -> dict[str, str]:
        """The cycle's row of results, as far as it is known before the query."""
        trial, settings = self.trial, self.config.active_learning
        dataset, num_labeled = trial.experiment.dataset, len(trial.labeled)
        logits = trial.test_logits()
        metrics = metrics_of_test_set(logits, dataset.test.labels)
        accuracy = float(metrics[ACCURACY])
        log.info(
            f"{self.folder.identity.title} Trial:{trial.number}/{settings.trials} || "
            f"Cycle:{settings.among_cycles(trial.cycle)} || Label set size:{num_labeled} ||  "
            f"Test acc:{accuracy:.2f}"
        )
        self._warn_if_nothing_seems_learnt(accuracy)
        self.monitor.evaluated(num_labeled, accuracy)
        if len(dataset.test):
            name = cycle_name(trial.number, trial.cycle)
            path = self.folder.path / "confusion" / f"{name}.csv"
            records.write_confusion(path, logits, dataset)
            if self.options.keep_predictions:
                path = self.folder.path / "predictions" / f"{name}.npz"
                records.write_predictions(path, logits, dataset)
        return {
            "trial": str(trial.number),
            "cycle": str(trial.cycle),
            "num_labeled": str(num_labeled),
            **metrics,
            "train_loss": f"{trial.learner.epoch_losses['loss']:.6g}",
            "train_seconds": f"{self.train_seconds:.1f}",
        }

    def _warn_if_nothing_seems_learnt(self, accuracy: float) -> None:
        trial, rows = self.trial, self.folder.rows()
        is_before = (rows["trial"] == str(trial.number)) & (rows["cycle"].astype(int) < trial.cycle)
        if "audited" in rows:  # of few, an accuracy means little
            is_before &= pd.to_numeric(rows["audited"]).fillna(FEW_IMAGES) >= FEW_IMAGES
        before = rows.loc[is_before, ACCURACY].astype(float).dropna().tolist()
        labels = trial.experiment.dataset.test.labels
        if why := why_nothing_seems_learnt([*before, accuracy], labels):
            settings = ["more training.epochs", "another training.lr"]
            if self.config.dataset in FILE_DATASETS:
                settings.append("a larger images.size")
                if not self.config.model.pretrained:
                    settings.append("model.name=imagenet_resnet with model.pretrained=true")
            log.warning(
                f"trial {trial.number}, cycle {trial.cycle}: {why}. Try more labels or, in another "
                f"--output-dir, {', '.join(settings)}"
            )

    def _record(self, pool: Pool, query: Query, row: dict[str, str]) -> None:
        """Writes what was queried, and the cycle's row with a judgement of the query."""
        self.monitor.scored(query.scores)
        trial, dataset = self.trial, self.trial.experiment.dataset
        path = self._query_path(trial.cycle)
        records.write_query(path, pool.subset, query.scores, query.indices, dataset)
        self.folder.write_row(row | self._diagnostics(pool, query))
        draw_learning_curve(self.folder)

    def _query_path(self, cycle: int) -> Path:
        return self.folder.path / "queries" / f"{cycle_name(self.trial.number, cycle)}.csv"

    def _diagnostics(self, pool: Pool, query: Query) -> dict[str, str]:
        return query_diagnostics(
            query.scores,
            pool.true_losses.cpu().numpy(),
            (pool.logits.argmax(dim=1) != pool.labels).cpu().numpy(),
            pool.labels.cpu().numpy(),
            np.isin(pool.subset, query.indices),
        )

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
        due = epoch_ended and (cycle_trained or learner.epoch % EPOCHS_BETWEEN_SAVES == 0)
        if due or seconds > SECONDS_BETWEEN_SAVES or interruption.requested:
            self.train_seconds += seconds
            self.save()
            self.clock = time.monotonic()
            interruption.stop_if_requested()

    def save(self) -> None:
        """Saves where the trial stands: a killed run goes on from here."""
        self.trial.learner.check_finite()
        self.monitor.flush()
        self.progress.save({**self.trial.state_dict(), "train_seconds": self.train_seconds})

    def continue_where_it_stopped(self) -> None:
        """Takes back what an earlier process has saved of the trial, if it has.

        Raises:
            InputError: another version has saved it.
        """
        learner, state = self.trial.learner, self.progress.load()
        if state is not None:
            try:
                self.trial.load_state_dict(state)
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


def finish_trial(folder: RunFolder, trial: int) -> None:
    """Ends a trial whose last row is written, unless that was done: a kill may come between."""
    progress = Progress(folder.path, trial)
    if progress.exists():
        draw_learning_curve(folder)
        progress.remove()


def draw_learning_curve(folder: RunFolder) -> None:
    """Draws the run's curve as far as it has got; its trials share the picture."""
    records.write_learning_curve(folder.path, folder.mark)
