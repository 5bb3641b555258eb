"""The columns of results.csv that judge a query, in a run."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from tests.support.harness import checkpoint, table, tiny_run
from tests.support.soak import differences, results
from tod.analysis.results import COLUMNS, DIAGNOSTICS, METRICS
from tod.engine import dataset_oracle

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.mark.parametrize("sampling", ["TOD", "RANDOM"])
def test_a_cycles_row_judges_the_query_made_after_it(tmp_path, sampling):
    whole_pool = "--set=active_learning.subset_size=1397"
    run = tiny_run(tmp_path, "main_TOD.py", sampling, "NONE", whole_pool)
    run.start()
    first, last = table(run.folder / "results.csv")
    assert tuple(first) == COLUMNS
    assert COLUMNS[-len(DIAGNOSTICS) :] == DIAGNOSTICS
    assert all(first[column] for column in DIAGNOSTICS)
    assert not any(last[column] for column in DIAGNOSTICS)

    queries = table(run.folder / "queries" / "trial1_cycle1.csv")
    queried = np.array([int(row["index"]) for row in queries])
    with tiny_run(tmp_path / "other").loop() as loop:
        trial = loop.trial
        trial.backbone.load_state_dict(checkpoint(run.folder, 1)["state_dict_backbone"])
        trial.backbone.eval()
        images, labels = trial.experiment.train_images, trial.experiment.train_labels
        unqueried = np.setdiff1d(trial.unlabeled, queried)
        for name, indices in (("queried", queried), ("unqueried", unqueried)):
            part = images.to_device(torch.from_numpy(indices))
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
    judged.start()
    monkeypatch.setattr(dataset_oracle, "diagnostics", lambda *_: {})
    bare.start()
    both = [results(run.folder) for run in (judged, bare)]
    rows = [[each.pop(f"results.csv, trial 1, cycle {c}") for c in (1, 2, 3)] for each in both]
    assert not differences(*both)
    accuracies = [[row["test_accuracy"] for row in of_run] for of_run in rows]
    assert accuracies[0] == accuracies[1]


def test_results_from_before_there_were_diagnostics_are_gone_on_from(tmp_path):
    both_trials = ("main_TOD.py", "TOD", "NONE", "--set=active_learning.trials=2")
    first = tiny_run(tmp_path, *both_trials, "--trials=1")
    first.start()
    path = first.folder / "results.csv"
    old_rows = pd.read_csv(path, dtype=str)[["trial", "cycle", "num_labeled", "test_accuracy"]]
    old_rows.to_csv(path, index=False)
    shutil.rmtree(first.folder / "trials")  # nor were there tables of trials

    tiny_run(tmp_path, *both_trials).start()
    *of_the_first, other, _ = table(path)
    for row, old in zip(of_the_first, old_rows.to_dict("records"), strict=True):
        assert row == {**dict.fromkeys(COLUMNS, ""), **old}
    assert all(other[column] for column in (*METRICS, *DIAGNOSTICS))
