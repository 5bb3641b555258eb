"""Options of the test run, what it must not inherit, and scripts called in its own process."""

import importlib
import os
import signal
from collections.abc import Callable, Iterator
from subprocess import CompletedProcess

import pytest

from tod.config.cli import exit_status

# Read when PyTorch is imported, which nothing has done yet: other numbers of threads round
# differently, and two test processes of one thread are faster than one of two.
os.environ["OMP_NUM_THREADS"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills", type=int, default=3, help="how often the soak test kills each entry script"
    )
    parser.addoption(
        "--faults",
        type=int,
        default=3,
        help="at how many moments of a run each kind of file operation fails",
    )


@pytest.fixture
def closing_terminal() -> Iterator[None]:
    """A closed terminal counts, for processes begun here too, also where tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def call_script(capsys: pytest.CaptureFixture[str]) -> Callable[..., CompletedProcess]:
    """Calls a script in this process, as `run_script` runs it in one of its own."""

    def call(script: str, *arguments: object) -> CompletedProcess:
        module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
        capsys.readouterr()
        status = 0
        try:
            with exit_status():
                module.main([*map(str, arguments)])
        except SystemExit as left:
            status = left.code or 0
        return CompletedProcess([script, *arguments], status, *capsys.readouterr())

    return call


@pytest.fixture
def no_pictures() -> Iterator[None]:
    """Runs in this process write their pictures without drawing them."""
    from tests.support.harness import without_pictures

    with without_pictures():
        yield
