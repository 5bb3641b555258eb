"""training.fresh_weights."""

import pytest

from samplers import query_by_tod
from tests.support.harness import same_weights, tiny_run, weights_of
from tests.support.soak import differences, results

pytestmark = pytest.mark.usefixtures("no_pictures")
FRESH = "--set=training.fresh_weights=true"


def test_each_cycle_starts_from_other_random_weights_and_its_predecessor_stays(tmp_path):
    with tiny_run(tmp_path, "main_TOD.py", "TOD", "TOD", FRESH).loop() as loop:
        trial = loop.trial
        initial = weights_of(trial.backbone)
        trial.train()
        trained = weights_of(trial.backbone)
        trial.label(query_by_tod(trial.pool()))
        networks = trial.experiment.networks(1, 2)
        assert same_weights(weights_of(trial.previous), trained)
        assert not same_weights(weights_of(trial.backbone), initial)
        for network, name in ((trial.backbone, "backbone"), (trial.auxiliary.teacher, "teacher")):
            assert same_weights(weights_of(network), weights_of(networks.backbone(name)))
        assert (trial.auxiliary.steps_taken, trial.cycle) == (0, 2)


@pytest.mark.parametrize("method", ["TOD", "LL4AL"])
def test_a_run_with_fresh_weights_goes_on_as_if_it_had_not_been_stopped(tmp_path, method):
    whole, stopped, going_on = (
        tiny_run(tmp_path / place, f"main_{method}.py", method, method, *fresh)
        for place, fresh in (("whole", [FRESH]), ("stopped", [FRESH]), ("going on", []))
    )
    whole.start()
    stopped.stop_after(8)  # in the second cycle
    stopped.start()
    going_on.start()
    expected = results(whole.folder)
    assert not differences(expected, results(stopped.folder))
    # The first cycle is the same, the second is not.
    other = differences(expected, results(going_on.folder))
    assert not any("trial1_cycle1" in each or "cycle 1" in each for each in other)
    assert any("trial1_cycle2" in each for each in other)
