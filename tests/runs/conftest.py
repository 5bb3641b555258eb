"""What several tests of a run's folder compare with, and runs without their pictures."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from unittest.mock import patch

import pytest

from tests.support.harness import tiny_run
from tests.support.soak import outcome, run_folder, start
from tod.analysis import figures


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The folder of an uninterrupted run, which starts cold; nobody changes it."""
    output_dir = tmp_path_factory.mktemp("finished")
    status, output = outcome(start("main_TOD.py", output_dir, how=Popen))
    assert status == 0, output
    return run_folder("main_TOD.py", output_dir)


@contextmanager
def pictures_undrawn() -> Iterator[None]:
    """They are written as ever, but drawing them would take most of the time."""

    def table(rows, kind: str = "png") -> bytes:
        return rows.drop(columns="train_seconds").to_csv().encode()

    with (
        patch.object(figures, "learning_curves", lambda curves: curves[0].rows),
        patch.object(figures, "rendered", table),
    ):
        yield


@pytest.fixture(scope="module")
def cheap_pictures() -> Iterator[None]:
    with pictures_undrawn():
        yield


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> Path:
    """The folder of a `tiny_run` in this process, with cheap pictures; nobody changes it."""
    run = tiny_run(tmp_path_factory.mktemp("whole"))
    with pictures_undrawn():
        run.start()
    return run.folder
