"""Confusion matrices: written in each cycle, read for display."""

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd

from tod.analysis.results import Curve
from tod.analysis.tables import Table, mean_and_deviation, with_split_names
from tod.config.identity import cycle_files
from tod.system.files import as_csv, cannot


def as_text(predicted: np.ndarray, true: np.ndarray, class_names: Sequence[str]) -> str:
    """The confusion matrix as CSV: images of each true class (rows) by predicted class (columns).

    `predicted` and `true` are the classes, (N,) from 0.
    """
    names = list(class_names)
    pairs = np.bincount(true * len(names) + predicted, minlength=len(names) ** 2)
    table = pd.DataFrame(pairs.reshape(len(names), len(names)), columns=names)
    table.insert(0, "class", names, allow_duplicates=True)  # a class may have this name
    return as_csv(table)


def read(curve: Curve) -> np.ndarray:
    """The matrices of the T trials that have reached the curve's last cycle, (T, C, C).

    There is none in runs of an earlier version.
    """
    size = len(curve.run.get("class_names", ()))
    last, found = curve.rows["cycle"].max(), []
    for folder in curve.folders:
        for (_, cycle), path in cycle_files(folder / "confusion", ".csv").items():
            if cycle != last:
                continue
            try:
                text = path.read_text(encoding="utf-8", errors="replace")  # in the names
                table = pd.read_csv(io.StringIO(text), header=None, dtype=str)
                found.append(table.iloc[1:, 1:].to_numpy().astype(np.int64).reshape(size, size))
            except (OSError, ValueError) as error:
                advice = "copy it back from where the run was made, or remove it"
                raise cannot(path, "read", error, advice) from None
    return np.stack(found) if found else np.empty((0, size, size), np.int64)


def class_tables(curves: Sequence[Curve]) -> list[Table]:
    """The accuracy in each class (rows) of each curve (columns); a table a set of classes."""
    columns: dict[tuple[str, ...], list[list[str]]] = {}
    for curve in curves:
        matrices = read(curve)
        if len(matrices):
            sizes, correct = matrices.sum(axis=2), matrices.diagonal(axis1=1, axis2=2)
            # A class without test images has no accuracy.
            accuracies = 100 * np.where(sizes, correct, np.nan) / np.maximum(sizes, 1)
            names = tuple(curve.run["class_names"])
            of_curves = columns.setdefault(names, [["accuracy in each class (%)", *names]])
            of_curves.append([curve.name, *map(mean_and_deviation, accuracies.T)])
    deviation = "mean ± standard deviation (number of trials)"
    caption = f"Accuracy in each class in %, in the last cycle: {deviation}."
    shown = map(with_split_names, columns.values())
    return [Table(caption, [*map(list, zip(*each, strict=True))]) for each in shown]
