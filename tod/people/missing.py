"""What a run has written and does not find any more: named, before anything is done without it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tod.config import InputError
from tod.config.settings import counted
from tod.people.batches import batch_folder
from tod.people.label_files import COPY, read_labels
from tod.people.labels import Labels


def refuse_missing(
    run_folder: Path, labels: Labels, state: Mapping[str, Any] | None, rows: pd.DataFrame
) -> None:
    """Refuses to go on without labels or batches that the run had.

    Args:
        run_folder: the run's.
        labels: what it holds now.
        state: the one saved last.
        rows: of its `results.csv`.

    Raises:
        InputError: something is missing; the message says how to get it back.
    """
    _refuse_missing_labels(run_folder, labels, rows)
    _refuse_missing_batches(run_folder, labels, state)


def _refuse_missing_labels(run_folder: Path, labels: Labels, rows: pd.DataFrame) -> None:
    known = {digest for _, table in labels for digest in table}
    for name, table in read_labels(run_folder, COPY):
        path, copy = run_folder / f"{name}.csv", f"{name}{COPY}.csv"
        if lost := table.keys() - known:
            raise InputError(
                f"{path}: lacks {counted(len(lost), 'row')} of those in {copy}; copy that file "
                "over it"
            )
    if not rows.empty and not (run_folder / f"labels{COPY}.csv").exists():
        last = rows.iloc[-1]
        trained = int(last["num_labeled"]) + int(last.get("audited") or 0)
        if trained > len(known):
            raise InputError(
                f"{run_folder / 'labels.csv'}: has {counted(len(labels.labels), 'label')}, and "
                f"the last cycle had {trained:,}; bring the file back as it was"
            )


def _refuse_missing_batches(
    run_folder: Path, labels: Labels, state: Mapping[str, Any] | None
) -> None:
    rows = (row for _, table in labels for row in table.values())
    named = {int(row.batch) for row in rows if row.batch.isdecimal()}
    names = (re.fullmatch(r"batch(\d+)", path.name) for path in run_folder.glob("batches/*"))
    there = {int(name[1]) for name in names if name}
    saved = (state or {}).get("num_written", 0)  # an earlier version says nothing
    for number in range(max([saved - 1, *named, *there], default=-1) + 1):
        path = batch_folder(run_folder, number) / "batch.csv"
        if not path.exists():
            raise InputError(
                f"{path}: is missing, and says what was asked; bring it back (the other files "
                "beside it may go), or begin another run in another --output-dir, with the "
                f"settings of this one and --labels {run_folder / 'labels.csv'}, and set_aside.csv "
                "and disagreements.csv beside it"
            )
