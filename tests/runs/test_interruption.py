"""Runs that are killed or interrupted, and go on as if they had not been."""

import os
import signal
import sys
from operator import attrgetter
from subprocess import PIPE, Popen

import pytest

from tests.support.forks import Process, one_thread
from tests.support.harness import run_script, tiny_run
from tests.support.processes import begun, go_on, hung_up
from tests.support.soak import SCRIPTS, differences, outcome, results, run_folder, soak
from tod.analysis.results import read_rows
from tod.engine import loop
from tod.engine.loop import Loop
from tod.runs.signals import Interruption, handled_by


@pytest.mark.parametrize("script", SCRIPTS)
def test_killed_runs_end_bit_for_bit_as_uninterrupted_ones(script, tmp_path, pytestconfig):
    assert soak(script, pytestconfig.getoption("--kills"), tmp_path) >= 1


@pytest.mark.usefixtures("closing_terminal")
def test_a_run_stopped_in_any_way_says_so_and_goes_on_to_the_same_bytes(tmp_path, finished):
    folder = run_folder("main_TOD.py", tmp_path)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL):
        process = hung_up(tmp_path) if number == signal.SIGHUP else begun(tmp_path)
        if number != signal.SIGHUP:  # the end of its terminal
            process.send_signal(number)
        status, output = outcome(process)
        assert status == (-9 if number == signal.SIGKILL else 128 + number)
        assert "Traceback" not in (output or "")
        log = (folder / "log.txt").read_text(encoding="utf-8")
        advice = "interrupted; the same command again continues where it stopped\n"
        assert log.endswith(advice) == (number != signal.SIGKILL)
    assert "continuing with trial 1, cycle 2, epoch " in go_on(tmp_path)
    assert not differences(results(finished), results(folder))


@pytest.mark.parametrize(("handler", "requested"), [("SIG_IGN", None), ("SIG_DFL", signal.SIGHUP)])
def test_a_closed_terminal_is_no_request_under_nohup(handler, requested):
    before = signal.signal(signal.SIGHUP, getattr(signal, handler))
    try:
        interruption = Interruption("")
        with handled_by(interruption.note):
            os.kill(os.getpid(), signal.SIGHUP)
        assert interruption.requested == requested
        assert signal.getsignal(signal.SIGHUP) == getattr(signal, handler)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("entry", [*SCRIPTS, "plot.py", "experiments/grid.py"])
def test_sigint_while_libraries_are_imported_is_one_line(tmp_path, entry):
    for library in ("numpy", "pandas", "torch"):
        # As a terminal's foreground process, whatever this one ignores.
        code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        code += "signal.raise_signal(signal.SIGINT)\n"
        (tmp_path / f"{library}.py").write_text(code)
    done = run_script(entry, start=Popen, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_second_sigint_leaves_at_once():
    endless_step = """
import time
from tod.runs.signals import Interruption, handled_by
interruption = Interruption("")
with handled_by(interruption.note):
    print("ready", flush=True)
    while not interruption.requested:
        time.sleep(0.01)
    print("requested", flush=True)
    time.sleep(60)
"""
    command = [sys.executable, "-c", endless_step]
    process = Process(command, env=one_thread(), stdout=PIPE, text=True)
    for word in ("ready\n", "requested\n"):
        assert process.stdout.readline() == word
        process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130


@pytest.mark.usefixtures("cheap_pictures")
@pytest.mark.parametrize("steps", [1, 5, 8])
def test_run_stopped_within_an_epoch_goes_on_with_its_next_step(tmp_path, whole, steps):
    run = tiny_run(tmp_path)
    run.stop_after(steps)
    run.start()
    assert not differences(results(whole), results(run.folder))


@pytest.mark.usefixtures("cheap_pictures")
def test_state_is_saved_within_an_epoch_when_that_takes_long(tmp_path, monkeypatch):
    saved = []
    save = Loop.save
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(
        Loop, "save", lambda loop: (saved.append(loop.trial.learner.step), save(loop))
    )
    tiny_run(tmp_path).start()
    assert saved.count(1) == 4  # after the first step of each of two epochs in two cycles


@pytest.mark.usefixtures("cheap_pictures")
@pytest.mark.parametrize("last", ["records.write_learning_curve", "finish_trial"])
def test_a_run_killed_after_its_last_row_is_ended_by_the_same_command(tmp_path, monkeypatch, last):
    run = tiny_run(tmp_path)
    with monkeypatch.context() as patched:
        original = attrgetter(last)(loop)

        def kill_after_last_row(*arguments: object) -> None:
            if len(read_rows(run.folder / "results.csv")) == 2:
                raise SystemExit(137)
            original(*arguments)

        patched.setattr(f"tod.engine.loop.{last}", kill_after_last_row)
        with pytest.raises(SystemExit):
            run.start()
    rows, curve = run.folder / "results.csv", run.folder / "learning_curve.png"
    before = rows.read_text(), curve.read_bytes()
    assert len(before[0].splitlines()) == 1 + 2
    run.start()
    assert curve.read_bytes() != before[1]
    assert not list((run.folder / "progress").iterdir())
    assert rows.read_text() == before[0]
