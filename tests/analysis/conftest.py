"""What the tests of figures, tables and reports share."""

import re
from pathlib import Path

import pytest

from tests.support.harness import tiny_run, write_run
from tod.analysis.results import read_runs
from tod.config import cli

TWO_TRIALS = [[80, 90, 94], [82, 90, 98]]


def write_full_run(output_dir: Path, *accuracies: float, **run: object) -> Path:
    """Writes the run that labels everything at once, of a trial for each accuracy."""
    values = [[accuracy] for accuracy in accuracies or (98,)]
    folder = write_run(output_dir, values, sampling="FULL", cycles=1, **run)
    text = (folder / "config.yaml").read_text()
    text = re.sub("initial_labels: .*", "initial_labels: null", text)
    (folder / "config.yaml").write_text(text)
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder of a run of two cycles, with predictions; nobody changes it."""
    further = ("main_TOD.py", "TOD", "TOD", "--keep-predictions")
    run = tiny_run(tmp_path_factory.mktemp("finished"), *further)
    run.start()
    return run.folder


@pytest.fixture
def curves_of(tmp_path):
    """The curves of runs, each of two trials but for what is said of it to `write_run`."""
    return lambda *runs: read_runs(
        [write_run(tmp_path, **{"accuracies": TWO_TRIALS, **run}) for run in runs]
    )


@pytest.fixture
def pair(tmp_path):
    """A reference of three trials, and a run that lies 1, 2 and 3 points above it at 150 labels."""
    random = write_run(tmp_path, [[80, 88, 90], [81, 87, 92], [79, 86, 91]], sampling="RANDOM")
    tod = write_run(tmp_path, [[80, 89, 93], [81, 89, 94], [79, 89, 95]])
    return [random, tod]


@pytest.fixture
def refusal(capsys):
    """The one line with which a script refuses a command line; it prints nothing else."""

    def refused(main, *arguments):
        with pytest.raises(SystemExit) as ended, cli.exit_status():
            main([*map(str, arguments)])
        shown = capsys.readouterr()
        assert (ended.value.code, shown.out) == (2, "")
        assert shown.err.count("\n") == 1
        return shown.err

    return refused
