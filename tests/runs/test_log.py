"""What a run says: in log.txt also where nobody listens, and without a trace in the loggers."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from losses import CODLoss
from samplers import query_by_tod
from tests.support.harness import PROJECT_DIR, TINY_DIGITS, run_script, tiny_run
from tests.support.soak import differences, results, run_folder
from tod.config import InputError


def test_output_that_nobody_reads_does_not_stop_a_run(tmp_path):
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(
            [
                *(sys.executable, PROJECT_DIR / "main_TOD.py", *TINY_DIGITS),
                f"--output-dir={tmp_path}",
            ],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert process.returncode == 0, process.stderr
    assert "Test acc" in (run_folder("main_TOD.py", tmp_path) / "log.txt").read_text()


def test_a_run_leaves_the_loggers_as_it_found_them_also_when_refused(tmp_path):
    loggers = [logging.getLogger(name) for name in ("tod", "tod.progress")]
    before = [(log.handlers, log.level, log.propagate) for log in loggers]
    run = tiny_run(tmp_path, "main_TOD.py", "TOD", "TOD", "--quiet")
    run.start(query_by_tod, CODLoss)
    assert [(log.handlers, log.level, log.propagate) for log in loggers] == before
    other = tiny_run(tmp_path, "main_TOD.py", "TOD", "TOD", "--set=training.lr=0.05")
    with pytest.raises(InputError, match="lr"):
        other.start(query_by_tod, CODLoss)
    assert [(log.handlers, log.level, log.propagate) for log in loggers] == before


def test_a_log_that_cannot_be_opened_is_one_line_and_the_run_goes_on_later(tmp_path):
    whole, run = (tiny_run(tmp_path / name) for name in ("whole", "run"))
    whole.start(query_by_tod, CODLoss)
    (run.folder / "log.txt").mkdir(parents=True)
    refused = run_script("main_TOD.py", *TINY_DIGITS, f"--output-dir={tmp_path / 'run'}")
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert "cannot be written" in refused.stderr
    (run.folder / "log.txt").rmdir()
    run.start(query_by_tod, CODLoss)
    assert not differences(results(whole.folder), results(run.folder))
