"""Runs that are killed or interrupted, and go on as if they had not been."""

import os
import signal
import sys
from subprocess import PIPE

import pytest

from losses import CODLoss
from samplers import query_by_tod
from tests.support.forks import Process, one_thread
from tests.support.harness import tiny_run
from tests.support.processes import go_on, hung_up, interrupted
from tests.support.soak import SCRIPTS, differences, results, run_folder, soak
from tod import loop
from tod.loop import Loop
from tod.runs.folder import RunFolder
from tod.runs.signals import Interruption


@pytest.mark.parametrize("script", SCRIPTS)
def test_killed_runs_end_bit_for_bit_as_uninterrupted_ones(script, tmp_path, pytestconfig):
    assert soak(script, pytestconfig.getoption("--kills"), tmp_path) >= 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_run_saves_says_how_to_go_on_and_goes_on(tmp_path, finished, number, status):
    process = interrupted(tmp_path, number)
    output, _ = process.communicate()
    assert process.returncode == status
    assert "the same command again continues" in output
    assert "Traceback" not in output
    again = go_on(tmp_path)
    assert again.returncode == 0
    assert "continuing with trial 1, cycle " in again.stdout
    assert not differences(results(finished), results(run_folder("main_TOD.py", tmp_path)))


@pytest.mark.usefixtures("closing_terminal")
def test_a_run_whose_terminal_is_closed_saves_and_goes_on(tmp_path, finished):
    process = hung_up(tmp_path)
    assert process.wait() == 129
    log = run_folder("main_TOD.py", tmp_path) / "log.txt"
    assert log.read_text().endswith(
        "interrupted; the same command again continues where it stopped\n"
    )
    assert go_on(tmp_path).returncode == 0
    assert not differences(results(finished), results(run_folder("main_TOD.py", tmp_path)))


@pytest.mark.parametrize(("handler", "requested"), [("SIG_IGN", None), ("SIG_DFL", signal.SIGHUP)])
def test_a_closed_terminal_is_no_request_under_nohup(handler, requested):
    before = signal.signal(signal.SIGHUP, getattr(signal, handler))
    try:
        with Interruption("") as interruption:
            os.kill(os.getpid(), signal.SIGHUP)
        assert interruption.requested == requested
        assert signal.getsignal(signal.SIGHUP) == getattr(signal, handler)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_second_sigint_leaves_at_once():
    endless_step = (
        "import time\n"
        "from tod.runs.signals import Interruption\n"
        "with Interruption('') as interruption:\n"
        "    print('ready', flush=True)\n"
        "    while True:\n"
        "        time.sleep(0.01)\n"
        "        if interruption.requested:\n"
        "            print('requested', flush=True)\n"
        "            time.sleep(60)\n"
    )
    command = [sys.executable, "-c", endless_step]
    process = Process(command, env=one_thread(), stdout=PIPE, text=True)
    for word in ("ready\n", "requested\n"):
        assert process.stdout.readline() == word
        process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 130


@pytest.mark.parametrize(
    ("steps", "precision"), [(1, "fp32"), (2, "fp32"), (8, "fp32"), (8, "bf16")]
)
def test_run_stopped_within_an_epoch_goes_on_with_its_next_step(
    tmp_path, monkeypatch, steps, precision
):
    choices = ("main_TOD.py", "TOD", "TOD", f"--precision={precision}")
    whole, stopped = (tiny_run(tmp_path / name, *choices) for name in ("whole", "stopped"))
    whole.start(query_by_tod, CODLoss)

    after_step = Loop._after_step
    taken = 0

    def after_step_with_sigterm(loop: Loop) -> None:
        nonlocal taken
        taken += 1
        if taken == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        after_step(loop)

    monkeypatch.setattr(Loop, "_after_step", after_step_with_sigterm)
    with pytest.raises(SystemExit) as leaving:
        stopped.start(query_by_tod, CODLoss)
    assert leaving.value.code == 143
    stopped.start(query_by_tod, CODLoss)
    assert taken == 2 * 3 + 2 * 4  # each step of both cycles once
    assert not differences(results(whole.folder), results(stopped.folder))


def test_state_is_saved_within_an_epoch_when_that_takes_long(tmp_path, monkeypatch):
    saved = []
    save = Loop.save
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(
        Loop, "save", lambda loop: (saved.append(loop.trial.learner.step), save(loop))
    )
    tiny_run(tmp_path).start(query_by_tod, CODLoss)
    assert saved.count(1) == 4  # after the first step of each of two epochs in two cycles


@pytest.mark.parametrize("last", ["draw_learning_curve", "finish_trial"])
def test_a_run_killed_after_its_last_row_is_ended_by_the_same_command(tmp_path, monkeypatch, last):
    run = tiny_run(tmp_path)
    with monkeypatch.context() as patched:
        original = getattr(loop, last)

        def kill_after_last_row(folder: RunFolder, *arguments: int) -> None:
            if len(folder.rows()) == 2:
                raise SystemExit(137)
            original(folder, *arguments)

        patched.setattr(loop, last, kill_after_last_row)
        with pytest.raises(SystemExit):
            run.start(query_by_tod, CODLoss)
    rows = (run.folder / "results.csv").read_text()
    assert len(rows.splitlines()) == 1 + 2
    curve = run.folder / "learning_curve.png"
    before = curve.read_bytes()
    run.start(query_by_tod, CODLoss)
    assert curve.read_bytes() != before
    assert not list((run.folder / "progress").iterdir())
    assert (run.folder / "results.csv").read_text() == rows
