"""What people have said, as CSV files in a run's folder: people read them, and give them on."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from tod.config import InputError
from tod.files import as_csv, read_table, reason, write_atomically
from tod.people.answers import LABEL_COLUMNS, UNDECIDED_COLUMNS
from tod.people.labels import Label, Labels, Row, Unlabeled
from tod.people.votes import as_cells, votes_in

COPY = "labels.copy.csv"
"""Beside `labels.csv`, and written after it: what a hand has lost there is here."""


def write_labels(labels: Labels, folder: Path, before: Labels) -> None:
    """Writes into a run's folder what differs from before.

    An image comes to its new table before it leaves the old one: a kill between loses nothing.

    Raises:
        InputError: a file cannot be written.
    """
    written = dict(before)
    for is_leaving in (False, True):
        for name, rows in labels:
            wanted = rows if is_leaving else {**written[name], **rows}
            if [*wanted.items()] != [*written[name].items()]:
                write_atomically(folder / f"{name}.csv", as_csv(_table(name, wanted)))
                written[name] = wanted
    if labels.labels != before.labels or not (folder / COPY).exists():
        write_atomically(folder / COPY, as_csv(_table("labels", labels.labels)))


def read_labels(folder: Path) -> Labels:
    """What the folder of a run has of its labels.

    Raises:
        InputError: a file is damaged.
    """
    return Labels(
        _labels(folder / "labels.csv"),
        _undecided(folder / "set_aside.csv"),
        _undecided(folder / "disagreements.csv"),
    )


def read_copy(folder: Path) -> dict[str, Label]:
    """The labels as the run has written them last; none, where an earlier version has.

    Raises:
        InputError: the file is damaged.
    """
    return _labels(folder / COPY)


def _labels(path: Path) -> dict[str, Label]:
    rows = read_table(path, LABEL_COLUMNS, added=("reason",)) if path.exists() else []
    fields = ("file", "class", "batch", "source", "reason")
    return {row["sha256"]: Label(*(row[name] for name in fields)) for row in rows}


def _undecided(path: Path) -> dict[str, Unlabeled]:
    rows = read_table(path, UNDECIDED_COLUMNS, added=("answers",)) if path.exists() else []
    try:
        return {row["sha256"]: Unlabeled(row["file"], row["batch"], votes_in(row)) for row in rows}
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read back ({reason(error)}); bring back the file as it was"
        ) from None


def _table(name: str, rows: Mapping[str, Row]) -> pd.DataFrame:
    if name == "labels":
        columns = [*LABEL_COLUMNS, "reason"]
        cells = [[label.file, digest, *label[1:]] for digest, label in rows.items()]
    else:
        columns = [*UNDECIDED_COLUMNS, "answers"]
        cells = [
            [row.file, digest, row.batch, *as_cells(row.votes)] for digest, row in rows.items()
        ]
    return pd.DataFrame(cells, columns=columns, dtype=object)
