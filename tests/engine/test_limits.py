"""Training that cannot go on, as it diverges or memory runs out: one line that says what to do."""

import resource

import pytest

from tests.support.harness import TINY_DIGITS
from tests.support.processes import run_limited
from tests.support.soak import refusal

ONE_STEP = ("training.batch_size=64", "training.epochs=1", "training.milestones=[1]")
OVERFLOW = ("training.lr=1.0e+3", *ONE_STEP)


@pytest.mark.parametrize("settings", [("training.lr=1.0e+20",), OVERFLOW])
def test_training_that_diverges_stops_with_place_and_advice(tmp_path, settings):
    line = refusal(tmp_path, *(f"--set={setting}" for setting in settings))
    rate, what = ("1000", "the network's output") if settings == OVERFLOW else ("1e+20", "the loss")
    place = f"trial 1, cycle 1, epoch 1, learning rate {rate}: {what} is not finite"
    for part in (place, f"training.lr={float(rate) / 10:g}", "cod.weight"):
        assert part in line


def test_memory_that_runs_out_is_one_line(tmp_path):
    # Each convolution between 8,192 channels has 2.4 GB of weights.
    settings = [*TINY_DIGITS, "--device=cpu", "--set=model.width=1024"]
    refused = run_limited(resource.RLIMIT_AS, 4 << 30, *settings, f"--output-dir={tmp_path}")
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr.startswith("out of memory")
    assert len(refused.stderr.splitlines()) == 1
