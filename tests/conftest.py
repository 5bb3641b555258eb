"""Options of the test run."""

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
