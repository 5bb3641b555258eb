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


def test_scores_that_rank_images_the_wrong_way_round_show_it():
    found = diagnostics_of(scores=[4.0, 2.0, 3.0, 1.0])
    assert (found["score_loss_spearman"], found["score_error_auroc"]) == ("-1", "0")


def test_class_entropy_is_that_of_the_queried_alone():
    assert diagnostics_of(labels=[5, 7, 7, 7])["queried_class_entropy"] == "0"
    value = float(diagnostics_of(labels=[5, 7, 7, 1])["queried_class_entropy"])
    assert value == pytest.approx(np.log(3) - 2 / 3 * np.log(2), abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "empty"),
    [
        ({"scores": [2.0] * 4}, {"score_loss_spearman"}),
        ({"losses": [2.0] * 4}, {"score_loss_spearman"}),
        ({"misclassified": [True] * 4}, {"score_error_auroc"}),
        ({"misclassified": [False] * 4}, {"score_error_auroc"}),
        ({"queried": [True] * 4}, {"unqueried_mean_loss"}),
        (
            {"losses": [1.0, np.nan, 2.0, 3.0]},
            {"score_loss_spearman", "queried_mean_loss"},
        ),
        ({"losses": [np.inf, 1.0, 2.0, 3.0]}, {"unqueried_mean_loss"}),
        ({"scores": [-np.inf, 1.0, 2.0, np.inf]}, set()),
    ],
)
def test_a_cell_without_a_value_is_empty_and_the_others_are_not(changes, empty):
    found = diagnostics_of(**changes)
    assert {column for column, value in found.items() if value == ""} == empty


def test_scores_that_are_all_the_same_detect_errors_by_chance():
    assert diagnostics_of(scores=[2.0] * 4)["score_error_auroc"] == "0.5"


def test_one_image_has_few_diagnostics():
    found = diagnostics_of(
        **{name: values[:1] for name, values in CASE.items()} | {"queried": [True]}
    )
    assert [column for column, value in found.items() if value] == [
        "queried_mean_loss",
        "queried_class_entropy",
    ]
