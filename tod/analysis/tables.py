"""Statistics over trials, and the tables that show them."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from tod.analysis.forecast import in_words
from tod.analysis.results import ACCURACY, DIAGNOSTICS, METRICS, Curve, split_names
from tod.system.files import as_csv

AREA = "area_under_budget_curve"
ACCURACIES = (ACCURACY, AREA)
SAME = 1e-4
"""Accuracies are written with four digits: if differences deviate less, they are the same."""


class Table(NamedTuple):
    """A caption, a header, and rows of text whose first cell names them."""

    caption: str
    rows: list[list[str]]


def summarized(values: pd.DataFrame) -> pd.DataFrame:
    """Of each column, its number of trials, mean and standard deviation (of a sample, n − 1)."""
    return pd.DataFrame({"trials": values.count(), "mean": values.mean(), "std": values.std()})


def paired_differences(values: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """How far, in each column, the trials lie above those of the same seed and number.

    The interval, of 95 %, is Student's t with n − 1 degrees of freedom for the mean of n
    differences. It is NaN for a single one, and where all are the same, which tells nothing of how
    far further ones would lie from them. A column without pairs is left out.
    """
    found = summarized((values - reference).dropna(axis="columns", how="all"))
    found.columns = ["pairs", "difference", "std"]
    deviation = found.pop("std").where(lambda std: std > SAME)
    half = stdtrit(found["pairs"] - 1, 0.975) * deviation / np.sqrt(found["pairs"])
    return found.assign(
        difference_low=found["difference"] - half, difference_high=found["difference"] + half
    )


def area_under_budget_curve(accuracies: pd.DataFrame) -> pd.Series:
    """The mean accuracy of each trial over the label budget: trapezoids, divided by the range.

    It is that of a learner whose accuracy is the same at every budget; NaN where an accuracy is:
    over fewer labels the area would be smaller for that alone. `accuracies` has a row for each
    trial, and a column for each of two numbers of labels or more.
    """
    budgets, heights = accuracies.columns, accuracies.to_numpy()
    trapezoids = np.diff(budgets) * (heights[:, 1:] + heights[:, :-1]) / 2
    return pd.Series(trapezoids.sum(axis=1) / (budgets[-1] - budgets[0]), accuracies.index)


def _values(curve: Curve, quantity: str) -> pd.DataFrame:
    """A quantity by trial and number of labels; the area, of finished trials, has the column ''."""
    if quantity != AREA:
        return curve.values(quantity)
    accuracies, cycles = curve.values(ACCURACY), curve.config["active_learning"]["cycles"]
    if cycles in (1, None) or len(accuracies.columns) < cycles:
        return accuracies[[]]
    return area_under_budget_curve(accuracies).to_frame("").dropna()


def quantities(curves: Sequence[Curve], names: Sequence[str]) -> list[dict[str, Any]]:
    """The lines of the tidy CSV: columns of `results.csv` by number of labels, and the area.

    Missing values are NaN. Differences are to the first curve, which has none itself.
    """
    rows = []
    for curve, name in itertools.product(curves, names):
        values, reference = _values(curve, name), _values(curves[0], name)
        if curve is curves[0] or curve.why_not_paired(curves[0]):
            reference = reference.iloc[:0]
        size = curve.training_images
        found = summarized(values).join(paired_differences(values, reference))
        for n, cells in found.iterrows():
            share = f"{100 * n / size:.6g}" if n and size else ""
            row = {"run": curve.name, "quantity": name, "num_labeled": n}
            rows.append({**row, "labeled_percent": share, **cells})
    return rows


def tidy_csv(curves: Sequence[Curve], names: Sequence[str] = ACCURACIES) -> str:
    """The quantities as CSV, one a line, unrounded; missing values are empty."""
    found = pd.DataFrame(quantities(curves, names))
    return as_csv(found.astype({"trials": "Int64", "pairs": "Int64"}))


def accuracy_tables(curves: Sequence[Curve]) -> list[Table]:
    """Up to three tables, those with rows: accuracies, paired differences to the first, audits."""
    accuracies = Table(
        "Test accuracy and area under the budget curve in %: mean ± standard deviation (number of "
        "trials). The area is the mean accuracy over the range of labels, of finished trials.",
        _rows(curves, ACCURACIES, "test accuracy (%)", _shown_mean),
    )
    first, *others = curves
    paired = [first, *(curve for curve in others if not curve.why_not_paired(first))]
    differences = Table(
        f"Difference to {first.name}, in points: mean over trials paired by seed and number [95 % "
        "interval, Student's t] (number of pairs).",
        _rows(paired, ACCURACIES, "difference to {} (points)", _shown_difference),
    )
    del differences.rows[1]  # the first curve's own
    audits = Table(
        "Accuracy in % on the images that people have audited [95 % interval, Wilson] (number of "
        "images).",
        _audit_rows(curves),
    )
    return [table for table in (accuracies, differences, audits) if table.rows[1:]]


def _audit_rows(curves: Sequence[Curve]) -> list[list[str]]:
    shown = {
        (curve.name, labels): f"{accuracy:.1f} [{low:.1f}, {high:.1f}] ({count:.0f})"
        for curve in curves
        if curve.is_audited
        for labels, accuracy, count, low, high in curve.audits.itertuples()
    }
    labels, names = (sorted({key[i] for key in shown}) for i in (1, 0))
    header = ["accuracy on audited images (%)", *(f"{n} labels" for n in labels)]
    rows = [[name, *(shown.get((name, n), "–") for n in labels)] for name in names]
    return with_split_names([header, *rows]) if rows else []


def metrics_tables(curves: Sequence[Curve]) -> list[Table]:
    """The test set's metrics in the last cycle, a row for each curve that has any."""
    names = ["accuracy (%)", "balanced accuracy (%)", "macro F1 (%)", "NLL (nats)", "ECE (%)"]
    rows = [["last cycle", "labels", *names]]
    for curve in curves:
        at_last = curve.rows[curve.rows["cycle"] == curve.rows["cycle"].max()]
        if {*METRICS} <= {*at_last} and at_last[METRICS[0]].notna().any():
            labels = ", ".join(map(str, sorted({*at_last["num_labeled"]})))
            cells = [mean_and_deviation(at_last[name]) for name in (ACCURACY, *METRICS)]
            cells[-2] = mean_and_deviation(at_last["nll"], 4)  # a good network's is small
            rows.append([curve.name, labels, *cells])
    caption = (
        "The test set in the last cycle: mean ± standard deviation (number of trials). Balanced "
        "accuracy and macro F1 are means over classes; NLL is the mean negative log-likelihood, "
        "ECE the expected calibration error (15 bins)."
    )
    return [Table(caption, with_split_names(rows))] if rows[1:] else []


def diagnostics_tables(curves: Sequence[Curve]) -> list[Table]:
    """A table for each diagnostic that there is: mean ± standard deviation (trials) by curve."""
    found = [Table(name, _rows(curves, (name,), name, _shown_mean)) for name in DIAGNOSTICS]
    return [table for table in found if table.rows[0][1:]]


def unpaired_notes(curves: Sequence[Curve]) -> list[str]:
    """A line for each curve without paired differences to the first."""
    reasons = [(curve.name, curve.why_not_paired(curves[0])) for curve in curves[1:]]
    return [f"{name}: not paired with the first run ({why})" for name, why in reasons if why]


def forecast_notes(curves: Sequence[Curve], target: float | None) -> list[str]:
    """A line for each curve with queries: how many labels the target takes; none without one."""
    if target is None:
        return []
    return [f"{c.name}: {in_words(c, target)}" for c in curves if not c.labels_everything]


def accuracy_lines(rows: pd.DataFrame) -> list[str]:
    """The accuracies of a run, for the end of its log; `rows` come from `read_rows`."""
    accuracies = rows[ACCURACY].astype(float).groupby(rows["num_labeled"].astype(int))
    return [
        "labels  test accuracy in % (mean ± standard deviation over trials)",
        *(f"{num_labeled:6d}  {mean_and_deviation(found)}" for num_labeled, found in accuracies),
    ]


def shared_training_images(curves: Sequence[Curve]) -> int | None:
    """The number of training images, if it is known and the same for all curves."""
    sizes = {curve.training_images for curve in curves}
    return sizes.pop() if len(sizes) == 1 else None


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table's rows in Markdown."""
    header, *others = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    rule = ["---", *["--:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, rule, *others))


def _rows(
    curves: Sequence[Curve], names: Sequence[str], title: str, shown: Callable[[dict], str]
) -> list[list[str]]:
    """A header that begins with the title, and quantities by curve and number of labels."""
    cells = {(row["run"], row["num_labeled"]): shown(row) for row in quantities(curves, names)}
    labels = sorted({n for _, n in cells if n})
    size = shared_training_images(curves)
    header = [f"{n} labels" + (f" ({100 * n / size:.1f} %)" if size else "") for n in labels]
    if AREA in names:
        labels, header = [*labels, ""], [*header, "area under the budget curve"]
    rows = [[curve.name, *(cells.get((curve.name, n), "–") for n in labels)] for curve in curves]
    return with_split_names([[title, *header], *rows])


def with_split_names(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """The rows with what their names share in front of the header, which may name the first: {}."""
    (title, *header), *others = rows
    shared, names = split_names([row[0] for row in others])
    title = title.format(names[0])
    shorter = [[name, *row[1:]] for name, row in zip(names, others, strict=True)]
    return [[f"{shared}: {title}" if shared else title, *header], *shorter]


def mean_and_deviation(values: Sequence[float], digits: int = 2) -> str:
    """Mean ± standard deviation (number of values), without NaN."""
    (found,) = summarized(pd.DataFrame({"": values})).to_dict("records")
    return _shown_mean(found, digits) if found["trials"] else "–"


def _shown_mean(row: dict[str, Any], digits: int = 2) -> str:
    deviation = f" ± {row['std']:.{digits}f}" if row["trials"] > 1 else ""
    return f"{row['mean']:.{digits}f}{deviation} ({row['trials']:.0f})"


def _shown_difference(row: dict[str, Any]) -> str:
    if math.isnan(row["pairs"]):
        return "–"
    # An interval that ends at −0.00 ends below 0; what accuracies of four digits cannot tell from 0
    # is +0.00.
    mean, low, high = (
        f"{row[column] if abs(row[column]) >= 0.0005 else 0.0:+.2f}"
        for column in ("difference", "difference_low", "difference_high")
    )
    interval = "" if math.isnan(row["difference_low"]) else f" [{low}, {high}]"
    return f"{mean}{interval} ({row['pairs']:.0f})"
