"""A run says when its network seems to learn nothing, and what to try."""

import logging

from tests.support.harness import tiny_run
from tests.support.people import People
from tod.analysis.results import ACCURACY


def test_a_run_whose_network_learns_nothing_says_so_after_each_cycle(tmp_path, capsys):
    run = tiny_run(tmp_path, "main_TOD.py", "TOD", "TOD", "--quiet", "--set=training.lr=1.0e-9")
    run.start()
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("trial 1, cycle 1: an accuracy of ")
    assert second.startswith("trial 1, cycle 2: an accuracy of ")
    assert "is not shown to be better than chance, 10.3 %: the share of the largest class" in first
    assert first.endswith(
        "Try more labels or, in another --output-dir, more training.epochs, another training.lr"
    )


def test_a_standstill_is_seen_over_the_cycles_of_a_trial_alone(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("tod"), "propagate", True)
    with tiny_run(tmp_path).loop() as loop:
        # A run that was killed comes to its last cycle again.
        for trial, cycle, accuracy in ((2, 1, 90), (1, 1, 60), (1, 2, 59), (1, 3, 60), (1, 4, 99)):
            row = {"trial": str(trial), "cycle": str(cycle), "num_labeled": "40"}
            loop.folder.write_row({**row, ACCURACY: str(accuracy)})
        loop.trial.learner.cycle = 4
        loop._warn_if_nothing_seems_learnt(60.5)
        assert caplog.text == ""
        loop._warn_if_nothing_seems_learnt(59.5)
    assert "trial 1, cycle 4: the accuracy has not risen for 3 cycles: 60.0 % bef" in caplog.text


def test_a_run_that_people_label_says_so_of_its_audits(tmp_path, capsys):
    people = People(tmp_path, 80)
    half = ("--set=active_learning.query_size=70", "--set=active_learning.audit_share=0.5")
    still = (*half, "--set=active_learning.subset_size=80", "--set=training.lr=1.0e-9")
    people.round(*still)
    people.round("--labels", people.answers(0), *still)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("trial 1, cycle 1: an accuracy of ")
    assert " on 35 images (95 % interval: " in line
    assert line.endswith(", a larger images.size, model.name=linear, which sees features")
