"""The grid of experiments."""

import os
import re
import signal
import subprocess
import sys

import pytest
import torch

import main_TOD
from experiments import grid
from experiments.cells import shortened_training
from tests.support.forks import Process, one_thread
from tests.support.harness import PROJECT_DIR, TINY_DIGITS, run_script, write_run
from tests.support.processes import shown_in_a_terminal, wait_for
from tests.support.saves import wait_after_two_saves
from tod import machine
from tod.runs.commands import Commands, share_of_machine

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
    folders = sorted(path for path in tmp_path.iterdir() if path.is_dir())
    assert len(folders) == 2
    assert "Learning curves" in (tmp_path / "report_digits.html").read_text(encoding="utf-8")
    assert (folders[0] / "results.csv").read_bytes() == before
    assert "LL4AL/LL4AL, seed 0: has ended (" in both.stderr
    rows = [line for line in both.stdout.splitlines() if line.startswith("| digits, ")]
    assert any("RANDOM" in row for row in rows) and any("LL4AL" in row for row in rows)

    table = run_script(*command, "--only", "none", *REST)
    assert [line for line in table.stdout.splitlines() if line.startswith("| digits, ")] == rows


def test_all_strategies_run_several_at_once_but_for_those_that_cannot(tmp_path):
    command = ["experiments/grid.py", "--config=digits", "--strategy", "all", "--seed", "0"]
    done = run_script(*command, "--output-dir", tmp_path, "--processes=2", *REST)
    assert done.returncode == 0, done.stderr
    assert "digits, BALD/NONE: is left out; it needs dropout" in done.stderr
    names = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    methods = {(s, "NONE") for s in main_TOD.SAMPLING if s != "BALD"}
    methods |= {("TOD", "TOD"), ("LL4AL", "LL4AL")}
    assert names == {
        f"digits_auxiliary_{auxiliary}_sampling_{sampling}_seed0" for sampling, auxiliary in methods
    }
    # A run beside others gives what it gives alone, with as many threads.
    alone = run_script(*command, "--only=0", "--output-dir", tmp_path / "alone", *REST)
    assert alone.returncode == 0, alone.stderr
    (folder,) = (tmp_path / "alone").iterdir()
    for name in ("weights/trial1_cycle2.pth", "queries/trial1_cycle1.csv"):
        assert (folder / name).read_bytes() == (tmp_path / folder.name / name).read_bytes()


def test_a_terminal_gets_one_bar_over_all_runs(tmp_path):
    script = PROJECT_DIR / "experiments/grid.py"
    # Runs that learn, and have nothing to say under --quiet.
    settings = ("training.epochs=30", "training.milestones=[]", "training.lr=0.02")
    learning = [*REST, *(f"--set={setting}" for setting in settings)]
    command = [sys.executable, script, *GRID, "--output-dir", tmp_path, "--processes=2", *learning]
    text = shown_in_a_terminal(command)
    bars = re.findall(r"(\d) of 2 runs: +\d+%\|[^|]*\| (\d)/4", text)
    assert bars and bars == sorted(bars)
    assert "Test acc" not in text and "has ended" not in text
    assert "| digits, RANDOM sampling" in text
    # Begun again, it starts from what there is.
    assert re.search(r"0 of 2 runs: +100%\|[^|]*\| 4/4", shown_in_a_terminal(command))


def test_a_killed_grid_goes_on_where_it_stopped(tmp_path):
    command = [sys.executable, "experiments/grid.py", *GRID, f"--output-dir={tmp_path}"]
    longer = [*REST, "--set=training.epochs=3", "--set=training.milestones=[2]"]
    process = Process(
        [*command, "--processes=2", *longer],
        cwd=PROJECT_DIR,
        env=one_thread(wait_after_two_saves),
        stderr=subprocess.PIPE,
        text=True,
    )
    for sampling in ("LL4AL_sampling_LL4AL", "NONE_sampling_RANDOM"):
        wait_for(tmp_path / f"digits_auxiliary_{sampling}_seed0/progress/trial1.before.pt", process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 143
    assert errors.count("has stopped with status 143") == 2
    assert "no run has ended a cycle yet" not in errors
    # What was saved is gone on from, not begun again.
    again = run_script(*command[1:], *longer)
    assert again.returncode == 0, again.stderr
    for folder in (path for path in tmp_path.iterdir() if path.is_dir()):
        assert "continuing with trial 1, cycle" in (folder / "log.txt").read_text()
        assert len((folder / "results.csv").read_text().splitlines()) == 3


def test_a_run_that_fails_is_told_with_what_it_printed(tmp_path):
    done = run_script(
        *("experiments/grid.py", *GRID, f"--output-dir={tmp_path}", "--processes=2", *REST),
        "--set=training.lr=1e30",
    )
    assert done.returncode == 2
    assert done.stderr.count("is not finite; what was saved stays") == 2
    assert "digits, RANDOM/NONE, seed 0: has stopped with status 2" in done.stderr
    assert "no run has ended a cycle yet" in done.stdout


def test_a_strategy_that_does_not_suit_is_refused_before_anything_runs(tmp_path, refusal):
    line = refusal(grid, "--config", "digits", "--strategy", "BALD/NONE", "RANDOM/NONE")
    assert line.startswith("--sampling BALD: needs dropout")
    assert not any(tmp_path.iterdir())


def test_a_folder_with_another_run_is_refused_before_any_of_the_grid_runs(tmp_path, refusal):
    write_run(tmp_path, [[80, 90, 95]], sampling="LL4AL", auxiliary="LL4AL")
    line = refusal(grid, *GRID, "--output-dir", tmp_path, *REST)
    assert "LL4AL_seed0: holds a run with another" in line
    assert len(list(tmp_path.iterdir())) == 1
    assert "unrecognized arguments: --epochs=3" in refusal(grid, *GRID, *REST, "--epochs=3")
    line = refusal(grid, *GRID, "--set", "training.lr=1", *REST)
    assert "unrecognized arguments: --set training.lr=1; what is for the entry scripts" in line
    assert len(list(tmp_path.iterdir())) == 1


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def statuses_of(*codes: str, processes: int = 1) -> list[int]:
    with Commands(processes) as commands:
        return list(commands.run(dict(enumerate(map(python, codes)))).values())


def test_a_run_ended_by_a_signal_has_failed():
    assert statuses_of("import os; os.kill(os.getpid(), 9)") == [137]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.usefixtures("closing_terminal")
def test_a_signal_goes_to_all_that_run_and_none_begins_after_it(tmp_path, number, processes):
    before = signal.getsignal(number)
    waits = (
        "import os, pathlib, signal, time\n"
        # In the background, a shell has it ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"place = pathlib.Path({str(tmp_path)!r})\n"
        "(place / str(os.getpid())).touch()\n"
        f"while len(list(place.iterdir())) < {processes}: time.sleep(0.01)\n"
        f"os.kill(os.getppid(), {int(number)})\n"
        "time.sleep(60)"
    )
    codes = [waits] * processes + ["raise SystemExit(7)"]
    *ended, last = statuses_of(*codes, processes=processes)
    assert all(status in (1, 128 + number) for status in ended)
    assert last == 128 + number
    assert signal.getsignal(number) == before


def test_commands_run_on_a_system_without_sighup(monkeypatch):
    monkeypatch.delattr(signal, "SIGHUP", raising=False)
    assert statuses_of("raise SystemExit(7)") == [7]


def test_so_many_run_at_once_each_with_a_place_of_its_own(tmp_path):
    code = (
        "import os, pathlib, time\n"
        f"place = pathlib.Path({str(tmp_path)!r})\n"
        "mine = place / os.environ['SLOT']\n"
        "mine.touch(exist_ok=False)\n"
        "time.sleep(0.5)\n"
        "print(len(list(place.iterdir())))\n"
        "mine.unlink()"
    )
    printed = []
    with Commands(2) as commands:
        statuses = commands.run(
            {number: python(code) for number in range(6)},
            environment=lambda slot: {**os.environ, "SLOT": str(slot)},
            ended=lambda key, status, output: printed.append(output.strip()),
        )
    assert list(statuses.items()) == [(number, 0) for number in range(6)]
    assert {*printed} <= {"1", "2"} and "2" in printed


def test_ctrl_c_reaches_the_running_command_once(tmp_path):
    counts = (
        "import pathlib, signal, sys, time\n"
        "seen = []\n"
        "signal.signal(signal.SIGINT, lambda *_: seen.append(1))\n"
        f"pathlib.Path({str(tmp_path / 'ready')!r}).touch()\n"
        "began = time.monotonic()\n"
        "while not seen and time.monotonic() - began < 60:\n"
        "    time.sleep(0.01)\n"
        "time.sleep(0.5)\n"  # for a second one
        "sys.exit(len(seen))"
    )
    runs_it = (
        "import sys\n"
        "from tod.runs.commands import Commands\n"
        "with Commands() as commands:\n"
        f"    sys.exit(commands.run({{0: [sys.executable, '-c', {counts!r}]}})[0])"
    )
    process = subprocess.Popen(
        python(runs_it), cwd=PROJECT_DIR, start_new_session=True, stdin=subprocess.DEVNULL
    )
    wait_for(tmp_path / "ready", process)
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
        (["--config", "own_images"], "own_images: its labels come from people"),
        (["--strategy", "TOD/NONE", "TOD/NONE"], "TOD/NONE is named twice"),
        (["--seed", "1", "1"], "1 is named twice"),
        (["--seed", "-1"], "--seed"),
        (["--config", "digits", "digits"], "digits is named twice"),
        (["--", "--seed", "3"], "--seed: belongs before the --"),
        (["--", "--output-dir=x"], "--output-dir: belongs before the --"),
        (["--", "--parallel=data"], "--parallel: here --processes, before the --, runs several"),
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
    assert done.stderr == "--only 9: must be from 0 to 4, or none\n"


def test_runs_that_share_a_gpu_are_told_how_many_they_are(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(machine, "cores", lambda: 9)
    shown = [share_of_machine(slot, processes=5) for slot in range(5)]
    assert [variables["CUDA_VISIBLE_DEVICES"] for variables in shown] == ["0", "1", "0", "1", "0"]
    assert {variables[machine.SHARE] for variables in shown} == {"1"}
    assert {variables["LOCAL_WORLD_SIZE"] for variables in shown} == {"3"}
