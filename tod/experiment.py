"""The trials × cycles loop: train → evaluate → score → query → label → record."""

import logging
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from losses import AuxiliaryLoss
from models import imagenet_weights
from tod import data
from tod.analysis import records, tables
from tod.analysis.diagnostics import query_diagnostics
from tod.config import InputError
from tod.pool import Pool, Query
from tod.runs.checkpoints import Progress, write_weights
from tod.runs.folder import RunFolder
from tod.runs.identity import Identity
from tod.runs.log import RunLog
from tod.runs.monitor import Monitor
from tod.runs.ranks import main_process_first, ranks_from_environment
from tod.runs.signals import Interruption
from tod.training import device as devices
from tod.training.learner import learning_rate
from tod.trial import Experiment, Trial

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
        keep_weights: of `all` cycles, or of the `last` one.
    """

    def __init__(
        self,
        trial: Trial,
        sampling: Callable[[Pool], Query],
        folder: RunFolder,
        monitor: Monitor,
        keep_weights: str = "all",
    ) -> None:
        self.trial = trial
        self.config = trial.config
        self.sampling = sampling
        self.folder = folder
        self.monitor = monitor
        self.keep_weights = keep_weights
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
        self._continue_where_it_stopped()
        try:
            return self._run()
        except FloatingPointError as error:
            raise self.trial.learner.divergence(str(error)) from None

    def _run(self) -> bool:
        trial = self.trial
        while True:
            self.clock = time.monotonic()
            trial.train(self._after_step)
            row = self._evaluate()
            networks = {"backbone": trial.backbone, **trial.auxiliary.modules()}
            place = (self.folder.path, trial.number, trial.cycle)
            write_weights(*place, networks, self.keep_weights)
            if trial.cycle == self.config.active_learning.cycles:
                break
            pool = trial.pool()
            query = self.sampling(pool)
            self._record(pool, query, row)
            trial.label(query)
            self.train_seconds = 0.0
            self._save()
        self.monitor.flush()
        has_ended_the_run = self.folder.write_row(row)
        finish_trial(self.folder, trial.number)
        return has_ended_the_run

    def _evaluate(self) -> dict[str, str]:
        """The cycle's row of results, as far as it is known before the query."""
        trial, settings = self.trial, self.config.active_learning
        accuracy, num_labeled = trial.test_accuracy(), len(trial.labeled)
        log.info(
            f"{self.folder.identity.title} Trial:{trial.number}/{settings.trials} || "
            f"Cycle:{trial.cycle}/{settings.cycles} || Label set size:{num_labeled} ||  "
            f"Test acc:{accuracy:.2f}"
        )
        self.monitor.evaluated(num_labeled, accuracy)
        return {
            "trial": str(trial.number),
            "cycle": str(trial.cycle),
            "num_labeled": str(num_labeled),
            "test_accuracy": f"{accuracy:.4f}",
            "train_loss": f"{trial.learner.epoch_losses['loss']:.6g}",
            "train_seconds": f"{self.train_seconds:.1f}",
        }

    def _record(self, pool: Pool, query: Query, row: dict[str, str]) -> None:
        """Writes what was queried, and the cycle's row with a judgement of the query."""
        self.monitor.scored(query.scores)
        trial, dataset = self.trial, self.trial.experiment.dataset
        path = self.folder.path / "queries" / f"trial{trial.number}_cycle{trial.cycle}.csv"
        records.write_query(path, pool.subset, query.scores, query.indices, dataset)
        self.folder.write_row(row | self._diagnostics(pool, query))
        draw_learning_curve(self.folder)

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
            self._save()
            self.clock = time.monotonic()
            interruption.stop_if_requested()

    def _save(self) -> None:
        self.trial.learner.check_finite()
        self.monitor.flush()
        self.progress.save({**self.trial.state_dict(), "train_seconds": self.train_seconds})

    def _continue_where_it_stopped(self) -> None:
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
    with folder.shared_files():
        records.write_learning_curve(folder.path)


def run_experiment(
    identity: Identity,
    sampling: Callable[[Pool], Query],
    auxiliary: type[AuxiliaryLoss],
    *,
    output_dir: Path = Path("results"),
    trials: Sequence[int] | None = None,
    device: str = "auto",
    precision: str = "auto",
    overwrite: bool = False,
    keep_weights: str = "all",
    quiet: bool = False,
    tensorboard: bool = False,
) -> None:
    """Runs the chosen trials, or what an earlier run of the same command has left of them.

    Args:
        identity: the configuration, the seed, and what the strategy and the loss are called.
        sampling: chooses what to query.
        auxiliary: the loss beside the task loss.
        output_dir: where the run's folder is made.
        trials: those to run, from 1; None: all.
        device: `auto`, `cpu`, `cuda` or `mps`.
        precision: of training: `auto`, `fp32`, `tf32` or `bf16`.
        overwrite: start afresh.
        keep_weights: of `all` cycles, or of each trial's `last` one.
        quiet: show warnings alone.
        tensorboard: write for TensorBoard too.

    Raises:
        InputError: something that the user must mend; what was saved before stays good.
        SystemExit: with status 130 or 143, when interrupted by SIGINT or SIGTERM.
    """
    config, ranks = identity.config, ranks_from_environment()
    chosen = trials or range(1, config.active_learning.trials + 1)
    folder = RunFolder(
        output_dir / identity.folder_name,
        identity,
        trials=ranks.share(chosen),
        chosen=chosen,
        overwrite=overwrite and ranks.is_main_process,  # what rank 0 has emptied, the others fill
    )
    without = " without --overwrite" if overwrite else ""
    interruption = Interruption(f"the same command again{without} continues where it stopped")
    with devices.out_of_memory_in_words(), RunLog(quiet, ranks) as run_log, folder:
        with main_process_first(ranks):
            folder.claim()
            unfinished = folder.unfinished_trials()
            is_finished = not unfinished and folder.is_finished()
            if unfinished:
                on = devices.select_device(device, ranks.local_rank)
                precision = devices.select_precision(precision, on)
                devices.prepare(on, precision, identity.deterministic)
                dataset = data.load(config, identity.seed)
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
                folder.open(environment(dataset, on, precision))
                records.write_unreadable(folder.path, dataset.unreadable)
                run_log.write_to(folder.path / "log.txt")
            elif folder.trials and folder.recorded().get("data_dir") != config.data_dir:
                folder.refuse_other_images(data.load(config, identity.seed).fingerprint())
        for number in set(folder.trials) - set(unfinished):
            finish_trial(folder, number)
        ended = False
        if unfinished:
            events = folder.path / "tensorboard" if tensorboard else None
            monitor = Monitor(config, len(unfinished), quiet, ranks.is_main_process, events)
            with interruption, monitor:
                for number in unfinished:
                    trial = Trial(experiment, number)
                    ended = Loop(trial, sampling, folder, monitor, keep_weights).run()
        # Of several ranks, one shows the table.
        shows = ranks.world_size == 1 or (ranks.is_main_process and is_finished)
        if shows and not unfinished:
            log.info(f"{folder.path}: is finished; --overwrite starts it afresh")
        if shows or ended:
            for line in tables.accuracy_lines(folder.rows()):
                log.info(line)


def environment(dataset: data.Dataset, device: torch.device, precision: str) -> dict[str, Any]:
    """What the run has found, for its `config.yaml`."""
    return {
        "class_names": list(dataset.class_names),
        "mean": [round(value, 6) for value in dataset.mean.tolist()],
        "std": [round(value, 6) for value in dataset.std.tolist()],
        "data": dataset.fingerprint(),
        "training_images": len(dataset.train),
        "device": devices.device_name(device),
        "precision": precision,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
