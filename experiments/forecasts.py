"""Forecasts at each cycle of recorded runs, from the fourth on, beside what came.

python experiments/forecasts.py results/*/*

Prints a table in Markdown with a row for each method: of each trial's curve alone, and of the mean
over the trials. An accuracy comes at a later label size; the labels of an accuracy come where it is
first reached, which is somewhere between a label size and the one before it.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pandas as pd

from tod.analysis import tables
from tod.analysis.forecast import EARLIEST, NoForecastError, Points, forecast, points_of
from tod.analysis.results import Curve, read_runs
from tod.config import InputError, cli

HEADER = (
    *("forecasts", "none made", "accuracies that came", "mean error (points)", "held (%)"),
    *("label numbers that came", "median error (factor)", "not in sight", "held (%)"),
)


def judged(points: Points) -> Iterator[dict[str, object]]:
    """A record for each forecast, each later accuracy, and each later number of labels."""
    labels, accuracies = points.labels, points.accuracies
    for count in range(EARLIEST, len(points)):
        try:
            made = forecast(points.until(count))
        except NoForecastError:
            yield {"kind": "none"}
            continue
        yield {"kind": "made"}
        best = accuracies[:count].max()
        for i in range(count, len(points)):
            low, middle, high = made.accuracies(labels[i : i + 1])[:, 0]
            came = accuracies[i]
            error, held = abs(came - middle), low <= came <= high
            yield {"kind": "accuracy", "error": error, "held": held}
            if came > best and labels[i] <= made.horizon:
                best = came
                low, middle, high = made.labels_for(came)
                held = low <= labels[i] and labels[i - 1] < high
                yield {"kind": "labels", "error": abs(np.log(middle / labels[i])), "held": held}


def by_trial(curve: Curve) -> Iterator[Curve]:
    """The curve of each of its trials alone."""
    for _, rows in curve.rows.groupby(["seed", "trial"]):
        yield replace(curve, rows=rows)


def row(name: str, records: Sequence[dict[str, object]]) -> list[str]:
    """The table's row of these records."""
    kinds = Counter(record["kind"] for record in records)
    cells = [name, str(kinds["made"]), str(kinds["none"])]
    for kind in ("accuracy", "labels"):
        found = pd.DataFrame([record for record in records if record["kind"] == kind])
        cells.append(str(len(found)))
        if found.empty:
            cells += ["–"] * (2 if kind == "accuracy" else 3)
            continue
        if kind == "accuracy":
            cells.append(f"{found['error'].mean():.2f}")
        else:
            typical = np.exp(found["error"].quantile(0.5, "higher"))
            cells.append(f"{typical:.2f}" if np.isfinite(typical) else "∞")
            cells.append(str(np.isinf(found["error"]).sum()))
        cells.append(f"{100 * found['held'].mean():.0f}")
    return cells


def table(curves: Sequence[Curve]) -> str:
    """The rows of all methods, and of each configuration; '' if nothing could be forecast."""
    found: dict[str, list[dict[str, object]]] = {}
    for curve in curves:
        name = re.sub(r", seeds? .*", "", curve.name)
        records = [*judged(points_of(curve))]
        if records:
            for key in (name, f"{name.split(',')[0]}, all", "all"):
                found.setdefault(key, []).extend(records)
    if not found:
        return ""
    names = sorted(found, key=lambda name: (name == "all", name.split(",")[0], name))
    return tables.markdown([["runs", *HEADER], *(row(name, found[name]) for name in names)])


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line and prints the tables."""
    parser = cli.Parser(description=__doc__)
    cli.add_runs(parser)
    curves = read_runs(parser.parse_args(argv).runs)
    alone = table([trial for curve in curves for trial in by_trial(curve)])
    if not alone:
        raise InputError(f"no run has {EARLIEST + 1} label sizes, the last of which to forecast")
    print(f"Each trial alone:\n\n{alone}")
    if means := table([curve for curve in curves if len(curve.trials) > 1]):
        print(f"Mean over trials:\n\n{means}")


if __name__ == "__main__":
    with cli.exit_status():
        main()
