"""Who labels what is queried: the seam between the loop, and datasets or people."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from tod.config import Config
from tod.config.identity import Identity
from tod.data import Dataset
from tod.engine.trial import Experiment, Trial
from tod.runs.folder import RunFolder
from tod.runs.log import RunLog
from tod.runs.ranks import Ranks

if TYPE_CHECKING:
    from tod.engine.loop import Loop


class Oracle:
    """Labels what is queried.

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

    def trial(self, experiment: Experiment, number: int) -> Trial:
        """One trial as it begins."""
        return Trial(experiment, number)

    def has_labels(self, loop: "Loop") -> bool:
        """Whether the trial has the labels to train its cycle on; if not, the loop ends."""

    def query(self, loop: "Loop", row: dict[str, str]) -> None:
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
