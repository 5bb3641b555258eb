"""What the tests of both scripts share."""

from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.analysis.conftest import refusal as refusal
from tests.support.forks import FIRST
from tests.support.harness import TINY_DIGITS, run_script

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
