"""The columns of results.csv that judge a query, against values by hand."""

import csv
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from harness import PROJECT_DIR, tiny_run
from soak import differences, results
from test_method import trial_of

import active_learning
from active_learning import run_experiment
from diagnostics import query_diagnostics
from results import DIAGNOSTICS
from run_folder import RESULT_COLUMNS
from samplers import query_at_random, query_by_tod
from training import CODLoss, NoAuxiliary

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


# ---------------------------------------------------------------- in a run


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "results.csv").open()))


@pytest.mark.parametrize("sampling", [query_by_tod, query_at_random])
def test_a_cycles_row_judges_the_query_made_after_it(tmp_path, sampling):
    run = tiny_run(tmp_path, "main_TOD.py", "TOD", "NONE", "--set=active_learning.subset_size=1397")
    run_experiment(run, sampling, NoAuxiliary)
    first, last = rows_of(run.folder)
    assert tuple(first) == RESULT_COLUMNS
    assert RESULT_COLUMNS[-len(DIAGNOSTICS) :] == DIAGNOSTICS
    assert all(first[column] for column in DIAGNOSTICS)
    assert not any(last[column] for column in DIAGNOSTICS)

    queries = list(csv.DictReader((run.folder / "queries" / "trial1_cycle1.csv").open()))
    queried = np.array([int(row["index"]) for row in queries])
    weights = torch.load(run.folder / "weights" / "trial1_cycle1.pth", weights_only=True)
    with trial_of(tiny_run(tmp_path / "other"), query_by_tod, NoAuxiliary) as trial:
        trial.backbone.load_state_dict(weights["state_dict_backbone"])
        trial.backbone.eval()
        images, labels = trial.experiment.train_images, trial.experiment.train_labels
        # The subset is the whole pool.
        unqueried = np.setdiff1d(trial._unlabeled(), queried)
        for name, indices in (("queried", queried), ("unqueried", unqueried)):
            part = images.placed(torch.from_numpy(indices))
            with torch.no_grad():
                logits = trial.backbone(images.plain(part))[0]
            loss = torch.nn.functional.cross_entropy(logits, labels[part]).item()
            assert float(first[f"{name}_mean_loss"]) == pytest.approx(loss, rel=1e-4)
    shares = np.unique([row["label"] for row in queries], return_counts=True)[1] / len(queries)
    entropy = -np.sum(shares * np.log(shares))
    assert float(first["queried_class_entropy"]) == pytest.approx(entropy, abs=1e-5)


def test_diagnostics_leave_the_run_alone(tmp_path, monkeypatch):
    three = ("--set=active_learning.cycles=3", "--set=scoring.augment=true")
    judged, bare = (
        tiny_run(tmp_path / name, "main_TOD.py", "RANDOM", "TOD", *three)
        for name in ("judged", "bare")
    )
    run_experiment(judged, query_at_random, CODLoss)
    monkeypatch.setattr(active_learning.Trial, "_diagnostics", lambda *_: {})
    run_experiment(bare, query_at_random, CODLoss)
    both = [
        {name: value for name, value in results(run.folder).items() if "results.csv" not in name}
        for run in (judged, bare)
    ]
    assert both[0]
    assert not differences(*both)
    assert [row["test_accuracy"] for row in rows_of(judged.folder)] == [
        row["test_accuracy"] for row in rows_of(bare.folder)
    ]


def test_results_from_before_there_were_diagnostics_are_gone_on_from(tmp_path):
    both_trials = "--set=active_learning.trials=2"
    first = tiny_run(tmp_path, "main_TOD.py", "TOD", "NONE", both_trials, "--trials=1")
    run_experiment(first, query_by_tod, NoAuxiliary)
    path = first.folder / "results.csv"
    old = [row.rsplit(",", len(DIAGNOSTICS))[0] for row in path.read_text().splitlines()]
    assert old[0] == "trial,cycle,num_labeled,test_accuracy,train_loss,train_seconds"
    path.write_text("\n".join(old) + "\n")

    run = tiny_run(tmp_path, "main_TOD.py", "TOD", "NONE", both_trials)
    run_experiment(run, query_by_tod, NoAuxiliary)
    rows = path.read_text().splitlines()
    assert rows[1:3] == [row + "," * len(DIAGNOSTICS) for row in old[1:]]
    assert all(rows_of(run.folder)[2][column] for column in DIAGNOSTICS)


def test_readme_names_every_column():
    readme = (PROJECT_DIR / "README.md").read_text(encoding="utf-8")
    assert all(f"`{column}`" in readme for column in RESULT_COLUMNS)
