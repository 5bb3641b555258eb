"""What runs have left in `results.csv` and `config.yaml`, read and summed up for display.

Torch is never imported here, so that figures and reports do not wait for it.
"""

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from configuration import TRAINING_SET_SIZES, InputError, shortened

ACCURACY = "test_accuracy"
DIAGNOSTICS = (
    "score_loss_spearman",
    "score_error_auroc",
    "queried_mean_loss",
    "unqueried_mean_loss",
    "queried_class_entropy",
)
AREA = "area_under_budget_curve"
TIDY_COLUMNS = (
    *("run", "quantity", "num_labeled", "labeled_percent", "trials", "mean", "std"),
    *("pairs", "difference", "difference_low", "difference_high"),
)

Row = dict[str, str]
Place = tuple[int, int]
"""A trial's seed and number: what it shares with the trial that another run pairs with it."""


# ---------------------------------------------------------------- reading


def read_rows(path: Path) -> list[Row]:
    """The rows of a `results.csv`, as text; none where no cycle has ended yet.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged or half-written; the message says where.
    """
    with path.open(newline="", encoding="utf-8") as file:
        text = file.read()
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise ValueError(str(error)) from None
    places = set()
    for number, row in enumerate(rows, start=2):
        _check_row(row, number)
        places.add((int(row["trial"]), int(row["cycle"])))
    if len(places) < len(rows):
        raise ValueError("a cycle of a trial occurs twice")
    if rows and not text.endswith("\n"):
        raise ValueError("its last line is incomplete")
    return rows


def _check_row(row: Row, line: int) -> None:
    limits = {"trial": (1, 10**6), "cycle": (1, 10**9), "num_labeled": (1, 10**9)}
    for column in (*limits, ACCURACY):
        if column not in row:
            raise ValueError(f"it has no column {column}")
    if None in row or None in row.values():
        raise ValueError(f"line {line} has not as many cells as there are columns")
    for column, (lowest, highest) in limits.items():
        if not (row[column].isdecimal() and len(row[column]) < 11):
            raise ValueError(f"line {line}: {column} is {shortened(repr(row[column]))}")
        if not lowest <= int(row[column]) <= highest:
            raise ValueError(f"line {line}: {column} is {row[column]}")
    accuracy = _number(row[ACCURACY])
    if accuracy is None or not 0 <= accuracy <= 100:
        raise ValueError(f"line {line}: {ACCURACY} is {shortened(repr(row[ACCURACY]))}")


def _number(cell: str) -> float | None:
    """A cell's finite number, or None: a quantity may be undefined in a cycle."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def by_num_labeled(rows: Iterable[Row]) -> dict[int, list[float]]:
    """Test accuracies in % by number of labels, one for each trial that has got there."""
    accuracies: dict[int, list[float]] = {}
    for row in rows:
        accuracies.setdefault(int(row["num_labeled"]), []).append(float(row[ACCURACY]))
    return dict(sorted(accuracies.items()))


@dataclass(frozen=True)
class Curve:
    """The results of one run, or of runs that differ in the seed alone.

    Attributes:
        name: what a legend calls it.
        folders: of the runs.
        config: the configuration, without what the run added.
        run: what the first run added: strategy, seed, class names, versions.
        images: by seed, what identifies the images used.
        columns: of `results.csv`.
        trials: of each trial, the values of a cycle by column, by number of labels.
    """

    name: str
    folders: tuple[Path, ...]
    config: dict[str, Any]
    run: dict[str, Any]
    images: dict[int, Any]
    columns: frozenset[str]
    trials: dict[Place, dict[int, dict[str, float]]]

    @property
    def training_images(self) -> int | None:
        """How many images a label could be bought for; None where that is not known."""
        recorded = self.run.get("training_images")
        if isinstance(recorded, int) and recorded > 0:
            return recorded
        return TRAINING_SET_SIZES.get(self.config["dataset"])

    def values(self, column: str) -> dict[int, dict[Place, float]]:
        """A column by number of labels, ascending, and by trial; undefined values are left out."""
        values: dict[int, dict[Place, float]] = {}
        for place, cycles in self.trials.items():
            for num_labeled, cells in cycles.items():
                if column in cells:
                    values.setdefault(num_labeled, {})[place] = cells[column]
        return dict(sorted(values.items()))

    def areas(self) -> dict[Place, float]:
        """The area under the budget curve in %, of each trial that has ended its last cycle.

        An unfinished trial has none: over fewer labels its area would be smaller for that alone.
        """
        cycles = self.config["active_learning"]["cycles"]
        return {
            place: area_under_budget_curve({n: cells[ACCURACY] for n, cells in rows.items()})
            for place, rows in self.trials.items()
            if len(rows) == cycles > 1
        }

    def same_but_for_the_seed(self, other: "Curve") -> bool:
        """Whether two curves are of one method, configuration and dataset, from other seeds."""
        images = {*self.images.values(), *other.images.values()}
        return (
            not differing_keys(self, other)
            and all(
                self.run.get(k) == other.run.get(k) for k in ("sampling", "auxiliary", "precision")
            )
            and self.images.keys().isdisjoint(other.images)
            # Caltech-101 is split anew with each seed.
            and (len(images) == 1 or self.config["dataset"] == "caltech101")
        )


def read_runs(folders: Sequence[Path]) -> list[Curve]:
    """The curves of several runs, in their order; runs that differ in the seed alone are pooled.

    Curves of the same name are numbered.

    Raises:
        InputError: a folder holds no run, or its files are damaged.
    """
    curves: list[Curve] = []
    for folder in folders:
        curve = read_run(folder)
        for i, other in enumerate(curves):
            if other.same_but_for_the_seed(curve):
                curves[i] = _pooled(other, curve)
                break
        else:
            curves.append(curve)
    names = [curve.name for curve in curves]
    return [
        replace(c, name=f"{c.name} #{names[: i + 1].count(c.name)}")
        if names.count(c.name) > 1
        else c
        for i, c in enumerate(curves)
    ]


def read_run(folder: Path) -> Curve:
    """The curve of one run, finished or not.

    Raises:
        InputError: the folder holds no run that has ended a cycle, or its files are damaged.
    """
    path = folder / "results.csv"
    try:
        rows = read_rows(path)
    except (OSError, ValueError) as error:
        has_begun = isinstance(error, FileNotFoundError) and (folder / "config.yaml").exists()
        if not has_begun:
            raise InputError(
                f"{path}: cannot be read ({_reason(error)}); "
                "name the folder of a run that has ended a cycle"
            ) from None
        rows = []
    if not rows:
        raise InputError(f"{path}: holds no results yet; wait for the run's first cycle to end")
    config = _read_config(folder)
    run = config.pop("run")
    trials: dict[Place, dict[int, dict[str, float]]] = {}
    for row in rows:
        cells = {
            column: _number(row[column]) for column in (ACCURACY, *DIAGNOSTICS) if column in row
        }
        cycles = trials.setdefault((run["seed"], int(row["trial"])), {})
        cycles[int(row["num_labeled"])] = {k: v for k, v in cells.items() if v is not None}
    return Curve(
        name=_name(folder, run, [run["seed"]]),
        folders=(folder,),
        config=config,
        run=run,
        images={run["seed"]: run.get("data")},
        columns=frozenset(rows[0]),
        trials=trials,
    )


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    return getattr(error, "strerror", None) or str(error)


def read_config_text(folder: Path) -> str:
    """A run's `config.yaml`, the configuration as resolved, as it is written there.

    Raises:
        InputError: it cannot be read.
    """
    path = folder / "config.yaml"
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _unreadable_config(path, _reason(error)) from None


def _read_config(folder: Path) -> dict[str, Any]:
    text = read_config_text(folder)
    try:
        config = yaml.safe_load(text)
        run = config["run"]
        if not (
            isinstance(config["dataset"], str)
            and isinstance(config["active_learning"]["cycles"], int)
            and isinstance(run["seed"], int)
            and isinstance(run["sampling"], str)
            and isinstance(run["auxiliary"], str)
        ):
            raise ValueError("a setting is of the wrong kind")
    # PyYAML lets many kinds of errors through, and what it reads may have any form.
    except Exception:
        raise _unreadable_config(folder / "config.yaml", "it is damaged") from None
    return config


def _unreadable_config(path: Path, reason: str) -> InputError:
    return InputError(
        f"{path}: cannot be read ({reason}); copy it back from where the run was made"
    )


def _pooled(curve: Curve, other: Curve) -> Curve:
    """Two curves of other seeds as one."""
    images = {**curve.images, **other.images}
    return replace(
        curve,
        name=_name(curve.folders[0], curve.run, sorted(images)),
        folders=(*curve.folders, *other.folders),
        images=images,
        columns=curve.columns & other.columns,
        trials={**curve.trials, **other.trials},
    )


def _name(folder: Path, run: dict[str, Any], seeds: list[int]) -> str:
    """Configuration, sampling strategy, auxiliary loss and seeds; or the name a user gave it."""
    name = folder.resolve().name
    found = re.fullmatch(r"(.+)_auxiliary_\w+?_sampling_\w+_seed\d+", name)
    if found is not None:
        losses = {"NONE": "", "TOD": " + COD loss"}
        loss = losses.get(run["auxiliary"], f" + {run['auxiliary']} loss")
        name = f"{found[1]}, {run['sampling']} sampling{loss}"
    elif len(seeds) == 1:
        return shortened(name)
    plural = "s" if len(seeds) > 1 else ""
    return shortened(f"{name}, seed{plural} {', '.join(map(str, seeds))}")


# ------------------------------------------------------------- statistics


class Summary(NamedTuple):
    """A mean over trials; `std` (of a sample, n − 1) is None for fewer than two."""

    mean: float
    std: float | None
    count: int


class Difference(NamedTuple):
    """A mean over pairs of trials and its 95 % interval, which needs two pairs or more."""

    mean: float
    low: float | None
    high: float | None
    count: int


def summarize(values: Iterable[float]) -> Summary:
    """Mean and sample standard deviation of one value or more."""
    values = list(values)
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Summary(float(np.mean(values)), std, len(values))


def area_under_budget_curve(accuracies: Mapping[int, float]) -> float:
    """The mean accuracy over the label budget: trapezoids, divided by the range of labels.

    Args:
        accuracies: in %, by number of labels; two numbers or more.

    Returns:
        The area in %: that of a learner whose accuracy is the same at every budget.
    """
    labels = np.array(sorted(accuracies), dtype=float)
    heights = np.array([accuracies[n] for n in sorted(accuracies)])
    trapezoids = np.diff(labels) * (heights[1:] + heights[:-1]) / 2
    return float(trapezoids.sum() / (labels[-1] - labels[0]))


def paired_difference(
    values: Mapping[Place, float], reference: Mapping[Place, float]
) -> Difference | None:
    """How far the trials lie above those of the reference with the same seed and number.

    The interval is Student's t with n − 1 degrees of freedom for the mean of n differences. None
    where no trial has a partner.
    """
    differences = [values[place] - reference[place] for place in values if place in reference]
    if not differences:
        return None
    mean, std, count = summarize(differences)
    if std is None:
        return Difference(mean, None, None, count)
    from scipy import stats  # takes longer than all the rest of this file

    half = float(stats.t.ppf(0.975, count - 1)) * std / math.sqrt(count)
    return Difference(mean, mean - half, mean + half, count)


def differing_keys(curve: Curve, other: Curve) -> list[str]:
    """The settings in which two configurations differ, but for where the images lie.

    The number of trials is no difference: those there are in both are paired.
    """
    a, b = _flat(curve.config), _flat(other.config)
    ignored = {"data_dir", "active_learning.trials"}
    return [k for k in {**a, **b} if k not in ignored and a.get(k) != b.get(k)]


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in config.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def why_not_paired(curve: Curve, first: Curve) -> str | None:
    """Why the trials of two curves form no pairs; None where they do."""
    keys = differing_keys(curve, first)
    if keys:
        return f"another {keys[0]}"
    if any(curve.images[s] != first.images[s] for s in curve.images if s in first.images):
        return "other images"
    if curve.trials.keys().isdisjoint(first.trials):
        return "no trial of the same seed and number"
    return None


# ----------------------------------------------------------------- tables


def shared_training_images(curves: Sequence[Curve]) -> int | None:
    """The number of training images, where it is known and the same for all curves."""
    sizes = {curve.training_images for curve in curves}
    return sizes.pop() if len(sizes) == 1 else None


class Quantity(NamedTuple):
    """One quantity of one curve at one number of labels (None: over all of them)."""

    curve: Curve
    name: str
    num_labeled: int | None
    summary: Summary
    difference: Difference | None


def quantities(curves: Sequence[Curve], columns: Sequence[str] = (ACCURACY,)) -> list[Quantity]:
    """What is shown of the curves: each column per number of labels, and the area of accuracies.

    The differences are to the first curve, which itself has none.
    """
    found = []
    for curve in curves:
        paired = curve is not curves[0] and why_not_paired(curve, curves[0]) is None
        for column in columns:
            values: dict[int | None, dict[Place, float]] = {**curve.values(column)}
            reference: dict[int | None, dict[Place, float]] = {**curves[0].values(column)}
            if column == ACCURACY:
                values[None], reference[None] = curve.areas(), curves[0].areas()
            for n, by_trial in values.items():
                if by_trial:
                    difference = paired_difference(by_trial, reference.get(n, {}))
                    name = AREA if n is None else column
                    summary = summarize(by_trial.values())
                    found.append(Quantity(curve, name, n, summary, difference if paired else None))
    return found


def accuracy_table(curves: Sequence[Curve]) -> list[list[str]]:
    """Header and a row a curve: mean ± standard deviation (trials) per number of labels."""
    return _table(curves, "test accuracy (%)", ACCURACY, lambda q: _shown_summary(q.summary))


def difference_table(curves: Sequence[Curve]) -> list[list[str]]:
    """Header and a row for each curve paired with the first: mean [95 % interval] (pairs)."""
    paired = [c for c in curves[1:] if why_not_paired(c, curves[0]) is None]
    title = f"difference to {curves[0].name} (points)"
    table = _table([curves[0], *paired], title, ACCURACY, lambda q: _shown_difference(q.difference))
    return [table[0], *table[2:]] if paired else []


def diagnostics_table(curves: Sequence[Curve], column: str) -> list[list[str]]:
    """Header and a row a curve for one of the diagnostics."""
    return _table(curves, column, column, lambda q: _shown_summary(q.summary))


def unpaired_notes(curves: Sequence[Curve]) -> list[str]:
    """A line for each curve that has no paired difference to the first."""
    reasons = [(curve.name, why_not_paired(curve, curves[0])) for curve in curves[1:]]
    return [f"{name}: not paired with the first run ({why})" for name, why in reasons if why]


def _table(
    curves: Sequence[Curve], title: str, column: str, shown: Callable[[Quantity], str]
) -> list[list[str]]:
    found = quantities(curves, (column,))
    labels = sorted({q.num_labeled for q in found if q.num_labeled is not None})
    cells = {(q.curve.folders, q.num_labeled): shown(q) for q in found}
    size = shared_training_images(curves)
    header = [title, *(f"{n} labels{_share(n, size)}" for n in labels)]
    columns: list[int | None] = [*labels]
    if column == ACCURACY:
        header.append("area under the budget curve")
        columns.append(None)
    return [header] + [
        [curve.name, *(cells.get((curve.folders, n), "–") for n in columns)] for curve in curves
    ]


def _share(num_labeled: int, training_images: int | None) -> str:
    return f" ({100 * num_labeled / training_images:.1f} %)" if training_images else ""


def _shown_summary(summary: Summary) -> str:
    deviation = "" if summary.std is None else f" ± {summary.std:.2f}"
    return f"{summary.mean:.2f}{deviation} ({summary.count})"


def _shown_difference(difference: Difference | None) -> str:
    if difference is None:
        return "–"
    mean, low, high, count = difference
    interval = "" if low is None else f" [{_signed(low)}, {_signed(high)}]"
    return f"{_signed(mean)}{interval} ({count})"


def _signed(points: float) -> str:
    """With its sign, which 0 has not lost to rounding: never -0.00."""
    return f"{round(points, 2) + 0.0:+.2f}"


def tidy_csv(curves: Sequence[Curve], columns: Sequence[str] = (ACCURACY,)) -> str:
    """The quantities as CSV, one a line, unrounded; an empty cell is what does not exist."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(TIDY_COLUMNS)
    for curve, name, n, summary, difference in quantities(curves, columns):
        size = curve.training_images
        share = f"{100 * n / size:.6g}" if n is not None and size else None
        pairs = difference or (None, None, None, None)
        row = (curve.name, name, n, share, summary.count, *summary[:2], pairs[3], *pairs[:3])
        writer.writerow("" if cell is None else cell for cell in row)
    return text.getvalue()
