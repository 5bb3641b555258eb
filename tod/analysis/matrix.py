"""Which method beats which: the pairwise penalty matrix (Ash et al., ICLR 2020).

As Lüth et al. (NeurIPS 2023) use it: an entry is a share, over the settings in which two methods
were run with the same seeds and trials.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtr

from tod.analysis.results import ACCURACY, Curve, grouped
from tod.analysis.tables import SAME, Table

LEVEL = 0.05
FEWEST_PAIRS = 5
"""Accuracies come in steps of a test image: the differences of fewer pairs are easily the same, or
nearly, also where methods are equal."""


class PenaltyMatrix(NamedTuple):
    """How often methods beat each other.

    `shares` are of the label sizes, by winner (rows) and loser (columns); NaN where the two were
    never run with the same seeds. `corrected` has them with Holm's correction over all tests, and
    `tests` one a setting, pair of methods and number of labels.
    """

    shares: pd.DataFrame
    corrected: pd.DataFrame
    tests: pd.DataFrame
    notes: list[str]


def penalty_matrix(curves: Sequence[Curve]) -> PenaltyMatrix:
    """The matrix of these runs, whatever their order.

    Those that differ in the method alone, which includes its loss's settings, are of one setting,
    which counts as a whole, however many label sizes it has. At each of these, the paired
    differences of two methods' accuracies are tested two-sided by Student's t at 5 %. Runs that
    label everything at once query nothing, and are left out.
    """
    curves = [curve for curve in curves if not curve.labels_everything]
    rows, notes, uncompared = [], [], {}
    settings = grouped(curves, Curve.is_of_one_setting_with)
    for number, setting in enumerate(settings):
        for a, b in itertools.combinations(setting, 2):
            why = "of one method" if a.method == b.method else b.why_not_paired(a)
            found = [] if why else _tests(a, b)
            rows += [{"setting": number, **test} for test in found]
            if not found:
                why = why or f"fewer than {FEWEST_PAIRS} pairs, or none that differs, at any size"
                uncompared.setdefault(why, []).append(f"{a.name} and {b.name}")
    for why, (first, *others) in uncompared.items():
        more = f", and {len(others)} more" if others else ""
        notes.append(f"{first}{more}: not compared ({why})")
    if len(settings) > 1:
        notes.append(f"{len(settings)} settings: runs of different ones are not compared")
    columns = ["setting", "method", "other", "num_labeled", "pairs", "difference", "p"]
    tests = pd.DataFrame(rows, columns=columns)
    tests["p_holm"] = holm(tests["p"].to_numpy(dtype=float))
    methods = list(dict.fromkeys(curve.method for curve in curves))
    shares, corrected = (_shares(tests, methods, p) for p in ("p", "p_holm"))
    return PenaltyMatrix(shares, corrected, tests, notes)


def _tests(a: Curve, b: Curve) -> list[dict[str, object]]:
    """A test at each number of labels at which the two have five pairs of trials or more.

    Where all differences are 0, as before the first query, there is nothing to test.
    """
    found = []
    for num_labeled, column in (a.values(ACCURACY) - b.values(ACCURACY)).items():
        values = column.dropna().to_numpy()
        if len(values) >= FEWEST_PAIRS and values.any():
            test = {"num_labeled": num_labeled, "pairs": len(values), "difference": values.mean()}
            found.append({"method": a.method, "other": b.method, **test, "p": paired_p(values)})
    return found


def paired_p(differences: np.ndarray) -> float:
    """The two-sided p of Student's paired t-test, of n ≥ 2 differences in %, (n,).

    Where all are the same it is 1: they come in steps of a test image, and do not tell how far
    further trials would lie from them.
    """
    mean, deviation = differences.mean(), differences.std(ddof=1)
    if deviation <= SAME:
        return 1.0
    t = mean / (deviation / np.sqrt(len(differences)))
    return float(2 * stdtr(len(differences) - 1, -abs(t)))


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down adjustment of n p-values, (n,) (Scand. J. Statist., 1979)."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    factors = np.arange(len(p), 0, -1)
    adjusted[order] = np.maximum.accumulate(factors * p[order]).clip(max=1)
    return adjusted


def _shares(tests: pd.DataFrame, methods: Sequence[str], p: str) -> pd.DataFrame:
    """By winner and loser: the mean over settings of the share of label sizes."""
    shares = pd.DataFrame(np.nan, index=methods, columns=methods)
    for winner, loser, sign in (("method", "other", 1), ("other", "method", -1)):
        wins = ((tests[p] < LEVEL) & (sign * tests["difference"] > 0)).astype(float)
        by_setting = wins.groupby([tests[winner], tests[loser], tests["setting"]]).mean()
        for (row, column), share in by_setting.groupby(level=[0, 1]).mean().items():
            shares.loc[row, column] = share
    return shares


def matrix_table(matrix: PenaltyMatrix) -> Table:
    """A row a method, and last how often each is beaten, on average over those it was compared to.

    In parentheses, the same after Holm's correction.
    """
    last = "is beaten, on average"
    shares, corrected = matrix.shares.copy(), matrix.corrected.copy()
    shares.loc[last], corrected.loc[last] = shares.mean(), corrected.mean()
    rows = [[name, *map(_cell, shares.loc[name], corrected.loc[name])] for name in shares.index]
    title = "share of label sizes at which the row beats the column (after Holm's correction)"
    caption = (
        "Pairwise penalty matrix: the share of label sizes at which the method of the row is "
        "better than that of the column, by a paired two-sided t-test at 5 % of five pairs or more "
        "(after Holm's correction); a dash: not compared."
    )
    return Table(caption, [[title, *matrix.shares.columns], *rows])


def strength_table(matrix: PenaltyMatrix) -> Table:
    """A row a method: how often it beats another one, and is beaten, on average over the others."""
    caption = (
        "The share of label sizes at which the method is better than another one, and worse, by a "
        "paired two-sided t-test at 5 %, on average over the others (after Holm's correction)."
    )
    rows = [
        [name, *(_cell(*(s.mean(axis=axis)[name] for s in matrix[:2])) for axis in (1, 0))]
        for name in matrix.shares.index
    ]
    return Table(caption, [["share of label sizes", "beats another", "is beaten"], *rows])


def _cell(share: float, corrected: float) -> str:
    return "–" if np.isnan(share) else f"{share:.2f} ({corrected:.2f})"
