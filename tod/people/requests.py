"""Requests to people, in batches."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tod.config.settings import shortened
from tod.system.files import damaged, read_table

FIRST, QUERY, AUDIT = "first", "query", "audit"
"""Why an image is asked for: drawn without a network, queried, or to be audited."""
CHECK = "check"
"""Asked for once more, since its label is doubted."""


class Request(NamedTuple):
    """A request for the class of an image: a row of `batch.csv`, as text."""

    rank: str  # from 1, best first
    file: str  # relative to the data folder
    sha256: str
    reason: str
    score: str = ""  # the strategy's; empty, like the next two, without a network
    predicted: str = ""
    probability: str = ""
    batch: str = ""  # the number of its batch, from 0; no column


COLUMNS = Request._fields[:-1]  # of `batch.csv`


def batch_folder(run_folder: Path, number: int | str) -> Path:
    """The folder of a batch."""
    return run_folder / "batches" / f"batch{number}"


def read_batches(run_folder: Path) -> list[list[Request]]:
    """The batches of a run in order, up to the first missing one."""
    batches: list[list[Request]] = []
    while (folder := batch_folder(run_folder, len(batches))).exists():
        batches.append(read_requests(folder / "batch.csv", str(len(batches))))
    return batches


def read_requests(path: Path, batch: str = "") -> list[Request]:
    """The requests of a `batch.csv`; `batch` is its number."""
    rows = read_table(path, COLUMNS)
    for row in rows:
        # Some spreadsheets write 0,5 for 0.5.
        row["score"] = row["score"].replace(",", ".")
        try:
            float(row["score"] if row["predicted"] else row["score"] or 0)
        except ValueError:
            words = f"rank {row['rank']} has the score {shortened(row['score']) or 'nothing'}"
            raise damaged(path, words) from None
    return [Request(**row, batch=batch) for row in rows]


def by_digest(batches: Iterable[Sequence[Request]]) -> dict[str, Request]:
    """The last request for each image."""
    return {request.sha256: request for batch in batches for request in batch}


def reasons_of(batches: Iterable[Sequence[Request]]) -> dict[tuple[str, str], str]:
    """The reasons of requests, by digest and batch."""
    return {(each.sha256, each.batch): each.reason for batch in batches for each in batch}
