"""Options of the test run, and what it must not inherit."""

import signal
from collections.abc import Iterator

import pytest


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
