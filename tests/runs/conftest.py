"""What several tests of a run's folder compare with."""

from pathlib import Path

import pytest

from tests.support.soak import run_folder, start


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The folder of an uninterrupted run; nobody changes it."""
    output_dir = tmp_path_factory.mktemp("finished")
    process = start("main_TOD.py", output_dir)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return run_folder("main_TOD.py", output_dir)
