"""training.fresh_weights, and which images were labelled first."""

import pandas as pd
import pytest

from losses import CODLoss, LossPrediction
from samplers import query_by_predicted_loss, query_by_tod
from tests.support.harness import same_weights, tiny_run, weights_of
from tests.support.soak import differences, results

pytestmark = pytest.mark.usefixtures("no_pictures")
FRESH = "--set=training.fresh_weights=true"


def test_each_cycle_starts_from_other_random_weights_and_its_predecessor_stays(tmp_path):
    run = tiny_run(tmp_path, "main_TOD.py", "TOD", "TOD", FRESH)
    with run.loop(query_by_tod, CODLoss) as loop:
        trial = loop.trial
        initial = weights_of(trial.backbone)
        trial.train()
        trained = weights_of(trial.backbone)
        trial.label(query_by_tod(trial.pool()))
        networks = trial.experiment.networks(1, 2)
        assert same_weights(weights_of(trial.previous), trained)
        assert same_weights(weights_of(trial.backbone), weights_of(networks.backbone("backbone")))
        assert not same_weights(weights_of(trial.backbone), initial)
        assert same_weights(
            weights_of(trial.auxiliary.teacher), weights_of(networks.backbone("teacher"))
        )
        assert trial.auxiliary.steps_taken == 0
        assert trial.cycle == 2


@pytest.mark.parametrize(
    ("script", "name", "strategy", "loss"),
    [
        ("main_TOD.py", "TOD", query_by_tod, CODLoss),
        ("main_LL4AL.py", "LL4AL", query_by_predicted_loss, LossPrediction),
    ],
)
def test_a_run_with_fresh_weights_goes_on_as_if_it_had_not_been_stopped(
    tmp_path, script, name, strategy, loss
):
    whole, stopped, going_on = (
        tiny_run(tmp_path / place, script, name, name, *([FRESH] * (place != "going on")))
        for place in ("whole", "stopped", "going on")
    )
    whole.start(strategy, loss)
    stopped.stop_after(8, strategy, loss)  # in the second cycle
    stopped.start(strategy, loss)
    going_on.start(strategy, loss)
    expected = results(whole.folder)
    assert not differences(expected, results(stopped.folder))
    # The first cycle is the same, the second is not.
    other = differences(expected, results(going_on.folder))
    assert not any("trial1_cycle1" in each or "cycle 1" in each for each in other)
    assert any("trial1_cycle2" in each for each in other)


def test_the_first_labels_are_written(tmp_path):
    run = tiny_run(tmp_path)
    run.start(query_by_tod, CODLoss)
    with tiny_run(tmp_path / "other").loop(query_by_tod, CODLoss) as loop:
        labeled = loop.trial.labeled.tolist()
        labels = loop.trial.experiment.dataset.train.labels[labeled].tolist()
    first = pd.read_csv(run.folder / "queries" / "trial1_cycle0.csv")
    assert list(first.columns) == ["index", "label", "class"]
    assert first["index"].tolist() == labeled
    assert first["label"].tolist() == labels
    queried = pd.read_csv(run.folder / "queries" / "trial1_cycle1.csv")
    assert list(queried.columns) == ["index", "score", "label", "class"]
    assert {*first["index"]}.isdisjoint(queried["index"])
