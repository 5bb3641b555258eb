"""What the tests of the datasets share."""

import logging

import pytest


@pytest.fixture
def warnings(caplog) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, "tod")
    return caplog
