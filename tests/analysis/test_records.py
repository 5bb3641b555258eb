"""The pictures that a run draws as it goes on, none of which can stop it."""

import pytest
from PIL import Image

from tests.support.harness import write_run
from tod.analysis import figures, records
from tod.config import InputError

TWO_TRIALS = [[80, 90, 94], [82, 90, 98]]


def test_a_run_draws_its_learning_curve(tmp_path):
    folder = write_run(tmp_path, TWO_TRIALS)
    records.write_learning_curve(folder)
    with Image.open(folder / "learning_curve.png") as image:
        assert image.size == (840, 576)


def test_a_picture_that_cannot_be_drawn_stops_no_run(tmp_path, monkeypatch, caplog):
    def broken(curves):
        raise RuntimeError("no fonts")

    folder = write_run(tmp_path, TWO_TRIALS)
    monkeypatch.setattr(figures, "learning_curves", broken)
    records.write_learning_curve(folder)
    assert "learning_curve.png: cannot be drawn (no fonts)" in caplog.text
    assert not (folder / "learning_curve.png").exists()


def test_a_picture_that_cannot_be_written_is_reported_as_results_are(tmp_path):
    folder = write_run(tmp_path, TWO_TRIALS)
    (folder / "learning_curve.png").mkdir()
    with pytest.raises(InputError, match=r"learning_curve\.png: cannot be written \(Is a direc"):
        records.write_learning_curve(folder)
