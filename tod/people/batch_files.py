"""What people need to label a batch, in a folder that is there whole or not at all."""

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from tod.analysis import contact_sheet
from tod.config import InputError
from tod.data import picture
from tod.data.picture import pillow_limits_off
from tod.people import label_studio
from tod.people.batches import Asking, Batch, batch_folder
from tod.people.labels import AUDIT
from tod.people.page import LARGEST_SIDE, PageImage, page, thumbnail
from tod.system.files import NAMES, as_csv, atomic_folder, reason, refuse_what_the_machine_lacks
from tod.system.machine import cores

log = logging.getLogger("tod")


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
    rows = [_as_seen(row) for row in batch.rows]
    files = [root / row.file for row in rows]
    with pillow_limits_off(), ThreadPoolExecutor(cores()) as threads:
        pictures = [*threads.map(_page_picture, files)]
    images = [
        PageImage(
            row.file,
            row.sha256,
            content,
            row.predicted or None,
            float(row.probability) if row.predicted else None,
            quote(os.fsencode(os.path.relpath(file, path))),
        )
        for row, file, content in zip(rows, files, pictures, strict=True)
    ]
    sheet = _contact_sheet(batch.number, rows, pictures)
    with atomic_folder(path) as folder:
        table = pd.DataFrame(batch.rows, columns=Asking._fields, dtype=object)
        contents: dict[str, bytes] = {
            "batch.csv": as_csv(table).encode("utf-8", NAMES),
            "label_studio.json": label_studio.tasks(batch.number, rows).encode(),
            "label_config.xml": label_studio.label_config(class_names).encode(),
            "label.html": page(batch.number, class_names, images).encode(),
            **sheet,
        }
        if batch.is_of_a_network:
            predicted = label_studio.tasks(batch.number, rows, with_predictions=True)
            contents["label_studio_predicted.json"] = predicted.encode()
        for name, content in contents.items():
            (folder / name).write_bytes(content)
    return path


def _page_picture(path: Path) -> bytes:
    try:
        return thumbnail(picture.rgb(path, LARGEST_SIDE, picture.as_shown))
    # Pillow's decoders raise many kinds of errors on damaged files.
    except Exception as error:
        refuse_what_the_machine_lacks(path, error)
        raise InputError(
            f"{path}: cannot be read any more ({reason(error)}); bring it back, or remove it, and "
            "run the same command again"
        ) from None


def _as_seen(row: Asking) -> Asking:
    """What people see of a row: of an audit, which measures the network, nothing that it says."""
    return row._replace(score="", predicted="", probability="") if row.reason == AUDIT else row


def _contact_sheet(
    number: int, rows: Sequence[Asking], pictures: Sequence[bytes]
) -> dict[str, bytes]:
    """The sheet by its file's name; none, where it cannot be drawn."""
    captions = [
        (
            row.predicted or f"rank {row.rank}",
            f"{float(row.score):.4g}" if row.score else row.reason,
        )
        for row in rows
    ]
    try:
        return {"contact_sheet.png": contact_sheet.of_batch(number, pictures, captions)}
    except Exception as error:
        log.warning(f"batch {number}: its contact sheet cannot be drawn ({reason(error)})")
        return {}
