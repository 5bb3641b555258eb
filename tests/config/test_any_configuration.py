"""Whatever values are accepted, a run of them ends, or is refused in words."""

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from tests.support.harness import tiny_run
from tod.config import InputError

pytestmark = pytest.mark.usefixtures("no_pictures")
size = some.floats(min_value=1e-30, max_value=3e38)
VALUES = {
    "model.width": some.integers(1, 5),
    "augmentation.flip": some.booleans(),
    "augmentation.crop_padding": some.integers(0, 20),
    "images.std": some.lists(size, min_size=3, max_size=3),
    "active_learning.cycles": some.integers(1, 3),
    "active_learning.initial_labels": some.integers(2, 40),
    "active_learning.query_size": some.integers(1, 30),
    "active_learning.subset_size": some.integers(30, 2000),
    "training.batch_size": some.integers(2, 50),
    "training.epochs": some.integers(1, 2),
    "training.lr": some.one_of(size, some.floats(1e-4, 1.0)),
    "training.momentum": some.floats(0, 1, exclude_max=True),
    "training.weight_decay": some.one_of(some.just(0.0), size),
    "training.milestones": some.sampled_from([[], [1]]),
    "cod.weight": some.one_of(some.just(0.0), size),
    "cod.ema_decay": some.floats(0, 1),
    "cod.fixed_batch_in_first_cycle": some.booleans(),
    "ll4al.margin": some.one_of(some.just(0.0), size),
    "ll4al.weight": some.one_of(some.just(0.0), size),
    "ll4al.detach_epoch": some.integers(0, 3),
    "scoring.augment": some.booleans(),
    "scoring.lowest_in_first_cycle": some.booleans(),
}
numbers = itertools.count()


@pytest.mark.parametrize("method", ["TOD", "LL4AL"])
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    changed=some.lists(some.sampled_from(sorted(VALUES)), max_size=5, unique=True), data=some.data()
)
def test_every_accepted_configuration_runs_or_is_refused_in_words(tmp_path, method, changed, data):
    overrides = [f"--set={key}={_as_yaml(data.draw(VALUES[key], label=key))}" for key in changed]
    chosen = (f"main_{method}.py", method, method, *overrides)
    try:
        tiny_run(tmp_path / str(next(numbers)), *chosen).start()
    except InputError as refusal:
        assert "not finite" in str(refusal) or "--set" in str(refusal) or ".yaml" in str(refusal)


def _as_yaml(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_as_yaml, value))}]"
    return f"{value:.9e}" if isinstance(value, float) else str(value).lower()
