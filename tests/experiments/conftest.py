"""What the tests of both scripts share."""

import sys
from pathlib import Path
from subprocess import PIPE, CompletedProcess

import pytest

from tests.analysis.conftest import refusal as refusal
from tests.support.forks import FIRST, Process, one_thread
from tests.support.harness import PROJECT_DIR, TINY_DIGITS, run_script
from tests.support.processes import wait_for
from tests.support.saves import wait_after_two_saves

REST = ["--", *(argument for argument in TINY_DIGITS if not argument.startswith("--config"))]
QUICK = ["--set=training.epochs=1", "--set=training.milestones=[]"]
WITHOUT_PICTURES = "tests.support.picture_runs:without_pictures"


@pytest.fixture(autouse=True)
def in_its_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(script: str, *arguments: object, cwd: Path | None = None) -> CompletedProcess:
    """Runs it to its end, with runs that draw no pictures."""
    variables = {FIRST: WITHOUT_PICTURES}
    return run_script(f"experiments/{script}.py", *arguments, cwd=cwd, **variables)


def stopped(script: str, *arguments: object, saved: list[Path]) -> str:
    """Stops it once the runs in these folders have saved; all that it has complained of."""
    command = [sys.executable, PROJECT_DIR / f"experiments/{script}.py", *arguments]
    process = Process(command, env=one_thread(wait_after_two_saves), stderr=PIPE, text=True)
    for folder in saved:
        wait_for(folder / "progress" / "trial1.before.pt", process)
    process.terminate()
    _, errors = process.communicate()
    assert process.returncode == 143
    return errors
