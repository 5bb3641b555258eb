"""The columns of results.csv that judge a query, against values by hand."""

import warnings

import numpy as np
import pytest

from tod.analysis.diagnostics import query_diagnostics

CASE = {
    "scores": np.array([1.0, 2.0, 3.0, 4.0], dtype=np.float32),
    "losses": np.array([10.0, 30.0, 20.0, 40.0], dtype=np.float32),
    "misclassified": np.array([False, True, False, True]),
    "labels": np.array([0, 1, 2, 0]),
    "queried": np.array([False, True, True, True]),
}


def diagnostics_of(**changes: object) -> dict[str, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        case = {name: np.asarray(value) for name, value in {**CASE, **changes}.items()}
        return query_diagnostics(**case)


def test_diagnostics_equal_those_by_hand():
    assert diagnostics_of() == {
        # 1 − 6 · (0² + 1² + 1² + 0²) / (4 · (4² − 1))
        "score_loss_spearman": "0.8",
        # Of the pairs (2, 1), (2, 3), (4, 1), (4, 3), three are in order.
        "score_error_auroc": "0.75",
        "queried_mean_loss": "30",
        "unqueried_mean_loss": "10",
        # ln 3: three images of three classes.
        "queried_class_entropy": "1.09861",
    }


SPEARMAN, AUROC, MEAN = "score_loss_spearman", "score_error_auroc", "queried_mean_loss"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"scores": [4.0, 2.0, 3.0, 1.0]}, {SPEARMAN: "-1", AUROC: "0"}),  # the wrong way round
        ({"scores": [2.0] * 4}, {SPEARMAN: "", AUROC: "0.5"}),  # by chance
        ({"scores": [-np.inf, 1.0, 2.0, np.inf]}, {}),
        ({"losses": [2.0] * 4}, {SPEARMAN: ""}),
        ({"losses": [1.0, np.nan, 2.0, 3.0]}, {SPEARMAN: "", MEAN: ""}),
        ({"losses": [np.inf, 1.0, 2.0, 3.0]}, {"unqueried_mean_loss": ""}),
        ({"misclassified": [True] * 4}, {AUROC: ""}),
        ({"misclassified": [False] * 4}, {AUROC: ""}),
        ({"queried": [True] * 4}, {"unqueried_mean_loss": ""}),
        # Of the queried alone.
        ({"labels": [5, 7, 7, 7]}, {"queried_class_entropy": "0"}),
        ({"labels": [5, 7, 7, 1]}, {"queried_class_entropy": "0.636514"}),  # ln 3 − ⅔ ln 2
    ],
)
def test_a_cell_without_a_value_is_empty_and_the_others_are_not(changes, expected):
    found = diagnostics_of(**changes)
    assert {name: found[name] for name in expected} == expected
    assert {n for n, v in found.items() if v == ""} == {n for n, v in expected.items() if v == ""}


def test_one_image_has_few_diagnostics():
    one = {name: values[:1] for name, values in CASE.items()}
    found = diagnostics_of(**one | {"queried": [True]})
    assert [column for column, value in found.items() if value] == [MEAN, "queried_class_entropy"]
