"""Batches of images for people to label, each in a folder that is there whole or not at all."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from tod.analysis import contact_sheet
from tod.config import InputError
from tod.data import picture
from tod.data.decoding import decoding_as_we_like
from tod.files import NAMES, as_csv, atomic_folder, reason
from tod.people import label_studio
from tod.people.answers import read_csv
from tod.people.labels import Asked
from tod.people.page import PageImage, page, thumbnail

FIRST, QUERY, AUDIT = "first", "query", "audit"
"""Why an image is asked for: drawn before there is a network, by its score, to be audited."""
PAGE_SIDE = 512
"""The longer side of an image in the page, in pixels."""


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


def batch_folder(run_folder: Path, number: int) -> Path:
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
    try:
        columns, rows = read_csv(path.read_bytes().decode("utf-8", NAMES))
        if columns != [*Asking._fields]:
            raise ValueError("it has other columns")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read back ({reason(error)}); bring back the file as it was"
        ) from None
    return [Asking(**row) for _, row in rows]


def asked_images(batches: Sequence[Batch]) -> dict[str, Asked]:
    """The images that batches have asked for, by their digests."""
    return {row.sha256: Asked(row.file, batch.number) for batch in batches for row in batch.rows}


def write_batch(run_folder: Path, batch: Batch, root: Path, class_names: Sequence[str]) -> Path:
    """Writes what people need to label a batch.

    Args:
        run_folder: the run's.
        batch: to be written.
        root: the data folder.
        class_names: what may be chosen.

    Returns:
        The batch's folder.

    Raises:
        InputError: an image cannot be read any more, or the folder cannot be written.
    """
    path = batch_folder(run_folder, batch.number)
    files = [root / row.file for row in batch.rows]
    with decoding_as_we_like(), ThreadPoolExecutor(os.cpu_count()) as threads:
        pictures = [*threads.map(_page_picture, files)]
    images = [
        PageImage(
            row.file,
            row.sha256,
            content,
            row.predicted or None,
            float(row.probability) if row.predicted else None,
        )
        for row, content in zip(batch.rows, pictures, strict=True)
    ]
    sheet = contact_sheet.of_batch(batch.number, pictures, _captions(batch))
    with atomic_folder(path) as folder:
        table = pd.DataFrame(batch.rows, columns=Asking._fields, dtype=object)
        contents = {
            "batch.csv": as_csv(table).encode("utf-8", NAMES),
            "label_studio.json": label_studio.tasks(batch.number, batch.rows).encode(),
            "label_config.xml": label_studio.label_config(class_names).encode(),
            "label.html": page(batch.number, class_names, images).encode(),
            "contact_sheet.png": sheet,
        }
        for name, content in contents.items():
            (folder / name).write_bytes(content)
    return path


def _page_picture(path: Path) -> bytes:
    try:
        return thumbnail(picture.rgb(path, PAGE_SIDE, picture.as_shown))
    # Pillow's decoders raise many kinds of errors on damaged files.
    except Exception as error:
        raise InputError(
            f"{path}: cannot be read any more ({reason(error)}); bring it back, or remove it, and "
            "run the same command again"
        ) from None


def _captions(batch: Batch) -> list[tuple[str, str]]:
    """For each image, what stands below it in the contact sheet."""
    return [
        (row.predicted or f"rank {row.rank}", f"{float(row.score):.4g}" if row.score else "")
        for row in batch.rows
    ]
