"""What a run says: in log.txt also where nobody listens, and without a trace in the loggers."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.harness import PROJECT_DIR, TINY_DIGITS, tiny_run
from tests.support.loading import refused
from tests.support.soak import differences, results, run_folder

pytestmark = pytest.mark.usefixtures("cheap_pictures")


def test_output_that_nobody_reads_does_not_stop_a_run(tmp_path):
    arguments = [*TINY_DIGITS, f"--output-dir={tmp_path}"]
    with Path("/dev/full").open("w") as full:
        subprocess.run(
            [sys.executable, PROJECT_DIR / "main_TOD.py", *arguments], stdout=full, check=True
        )
    assert "Test acc" in (run_folder("main_TOD.py", tmp_path) / "log.txt").read_text()


def run_closed(*command: object) -> int:
    """The exit status of a command that has no standard streams at all."""
    return subprocess.run(
        ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "-", *map(str, command)],
        cwd=PROJECT_DIR,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    ).returncode


def test_closed_standard_streams_do_not_stop_a_run_nor_its_processes(tmp_path):
    run = [*TINY_DIGITS, "--set=active_learning.trials=2", f"--output-dir={tmp_path}"]
    assert run_closed(sys.executable, "main_TOD.py", *run, "--processes=2") == 0
    lines = (run_folder("main_TOD.py", tmp_path) / "log.txt").read_text().splitlines()
    assert sum("Test acc" in line for line in lines) == 2 * 2
    assert "± " in lines[-1]


def test_what_is_written_to_closed_streams_reaches_no_file(tmp_path):
    code = (
        "import os, pathlib, sys\n"
        "from tod.config.cli import exit_status\n"
        "with exit_status():\n"
        f"    file = pathlib.Path({str(tmp_path)!r}, 'results.csv').open('w')\n"
        "    print('lost', flush=True)\n"
        "    print('lost', file=sys.stderr)\n"
        "    os.write(1, b'lost')\n"
        "    os.write(2, b'lost')\n"
        "    file.write('kept')\n"
    )
    assert run_closed(sys.executable, "-c", code) == 0
    assert (tmp_path / "results.csv").read_text() == "kept"


def test_a_run_leaves_the_loggers_as_it_found_them_also_when_refused(tmp_path):
    def state() -> list[tuple]:
        loggers = [logging.getLogger(name) for name in ("tod", "tod.progress")]
        return [([*log.handlers], log.level, log.propagate) for log in loggers]

    before = state()
    tiny_run(tmp_path, "main_TOD.py", "TOD", "TOD", "--quiet").start()
    assert state() == before
    other = tiny_run(tmp_path, "main_TOD.py", "TOD", "TOD", "--set=training.lr=0.05")
    assert "lr" in refused(other.start)
    assert state() == before


def test_a_log_that_cannot_be_opened_is_one_line_and_the_run_goes_on_later(tmp_path, whole):
    run = tiny_run(tmp_path)
    (run.folder / "log.txt").mkdir(parents=True)
    assert " cannot be written " in refused(run.start)
    (run.folder / "log.txt").rmdir()
    run.start()
    assert not differences(results(whole), results(run.folder))
