"""The progress of a run: a bar or lines, and TensorBoard."""

import logging
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tod.config import Config
from tod.system.files import reason

log = logging.getLogger("tod")

SECONDS_BETWEEN_LINES = 60.0


@dataclass
class Monitor:
    """Shows the progress of this process's trials, without any effect on them.

    In a terminal it shows a bar over all labelled images to train on; elsewhere, a line a minute.
    With `quiet` there is no bar, and the lines go only into log.txt. With several processes, the
    main one shows a bar.
    """

    config: Config
    num_trials: int  # to come
    labeled: Sequence[int]  # how many labelled images each cycle of a trial trains on
    quiet: bool = False
    is_main_process: bool = True
    tensorboard: Path | None = None  # the folder of its files; None: it writes none

    def __enter__(self) -> "Monitor":
        self.writer, self.images = None, 0
        self.in_lines = self.quiet or not sys.stderr.isatty()
        # Not earlier, since under torchrun rank 0 waits for the others first.
        self.began = self.last_line = time.monotonic()
        self.bar = tqdm(
            total=self.num_trials * sum(self.labeled) * self.config.training.epochs,
            unit="img",
            unit_scale=True,
            bar_format="{desc} {percentage:.0f}%|{bar}|<{remaining}, {rate_fmt}{postfix}",
            leave=False,
            disable=self.in_lines or not self.is_main_process,
        )
        return self

    def __exit__(self, *exception: object) -> None:
        self._close_writer()
        self.bar.close()

    def start_trial(
        self, trial: int, cycle: int, epoch: int, losses: dict[str, float], rate: float
    ) -> None:
        """Called when a trial starts or resumes; `cycle` counts from 1, `epoch` from 0.

        `losses` and `rate` belong to the last epoch, if there was one in this cycle.
        """
        epochs = self.config.training.epochs
        # Of this trial: TensorBoard's step.
        self.epochs_taken = (cycle - 1) * epochs + epoch
        # Epochs of an earlier process must not count as this one's speed.
        self.bar.total -= sum(self.labeled[: cycle - 1]) * epochs + self.labeled[cycle - 1] * epoch
        self._close_writer()
        if self.tensorboard is not None:
            from torch.utils.tensorboard import SummaryWriter  # takes seconds to import

            # Values written after the saved state come again; after the last epoch of a cycle, so
            # do the accuracy and the scores, which have the same step.
            place, is_trained = str(self.tensorboard / f"trial{trial}"), epoch == epochs
            purge_step = self.epochs_taken + (not is_trained)
            self.writer = self._tried(SummaryWriter, place, purge_step=purge_step)
            if is_trained:
                self._show_epoch(losses, rate)

    def epoch_ended(
        self, trial: int, cycle: int, epoch: int, num_labeled: int, losses: dict, rate: float
    ) -> None:
        """Called when an epoch, counted from 1, has ended."""
        settings, epochs = self.config.active_learning, self.config.training.epochs
        self.epochs_taken = (cycle - 1) * epochs + epoch
        where = f"trial {trial}/{settings.trials} cycle {settings.among_cycles(cycle)}"
        where += f" epoch {epoch}/{epochs}"
        figures = f"loss {losses['loss']:.3g}, lr {rate:.3g}"
        self.images += num_labeled
        self.bar.set_description_str(where, refresh=False)
        self.bar.set_postfix_str(figures, refresh=False)
        self.bar.update(num_labeled)
        now = time.monotonic()
        if self.in_lines and now - self.last_line > SECONDS_BETWEEN_LINES:
            speed = self.images / (now - self.began)
            left = tqdm.format_interval((self.bar.total - self.images) / speed)
            log.info(f"{where}: {figures}, {speed:.0f} images/s, {left} left")
            self.last_line = now
        self._show_epoch(losses, rate)

    def _show_epoch(self, losses: dict[str, float], rate: float) -> None:
        for name, loss in losses.items():
            self._write("add_scalar", f"loss/{name}", loss, self.epochs_taken)
        self._write("add_scalar", "learning rate", rate, self.epochs_taken)

    def evaluated(self, num_labeled: int, test_accuracy: float) -> None:
        """Called with the test accuracy in % of a cycle."""
        self._write("add_scalar", "test accuracy", test_accuracy, self.epochs_taken)
        self._write("add_scalar", "labelled images", num_labeled, self.epochs_taken)

    def scored(self, scores: np.ndarray) -> None:
        """Called with the scores of the subset."""
        self._write("add_histogram", "scores", scores, self.epochs_taken)

    def flush(self) -> None:
        """Writes TensorBoard's files before a state is saved, whose values are not shown again."""
        self._write("flush")

    def _write(self, method: str, *arguments: Any) -> None:
        if self.writer is not None:
            self._tried(getattr(self.writer, method), *arguments)

    def _tried(self, call: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
        """The result of the call; if TensorBoard's files cannot be written, the run goes on."""
        try:
            return call(*arguments, **settings)
        except OSError as error:
            why = f"cannot be written ({reason(error)}); the run goes on without it"
            log.warning(f"{self.tensorboard}: {why}")
            self._close_writer()

    def _close_writer(self) -> None:
        if self.writer is not None:
            with suppress(OSError):
                self.writer.close()
            self.writer = None
