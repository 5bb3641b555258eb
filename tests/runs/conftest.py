"""What several tests of a run's folder compare with."""

from pathlib import Path
from subprocess import Popen

import pytest

from tests.support.harness import run_script
from tests.support.several_ranks import RUN
from tests.support.soak import run_folder, start


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The folder of an uninterrupted run, which starts cold; nobody changes it."""
    output_dir = tmp_path_factory.mktemp("finished")
    process = start("main_TOD.py", output_dir, how=Popen)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return run_folder("main_TOD.py", output_dir)


@pytest.fixture(scope="session")
def alone(tmp_path_factory) -> Path:
    """The output folder of one process, started cold, that ran all trials."""
    output_dir = tmp_path_factory.mktemp("alone")
    done = run_script("main_TOD.py", *RUN, f"--output-dir={output_dir}", start=Popen)
    assert done.returncode == 0, done.stderr
    return output_dir
