"""What people have said of images: labels, in CSV files that people read, and give on."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from tod.people.answers import LABEL_COLUMNS, UNDECIDED_COLUMNS
from tod.people.votes import Vote, counts
from tod.system.files import NAMES, as_csv, damaged, read_table, reason, write_atomically

LABELS, DISAGREEMENTS, SET_ASIDE = TABLES = ("labels", "disagreements", "set_aside")
"""Where people agree; where they do not: asked again in the next batch; what they cannot label:
never asked again, never trained on."""
COPY = ".copy"
"""In the name of each table's copy, which is written last: what a hand has lost is there."""


class Label(NamedTuple):
    """What people have said of an image."""

    file: str  # its name when the answers were taken
    class_name: str  # empty where they have not agreed on one
    batch: str  # the number of the last batch that asked for it; empty where none did
    source: str  # the name of the file that says so, or `train`; without a class, all voters
    reason: str = ""  # why the batch asked for it; `audit` also where another run has
    votes: tuple[Vote, ...] = ()  # of several people; of a single one only where there is no class
    table: str = LABELS  # one of `TABLES`


Said = Mapping[str, Label]
"""All that people have said, by the images' digests; those of a table in the order taken."""


def in_table(said: Said, table: str) -> dict[str, Label]:
    """What stands in one of the `TABLES`."""
    return {digest: label for digest, label in said.items() if label.table == table}


def read_labels(folder: Path, reasons: Mapping[tuple[str, str], str]) -> dict[str, Label]:
    """What the folder of a run has of its labels.

    An image that a kill between two tables has left in both counts in the first of `TABLES`. An
    earlier version's labels have no reason, which `reasons` gives by digest and batch, and its
    undecided images no answers: there, nobody knows who has said what.
    """
    said: dict[str, Label] = {}
    for table in TABLES:
        path, here = folder / f"{table}.csv", {}
        columns = LABEL_COLUMNS if table == LABELS else UNDECIDED_COLUMNS
        for row in read_table(path, columns, added=("reason", "answers")) if path.exists() else []:
            digest, batch, source = row["sha256"], row["batch"], row["source"]
            try:
                votes = [Vote(*vote) for vote in json.loads(row["answers"] or "[]")]
            except (TypeError, ValueError) as error:
                raise damaged(path, reason(error)) from None
            if not row["answers"] and "votes" in row:
                told = re.findall(r"(.+?) \((\d+)\)(?:, |$)", row["votes"], re.DOTALL)
                told = told or [(None, 1)]
                votes = [Vote(source, name) for name, count in told for _ in range(int(count))]
            name, why = row.get("class", ""), row["reason"] or reasons.get((digest, batch), "")
            here[digest] = Label(row["file"], name, batch, source, why, tuple(votes), table)
        said |= {digest: label for digest, label in here.items() if digest not in said}
    return said


def write_labels(said: Said, folder: Path, before: Said) -> None:
    """Writes into a run's folder what differs from before.

    An image comes to its new table before it leaves the old one: a kill between loses nothing.
    """
    written = {table: in_table(before, table) for table in TABLES}
    for is_leaving in (False, True):
        for table, old in written.items():
            rows = in_table(said, table)
            wanted = rows if is_leaving else {**old, **rows}
            if [*wanted.items()] != [*old.items()]:
                write_atomically(folder / f"{table}.csv", _csv(table, wanted))
                written[table] = wanted
    for table, rows in written.items():
        copy, content = folder / f"{table}{COPY}.csv", _csv(table, rows).encode("utf-8", NAMES)
        former = b""
        with suppress(OSError):
            former = copy.read_bytes()
        # A kill may have come between a table and its copy.
        if (rows or copy.exists()) and former != content:
            write_atomically(copy, content)


def _csv(table: str, rows: Said) -> str:
    cells = pd.DataFrame([*rows.values()], columns=[*Label._fields], dtype=object)
    cells["sha256"], cells["class"] = [*rows], cells["class_name"]
    cells["answers"] = [json.dumps(v, ensure_ascii=False) if v else "" for v in cells["votes"]]
    columns = [*LABEL_COLUMNS, "reason", "answers"]
    if table != LABELS:
        cells["votes"] = cells["votes"].map(counts)
        columns = [*UNDECIDED_COLUMNS, "answers", "reason"]
    return as_csv(cells[columns])
