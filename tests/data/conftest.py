"""What the tests of the datasets share."""

import logging
from pathlib import Path

import pytest

from tests.support.decoding import Decoded
from tests.support.formats import write_small_folder
from tests.support.pictures import plain, write_classes
from tod.data import picture


@pytest.fixture
def warnings(caplog) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, "tod")
    return caplog


@pytest.fixture
def root(tmp_path) -> Path:
    """Three classes of four training images and a test image each."""
    write_small_folder(tmp_path)
    return tmp_path


@pytest.fixture
def folder(tmp_path) -> Path:
    """Six pictures of different sizes."""
    images = enumerate(plain(6))
    write_classes(tmp_path, {f"{n}.png": image.crop((0, 0, 14, 10 + n)) for n, image in images})
    return tmp_path


@pytest.fixture
def decoded(monkeypatch) -> Decoded:
    noted = Decoded()
    monkeypatch.setattr(picture, "decode", noted)
    return noted
