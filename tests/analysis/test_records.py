"""The pictures that a run draws as it goes on, none of which can stop it."""

from unittest.mock import Mock

from PIL import Image

from tests.analysis.conftest import TWO_TRIALS
from tests.support.harness import tiny_run, write_run
from tod.analysis import figures, records
from tod.analysis.results import read_rows


def test_a_run_draws_its_learning_curve_and_goes_on_where_it_cannot(tmp_path, monkeypatch, caplog):
    folder = write_run(tmp_path, TWO_TRIALS)
    records.write_learning_curve(folder)
    with Image.open(folder / "learning_curve.png") as image:
        assert image.size == (840, 576)
    (folder / "learning_curve.png").unlink()
    monkeypatch.setattr(figures, "learning_curves", Mock(side_effect=RuntimeError("no fonts")))
    records.write_learning_curve(folder)
    assert "learning_curve.png: cannot be drawn (no fonts)" in caplog.text
    assert not (folder / "learning_curve.png").exists()


def test_a_picture_that_cannot_be_written_stops_no_run(tmp_path, capsys):
    pictures = ("learning_curve.png", "queries/trial1_cycle1.png")
    run = tiny_run(tmp_path)
    for name in pictures:
        (run.folder / name / "in the way").mkdir(parents=True)
    run.start()
    said = capsys.readouterr().out
    for name in pictures:
        assert f"{name}: cannot be written (Is a directory); the run goes on without it" in said
    assert len(read_rows(run.folder / "results.csv")) == 2
    assert not list(run.folder.rglob("*.partial"))
