"""What a run has written and does not find any more: named, before anything is done without it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tod.config import InputError
from tod.people.batches import batch_folder
from tod.people.label_files import COPY, read_copy
from tod.people.labels import Labels
from tod.settings import counted


def refuse_missing(run_folder: Path, labels: Labels, state: Mapping[str, Any] | None) -> None:
    """Refuses to go on without labels or batches that the run had.

    Args:
        run_folder: the run's.
        labels: what it holds now.
        state: the one saved last.

    Raises:
        InputError: something is missing; the message says how to get it back.
    """
    _refuse_missing_labels(run_folder, labels)
    _refuse_missing_batches(run_folder, labels, state)


def _refuse_missing_labels(run_folder: Path, labels: Labels) -> None:
    path, copy = run_folder / "labels.csv", run_folder / COPY
    known = labels.labels.keys() | labels.disagreements.keys() | labels.set_aside.keys()
    if lost := read_copy(run_folder).keys() - known:
        raise InputError(
            f"{path}: {counted(len(lost), 'label')} of those in {copy.name} are missing; copy that "
            f"file over it, or remove {copy.name} if they are to go"
        )
    if not path.exists() and (run_folder / "results.csv").exists():
        raise InputError(
            f"{path}: is missing, and the run has trained on labels; bring it back, or begin "
            "another run in another --output-dir"
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
                f"{path}: is missing, and says what was asked and which images were audits; bring "
                "it back (the other files beside it may go)"
            )
