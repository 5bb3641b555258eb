"""The columns of results.csv that judge a query, in a run."""

import numpy as np
import pandas as pd
import pytest
import torch

from losses import CODLoss, NoAuxiliary
from samplers import query_at_random, query_by_tod
from tests.support.harness import table, tiny_run
from tests.support.soak import differences, results
from tod.analysis.results import COLUMNS, DIAGNOSTICS, METRICS
from tod.loop import Loop

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.mark.parametrize("sampling", [query_by_tod, query_at_random])
def test_a_cycles_row_judges_the_query_made_after_it(tmp_path, sampling):
    run = tiny_run(tmp_path, "main_TOD.py", "TOD", "NONE", "--set=active_learning.subset_size=1397")
    run.start(sampling, NoAuxiliary)
    first, last = table(run.folder / "results.csv")
    assert tuple(first) == COLUMNS
    assert COLUMNS[-len(DIAGNOSTICS) :] == DIAGNOSTICS
    assert all(first[column] for column in DIAGNOSTICS)
    assert not any(last[column] for column in DIAGNOSTICS)

    queries = table(run.folder / "queries" / "trial1_cycle1.csv")
    queried = np.array([int(row["index"]) for row in queries])
    weights = torch.load(run.folder / "weights" / "trial1_cycle1.pth", weights_only=True)
    with tiny_run(tmp_path / "other").loop(query_by_tod, NoAuxiliary) as loop:
        trial = loop.trial
        trial.backbone.load_state_dict(weights["state_dict_backbone"])
        trial.backbone.eval()
        images, labels = trial.experiment.train_images, trial.experiment.train_labels
        # The subset is the whole pool.
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
    judged.start(query_at_random, CODLoss)
    monkeypatch.setattr(Loop, "_diagnostics", lambda *_: {})
    bare.start(query_at_random, CODLoss)
    both = [
        {name: value for name, value in results(run.folder).items() if "results.csv" not in name}
        for run in (judged, bare)
    ]
    assert both[0]
    assert not differences(*both)
    assert [row["test_accuracy"] for row in table(judged.folder / "results.csv")] == [
        row["test_accuracy"] for row in table(bare.folder / "results.csv")
    ]


def test_results_from_before_there_were_diagnostics_are_gone_on_from(tmp_path):
    both_trials = "--set=active_learning.trials=2"
    first = tiny_run(tmp_path, "main_TOD.py", "TOD", "NONE", both_trials, "--trials=1")
    first.start(query_by_tod, NoAuxiliary)
    path = first.folder / "results.csv"
    old_rows = pd.read_csv(path, dtype=str)[["trial", "cycle", "num_labeled", "test_accuracy"]]
    old_rows.to_csv(path, index=False)

    run = tiny_run(tmp_path, "main_TOD.py", "TOD", "NONE", both_trials)
    run.start(query_by_tod, NoAuxiliary)
    *of_the_first, other, _ = table(run.folder / "results.csv")
    for row, old in zip(of_the_first, old_rows.to_dict("records"), strict=True):
        assert row == {**dict.fromkeys(COLUMNS, ""), **old}
    assert all(other[column] for column in (*METRICS, *DIAGNOSTICS))
