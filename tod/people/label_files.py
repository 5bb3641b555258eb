"""What people have said, as CSV files in a run's folder: people read them, and give them on."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tod.people.answers import LABEL_COLUMNS, UNDECIDED_COLUMNS
from tod.people.labels import Label, Labels, Row, Unlabeled
from tod.people.votes import as_cells, votes_in
from tod.system.files import as_csv, damaged, read_table, reason, write_atomically

COPY = ".copy"
"""In the name of each table's copy, which is written last: what a hand has lost is there."""


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
    copies = dict(read_labels(folder, COPY))  # which a kill may have left behind
    for name, rows in labels:
        if rows != copies[name]:
            write_atomically(folder / f"{name}{COPY}.csv", as_csv(_table(name, rows)))


def read_labels(folder: Path, copy: str = "") -> Labels:
    """What the folder of a run has of its labels; or the copies of these, which may be missing.

    Raises:
        InputError: a file is damaged.
    """
    return Labels(
        {d: _label(row) for d, row in _rows(folder / f"labels{copy}.csv", LABEL_COLUMNS)},
        *(
            {
                d: _undecided(row)
                for d, row in _rows(folder / f"{name}{copy}.csv", UNDECIDED_COLUMNS)
            }
            for name in ("set_aside", "disagreements")
        ),
    )


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a table by the images' digests, with their votes instead of the cell."""
    for row in read_table(path, columns, added=("reason", "answers")) if path.exists() else []:
        try:
            yield row["sha256"], {**row, "answers": votes_in(row)}
        except (TypeError, ValueError) as error:
            raise damaged(path, reason(error)) from None


def _label(row: Mapping[str, Any]) -> Label:
    names = ("file", "class", "batch", "source", "reason", "answers")
    return Label(*(row[name] for name in names))


def _undecided(row: Mapping[str, Any]) -> Unlabeled:
    return Unlabeled(*(row[name] for name in ("file", "batch", "answers", "reason")))


def _table(name: str, rows: Mapping[str, Row]) -> pd.DataFrame:
    if name == "labels":
        columns = [*LABEL_COLUMNS, "reason", "answers"]
        cells = [
            [label.file, digest, *label[1:-1], as_cells(label.votes)[-1] if label.votes else ""]
            for digest, label in rows.items()
        ]
    else:
        columns = [*UNDECIDED_COLUMNS, "answers", "reason"]
        cells = [
            [row.file, digest, row.batch, *as_cells(row.votes), row.reason]
            for digest, row in rows.items()
        ]
    return pd.DataFrame(cells, columns=columns, dtype=object)
