"""What a run shows while it goes on: a progress bar or lines, and TensorBoard."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from tod.config import Config
from tod.system.files import reason

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger("tod")

SECONDS_BETWEEN_LINES = 60.0


class Monitor:
    """Follows the trials of this process, one after the other; it changes nothing in them.

    In a terminal it is a bar over all labelled images that the trials train on, so that it tells
    images/s and the time left; elsewhere, a line a minute. With `--quiet` there is no bar, and the
    lines go into log.txt alone.

    Args:
        config: the configuration.
        num_trials: how many trials are to come.
        labeled: how many labelled images each cycle of a trial trains on.
        quiet: whether to show no bar.
        is_main_process: of several processes, this one shows a bar.
        tensorboard: where TensorBoard's files go, if there are to be any.
    """

    def __init__(
        self,
        config: Config,
        num_trials: int,
        labeled: Sequence[int],
        quiet: bool = False,
        is_main_process: bool = True,
        tensorboard: Path | None = None,
    ) -> None:
        self.config = config
        self.num_trials = num_trials
        self.in_lines = quiet or not sys.stderr.isatty()
        self.is_main_process = is_main_process
        self.folder = tensorboard
        self.writer: SummaryWriter | None = None
        self.epochs_taken = 0
        """In this trial: the step of all that TensorBoard shows."""
        self.images = 0
        self.labeled = labeled

    def __enter__(self) -> "Monitor":
        # Under torchrun, rank 0 waits for the others before it comes here.
        self.began = self.last_line = time.monotonic()
        a_trial = sum(self.labeled) * self.config.training.epochs
        self.bar = tqdm(
            total=self.num_trials * a_trial,
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
        """A trial goes on from here; `cycle` counts from 1, `epoch` from 0.

        `losses` and `rate` are those of the last epoch, if there was one in this cycle.
        """
        self._stands_at(cycle, epoch)
        done = images_until(self.labeled, self.config.training.epochs, cycle, epoch)
        # What an earlier process has trained must not count as this one's speed.
        self.bar.total -= done
        self.bar.refresh()
        self._close_writer()
        if self.folder is not None:
            from torch.utils.tensorboard import SummaryWriter  # takes seconds to import

            # What was written after the saved state comes again: after the last epoch of a cycle,
            # also what stands at its step, the accuracy and the scores.
            cycle_trained = epoch == self.config.training.epochs
            purge_step = self.epochs_taken + (0 if cycle_trained else 1)
            place = str(self.folder / f"trial{trial}")
            with self._going_on_without_it():
                self.writer = SummaryWriter(place, purge_step=purge_step)
            if cycle_trained:
                self._show_epoch(losses, rate)

    def _stands_at(self, cycle: int, epochs: int) -> None:
        self.epochs_taken = (cycle - 1) * self.config.training.epochs + epochs

    def epoch_ended(
        self,
        trial: int,
        cycle: int,
        epoch: int,
        num_labeled: int,
        losses: dict[str, float],
        rate: float,
    ) -> None:
        """An epoch, counted from 1, has ended with these mean losses and learning rate."""
        self._stands_at(cycle, epoch)
        settings, training = self.config.active_learning, self.config.training
        where = (
            f"trial {trial}/{settings.trials} cycle {settings.among_cycles(cycle)} "
            f"epoch {epoch}/{training.epochs}"
        )
        figures = f"loss {losses['loss']:.3g}, lr {rate:.3g}"
        self.images += num_labeled
        self.bar.set_description_str(where, refresh=False)
        self.bar.set_postfix_str(figures, refresh=False)
        self.bar.update(num_labeled)
        now = time.monotonic()
        if self.in_lines and now - self.last_line > SECONDS_BETWEEN_LINES:
            speed = self.images / (now - self.began)
            left = tqdm.format_interval((self.bar.total - self.images) / speed)
            log.info("%s: %s, %.0f images/s, %s left", where, figures, speed, left)
            self.last_line = now
        self._show_epoch(losses, rate)

    def _show_epoch(self, losses: dict[str, float], rate: float) -> None:
        for name, loss in losses.items():
            self._show(f"loss/{name}", loss)
        self._show("learning rate", rate)

    def evaluated(self, num_labeled: int, test_accuracy: float) -> None:
        """A cycle's network has this accuracy in %."""
        self._show("test accuracy", test_accuracy)
        self._show("labelled images", num_labeled)

    def scored(self, scores: np.ndarray) -> None:
        """The subset has these scores."""
        self._write(lambda writer: writer.add_histogram("scores", scores, self.epochs_taken))

    def flush(self) -> None:
        """Writes out what TensorBoard is to show, since what is saved is not shown again."""
        self._write(lambda writer: writer.flush())

    def _show(self, name: str, value: float) -> None:
        self._write(lambda writer: writer.add_scalar(name, value, self.epochs_taken))

    def _write(self, write: Callable[["SummaryWriter"], object]) -> None:
        if self.writer is not None:
            with self._going_on_without_it():
                write(self.writer)

    @contextmanager
    def _going_on_without_it(self) -> Iterator[None]:
        """Where nothing can be written for TensorBoard, the run says so and goes on."""
        try:
            yield
        except OSError as error:
            log.warning(
                f"{self.folder}: cannot be written ({reason(error)}); the run goes on without it"
            )
            self._close_writer()

    def _close_writer(self) -> None:
        if self.writer is not None:
            with suppress(OSError):
                self.writer.close()
            self.writer = None


def images_until(labeled: Sequence[int], epochs: int, cycle: int, epoch: int) -> int:
    """The labelled images, once for each epoch, that a trial trains on before this place.

    Args:
        labeled: how many each cycle trains on.
        epochs: of a cycle.
        cycle: from 1.
        epoch: how many of its epochs are done.
    """
    before = sum(labeled[: cycle - 1]) * epochs
    return before + labeled[cycle - 1] * epoch if epoch else before
