"""The records of each cycle for people; a picture that fails does not stop the run."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from tod.analysis import confusion, contact_sheet, figures, results
from tod.data import Dataset
from tod.system.files import as_csv, atomic_file, reason, remove, write_atomically

log = logging.getLogger("tod")


def write_query(
    path: Path, subset: np.ndarray, scores: np.ndarray, queried: np.ndarray, dataset: Dataset
) -> None:
    """Writes the queried images as CSV, in the order queried, and their contact sheet.

    `subset` holds the training set indices of the scored images, (M,), `scores` their scores, (M,),
    and `queried` the indices of the queried images.
    """
    score_of = dict(zip(subset.tolist(), scores.tolist(), strict=True))
    table = _labelled(queried, dataset)
    table.insert(1, "score", [repr(score_of[index]) for index in queried.tolist()])
    write_atomically(path, as_csv(table))
    sheet = path.with_suffix(".png")
    _write_picture(sheet, lambda: contact_sheet.of_query(subset, scores, queried, dataset))


def write_first_labels(path: Path, labeled: np.ndarray, dataset: Dataset) -> None:
    """Writes the images that have a label before the first cycle, given by their indices."""
    write_atomically(path, as_csv(_labelled(labeled, dataset)))


def _labelled(indices: np.ndarray, dataset: Dataset) -> pd.DataFrame:
    """The columns `index`, `label` and `class` of images, and `file` if they are files."""
    images = dataset.train
    table = pd.DataFrame({"index": indices, "label": images.labels[indices].numpy()}, dtype=object)
    table["class"] = [dataset.class_names[label] for label in table["label"]]
    if images.names is not None:
        table["file"] = [images.names[index] for index in indices]
    return table


def write_confusion(path: Path, logits: Tensor, dataset: Dataset) -> None:
    """Writes the confusion matrix of the test images, from their logits (N, C)."""
    true, predicted = dataset.test.labels.numpy(), logits.argmax(dim=1).numpy()
    write_atomically(path, confusion.as_text(predicted, true, dataset.class_names))


def write_predictions(path: Path, logits: Tensor, dataset: Dataset) -> None:
    """Writes `probabilities` (N, C) and `labels` (N,) of the test images.

    If they are files, `files` (N,) holds their names.
    """
    probabilities = logits.double().softmax(dim=1).float().numpy()
    names = dataset.test.names
    files = {} if names is None else {"files": np.array(names, dtype=str)}
    with atomic_file(path) as file:
        np.savez(file, probabilities=probabilities, labels=dataset.test.labels.numpy(), **files)


def write_unreadable(folder: Path, unreadable: Sequence[tuple[str, str]], mark: str = "") -> None:
    """Writes which image files a run leaves out, and why, if there are any."""
    if unreadable:
        table = pd.DataFrame(unreadable, columns=["file", "reason"], dtype=object)
        write_atomically(folder / "unreadable.csv", as_csv(table), mark)
    else:  # they may have been repaired since
        remove(folder / "unreadable.csv")


def write_learning_curve(folder: Path, mark: str = "") -> None:
    """Draws `learning_curve.png` from the `results.csv` of a run's folder.

    Processes may do so at the same time; the last one has drawn all rows.
    """
    path, drawn = folder / "learning_curve.png", None
    while drawn != (rows := _content(folder / "results.csv")):
        drawn = rows
        _write_picture(
            path,
            lambda: figures.rendered(figures.learning_curves([results.read_run(folder)])),
            mark,
        )


def _content(path: Path) -> bytes:
    with suppress(OSError):
        return path.read_bytes()
    return b""


def _write_picture(path: Path, draw: Callable[[], bytes], mark: str = "") -> None:
    step = "drawn"
    try:
        content = draw()
        step = "written"
        write_atomically(path, content, mark)
    except Exception as error:
        why = reason(error.__cause__ or error)
        log.warning(f"{path}: cannot be {step} ({why}); the run goes on without it")
