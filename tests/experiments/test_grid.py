"""The grid of experiments."""

import os
import signal
import subprocess
import sys

import pytest

from experiments import grid
from experiments.cells import shortened_training
from experiments.commands import Commands
from tests.support.harness import PROJECT_DIR, TINY_DIGITS, run_script, write_run

GRID = ["--config", "digits", "--strategy", "RANDOM/NONE", "LL4AL/LL4AL", "--seed", "0"]
REST = ["--", *[argument for argument in TINY_DIGITS if not argument.startswith("--config")]]


def test_grid_runs_each_cell_once_and_prints_one_table(tmp_path):
    command = ["experiments/grid.py", *GRID, "--output-dir", tmp_path]
    one = run_script(*command, "--only", "1", *REST)
    assert one.returncode == 0, one.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["digits_auxiliary_LL4AL_sampling_LL4AL_seed0"]
    before = next(tmp_path.iterdir()).joinpath("results.csv").read_bytes()

    both = run_script(*command, *REST)
    assert both.returncode == 0, both.stderr
    folders = sorted(tmp_path.iterdir())
    assert len(folders) == 2
    assert (folders[0] / "results.csv").read_bytes() == before
    assert "is finished" in both.stdout + both.stderr
    rows = [line for line in both.stdout.splitlines() if line.startswith("| digits, ")]
    assert any("RANDOM" in row for row in rows) and any("LL4AL" in row for row in rows)

    table = run_script(*command, "--only", "none", *REST)
    assert [line for line in table.stdout.splitlines() if line.startswith("| digits, ")] == rows


def test_a_folder_with_another_run_is_refused_before_any_of_the_grid_runs(tmp_path, refusal):
    write_run(tmp_path, [[80, 90, 95]], sampling="LL4AL", auxiliary="LL4AL")
    line = refusal(grid, *GRID, "--output-dir", tmp_path, *REST)
    assert "LL4AL_seed0: holds a run with another" in line
    assert len(list(tmp_path.iterdir())) == 1
    assert "unrecognized arguments: --epochs=3" in refusal(grid, *GRID, *REST, "--epochs=3")
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


def test_commands_run_on_a_system_without_sighup(monkeypatch):
    monkeypatch.delattr(signal, "SIGHUP", raising=False)
    with Commands() as commands:
        assert commands.run([sys.executable, "-c", "raise SystemExit(7)"]) == 7


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
        "from experiments.commands import Commands\n"
        "with Commands() as commands:\n"
        f"    sys.exit(commands.run([sys.executable, '-c', {counts!r}]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", runs_it],
        cwd=PROJECT_DIR,
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


@pytest.mark.parametrize(
    "wrong",
    [
        ["--strategy", "TOD"],
        ["--strategy", "TOD/LL4AL"],
        ["--strategy", "LL4AL/TOD"],
        ["--strategy", "ENTROPHY/NONE"],
        ["--config", "nothing"],
        ["--only", "9"],
        ["--scale", "2"],
    ],
)
def test_a_wrong_strategy_or_cell_is_one_line(wrong, refusal):
    line = refusal(grid, "--config", "digits", *wrong)
    assert all(word in line for word in wrong)


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
def test_what_cannot_be_meant_is_refused_before_anything_runs(tmp_path, wrong, said, refusal):
    assert said in refusal(grid, "--config", "digits", *wrong)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("how", [["experiments/grid.py"], ["-m", "experiments.grid"]])
def test_the_script_and_the_module_refuse_with_status_2(how):
    done = subprocess.run(
        [sys.executable, *how, "--config", "digits", "--only", "9"],
        cwd=PROJECT_DIR,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "--only 9: must be from 0 to 3, or none\n"
