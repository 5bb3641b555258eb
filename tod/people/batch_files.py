"""The files with which people label a batch, in a folder written whole or not at all."""

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
from tod.people import label_studio
from tod.people.page import LARGEST_SIDE, page, thumbnail
from tod.people.requests import AUDIT, CHECK, COLUMNS, Request, batch_folder
from tod.system.files import NAMES, as_csv, atomic_folder, reason, refuse_what_the_machine_lacks
from tod.system.machine import cores

log = logging.getLogger("tod")


def write_batch(
    run_folder: Path,
    number: int,
    requests: Sequence[Request],
    root: Path,
    class_names: Sequence[str],
) -> Path:
    """Writes the files of a batch and returns its folder; `root` holds the images."""
    path = batch_folder(run_folder, number)
    # Audits measure the network, and checks a label: people must not see what the network predicts.
    hidden = (AUDIT, CHECK)
    shown = [
        each._replace(score="", predicted="", probability="") if each.reason in hidden else each
        for each in requests
    ]
    files = [root / request.file for request in shown]
    with ThreadPoolExecutor(cores()) as threads:
        pictures = [*threads.map(_page_picture, files)]
    originals = (quote(os.fsencode(os.path.relpath(file, path))) for file in files)
    table = pd.DataFrame(requests, dtype=object)[[*COLUMNS]]
    texts = {
        "batch.csv": as_csv(table),
        "label_studio.json": label_studio.tasks(number, shown),
        "label_config.xml": label_studio.label_config(class_names),
        "label.html": page(number, class_names, [*zip(shown, pictures, originals, strict=True)]),
    }
    if any(request.predicted for request in requests):
        predicted = label_studio.tasks(number, shown, with_predictions=True)
        texts["label_studio_predicted.json"] = predicted
    contents = {name: text.encode("utf-8", NAMES) for name, text in texts.items()}
    captions = [
        (
            each.predicted or f"rank {each.rank}",
            f"{float(each.score):.4g}" if each.score else each.reason,
        )
        for each in shown
    ]
    try:
        contents["contact_sheet.png"] = contact_sheet.of_batch(number, pictures, captions)
    except Exception as error:
        log.warning(f"batch {number}: its contact sheet cannot be drawn ({reason(error)})")
    with atomic_folder(path) as folder:
        for name, content in contents.items():
            (folder / name).write_bytes(content)
    return path


def _page_picture(path: Path) -> bytes:
    try:
        return thumbnail(picture.rgb(path, LARGEST_SIDE, picture.as_shown)[0])
    # For damaged files, Pillow raises errors of many kinds.
    except Exception as error:
        refuse_what_the_machine_lacks(path, error)
        raise InputError(
            f"{path}: cannot be read any more ({reason(error)}); bring it back, or remove it, and "
            "run the same command again"
        ) from None
