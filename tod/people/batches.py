"""Batches of images that people are asked to label."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tod.config.settings import shortened
from tod.people.labels import Asked, Labels
from tod.system.files import damaged, read_table


class Asking(NamedTuple):
    """An image of a batch; named as the columns of `batch.csv`, and as text as there.

    Attributes:
        rank: from 1, best first.
        file: relative to the data folder.
        sha256: its digest in hex.
        reason: `first`, `query` or `audit`.
        score: the strategy's; empty in a batch that no network has asked for.
        predicted: the class that the network takes it for; empty there too.
        probability: of that class.
    """

    rank: str
    file: str
    sha256: str
    reason: str
    score: str = ""
    predicted: str = ""
    probability: str = ""


class Batch(NamedTuple):
    """A batch, and its number from 0."""

    number: int
    rows: list[Asking]

    @property
    def is_of_a_network(self) -> bool:
        """Whether a network has asked for it; the first batches are drawn at random."""
        return any(row.predicted for row in self.rows)


def batch_folder(run_folder: Path, number: int | str) -> Path:
    """Where a batch lies."""
    return run_folder / "batches" / f"batch{number}"


def read_batches(run_folder: Path) -> list[Batch]:
    """The batches of a run, in their order.

    Raises:
        InputError: a file is damaged.
    """
    batches: list[Batch] = []
    while (folder := batch_folder(run_folder, len(batches))).exists():
        batches.append(Batch(len(batches), read_rows(folder / "batch.csv")))
    return batches


def read_rows(path: Path) -> list[Asking]:
    """The rows of a `batch.csv`.

    Raises:
        InputError: the file is damaged.
    """
    rows = [Asking(**row) for row in read_table(path, Asking._fields)]
    # Where people write 0,5, so does their spreadsheet.
    rows = [row._replace(score=row.score.replace(",", ".")) for row in rows]
    try:
        for row in rows:
            float(row.score or 0)
    except ValueError:
        raise damaged(path, f"rank {row.rank} has the score {shortened(row.score)}") from None
    return rows


def asked_images(batches: Sequence[Batch]) -> dict[str, Asked]:
    """The images that batches have asked for, by their digests."""
    return {
        row.sha256: Asked(row.file, batch.number, row.reason)
        for batch in batches
        for row in batch.rows
    }


def reasons_of(batches: Sequence[Batch]) -> dict[tuple[str, str], str]:
    """Why batches have asked for images, by their digest and the batch's number, as in tables."""
    return {(row.sha256, str(batch.number)): row.reason for batch in batches for row in batch.rows}


def with_reasons(labels: Labels, batches: Sequence[Batch]) -> Labels:
    """Labels, each with the reason why a batch asked for it: an earlier version wrote none."""
    reasons = reasons_of(batches)
    filled = {
        digest: label._replace(reason=label.reason or reasons.get((digest, label.batch), ""))
        for digest, label in labels.labels.items()
    }
    return replace(labels, labels=filled)
