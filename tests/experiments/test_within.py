"""A run on a machine that is lent for minutes."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.forks import one_thread
from tests.support.harness import PROJECT_DIR, TINY_DIGITS

RUN = "digits_auxiliary_NONE_sampling_RANDOM_seed0"


def within(seconds: int, *arguments: str) -> subprocess.CompletedProcess:
    script = ["bash", PROJECT_DIR / "experiments/within.sh", str(seconds), "kept"]
    strategy = ("main_TOD.py", *TINY_DIGITS, "--sampling=RANDOM", "--auxiliary=NONE")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [*script, *strategy, *arguments],
        env={**one_thread(), "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_run_leaves_its_results_and_a_state_from_which_it_goes_on_elsewhere():
    done = within(100)
    assert done.returncode == 0, done.stderr
    packed = ["tar", "-xOJf", "kept/results.tar.xz", f"results/{RUN}/results.csv"]
    rows = subprocess.run(packed, capture_output=True, text=True, check=True).stdout
    assert len(rows.splitlines()) == 3
    Path("kept/results.tar.xz").unlink()
    Path("kept/state").rename("kept/new")  # as a kill between two renames leaves it
    again = within(100)
    assert again.returncode == 0, again.stderr
    assert "continuing" not in again.stdout and "epoch" not in again.stdout  # it had ended
    assert subprocess.run(packed, capture_output=True, text=True, check=True).stdout == rows
    assert within(1, "--seed=1").returncode == 124
