"""The grid of experiments, as processes."""

import os
import signal
import subprocess
import sys

import pytest
from harness import PROJECT_DIR, TINY_DIGITS, run_script, write_run

sys.path.insert(0, str(PROJECT_DIR / "benchmarks"))

from grid import Commands, shortened_training

GRID = ["--config", "digits", "--strategy", "RANDOM/NONE", "LL4AL/LL4AL", "--seed", "0"]
REST = ["--", *[argument for argument in TINY_DIGITS if not argument.startswith("--config")]]


def test_grid_runs_each_cell_once_and_prints_one_table(tmp_path):
    grid = [*GRID, "--output-dir", tmp_path]
    one = run_script("benchmarks/grid.py", *grid, "--only", "1", *REST)
    assert one.returncode == 0, one.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["digits_auxiliary_LL4AL_sampling_LL4AL_seed0"]
    before = next(tmp_path.iterdir()).joinpath("results.csv").read_bytes()

    both = run_script("benchmarks/grid.py", *grid, *REST)
    assert both.returncode == 0, both.stderr
    folders = sorted(tmp_path.iterdir())
    assert len(folders) == 2
    assert (folders[0] / "results.csv").read_bytes() == before
    assert "is finished" in both.stdout + both.stderr
    rows = [line for line in both.stdout.splitlines() if line.startswith("| digits, ")]
    assert any("RANDOM" in row for row in rows) and any("LL4AL" in row for row in rows)

    table = run_script("benchmarks/grid.py", *grid, "--only", "none", *REST)
    assert [line for line in table.stdout.splitlines() if line.startswith("| digits, ")] == rows


def test_a_folder_with_another_run_is_refused_before_any_of_the_grid_runs(tmp_path):
    write_run(tmp_path, [[80, 90, 95]], sampling="LL4AL", auxiliary="LL4AL")
    done = run_script("benchmarks/grid.py", *GRID, "--output-dir", tmp_path, *REST)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "LL4AL_seed0: holds a run with another" in done.stderr
    assert len(list(tmp_path.iterdir())) == 1
    unknown = run_script("benchmarks/grid.py", *GRID, *REST, "--epochs=3", cwd=tmp_path)
    assert unknown.returncode == 2
    assert "unrecognized arguments: --epochs=3" in unknown.stderr
    assert len(list(tmp_path.iterdir())) == 1


def test_a_run_ended_by_a_signal_has_failed():
    killed = "import os; os.kill(os.getpid(), 9)"
    with Commands() as commands:
        assert commands.run([sys.executable, "-c", killed]) == 137


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_goes_to_the_running_command_and_to_none_after_it(number):
    before = signal.getsignal(number)
    waits = (
        "import os, signal, time\n"
        # In the background, a shell has it ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"os.kill(os.getppid(), {int(number)})\n"
        "time.sleep(60)"
    )
    with Commands() as commands:
        assert commands.run([sys.executable, "-c", waits]) in (1, 128 + number)
        assert commands.run([sys.executable, "-c", "raise SystemExit(7)"]) == 128 + number
    assert signal.getsignal(number) == before


def test_ctrl_c_reaches_the_running_command_once():
    counts = (
        "import signal, sys, time\n"
        "seen = []\n"
        "signal.signal(signal.SIGINT, lambda *_: seen.append(1))\n"
        "print('ready', flush=True)\n"
        "began = time.monotonic()\n"
        "while not seen and time.monotonic() - began < 60:\n"
        "    time.sleep(0.01)\n"
        "time.sleep(0.5)\n"  # for a second one
        "sys.exit(len(seen))"
    )
    runs_it = (
        "import sys\n"
        "from grid import Commands\n"
        "with Commands() as commands:\n"
        f"    sys.exit(commands.run([sys.executable, '-c', {counts!r}]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", runs_it],
        cwd=PROJECT_DIR / "benchmarks",
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all in the foreground
    process.communicate()
    assert process.returncode == 1


def test_scale_shortens_epochs_milestones_and_detach_epoch_alike():
    assert shortened_training("cifar10", 1.0) == []
    assert shortened_training("cifar10", 0.25) == [
        "--set=training.epochs=50",
        "--set=training.milestones=[40]",
        "--set=ll4al.detach_epoch=30",
    ]


def test_a_wrong_strategy_or_cell_is_one_line(tmp_path):
    for wrong in (
        ["--strategy", "TOD"],
        ["--strategy", "TOD/LL4AL"],
        ["--strategy", "LL4AL/TOD"],
        ["--strategy", "ENTROPHY/NONE"],
        ["--config", "nothing"],
        ["--only", "9"],
        ["--scale", "2"],
    ):
        done = run_script("benchmarks/grid.py", "--config", "digits", *wrong)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert f"{wrong[0]} {wrong[1]}" in done.stderr


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--strategy", "TOD/NONE", "TOD/NONE"], "TOD/NONE is named twice"),
        (["--seed", "1", "1"], "1 is named twice"),
        (["--seed", "-1"], "--seed"),
        (["--config", "digits", "digits"], "digits is named twice"),
        (["--", "--seed", "3"], "--seed: belongs before the --"),
        (["--", "--output-dir=x"], "--output-dir: belongs before the --"),
        (["--", "--overwrite"], "remove the runs' folders"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(tmp_path, wrong, said):
    done = run_script("benchmarks/grid.py", "--config", "digits", *wrong, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr
    assert not any(tmp_path.iterdir())
