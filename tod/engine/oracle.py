"""Oracles: who labels what is queried. A dataset that knows all labels does so at once."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from models import imagenet_weights
from tod import data
from tod.analysis import records, tables
from tod.config import Config
from tod.config.identity import Identity
from tod.data import Dataset
from tod.data.features import Features, load_features, load_features_to_train_on
from tod.engine.judging import diagnostics
from tod.engine.loop import Loop, finish_trial
from tod.engine.trial import Experiment, Trial
from tod.runs.folder import RunFolder
from tod.runs.log import RunLog
from tod.runs.ranks import Ranks

log = logging.getLogger("tod")


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
        given_features: of the training images, (N, F), where strategies are to look at them.
        features_to_train_on: of the training and of the test images, where a file gives them.
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


@dataclass
class DatasetOracle(Oracle):
    """Labels what is queried of a published dataset, or of a folder whose classes are known."""

    identity: Identity
    chosen: Sequence[int]
    """The trials to run, from 1."""
    overwrite: bool = False
    features: Path | None = None
    """A file of features of the training images."""
    processes: Ranks = Oracle.processes

    def __post_init__(self) -> None:
        if self.overwrite:
            self.advice = self.advice.replace("again", "again without --overwrite")

    def folder(self, path: Path) -> RunFolder:
        """What rank 0 has emptied, the others fill."""
        return RunFolder(
            path,
            self.identity,
            trials=self.processes.share(self.chosen),
            chosen=self.chosen,
            overwrite=self.overwrite and self.processes.is_main_process,
        )

    def prepare(self, folder: RunFolder, run_log: RunLog) -> None:
        folder.claim()
        self.trials = folder.unfinished_trials()
        self.is_finished = not self.trials and folder.is_finished()
        self.recorded = folder.begun()
        shows_results = folder.trials and not self.trials
        if shows_results and folder.recorded().get("data_dir") != self.config.data_dir:
            folder.refuse_other_images(data.load(self.config, self.identity.seed).fingerprint())

    def load(self) -> Dataset:
        dataset = data.load(self.config, self.identity.seed)
        self.fingerprint = self.content = dataset.fingerprint()
        model = self.config.model
        self.imagenet_weights = imagenet_weights() if model.takes_imagenet_weights else None
        self.num_labeled = self.config.active_learning.labels_of_cycles(len(dataset.train))
        if self.identity.features and self.config.model.sees_a_file:
            self.features_to_train_on = load_features_to_train_on(self.features, dataset)
        elif self.identity.features:
            self.given_features = load_features(self.features, dataset)
        elif self.features:
            log.warning(f"--features {self.features}: {self.identity.sampling} has no use for it")
        return dataset

    def has_labels(self, loop: Loop) -> bool:
        trial = loop.trial
        if trial.cycle == 1 and loop.writes:
            path = loop.cycle_file("queries", 0)
            records.write_first_labels(path, trial.labeled, trial.experiment.dataset)
        return True

    def query(self, loop: Loop, row: dict[str, str]) -> None:
        trial = loop.trial
        pool = trial.pool()
        query = loop.sampling(pool)
        query = loop.ranks.from_main(lambda: query)
        is_queried = np.isin(pool.subset, query.indices)
        judged = diagnostics(query.scores, pool.logits, pool.labels, is_queried)
        if loop.writes:
            loop.monitor.scored(query.scores)
            path, dataset = loop.cycle_file("queries", trial.cycle), trial.experiment.dataset
            records.write_query(path, pool.subset, query.scores, query.indices, dataset)
            loop.folder.write_row(row | judged)
            records.write_learning_curve(loop.folder.path, loop.folder.mark)
        trial.label(query)

    def conclude(self, folder: RunFolder, has_ended: bool) -> None:
        for number in set(folder.trials) - set(self.trials):
            finish_trial(folder, number)
        # Of several processes, one shows the table.
        shows = self.processes.world_size == 1 or (
            self.processes.is_main_process and self.is_finished
        )
        if shows and self.is_finished:
            log.info(f"{folder.path}: is finished; --overwrite starts it afresh")
        elif shows and not self.trials:
            log.info(f"{folder.path}: the trials of --trials are finished, others are not")
        if shows or has_ended:
            for line in tables.accuracy_lines(folder.rows()):
                log.info(line)
