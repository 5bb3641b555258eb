"""Which classes a network takes for which: written in each cycle, read for display."""

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd

from tod.analysis.results import Curve
from tod.analysis.tables import Table, mean_and_deviation
from tod.config import InputError
from tod.config.identity import cycle_files
from tod.system.files import as_csv, reason


def as_text(predicted: np.ndarray, true: np.ndarray, class_names: Sequence[str]) -> str:
    """A CSV: how many images of each class (rows) are taken for which (columns).

    Args:
        predicted, true: the classes of the images, (N,), from 0.
        class_names: by class.
    """
    names = list(class_names)
    pairs = np.bincount(true * len(names) + predicted, minlength=len(names) ** 2)
    table = pd.DataFrame(pairs.reshape(len(names), len(names)), columns=names)
    table.insert(0, "class", names, allow_duplicates=True)  # one may be called so
    return as_csv(table)


def read(curve: Curve) -> np.ndarray:
    """Those of the T trials that have reached the curve's last cycle, (T, C, C).

    There are none where an earlier version has run.

    Raises:
        InputError: a file is damaged.
    """
    size = len(curve.run.get("class_names", ()))
    last, found = curve.rows["cycle"].astype(int).max(), []
    paths = [
        path
        for folder in curve.folders
        for (_, cycle), path in cycle_files(folder / "confusion", ".csv").items()
        if cycle == last
    ]
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")  # of the names alone
            table = pd.read_csv(io.StringIO(text), header=None, dtype=str)
            found.append(table.iloc[1:, 1:].to_numpy().astype(np.int64).reshape(size, size))
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: cannot be read ({reason(error)}); copy it back from where the run was "
                "made, or remove it"
            ) from None
    return np.stack(found) if found else np.empty((0, size, size), np.int64)


def class_tables(curves: Sequence[Curve]) -> list[Table]:
    """A row a class, a column a curve: the accuracy in the class, mean ± standard deviation
    (trials); a table for those curves that have the same classes.
    """
    columns: dict[tuple[str, ...], list[tuple[str, list[str]]]] = {}
    for curve in curves:
        matrices = read(curve)
        if len(matrices):
            cells = [mean_and_deviation(of_trials) for of_trials in class_accuracies(matrices).T]
            columns.setdefault(tuple(curve.run["class_names"]), []).append((curve.name, cells))
    return [
        [
            ["accuracy in each class (%)", *(name for name, _ in of_curves)],
            *(list(row) for row in zip(class_names, *(c for _, c in of_curves), strict=True)),
        ]
        for class_names, of_curves in columns.items()
    ]


def class_accuracies(matrices: np.ndarray) -> np.ndarray:
    """Of each trial and class, (T, C), in %; NaN for a class without test images.

    Args:
        matrices: (T, C, C), as `read` gives them.
    """
    sizes = matrices.sum(axis=2)
    correct = matrices.diagonal(axis1=1, axis2=2)
    return 100 * np.where(sizes, correct, np.nan) / np.maximum(sizes, 1)
