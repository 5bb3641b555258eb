"""Commands that run at once: their statuses, their places, and the signals that are for them."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from tests.support.forks import Process, one_thread
from tests.support.harness import PROJECT_DIR
from tests.support.processes import wait_for
from tod.runs.commands import run_commands, share_of_machine
from tod.system import machine


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def statuses_of(*codes: str, processes: int = 1) -> list[int]:
    return list(run_commands(dict(enumerate(map(python, codes))), processes).values())


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


def test_a_run_ended_by_a_signal_has_failed_also_on_a_system_without_sighup(monkeypatch):
    monkeypatch.delattr(signal, "SIGHUP", raising=False)
    assert statuses_of("import os; os.kill(os.getpid(), 9)", "raise SystemExit(7)") == [137, 7]


def test_so_many_run_commands_each_with_a_place_of_its_own(tmp_path):
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
    statuses = run_commands(
        {number: python(code) for number in range(4)},
        processes=2,
        environment=lambda slot: {**os.environ, "SLOT": str(slot)},
        ended=lambda key, status, output: printed.append(output.strip()),
    )
    assert statuses == dict.fromkeys(range(4), 0)
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
        "from tod.runs.commands import run_commands\n"
        f"sys.exit(run_commands({{0: [sys.executable, '-c', {counts!r}]}}, 1)[0])"
    )
    process = Process(
        python(runs_it),
        cwd=PROJECT_DIR,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        env=one_thread(),
    )
    wait_for(tmp_path / "ready", process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all in the foreground
    process.communicate()
    assert process.returncode == 1


def test_runs_that_share_a_gpu_are_told_how_many_they_are(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(machine, "cores", lambda: 9)
    shown = [share_of_machine(slot, processes=5) for slot in range(5)]
    assert [variables["CUDA_VISIBLE_DEVICES"] for variables in shown] == ["0", "1", "0", "1", "0"]
    assert {variables[machine.SHARE] for variables in shown} == {"1"}
    assert {variables["LOCAL_WORLD_SIZE"] for variables in shown} == {"3"}
