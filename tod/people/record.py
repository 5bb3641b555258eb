"""What a run's folder knows of people's images: those asked for, and what people say of them."""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from tod.config import InputError
from tod.config.schema import Images
from tod.config.settings import counted, shortened
from tod.data import Dataset, statistics
from tod.data.listing import refuse
from tod.data.own_images import UNKNOWN, Found, Read, indices_of, with_labels
from tod.people.answers import Answer, not_utf8, read_answers
from tod.people.batches import (
    Asking,
    asked_images,
    batch_folder,
    read_batches,
    reasons_of,
    with_reasons,
)
from tod.people.label_files import read_labels, write_labels
from tod.people.labels import AUDIT, Labels
from tod.people.votes import counts, one_answer_each
from tod.system.files import as_csv, read_table, write_atomically

log = logging.getLogger("tod")

TRAIN = "train"
"""The source of the labels that come from the class folders."""


class Record:
    """The labels and batches of a run, and the images that there are now.

    Attributes:
        labels: what people have said.
        batches: in their order.

    Args:
        run_folder: the run's; it need not be there yet.
        found: the images that there are.
    """

    def __init__(self, run_folder: Path, found: Found) -> None:
        self.run_folder = run_folder
        self.found = found
        self.batches = read_batches(run_folder)
        labels = with_reasons(read_labels(run_folder), self.batches).decided()
        self.labels = self._written = labels
        for digest, label in self.labels.labels.items():
            if label.class_name not in found.class_names:
                words = not_utf8(label.class_name) or (
                    f"{digest} is {shortened(label.class_name)}, which is no class; bring back the "
                    "file as it was"
                )
                raise InputError(f"{run_folder / 'labels.csv'}: {words}")

    def take(self, paths: Sequence[Path], relabel: bool) -> None:
        """Takes the labels of the class folders and of people's files: all, or none.

        Raises:
            InputError: something in them is wrong.
        """
        problems: list[str] = []
        files: dict[Path, list[Answer]] = {}
        for path in paths:
            try:
                answers = _answers_in(path)
                files.setdefault(path.resolve(), answers)
            except InputError as error:
                problems.append(str(error))
        asked, labels = asked_images(self.batches), self.labels
        by_image: Mapping[str, Sequence[Answer]] = {}
        # The folders' first: of a file that was moved and is in a list too, the list is newer.
        for source in (self._answers_of_folders(), one_answer_each([*files.values()])):
            by_image = labels.by_image(source, self.found, asked, problems)
            labels = labels.with_answers(by_image, self.found, asked, relabel, problems)
        refuse(problems, "no label was taken")
        labels = self._with_audits(labels, by_image)
        news = {
            (answer.source, answer.content)
            for digest, answers in by_image.items()
            if not labels.says_the_same(self.labels, digest)
            for answer in answers
        }
        for path, answers in files.items():
            if news.isdisjoint((answer.source, answer.content) for answer in answers):
                log.info(f"{path}: nothing new in it")
        self.labels = labels

    def _with_audits(self, labels: Labels, by_image: Mapping[str, Sequence[Answer]]) -> Labels:
        """Another run's audits, as such also where a class folder gives their labels.

        What this run has trained on can measure nothing any more.
        """
        audits = [d for d, answers in by_image.items() if AUDIT in {a.reason for a in answers}]
        known = self.labels.labels
        trained = {d for d in audits if d in known and known[d].reason != AUDIT}
        if trained:
            log.warning(f"{counted(len(trained), 'audit')} of another run had a label here before")
        new = {d: labels.labels[d] for d in audits if d in labels.labels and d not in trained}
        of_audits = {digest: label._replace(reason=AUDIT) for digest, label in new.items()}
        return replace(labels, labels={**labels.labels, **of_audits})

    def _answers_of_folders(self) -> Iterator[Answer]:
        for digest, name in self.found.labels.items():
            file = self.found.files[digest]
            yield Answer(file, digest, name, str(self.found.root / file), TRAIN)

    def write_labels(self) -> None:
        """Writes what was taken, and says so.

        Raises:
            InputError: a file cannot be written.
        """
        before, now = self._written, self.labels
        write_labels(now, self.run_folder, before)
        self._written = now
        taken = sum(before.labels.get(digest) != label for digest, label in now.labels.items())
        aside = now.set_aside.keys() - before.set_aside.keys()
        ties = [d for d, row in now.disagreements.items() if before.disagreements.get(d) != row]
        if taken:
            log.info(f"{self.run_folder / 'labels.csv'}: takes {counted(taken, 'label')}")
        if aside:
            log.info(f"{self.run_folder / 'set_aside.csv'}: {counted(len(aside), 'skipped image')}")
        if ties:
            first = now.disagreements[ties[0]]
            words = f"as {shortened(first.file)}: {counts(first.votes)}"
            count = counted(len(ties), "image")
            log.info(f"people disagree about {count}, {words}; to be asked again")

    def has_news(self) -> bool:
        """Whether something was taken that is not written yet."""
        return self.labels != self._written

    def has_answers(self) -> bool:
        """Whether people have said something of the last batch."""
        return bool(self.batches) and len(self._unanswered()) < len(self.batches[-1].rows)

    def waiting(self) -> list[Asking]:
        """The images of the last batch of which people have said nothing yet."""
        return [row for row in self._unanswered() if row.sha256 in self.found.files]

    def gone(self) -> list[Asking]:
        """Those of which they cannot say anything: they are gone, or have changed."""
        return [row for row in self._unanswered() if row.sha256 not in self.found.files]

    def _unanswered(self) -> list[Asking]:
        if not self.batches:
            return []
        number, rows = self.batches[-1]
        return [row for row in rows if not self.labels.has_answer(row.sha256, number)]

    def audits(self) -> list[str]:
        """The digests of the labelled images that measure the accuracy: never trained on."""
        labels = self.labels.labels.items()
        return sorted(digest for digest, label in labels if label.reason == AUDIT)

    def for_training(self) -> list[str]:
        """The digests of the labelled images to train on, in the order in which they were taken."""
        audits = {*self.audits()}
        return [digest for digest in self.labels.labels if digest not in audits]

    def fingerprint(self) -> str:
        """Differs where other images are to be trained on, or the same with other labels."""
        labels = self.labels.labels
        lines = sorted(
            f"{digest} {labels[digest].class_name}"
            for digest in self.for_training()
            if digest in self.found.files
        )
        return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()

    def to_ask_again(self) -> dict[str, bool]:
        """The images to be asked for again, by their digests, and whether that is for an audit."""
        last = {row.sha256: row.reason for batch in self.batches for row in batch.rows}
        return {
            digest: AUDIT in (tie.reason, last.get(digest))
            for digest, tie in self.labels.disagreements.items()
        }

    def dataset(self, read: Read, config: Images, recorded: Mapping[str, Any]) -> Dataset:
        """The images with the labels that there are; without a test set, audits stand in for it.

        Args:
            read: the images.
            config: their statistics, if they are given.
            recorded: the statistics of the first round, which stay; nothing before it.

        Raises:
            InputError: no image can be read.
        """
        class_names, digests = self.found.class_names, read.digests
        if not digests:
            raise InputError(f"{self.found.root}: holds no image that can be read; add some")
        unreadable = self.found.files.keys() - {*digests} - read.tested
        unread = [
            label.file for digest, label in self.labels.labels.items() if digest in unreadable
        ]
        if unread:
            words = f"as {shortened(unread[0], 300)}: {counted(len(unread), 'such image')}"
            log.warning(f"a labelled image that cannot be read is not trained on, {words}")
        named = (self.labels.labels.get(digest) for digest in digests)
        labels = [UNKNOWN if each is None else class_names.index(each.class_name) for each in named]
        images = with_labels(read.images, torch.tensor(labels, dtype=torch.int64))
        test = images.subset(indices_of(self.audits(), digests)) if read.test is None else read.test
        if not recorded:
            computed = (values.tolist() for values in statistics(images))
            recorded = dict(zip(("mean", "std"), computed, strict=True))
        mean, std = config.mean or recorded["mean"], config.std or recorded["std"]
        # Rounded as they are written, so that every round computes with the same.
        mean, std = (torch.tensor([round(v, 6) for v in values]) for values in (mean, std))
        return Dataset(images, test, class_names, mean, std, read.unreadable)

    def say_what_changed(self) -> None:
        """Says which images have come or gone since the last batch was written."""
        before = _read_pool(self.run_folder / "pool.csv")
        if before is None:
            return
        now = self.found.files
        for words, digests in (
            ("new", now.keys() - before.keys()),
            ("gone, and left out", before.keys() - now.keys()),
        ):
            if digests:
                first = min((now.get(d) or before[d]) for d in digests)
                count = counted(len(digests), "image")
                log.info(f"{count} {words}, as {shortened(first, 300)}")

    def write_pool(self) -> None:
        """Keeps which images there are, for the next round to compare.

        Raises:
            InputError: the file cannot be written.
        """
        rows = [(file, digest) for digest, file in self.found.files.items()]
        table = pd.DataFrame(rows, columns=["file", "sha256"], dtype=object)
        write_atomically(self.run_folder / "pool.csv", as_csv(table))


def _answers_in(path: Path) -> list[Answer]:
    """The answers in a file; for an earlier version's labels, the batches beside it know why.

    Raises:
        InputError: the file cannot be read, or a batch is missing or damaged.
    """
    answers = read_answers(path)
    if not any(answer.batch and not answer.reason for answer in answers):
        return answers
    reasons, filled = reasons_of(read_batches(path.parent)), []
    for answer in answers:
        reason = answer.reason or reasons.get((answer.sha256, answer.batch), "")
        if answer.batch and not reason:
            raise InputError(
                f"{answer.place}: {batch_folder(path.parent, answer.batch) / 'batch.csv'}, which "
                "says whether it was an audit, is missing or has no such image; bring it back"
            )
        filled.append(answer._replace(reason=reason))
    return filled


def _read_pool(path: Path) -> dict[str, str] | None:
    """The images of `pool.csv`, by their digests; None where nothing can be compared."""
    try:
        return {row["sha256"]: row["file"] for row in read_table(path, ["file", "sha256"])}
    except InputError:
        return None
