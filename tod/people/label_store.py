"""The label store: the requests and labels of a run."""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
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
from tod.data.own_images import UNKNOWN, Found, Read, indices_of
from tod.people import labels as tables
from tod.people.answers import Answer, not_utf8, read_answers
from tod.people.labels import COPY, DISAGREEMENTS, LABELS, SET_ASIDE, TABLES, Label, in_table
from tod.people.requests import (
    AUDIT,
    CHECK,
    Request,
    batch_folder,
    by_digest,
    read_batches,
    reasons_of,
)
from tod.people.taking import answers_by_image, with_answers
from tod.people.votes import counts
from tod.runs.folder import RunFolder
from tod.system.files import as_csv, read_table, write_atomically

log = logging.getLogger("tod")

TRAIN = "train"
"""The source of labels that come from class folders."""


class LabelStore:
    """The labels and batches in a run's folder, which need not exist yet.

    `found` holds the images that exist now, `said` what people have said of each, by its digest;
    `checks` says whether the run asks people to check labels.
    """

    def __init__(self, run_folder: Path, found: Found, checks: bool = False) -> None:
        self.run_folder, self.found, self.checks = run_folder, found, checks
        self.batches = read_batches(run_folder)
        self.said = self._written = tables.read_labels(run_folder, reasons_of(self.batches))
        for digest, label in self.labels.items():
            if label.class_name not in found.class_names:
                words = not_utf8(label.class_name) or (
                    f"{digest} is {shortened(label.class_name)}, which is no class; bring back the "
                    "file as it was"
                )
                raise InputError(f"{run_folder / 'labels.csv'}: {words}")

    @property
    def labels(self) -> dict[str, Label]:
        """The images with a class, in the order in which it was taken."""
        return in_table(self.said, LABELS)

    @property
    def set_aside(self) -> dict[str, Label]:
        """The images that people could not label."""
        return in_table(self.said, SET_ASIDE)

    def refuse_missing(self, state: Mapping[str, Any] | None, rows: pd.DataFrame) -> None:
        """Raises an InputError if labels or batches of the run are missing.

        `state` is the last saved one; `rows` are those of `results.csv`.
        """
        copies = {table: self.run_folder / f"{table}{COPY}.csv" for table in TABLES}
        for table, copy in copies.items():
            kept = read_table(copy, ["sha256"]) if copy.exists() else []
            if lost := {row["sha256"] for row in kept} - self.said.keys():
                words = f"lacks {counted(len(lost), 'row')} of those in {copy.name}"
                raise InputError(f"{self.run_folder / table}.csv: {words}; copy that file over it")
        labels = self.run_folder / "labels.csv"
        if not rows.empty and not copies[LABELS].exists():  # written by an earlier version
            last = rows.iloc[-1]
            trained = int(last["num_labeled"]) + int(last.get("audited") or 0)
            if trained > len(self.said):
                raise InputError(
                    f"{labels}: has {counted(len(self.labels), 'label')}, and the last cycle had "
                    f"{trained:,}; bring the file back as it was"
                )
        numbers = [path.name[len("batch") :] for path in self.run_folder.glob("batches/batch*")]
        numbers += [label.batch for label in self.said.values()]
        count = max([int(number) + 1 for number in numbers if number.isdecimal()], default=0)
        # An earlier version's state has no `num_written`.
        for number in range(max(count, (state or {}).get("num_written", 0))):
            path = batch_folder(self.run_folder, number) / "batch.csv"
            if not path.exists():
                raise InputError(
                    f"{path}: is missing, and says what was asked; bring it back (the other files "
                    "beside it may go), or begin another run in another --output-dir, with the "
                    f"settings of this one and --labels {labels}, and set_aside.csv and "
                    "disagreements.csv beside it"
                )

    def take(self, paths: Sequence[Path], relabel: bool) -> None:
        """Takes the labels of the class folders and of people's files, all or none."""
        problems: list[str] = []
        files: dict[Path, list[Answer]] = {}
        for path in paths:
            try:
                answers = _answers_in(path)  # before `resolve`, which fails for a circular link
                files.setdefault(path.resolve(), answers)
            except InputError as error:
                problems.append(str(error))
        found, requests = self.found, by_digest(self.batches)
        by_image = answers_by_image([*files.values()], self.said, found, requests, problems)
        # Another run's audits stay audits even if a class folder gives their labels.
        audits = {d for d, answers in by_image.items() if AUDIT in {a.reason for a in answers}}
        given = []
        for digest, name in found.labels.items():
            if digest in self.said and self.said[digest].class_name == name:
                continue  # nobody has looked at it again
            file, reason = found.files[digest], AUDIT if digest in audits else ""
            answer = Answer(file, digest, name, str(found.root / file), TRAIN, reason=reason)
            given.append((digest, [answer]))
        # After these, since for a moved file that a list also names, the list is newer.
        given += by_image.items()
        said = with_answers(self.said, given, found, requests, relabel, problems, self.checks)
        refuse(problems, "no label was taken")
        # Images that this run has trained on can no longer measure the accuracy.
        if trained := audits.intersection(self.for_training()):
            log.warning(f"{counted(len(trained), 'audit')} of another run had a label here before")
        changed = [digest for digest in by_image if said[digest] != self.said.get(digest)]
        news = {(a.source, a.content) for digest in changed for a in by_image[digest]}
        for path, answers in files.items():
            if news.isdisjoint((a.source, a.content) for a in answers):
                log.info(f"{path}: nothing new in it")
        self.said = said

    def write_labels(self) -> None:
        """Writes the labels that were taken, and logs them."""
        folder, before = self.run_folder, self._written
        tables.write_labels(self.said, folder, before)
        self._written = self.said
        changed = {d: label for d, label in self.said.items() if before.get(d) != label}
        aside = self.set_aside.keys() - in_table(before, SET_ASIDE).keys()
        if taken := in_table(changed, LABELS):
            log.info(f"{folder / 'labels.csv'}: takes {counted(len(taken), 'label')}")
        if aside:
            log.info(f"{folder / 'set_aside.csv'}: {counted(len(aside), 'skipped image')}")
        if ties := [*in_table(changed, DISAGREEMENTS).values()]:
            words = f"{counted(len(ties), 'image')}, as {shortened(ties[0].file)}"
            log.info(f"people disagree about {words}: {counts(ties[0].votes)}; to be asked again")

    def has_news(self) -> bool:
        """Whether there are labels that are not written yet."""
        return self.said != self._written

    def has_answers(self) -> bool:
        """Whether people have said something of the last batch."""
        return bool(self.batches) and len(self._unanswered()) < len(self.batches[-1])

    def waiting(self) -> list[Request]:
        """The requests of the last batch without an answer."""
        return [each for each in self._unanswered() if each.sha256 in self.found.files]

    def gone(self) -> list[Request]:
        """The requests that cannot be answered: their images are gone or have changed."""
        return [each for each in self._unanswered() if each.sha256 not in self.found.files]

    def _unanswered(self) -> list[Request]:
        last = self.batches[-1] if self.batches else ()
        return [each for each in last if not self._is_answered(each)]

    def _is_answered(self, request: Request) -> bool:
        label = self.said.get(request.sha256)
        if label is None:
            return False
        had_answers = label.table == DISAGREEMENTS or request.reason == CHECK
        return not had_answers or label.batch == request.batch

    def checked(self) -> set[str]:
        """The digests of the images whose label people have checked."""
        requests = by_digest(self.batches)
        asked = {each.sha256 for batch in self.batches for each in batch if each.reason == CHECK}
        return {digest for digest in asked if self._is_answered(requests[digest])}

    def write_suspects(self, suspects: Iterable[tuple[str, str, float]]) -> None:
        """Writes the labels that are perhaps wrong: the digest of each, the class that the image
        may have instead, and the label's probability.
        """
        columns = ["file", "sha256", "class", "suggested", "probability"]
        rows = [
            (self.found.files[digest], digest, self.said[digest].class_name, name, f"{p:.6g}")
            for digest, name, p in suspects
        ]
        path = self.run_folder / "suspects.csv"
        write_atomically(path, as_csv(pd.DataFrame(rows, columns=columns, dtype=object)))
        if rows:
            file, _, label, suggested, _ = rows[0]
            words = f"{shortened(file, 300)}: is it {shortened(label)}, or {shortened(suggested)}?"
            log.info(f"{path}: doubts {counted(len(rows), 'label')}, first of {words}")

    def audits(self) -> list[str]:
        """The digests of the labelled images that measure the accuracy: never trained on."""
        return sorted(d for d, label in self.labels.items() if label.reason == AUDIT)

    def for_training(self) -> list[str]:
        """The digests of the labelled images to train on, in the order in which they were taken."""
        return [d for d, label in self.labels.items() if label.reason != AUDIT]

    def fingerprint(self) -> str:
        """A fingerprint of the images to train on and their labels."""
        there = [digest for digest in self.for_training() if digest in self.found.files]
        lines = sorted(f"{digest} {self.said[digest].class_name}" for digest in there)
        return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()

    def to_ask_again(self) -> dict[str, bool]:
        """The digests of the images to ask for again, and whether each is an audit."""
        audits = {d for d, last in by_digest(self.batches).items() if last.reason == AUDIT}
        ties = in_table(self.said, DISAGREEMENTS)
        return {digest: tie.reason == AUDIT or digest in audits for digest, tie in ties.items()}

    def dataset(self, read: Read, config: Images, recorded: Mapping[str, Any]) -> Dataset:
        """The images with their labels so far; without a test set, the audits serve as one.

        The statistics come from `config`, or else from what the first round has `recorded`.
        """
        class_names, digests, labels = self.found.class_names, read.digests, self.labels
        if not digests:
            raise InputError(f"{self.found.root}: holds no image that can be read; add some")
        unreadable, files = {file for file, _ in read.unreadable}, self.found.files
        unread = [label.file for d, label in labels.items() if files.get(d) in unreadable]
        if unread:
            words = f"as {shortened(unread[0], 300)}: {counted(len(unread), 'such image')}"
            log.warning(f"a labelled image that cannot be read is not trained on, {words}")
        number = {digest: class_names.index(each.class_name) for digest, each in labels.items()}
        numbers = torch.tensor([number.get(digest, UNKNOWN) for digest in digests])
        images = replace(read.images, labels=numbers)
        test = images.subset(indices_of(self.audits(), digests)) if read.test is None else read.test
        if not recorded:
            mean, std = statistics(images)
            recorded = {"mean": mean.tolist(), "std": std.tolist()}
        mean, std = config.mean or recorded["mean"], config.std or recorded["std"]
        # Rounded as in `config.yaml`, so that every round uses the same values.
        mean, std = (torch.tensor([round(v, 6) for v in values]) for values in (mean, std))
        return Dataset(images, test, class_names, mean, std, read.unreadable)

    def say_what_changed(self) -> None:
        """Logs which images have come or gone since the last batch."""
        try:
            rows = read_table(self.run_folder / "pool.csv", ["file", "sha256"])
        except InputError:
            return  # nothing to compare with
        before, now = {row["sha256"]: row["file"] for row in rows}, self.found.files
        for words, files, others in (("new", now, before), ("gone, and left out", before, now)):
            if digests := files.keys() - others.keys():
                first = min(files[digest] for digest in digests)
                count = counted(len(digests), "image")
                log.info(f"{count} {words}, as {shortened(first, 300)}")

    def write_pool(self) -> None:
        """Writes the list of images, for the next round to compare."""
        rows = [(file, digest) for digest, file in self.found.files.items()]
        table = pd.DataFrame(rows, columns=["file", "sha256"], dtype=object)
        write_atomically(self.run_folder / "pool.csv", as_csv(table))


def refuse_other_classes(
    folder: RunFolder, recorded: Mapping[str, Any], class_names: list[str]
) -> None:
    """Raises an InputError where a run has begun with other classes than there are now."""
    before = recorded.get("class_names", class_names)
    if before != class_names:
        new, gone = {*class_names} - {*before}, {*before} - {*class_names}
        how = "in another order"
        if new or gone:
            how = f"{shortened(min(new or gone))} is {'new' if new else 'gone'}"
        raise InputError(f"{folder.path}: began with other classes ({how}); {folder.advice}")


def _answers_in(path: Path) -> list[Answer]:
    """The answers in a file; for labels of an earlier version, its batches give the reasons."""
    answers = read_answers(path)
    if all(answer.reason or not answer.batch for answer in answers):
        return answers
    reasons = reasons_of(read_batches(path.parent))
    for place, answer in enumerate(answers):
        reason = answer.reason or reasons.get((answer.sha256, answer.batch), "")
        if answer.batch and not reason:
            raise InputError(
                f"{answer.place}: {batch_folder(path.parent, answer.batch) / 'batch.csv'}, which "
                "says whether it was an audit, is missing or has no such image; bring it back"
            )
        answers[place] = answer._replace(reason=reason)
    return answers
