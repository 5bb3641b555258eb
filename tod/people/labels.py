"""Labels from people, in CSV files that people can read and pass on."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from tod.people.answers import LABEL_COLUMNS, UNDECIDED_COLUMNS, votes_in
from tod.people.votes import Vote, counts
from tod.system.files import NAMES, as_csv, damaged, read_table, reason, write_atomically

LABELS, DISAGREEMENTS, SET_ASIDE = TABLES = ("labels", "disagreements", "set_aside")
"""Images on whose class people agree; those on which they do not, to be asked again in the next
batch; and those that they cannot label, never asked again and never trained on."""
COPY = ".copy"
"""In the name of each table's copy, written last, which keeps rows that an edit has lost."""


class Label(NamedTuple):
    """What people have said of an image."""

    file: str  # its name when the answers were taken
    class_name: str  # empty if they have not agreed on one
    batch: str  # the number of the last batch that asked for it; empty if none did
    source: str  # the name of its file, or `train`; without a class, all voters
    reason: str = ""  # why the batch asked for it; `audit` also if another run did
    votes: tuple[Vote, ...] = ()  # of several people, or of one without a class
    table: str = LABELS  # one of `TABLES`


Said = Mapping[str, Label]
"""All that people have said, by the images' digests; those of a table in the order taken."""


def in_table(said: Said, table: str) -> dict[str, Label]:
    """The labels of one of the `TABLES`."""
    return {digest: label for digest, label in said.items() if label.table == table}


def read_labels(folder: Path, reasons: Mapping[tuple[str, str], str]) -> dict[str, Label]:
    """The labels in the folder of a run.

    If a kill has left an image in two tables, the first of `TABLES` counts. Labels of an earlier
    version have no reason, which `reasons` gives by digest and batch; its undecided images have no
    answers, so who has said what is unknown.
    """
    said: dict[str, Label] = {}
    for table in TABLES:
        path, here = folder / f"{table}.csv", {}
        columns = LABEL_COLUMNS if table == LABELS else UNDECIDED_COLUMNS
        for row in read_table(path, columns, added=("reason", "answers")) if path.exists() else []:
            digest, batch, source = row["sha256"], row["batch"], row["source"]
            try:
                votes = [Vote(*vote) for vote in votes_in(row["answers"])]
            except ValueError as error:
                raise damaged(path, reason(error)) from None
            if digest in here:
                raise damaged(path, f"{digest} is there twice")
            if not row["answers"] and "votes" in row:
                told = re.findall(r"(.+?) \((\d+)\)(?:, |$)", row["votes"], re.DOTALL)
                told = told or [(None, 1)]
                votes = [Vote(source, name) for name, count in told for _ in range(int(count))]
            name, why = row.get("class", ""), row["reason"] or reasons.get((digest, batch), "")
            here[digest] = Label(row["file"], name, batch, source, why, tuple(votes), table)
        said |= {digest: label for digest, label in here.items() if digest not in said}
    return said


def write_labels(said: Said, folder: Path, before: Said) -> None:
    """Writes the tables that have changed into a run's folder.

    An image enters its new table before it leaves the old one: a kill between loses nothing.
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
        # A kill may have left a table without its copy.
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
