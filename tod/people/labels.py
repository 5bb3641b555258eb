"""All that people have said of a run's images: taken whole or not at all, and kept as CSV files."""

import difflib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import pandas as pd

from tod.data.listing import NAMED, class_name_of
from tod.data.own_images import Found
from tod.files import as_csv, read_table, write_atomically
from tod.people.answers import Answer, name_finder, not_utf8
from tod.settings import counted, shortened

log = logging.getLogger("tod")


class Label(NamedTuple):
    """What an image shows; named as the columns of `labels.csv`.

    Attributes:
        file: its name when the label was taken.
        class_name: what people say.
        batch: the number of the batch that asked for it; empty where none did.
        source: the name of the file that says so, or `train`.
    """

    file: str
    class_name: str
    batch: str
    source: str


class Unlabeled(NamedTuple):
    """An image that people have seen and not given a class.

    Attributes:
        file: its name.
        batch: the number of the batch that asked for it; empty where none did.
        votes: for which class, where they disagree; empty where it was skipped.
        source: the names of the files that say so.
    """

    file: str
    batch: str
    votes: str
    source: str


class Asked(NamedTuple):
    """An image that a batch has asked for: its name then, and the number of the last such batch."""

    file: str
    batch: int


Row = TypeVar("Row", Label, Unlabeled)


@dataclass(frozen=True)
class Labels:
    """What people have said of a run's images, by their digests, in the order taken.

    Attributes:
        labels: where they agree.
        set_aside: images that they could not label: never asked again, never trained on.
        disagreements: images of which they say different things: asked again in the next batch.
    """

    labels: dict[str, Label] = field(default_factory=dict)
    set_aside: dict[str, Unlabeled] = field(default_factory=dict)
    disagreements: dict[str, Unlabeled] = field(default_factory=dict)

    def has_answer(self, digest: str, batch: int) -> bool:
        """Whether people have said of an image what they can, when the batch asked for it."""
        tie = self.disagreements.get(digest)
        return (
            digest in self.labels
            or digest in self.set_aside
            or (tie is not None and tie.batch == str(batch))
        )

    def with_answers(
        self,
        answers: Iterable[Answer],
        found: Found,
        asked: Mapping[str, Asked],
        relabel: bool,
        problems: list[str],
    ) -> "Labels":
        """These labels and the answers; where several are about one image, the majority counts.

        Args:
            answers: of one or of several people.
            found: the images that there are.
            asked: the images that batches have asked for, by their digests.
            relabel: whether they may change what was taken before.
            problems: takes all that is wrong.
        """
        taken = replace(self, **{name: dict(rows) for name, rows in vars(self).items()})
        for digest, votes in self._votes(answers, found, asked, problems).items():
            skips = votes.pop(None, [])
            (first, *_), *_ = [*votes.values(), skips]
            file = found.files.get(digest) or first.file
            batch = str(asked[digest].batch) if digest in asked else ""
            old, said = self.labels.get(digest), _majority(votes)
            if old is not None:
                if not votes or said == old.class_name:
                    continue  # a skip takes no label away
                in_folder = found.labels.get(digest)
                if in_folder not in (None, said) or not relabel:
                    problems.append(_contradiction(first, file, votes, old, in_folder))
                    continue
                batch = old.batch
            if said is not None:
                taken.labels[digest] = Label(file, said, batch, votes[said][0].source)
                taken.set_aside.pop(digest, None)
                taken.disagreements.pop(digest, None)
            elif not votes:
                taken.set_aside[digest] = Unlabeled(file, batch, "", first.source)
                taken.disagreements.pop(digest, None)
            elif digest not in self.set_aside:
                sources = dict.fromkeys(each.source for given in votes.values() for each in given)
                tie = Unlabeled(file, batch, _counts(votes), ", ".join(sources))
                before = self.disagreements.get(digest)
                # The same file again is no further answer, whatever has been asked since.
                if before is None or before._replace(file=file, batch=batch) != tie:
                    taken.disagreements[digest] = tie
                taken.labels.pop(digest, None)
        return taken

    def _votes(
        self,
        answers: Iterable[Answer],
        found: Found,
        asked: Mapping[str, Asked],
        problems: list[str],
    ) -> dict[str, dict[str | None, list[Answer]]]:
        """The answers about each image, by the class that they give; None: it was skipped."""
        votes: dict[str, dict[str | None, list[Answer]]] = {}
        by_file = {image.file: digest for digest, image in asked.items()}
        find = name_finder({**by_file, **found.digests})
        class_names = dict.fromkeys(found.class_names)
        gone = 0
        for answer in answers:
            answer = answer._replace(file=find(answer.file))
            try:
                digest = self._digest(answer, found, asked, by_file)
                name = answer.class_name and _known_class(answer.class_name, class_names)
            except ValueError as error:
                if answer.may_be_gone and answer.sha256 and answer.file not in found.digests:
                    gone += 1
                else:
                    # To say it takes time, and few are shown.
                    is_shown = len(problems) < NAMED
                    problems.append(f"{answer.place}: {error}" if is_shown else answer.place)
            else:
                votes.setdefault(digest, {}).setdefault(name, []).append(answer)
        if gone:
            log.info(f"{counted(gone, 'label')} left out: their images are gone")
        return votes

    def _digest(
        self,
        answer: Answer,
        found: Found,
        asked: Mapping[str, Asked],
        by_file: Mapping[str, str],
    ) -> str:
        """Which image an answer is about.

        Raises:
            ValueError: there is no such image, or it has changed since it was asked for.
        """
        file = answer.file
        digest = answer.sha256 or by_file.get(file) or found.digests.get(file, "")
        if digest in found.files or digest in self.labels or digest in self.set_aside:
            return digest
        name = file or (asked[digest].file if digest in asked else "")
        if name in found.digests and found.digests[name] in found.files:
            raise ValueError(f"{shortened(name, 300)} has changed since; bring the old image back")
        if digest in asked:
            return digest
        words = not_utf8(name) or "names are relative to it, or to unlabeled"
        raise ValueError(f"{shortened(name or digest, 300)} is no image of {found.root}: {words}")

    def write(self, folder: Path, before: "Labels") -> None:
        """Writes into a run's folder what differs from before.

        Raises:
            InputError: a file cannot be written.
        """
        for name, rows in vars(self).items():
            if rows != getattr(before, name):
                write_atomically(folder / f"{name}.csv", as_csv(_table(name, rows)))


class _UnknownClassError(ValueError):
    """A name is no class. The nearest one is searched for when the message is asked for."""

    def __str__(self) -> str:
        name, class_names = self.args
        (near,) = difflib.get_close_matches(name.strip()[:100], class_names, n=1, cutoff=0.0)
        return f"{shortened(name)} is no class; the nearest is {shortened(near)}"


def _known_class(name: str, class_names: Mapping[str, None]) -> str:
    """The class of this name.

    Raises:
        ValueError: there is none.
    """
    for wanted in (class_name_of(name), class_name_of(name.strip())):
        if wanted in class_names:
            return wanted
    raise _UnknownClassError(wanted, class_names)


Votes = Mapping[str, Sequence[Answer]]
"""The answers about an image, by the class that they give."""


def _majority(votes: Votes) -> str | None:
    """The class that more than half of the answers give; None where there is none."""
    total = sum(map(len, votes.values()))
    return next((name for name, given in votes.items() if 2 * len(given) > total), None)


def _counts(votes: Votes) -> str:
    if len(votes) == 1:
        return next(iter(votes))
    return ", ".join(f"{name} ({len(votes[name])})" for name in sorted(votes))


def _contradiction(
    first: Answer, file: str, votes: Votes, old: Label, in_folder: str | None
) -> str:
    """What to say of answers that are not what was taken before."""
    words = f"{first.place}: {shortened(file)} is {shortened(_counts(votes))} here, but"
    if in_folder not in (None, *votes):
        return f"{words} lies in {shortened(in_folder)}'s folder; move it, or leave the line out"
    return f"{words} {shortened(old.class_name)} by {old.source} before; --relabel takes the new"


def read_labels(folder: Path) -> Labels:
    """What the folder of a run has of its labels.

    Raises:
        InputError: a file is damaged.
    """
    return Labels(
        dict(_rows(folder / "labels.csv", Label)),
        dict(_rows(folder / "set_aside.csv", Unlabeled)),
        dict(_rows(folder / "disagreements.csv", Unlabeled)),
    )


def _columns(kind: type[Row]) -> list[str]:
    file, *others = kind._fields
    return [file, "sha256", *("class" if name == "class_name" else name for name in others)]


def _rows(path: Path, kind: type[Row]) -> Iterator[tuple[str, Row]]:
    if path.exists():
        for row in read_table(path, _columns(kind)):
            yield row.pop("sha256"), kind(*row.values())


def _table(name: str, rows: Mapping[str, Row]) -> pd.DataFrame:
    columns = _columns(Label if name == "labels" else Unlabeled)
    cells = [[row[0], digest, *row[1:]] for digest, row in rows.items()]
    return pd.DataFrame(cells, columns=columns, dtype=object)
