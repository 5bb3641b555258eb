"""What a run shows while it goes on: a progress bar or lines, and TensorBoard."""

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from command_line import Run
from configuration import Config

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
        run: the configuration and the command line.
        num_trials: how many trials are to come.
        folder: where TensorBoard's files go, with `--tensorboard`.
    """

    def __init__(self, run: Run, num_trials: int, folder: Path) -> None:
        self.run = run
        self.folder = folder
        self.writer: SummaryWriter | None = None
        self.bar = tqdm(
            total=num_trials * images_until(run.config, run.config.active_learning.cycles + 1, 0),
            unit="img",
            unit_scale=True,
            bar_format="{desc} {percentage:.0f}%|{bar}|<{remaining}, {rate_fmt}{postfix}",
            leave=False,
            disable=True if run.quiet or run.rank > 0 else None,
        )
        self.epochs_taken = 0
        """In this trial: the step of all that TensorBoard shows."""
        self.images = 0
        self.began = self.last_line = time.monotonic()

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *exception: object) -> None:
        self._close_writer()
        self.bar.close()

    def start_trial(self, trial: int, cycle: int, epoch: int) -> None:
        """A trial goes on from here; `cycle` counts from 1, `epoch` from 0."""
        self._stands_at(cycle, epoch)
        done = images_until(self.run.config, cycle, epoch)
        # What an earlier process has trained must not count as this one's speed.
        self.bar.total -= done
        self.bar.refresh()
        self._close_writer()
        if self.run.tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # takes seconds to import

            # What was written after the saved state comes again.
            place = str(self.folder / f"trial{trial}")
            self.writer = SummaryWriter(place, purge_step=self.epochs_taken + 1)

    def _stands_at(self, cycle: int, epochs: int) -> None:
        self.epochs_taken = (cycle - 1) * self.run.config.training.epochs + epochs

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
        settings, training = self.run.config.active_learning, self.run.config.training
        where = (
            f"trial {trial}/{settings.trials} cycle {cycle}/{settings.cycles} "
            f"epoch {epoch}/{training.epochs}"
        )
        figures = f"loss {losses['loss']:.3g}, lr {rate:.3g}"
        self.images += num_labeled
        self.bar.set_description_str(where, refresh=False)
        self.bar.set_postfix_str(figures, refresh=False)
        self.bar.update(num_labeled)
        now = time.monotonic()
        if self.bar.disable and now - self.last_line > SECONDS_BETWEEN_LINES:
            speed = self.images / (now - self.began)
            left = tqdm.format_interval((self.bar.total - self.images) / speed)
            log.info("%s: %s, %.0f images/s, %s left", where, figures, speed, left)
            self.last_line = now
        if self.writer is not None:
            for name, loss in losses.items():
                self.writer.add_scalar(f"loss/{name}", loss, self.epochs_taken)
            self.writer.add_scalar("learning rate", rate, self.epochs_taken)

    def evaluated(self, num_labeled: int, test_accuracy: float) -> None:
        """A cycle's network has this accuracy in %."""
        if self.writer is not None:
            self.writer.add_scalar("test accuracy", test_accuracy, self.epochs_taken)
            self.writer.add_scalar("labelled images", num_labeled, self.epochs_taken)

    def scored(self, scores: np.ndarray) -> None:
        """The subset has these scores."""
        if self.writer is not None:
            self.writer.add_histogram("scores", scores, self.epochs_taken)

    def _close_writer(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None


def images_until(config: Config, cycle: int, epoch: int) -> int:
    """The labelled images, once for each epoch, that a trial trains on before this place."""
    settings = config.active_learning
    sizes = [settings.initial_labels + i * settings.query_size for i in range(cycle)]
    return sum(sizes[:-1]) * config.training.epochs + sizes[-1] * epoch
