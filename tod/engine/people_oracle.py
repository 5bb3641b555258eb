"""The oracle of people: each command trains on the labels so far and asks for the next batch.

The saved state says what the run is doing: it trains, or it waits for people.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models import imagenet_weights
from models.extractor import Extractor
from tod.analysis import records
from tod.analysis.results import ACCURACY
from tod.config import InputError
from tod.config.identity import Identity
from tod.config.settings import counted, shortened
from tod.data import Dataset, own_images
from tod.data.own_images import UNKNOWN, indices_of
from tod.engine import asking, target
from tod.engine.judging import audited, doubted, judged_scores
from tod.engine.loop import Loop, Oracle
from tod.engine.trial import Experiment, Trial
from tod.people.batch_files import write_batch
from tod.people.label_store import LabelStore, refuse_other_classes
from tod.people.requests import AUDIT, CHECK, Request, batch_folder
from tod.runs.checkpoints import Progress
from tod.runs.folder import ANOTHER_PLACE, RunFolder
from tod.runs.log import RunLog
from utils import random_generator

log = logging.getLogger("tod")

TRAINING, WAITING = "training", "waiting"
"""The stages of a run."""


@dataclass
class PeopleOracle(Oracle):
    """Reads people's labels and asks for more in batches.

    Attributes:
        labels: files of labels; with `relabel`, they may change earlier ones.
        partial: continue without the missing labels of the last batch, once it has one.
        stage: `TRAINING` or `WAITING`.
        trained: the fingerprint of the labels of the last cycle that has begun.
        num_batches: the number of batches when that cycle began.
        num_written: the number of batches now.
    """

    identity: Identity
    labels: Sequence[Path] = ()
    relabel: bool = False
    partial: bool = False
    stage: str = WAITING
    trained: str = ""
    num_batches: int = 0
    num_written: int = 0
    _has_asked: bool = False

    def folder(self, path: Path) -> RunFolder:
        afresh = f"remove {path} (nobody has labelled any), or {ANOTHER_PLACE}"
        if [*path.glob("labels.csv"), *path.glob("*.copy.csv")]:  # skips alone have no labels.csv
            afresh = (
                f"{ANOTHER_PLACE}, and give it what people have said, audits too, by "
                f"--labels {path / 'labels.csv'} and the tables beside it"
            )
        others = {"advice": f"have it as there, or {afresh}", "afresh": afresh}
        return RunFolder(path, self.identity, trials=[1], chosen=[1], **others)

    def prepare(self, folder: RunFolder, run_log: RunLog) -> None:
        """Takes people's labels, all or none, and finds out whether they suffice."""
        # First, since they may be unavailable, and people would label in vain.
        model = self.config.model
        self.imagenet_weights = imagenet_weights() if model.takes_imagenet_weights else None
        found = own_images.find(Path(self.config.data_dir))
        folder.claim()  # or two first commands would each find an empty folder
        state = Progress(folder.path, 1).load()
        if state is None:
            folder.refuse_without_state(1)
        self.recorded = folder.begun()
        if not self.recorded:
            _say_what_else_has_begun(folder.path, self.config.name)
        if model.is_linear and not self.recorded:
            _ = Extractor(model.extractor, model.extractor_size).network
        refuse_other_classes(folder, self.recorded, found.class_names)
        checks = self.config.active_learning.check_share > 0
        self.store = LabelStore(folder.path, found, checks)
        self.store.refuse_missing(state, folder.rows())
        self.store.take(self.labels, self.relabel)
        folder.record_target()
        if self.recorded and self.store.has_news():
            run_log.write_to(folder.path / "log.txt")
            self.store.write_labels()
        cycle, num_labeled = 1, len(self.store.for_training())
        if state is not None:
            self.load_state_dict(state)
            cycle = state["learner"]["cycle"]
        self._waits = self.store.waiting() and not (self.partial and self.store.has_answers())
        self.trials = [1]
        if self.stage == TRAINING:
            num_labeled = len(state["labeled"])
        elif self._waits:
            self._say_what_it_waits_for()
            self.trials = []
        self.num_labeled = [0] * (cycle - 1) + [num_labeled]  # the earlier cycles are over

    def load(self) -> Dataset:
        found = self.store.found
        read = own_images.read(found, self.config.images)
        dataset = self.store.dataset(read, self.config.images, self.recorded)
        self.content = own_images.fingerprint_of_order(found, read)
        self.fingerprint = self.recorded.get("data") or own_images.fingerprint(found)
        self.digests = read.digests
        self.for_training = indices_of(self.store.for_training(), self.digests)
        self.is_in_pool = (dataset.train.labels == UNKNOWN).numpy()
        self.is_in_pool[indices_of(self.store.set_aside, self.digests)] = False
        return dataset

    def open(
        self, folder: RunFolder, experiment: Experiment, found: dict[str, Any], run_log: RunLog
    ) -> bool:
        begins = self.stage == WAITING
        if begins and self.trained == self.store.fingerprint():
            if not self.is_in_pool.any():
                self._say_that_all_is_labelled()
                return False
            (last,) = folder.rows().tail(1).to_dict("records") or [{}]
            if reached := target.evidence(last, self.config, len(experiment.dataset.test)):
                target.say(folder.path, self.config, reached, len(self.store.to_ask_again()))
                return False
        settings = {"settings": [*self.identity.settings]}
        super().open(folder, experiment, found | settings, run_log)
        self.store.write_labels()
        self.store.say_what_changed()
        if begins and len(self.for_training) < self._needed_labels():
            self._ask_without_a_network(folder, experiment)
            return False
        return True

    def _needed_labels(self) -> int:
        """With how many labels it trains: at first with those configured, if there are images."""
        active = self.config.active_learning
        if self.store.batches or not self.is_in_pool.any():
            return 2
        return max(active.initial_labels or active.query_size, 2)

    def trial(self, experiment: Experiment, number: int) -> Trial:
        nothing, pool = np.empty(0, np.int64), np.flatnonzero(self.is_in_pool)
        return Trial(experiment, number, nothing, pool, names=self.digests)

    def has_labels(self, loop: Loop) -> bool:
        if self.stage == TRAINING:
            return True
        if not self._has_asked and self._waits:
            self._say_what_it_waits_for()
        if self._has_asked or self._waits:
            return False
        trial = loop.trial
        self._judge_the_last_batch(loop)
        trial.labeled, self.trained = self.for_training, self.store.fingerprint()
        self.num_batches = self.num_written = len(self.store.batches)
        trial.learner.start_cycle(trial.cycle)
        self.stage = TRAINING
        loop.save()
        return True

    def _judge_the_last_batch(self, loop: Loop) -> None:
        """Records how good its scores were, before the network trains on its labels."""
        asked = self.store.batches[self.num_batches :]
        if asked and any(request.predicted for request in asked[-1]):
            judged = judged_scores(asked[-1], self.store.labels, self.digests, loop.trial)
            if loop.writes:
                rows = loop.folder.rows()
                last = rows[rows["cycle"] == str(loop.trial.cycle - 1)]
                for row in last.to_dict("records"):
                    loop.folder.write_row(row | judged)

    def query(self, loop: Loop, row: dict[str, str]) -> None:
        trial = loop.trial
        if self._measures_by_audits:
            row |= audited(float(row[ACCURACY]), len(trial.experiment.dataset.test))
        kappa = target.agreement(trial)
        if loop.writes:
            loop.folder.write_row(row)
            if (loop.folder.rows()[ACCURACY] != "nan").any():
                records.write_learning_curve(loop.folder.path, loop.folder.mark)
        suspects = doubted(self.store, self.digests, trial, loop.writes)
        # A run that was killed after it wrote the batch does not write it again.
        batch_is_there = len(self.store.batches) > self.num_batches
        num_test = len(trial.experiment.dataset.test)
        reached = "" if batch_is_there else target.evidence(row, self.config, num_test)
        if loop.writes:
            disputed = len(self.store.to_ask_again())
            target.say(loop.folder.path, self.config, reached, disputed, kappa)
        asks = not batch_is_there and not reached
        self.num_written = self.num_batches + (
            batch_is_there or (asks and self._ask(loop, suspects))
        )
        self._has_asked = not batch_is_there
        # The next cycle continues with this one's network, once there are labels.
        self.stage, trial.labeled = WAITING, trial.labeled[:0]
        trial.start_next_cycle()

    def _ask(self, loop: Loop, suspects: Sequence[int]) -> bool:
        """Writes the next batch; returns whether there was anything left to ask for."""
        chosen = asking.next_batch(
            self._candidates(suspects),
            self.config.active_learning.query_size,
            random_generator(self.identity.seed, "batch", len(self.store.batches)),
            loop.trial,
            loop.sampling,
            self.store.found.class_names,
        )
        chosen = loop.ranks.from_main(lambda: chosen)
        if not chosen:
            self._say_that_all_is_labelled()
        elif loop.writes:
            loop.monitor.scored(np.array([float(score) for _, _, score, *_ in chosen]))
            self._write(loop.folder, chosen)
        return bool(chosen)

    def _ask_without_a_network(self, folder: RunFolder, experiment: Experiment) -> None:
        """Writes a batch of images that are drawn at random, or chosen by their features."""
        active, number = self.config.active_learning, len(self.store.batches)
        size = active.query_size if number else active.initial_labels or active.query_size
        random = random_generator(self.identity.seed, "first batch", number)
        features = None
        if active.initial_compares_images and not number:
            experiment.load_features()
            features = experiment.train_images.numpy()
        among = self._candidates()
        chosen = asking.first_batch(among, size, random, active.initial, features)
        if not chosen:
            raise InputError(
                f"{self.store.found.root}: there is no image left to be labelled, and fewer than "
                "two have a label to train on; add images"
            )
        if number:
            log.info("too few labels to train on: that needs two, without the audited images'")
        elif count := len(self.for_training):
            log.info(
                f"{counted(count, 'label')} to train on, of the {size} with which training begins "
                "(active_learning.initial_labels): asks for more first"
            )
        self._write(folder, chosen)

    def _write(self, folder: RunFolder, chosen: Sequence[tuple]) -> None:
        found, number = self.store.found, len(self.store.batches)
        requests = []
        for rank, (index, *cells) in enumerate(chosen, start=1):
            digest = self.digests[index]
            requests.append(Request(str(rank), found.files[digest], digest, *cells))
        self.store.write_pool()
        path = write_batch(folder.path, number, requests, found.root, found.class_names)
        log.info(
            f"{path}: asks for the labels of {counted(len(requests), 'image')}; open label.html "
            "there (or import label_studio.json), then run the same command with "
            f"--labels labels_batch{number}.csv"
        )

    @property
    def _measures_by_audits(self) -> bool:
        return self.store.found.test is None

    def _candidates(self, suspects: Sequence[int] = ()) -> asking.Candidates:
        active = self.config.active_learning
        audit_share = active.audit_share if self._measures_by_audits else 0.0
        ties = self.store.to_ask_again()
        indices = indices_of(ties, self.digests).tolist()
        again = {i: AUDIT if ties[self.digests[i]] else CHECK for i in indices}
        shares = audit_share, suspects, active.check_share
        return asking.Candidates(np.flatnonzero(self.is_in_pool), again, *shares)

    def state_dict(self) -> dict[str, Any]:
        names = ("stage", "trained", "num_batches", "num_written")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.trained, self.num_batches = state["trained"], state["num_batches"]
        # Earlier versions saved neither of these.
        self.num_written = state.get("num_written", self.num_batches)
        self.stage = state.get("stage", TRAINING if state["labeled"] else WAITING)
        labeled = self.store.labels.keys() & self.store.found.files
        if len(labeled.intersection(state["labeled"])) < 2:  # too few to train on
            self.stage = WAITING

    def _say_that_all_is_labelled(self) -> None:
        log.info(
            f"{self.store.found.root}: every image has its label, or was set aside; the same "
            "command goes on when images are added, or labels change"
        )

    def _say_what_it_waits_for(self) -> None:
        batch, number = self.store.batches[-1], len(self.store.batches) - 1
        count = f"{len(self.store.waiting())} of {counted(len(batch), 'image')}"
        left_out = ""
        if gone := self.store.gone():
            left_out = f" ({len(gone)} gone or changed, as {shortened(gone[0].file)})"
        how = "by --partial"
        if not self.store.has_answers():
            how = "once there is one, by --partial"
        log.info(
            f"{batch_folder(self.store.run_folder, number)}: waits for the labels of "
            f"{count}{left_out}; give them by --labels FILE, or go on without {how}"
        )


def _say_what_else_has_begun(path: Path, config: str) -> None:
    """Logs that people have begun another run of this configuration beside a new one.

    An argument that a further round leaves out would silently begin a run of its own.
    """
    begun = {found.parent for found in path.parent.glob(f"{config}_auxiliary_*/batches")} - {path}
    if begun:
        words = f"to go on with {max(begun)} instead, give its --sampling, --auxiliary and --seed"
        log.warning(f"{path}: is a new run; {words}")
