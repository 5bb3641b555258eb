"""What the tests of figures, tables and reports share."""

import pytest

import main_TOD
from tests.support.harness import tiny_run, write_run
from tod import cli


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder of a run of two cycles, with predictions; nobody changes it."""
    further = ("main_TOD.py", "TOD", "TOD", "--keep-predictions")
    run = tiny_run(tmp_path_factory.mktemp("finished"), *further)
    run.start(main_TOD.SAMPLING["TOD"], main_TOD.AUXILIARY["TOD"])
    return run.folder


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
