"""Training that cannot go on, as it diverges or memory runs out: one line that says what to do."""

import resource

from tests.support.harness import TINY_DIGITS, run_script
from tests.support.processes import go_on, run_limited


def test_training_that_diverges_stops_with_place_and_advice(tmp_path):
    diverged = go_on(tmp_path, "--set=training.lr=1.0e+20")
    assert diverged.returncode == 2
    assert "Traceback" not in diverged.stderr
    for part in (
        "trial 1, cycle 1, epoch",
        "learning rate 1e+20",
        "training.lr=1e+19",
        "cod.weight",
    ):
        assert part in diverged.stderr


def test_outputs_that_overflow_are_a_divergence_and_no_traceback(tmp_path):
    diverged = run_script(
        "main_TOD.py",
        *TINY_DIGITS,
        f"--output-dir={tmp_path}",
        "--set=training.lr=1.0e+3",
        "--set=training.epochs=1",
        "--set=training.batch_size=64",
    )
    assert diverged.returncode == 2
    assert "not finite" in diverged.stderr
    assert "Traceback" not in diverged.stderr


def test_memory_that_runs_out_is_one_line(tmp_path):
    # Each convolution between 8,192 channels has 2.4 GB of weights.
    settings = [*TINY_DIGITS, "--device=cpu", "--set=model.width=1024"]
    refused = run_limited(resource.RLIMIT_AS, 4 << 30, *settings, f"--output-dir={tmp_path}")
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr.startswith("out of memory")
    assert len(refused.stderr.splitlines()) == 1
