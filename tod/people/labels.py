"""All that people have said of a run's images: taken whole or not at all, and kept as CSV files."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import pandas as pd

from tod.config import InputError
from tod.data.listing import class_name_of
from tod.data.own_images import Found
from tod.files import NAMES, as_csv, reason, write_atomically
from tod.people.answers import Answer, read_csv
from tod.settings import shortened


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
    """

    file: str
    batch: str
    votes: str


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
            skipped = votes.pop(None, [])
            first = [*votes.values(), skipped][0][0]
            file = found.files.get(digest) or first.file
            batch = str(asked[digest].batch) if digest in asked else ""
            old = self.labels.get(digest)
            name = max(votes, key=lambda each: len(votes[each]), default="")
            if not votes:
                if old is None:
                    taken.set_aside[digest] = Unlabeled(file, batch, "")
            elif 2 * len(votes[name]) <= sum(map(len, votes.values())):
                words = ", ".join(f"{each} ({len(votes[each])})" for each in sorted(votes))
                before = self.disagreements.get(digest)
                is_news = before is None or before.votes != words
                if old is None and digest not in self.set_aside and is_news:
                    taken.disagreements[digest] = Unlabeled(file, batch, words)
            elif old is None or (relabel and old.class_name != name):
                batch = batch if old is None else old.batch
                taken.labels[digest] = Label(file, name, batch, votes[name][0].source)
                taken.set_aside.pop(digest, None)
            elif old.class_name != name:
                words = f"{shortened(name)}, but {shortened(old.class_name)} by {old.source}"
                problems.append(
                    f"{votes[name][0].place}: {shortened(file)} is {words} before; "
                    "--relabel takes the new class"
                )
            if digest in taken.labels or digest in taken.set_aside:
                taken.disagreements.pop(digest, None)
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
        for answer in answers:
            try:
                digest = self._digest(answer, found, asked, by_file)
                name = answer.class_name and _known_class(answer.class_name, found.class_names)
            except ValueError as error:
                problems.append(f"{answer.place}: {error}")
            else:
                votes.setdefault(digest, {}).setdefault(name, []).append(answer)
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
        digest = answer.sha256 or by_file.get(file) or _digest_of(file, found)
        if digest in found.files or digest in self.labels or digest in self.set_aside:
            return digest
        name = file or (asked[digest].file if digest in asked else "")
        if name in found.digests and found.digests[name] in found.files:
            raise ValueError(f"{shortened(name, 300)} has changed since; bring the old image back")
        if digest in asked:
            return digest
        raise ValueError(f"{shortened(name or digest, 300)} is no image of {found.root}")

    def write(self, folder: Path, before: "Labels") -> None:
        """Writes into a run's folder what differs from before.

        Raises:
            InputError: a file cannot be written.
        """
        for name, rows in vars(self).items():
            if rows != getattr(before, name):
                write_atomically(folder / f"{name}.csv", as_csv(_table(name, rows)))


def _digest_of(file: str, found: Found) -> str:
    """The digest of a file by its name in the data folder, or in the pool; else empty."""
    return found.digests.get(file) or found.digests.get(f"unlabeled/{file}") or ""


def _known_class(name: str, class_names: list[str]) -> str:
    """The class of this name.

    Raises:
        ValueError: there is none.
    """
    wanted = class_name_of(name)
    if wanted in class_names:
        return wanted
    (near,) = difflib.get_close_matches(wanted, class_names, n=1, cutoff=0.0)
    raise ValueError(f"{shortened(name)} is no class; the nearest is {shortened(near)}")


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
    if not path.exists():
        return
    try:
        columns, rows = read_csv(path.read_bytes().decode("utf-8", NAMES))
        if columns != _columns(kind):
            raise ValueError("it has other columns")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read back ({reason(error)}); bring back the file as it was"
        ) from None
    for _, row in rows:
        yield row.pop("sha256"), kind(*row.values())


def _table(name: str, rows: Mapping[str, Row]) -> pd.DataFrame:
    columns = _columns(Label if name == "labels" else Unlabeled)
    cells = [[row[0], digest, *row[1:]] for digest, row in rows.items()]
    return pd.DataFrame(cells, columns=columns, dtype=object)
