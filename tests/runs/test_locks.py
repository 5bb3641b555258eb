"""One process a trial: others are refused, and a dead one's lock is not in the way."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from losses import CODLoss
from samplers import query_by_tod
from tests.support.faults import KINDS, failing
from tests.support.forks import Process, one_thread
from tests.support.harness import PROJECT_DIR, TINY_DIGITS, tiny_run
from tests.support.processes import go_on, wait_for
from tests.support.saves import wait_after_two_saves
from tests.support.soak import differences, results, run_folder, start
from tod.config import InputError
from tod.files import InUseError, locked
from tod.runs.folder import RunFolder


def test_second_process_on_a_run_folder_is_refused(tmp_path):
    first = start("main_TOD.py", tmp_path, first=wait_after_two_saves)
    wait_for(run_folder("main_TOD.py", tmp_path) / "config.yaml", first)
    first.send_signal(signal.SIGSTOP)  # or it might end before the second one looks
    second = go_on(tmp_path)
    first.kill()
    first.communicate()
    assert second.returncode == 2
    assert len(second.stderr.splitlines()) == 1
    assert "is in use by another process" in second.stderr


def test_processes_with_different_trials_share_a_folder_and_others_are_refused(tmp_path, finished):
    first = start("main_TOD.py", tmp_path, "--trials=1", first=wait_after_two_saves)
    wait_for(run_folder("main_TOD.py", tmp_path) / "config.yaml", first)
    first.send_signal(signal.SIGSTOP)
    refused = go_on(tmp_path)
    same = go_on(tmp_path, "--trials=1")
    cleared = go_on(tmp_path, "--overwrite")
    others_cleared = go_on(tmp_path, "--trials=2", "--overwrite")
    first.send_signal(signal.SIGCONT)
    second = go_on(tmp_path, "--trials=2")
    output, _ = first.communicate()
    for answer in (refused, same, cleared, others_cleared):
        assert answer.returncode == 2
        assert len(answer.stderr.splitlines()) == 1
        assert "is in use by another process" in answer.stderr
    assert first.returncode == 0, output
    assert second.returncode == 0, second.stderr
    assert not differences(results(finished), results(run_folder("main_TOD.py", tmp_path)))


def test_a_killed_processes_lock_is_not_in_the_way(tmp_path, finished):
    folder = run_folder("main_TOD.py", tmp_path)
    first = start("main_TOD.py", tmp_path, first=wait_after_two_saves)
    wait_for(folder / "progress" / "trial1.pt", first)
    first.send_signal(signal.SIGSTOP)
    assert go_on(tmp_path).returncode == 2
    first.kill()
    first.communicate()
    assert (folder / ".locks" / "trial1").exists()
    again = go_on(tmp_path)
    assert again.returncode == 0, again.stderr
    assert not differences(results(finished), results(folder))


def test_a_refused_overwrite_changes_nothing(tmp_path):
    folder = run_folder("main_TOD.py", tmp_path)
    first = start("main_TOD.py", tmp_path, "--trials=2", first=wait_after_two_saves)
    wait_for(folder / "progress" / "trial2.pt", first)
    first.send_signal(signal.SIGSTOP)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for arguments in (("--overwrite",), ("--trials=1", "--overwrite")):
        assert go_on(tmp_path, *arguments).returncode == 2
    for path, content in before.items():
        assert path.read_bytes() == content
    first.kill()
    first.communicate()


def test_what_trials_share_is_waited_for_and_a_trial_is_not(tmp_path):
    lock = tmp_path / "shared"
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tod.files import locked\n"
        f"with locked(Path({str(lock)!r})):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with Process(
        [sys.executable, "-c", script],
        cwd=PROJECT_DIR,
        env=one_thread(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InUseError), locked(lock, wait=False):
            pass
        began = time.monotonic()
        threading.Timer(0.3, holder.stdin.close).start()
        with locked(lock):
            assert time.monotonic() - began > 0.3
    assert holder.returncode == 0


def test_where_nothing_can_be_locked_is_an_oserror(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for place in (tmp_path / "file" / "lock", tmp_path / "folder"):
        for wait in (True, False):
            with pytest.raises(OSError), locked(place, wait):
                pass


@pytest.mark.parametrize("code", ["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def test_a_file_system_without_locks_is_a_warning_for_one_process_alone(
    tmp_path, monkeypatch, capsys, code
):
    number = getattr(errno, code)
    monkeypatch.setitem(KINDS, "lock", number)
    both = "--set=active_learning.trials=2"
    with failing("lock", tmp_path, at=1):
        tiny_run(tmp_path, "main_TOD.py", "TOD", "TOD", both).start(query_by_tod, CODLoss)
    reason = os.strerror(number)
    assert f"cannot be locked ({reason}); start no second run on it" in capsys.readouterr().out
    run = tiny_run(tmp_path, "main_TOD.py", "TOD", "TOD", both)
    rank = RunFolder(run.folder, run.identity, trials=[1], chosen=[1, 2])
    with failing("lock", tmp_path, at=1), rank, pytest.raises(InputError, match=reason):
        rank.claim()


def test_while_a_folder_is_overwritten_no_trial_is_free_and_then_those_of_others_are(
    tmp_path, monkeypatch
):
    run = tiny_run(tmp_path, "main_TOD.py", "TOD", "TOD", "--set=active_learning.trials=2")
    run.folder.mkdir()
    (run.folder / ".locks").mkdir()
    (run.folder / ".locks" / "trial7").touch()  # of a run of more trials
    taken = []

    def is_free(trial: int) -> bool:
        try:
            with locked(run.folder / ".locks" / f"trial{trial}", wait=False):
                return True
        except InUseError:
            return False

    def look(path: Path) -> bool:
        taken.append([is_free(trial) for trial in (1, 2, 7)])
        return True

    monkeypatch.setattr("tod.runs.folder.remove", look)
    found = dict.fromkeys(("data", "precision", "device", "python", "torch"), "x")
    with RunFolder(run.folder, run.identity, [1], [1, 2], overwrite=True) as folder:
        folder.open(found)
        assert not any(map(any, taken)) and taken
        assert [is_free(trial) for trial in (1, 2, 7)] == [False, True, True]
    assert is_free(1)


WITHOUT_FCNTL = "import sys; sys.modules['fcntl'] = None; "


@pytest.mark.parametrize(
    "module",
    [
        *("main_TOD", "main_LL4AL", "plot", "report"),
        *("tod.experiment", "tod.data", "tod.analysis.report", "tod.files", "tod.runs.folder"),
    ],
)
def test_nothing_fails_at_import_on_a_system_without_fcntl(module):
    done = subprocess.run(
        [sys.executable, "-c", f"{WITHOUT_FCNTL}import {module}"],
        cwd=PROJECT_DIR,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_run_ends_well_on_a_system_without_fcntl(tmp_path):
    arguments = [*TINY_DIGITS, f"--output-dir={tmp_path}"]
    script = f"{WITHOUT_FCNTL}import main_TOD; main_TOD.main({arguments!r})"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=PROJECT_DIR,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(results(run_folder("main_TOD.py", tmp_path))) > 3
