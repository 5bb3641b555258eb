"""One process a trial: others are refused, and a dead one's lock is not in the way."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import Timeout

from tests.support.faults import KINDS, failing
from tests.support.harness import PROJECT_DIR, TINY_DIGITS, tiny_run
from tests.support.processes import begun, go_on
from tests.support.soak import differences, refusal, results, run_folder
from tod.runs.folder import RunFolder
from tod.system.files import locked


def test_a_trial_is_one_process_s_until_it_dies_and_others_share_the_folder(tmp_path, finished):
    folder = run_folder("main_TOD.py", tmp_path)
    first = begun(tmp_path, "--trials=1")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for chosen in ("", "--trials=1", "--overwrite", "--trials=1 --overwrite"):
        assert "is in use by another process" in refusal(tmp_path, *chosen.split())
        assert all(path.read_bytes() == content for path, content in before.items())
    for again in ("", "--overwrite"):
        go_on(tmp_path, "--trials=2", *again.split())
    assert "is in use by another process" in refusal(tmp_path)
    first.kill()
    first.communicate()
    assert (folder / ".locks" / "trial1").exists()
    assert "continuing with trial 1, cycle " in go_on(tmp_path)
    assert not differences(results(finished), results(folder))


@pytest.mark.usefixtures("cheap_pictures")
@pytest.mark.parametrize("code", ["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def test_without_locks_a_run_goes_on_with_a_warning(tmp_path, monkeypatch, capsys, code):
    number = getattr(errno, code)
    monkeypatch.setitem(KINDS, "lock", number)
    both = "--set=active_learning.trials=2"
    with failing("lock", tmp_path, at=1):
        tiny_run(tmp_path, "main_TOD.py", "TOD", "TOD", both).start()
    reason = os.strerror(number)
    assert f"cannot be locked ({reason}); start no second run on it" in capsys.readouterr().out


def test_while_a_folder_is_overwritten_no_trial_is_free(tmp_path, monkeypatch):
    run = tiny_run(tmp_path, "main_TOD.py", "TOD", "TOD", "--set=active_learning.trials=2")
    (run.folder / ".locks").mkdir(parents=True)
    (run.folder / ".locks" / "trial7").touch()  # of a run of more trials
    taken = []

    def is_free(trial: int) -> bool:
        try:
            with locked(run.folder / ".locks" / f"trial{trial}", wait=False):
                return True
        except Timeout:
            return False

    def look(path: Path) -> bool:
        taken.append([is_free(trial) for trial in (1, 2, 7)])
        return True

    monkeypatch.setattr("tod.runs.folder.remove", look)
    found = dict.fromkeys(("data", "precision", "device", "ranks", "python", "torch"), "x")
    with RunFolder(run.folder, run.identity, [1], [1, 2], overwrite=True) as folder:
        folder.claim()
        folder.open(found)
        assert not any(map(any, taken)) and taken
        assert [is_free(trial) for trial in (1, 2, 7)] == [False, True, True]
    assert is_free(1)


def test_nothing_fails_on_a_system_without_fcntl(tmp_path):
    modules = (
        "main_TOD, main_LL4AL, plot, report, tod.engine.experiment, tod.data, tod.analysis.report"
    )
    script = (
        "import sys; sys.modules['fcntl'] = None\n"
        f"import {modules}, tod.system.files, tod.runs.folder\n"
        f"main_TOD.main({[*TINY_DIGITS, f'--output-dir={tmp_path}']!r})"
    )
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, cwd=PROJECT_DIR, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(results(run_folder("main_TOD.py", tmp_path))) > 3
