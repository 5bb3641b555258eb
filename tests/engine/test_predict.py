"""predict.py: a run's network on other images."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import main_TOD
from tests.support.harness import run_script, run_tod_alone, without_pictures
from tests.support.picture_runs import ODD, SETTINGS, folder_of, write_pictures
from tests.support.pictures import photographs, write_classes
from tod.analysis.results import read_rows
from tod.config import load
from tod.data import extraction
from tod.data import load as load_dataset


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A folder of pictures, with a run on them in it."""
    root = tmp_path_factory.mktemp("run")
    write_pictures(root / "data", ("a", "=ten", "c,d"))
    arguments = [*SETTINGS, f"--data-dir={root / 'data'}", f"--output-dir={root}"]
    with without_pictures():
        main_TOD.main(arguments)
    return root


@pytest.fixture
def predict(tmp_path, call_script) -> Callable[..., pd.DataFrame]:
    """Calls predict.py, and reads its table."""

    def call(*arguments: object) -> pd.DataFrame:
        output = tmp_path / "predictions.csv"
        done = call_script("predict.py", *arguments, f"--output={output}")
        assert done.returncode == 0, done.stderr
        return pd.read_csv(output)

    return call


def test_the_last_cycles_accuracy_is_that_of_the_predictions(run, predict):
    (folder_of(run) / "weights" / "trial1_cycle9_best.pth").touch()  # the user's own
    table = predict(folder_of(run), run / "data" / "test")
    assert list(table.columns) == ["file", "class", "probability"]
    assert table["file"].tolist() == sorted(
        str(path.relative_to(run / "data" / "test")) for path in run.glob("data/test/*/*.png")
    )
    accuracy = 100 * (table["file"].map(os.path.dirname) == table["class"]).mean()
    recorded = float(read_rows(folder_of(run) / "results.csv")["test_accuracy"].iloc[-1])
    assert accuracy == pytest.approx(recorded, abs=1e-3)
    assert table["probability"].between(1 / 3, 1).all()


def test_a_simulated_run_classifies_files_too(tmp_path, predict, no_pictures):
    folder = run_tod_alone(tmp_path)
    test = load_dataset(load("digits"), 0).test
    images = [Image.fromarray(test.image(index).transpose(1, 2, 0)) for index in range(60)]
    write_classes(tmp_path / "images", {f"{i // 30}/{i}.png": x for i, x in enumerate(images)})
    table = predict(folder, tmp_path / "images")
    assert len(table) == 60
    assert set(table["class"]) <= set(range(10))
    earlier = folder / "weights" / "trial1_cycle1.pth"
    other = predict(folder, tmp_path / "images", f"--weights={earlier}")
    assert other["file"].equals(table["file"])
    assert not other["probability"].equals(table["probability"])


def test_every_image_at_any_depth_has_its_line_and_what_cannot_be_read_is_told(run, tmp_path):
    image = Image.fromarray(np.zeros((9, 9, 3), dtype=np.uint8))
    names = [f"{ODD}.png", "a/b/c.PNG", 'a/=b, "c".png', "new\nline.png", "return\r.png"]
    write_classes(tmp_path / "pool", dict.fromkeys(names, image))
    write_classes(tmp_path / "pool", {"broken.jpg": b"x", "notes.txt": b"x", ".hidden/a.png": b"x"})
    output = tmp_path / "predictions.csv"
    done = run_script("predict.py", folder_of(run), tmp_path / "pool", f"--output={output}")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(output, encoding_errors="surrogateescape")
    assert table["file"].tolist() == sorted(names)
    assert "broken.jpg: cannot be read (it is no picture" in done.stderr
    assert "notes.txt is left out (1 such in all)" in done.stderr


FEATURES = ("--set=model.name=linear", "--set=model.extractor_size=32")


def test_a_run_on_features_computes_those_of_pictures_that_it_has_not_seen(
    tmp_path, predict, no_pictures, monkeypatch, caplog
):
    computed, made_of = [], extraction.made_of

    def noted(path: Path, make: Callable) -> object:
        computed.append(path.name)
        return made_of(path, make)

    monkeypatch.setattr(extraction, "made_of", noted)
    data = tmp_path / "data"
    write_pictures(data, ("a", "b"))
    main_TOD.main([*SETTINGS, *FEATURES, f"--data-dir={data}", f"--output-dir={tmp_path}"])
    assert len(computed) == 30
    computed.clear()
    (folder,) = tmp_path.glob("image_folder_*")
    own = predict(folder, data / "test")
    accuracy = 100 * (own["file"].map(os.path.dirname) == own["class"]).mean()
    recorded = float(read_rows(folder / "results.csv")["test_accuracy"].iloc[-1])
    assert accuracy == pytest.approx(recorded, abs=1e-3)
    assert computed == []
    pool = {f"new/{n}.png": image for n, image in enumerate(photographs(3))}
    write_classes(tmp_path, {**pool, "new/1 broken.png": b"x"})
    shutil.copy(data / "test" / own["file"][0], tmp_path / "new" / "0 known.png")
    tables = [predict(folder, tmp_path / "new") for _ in range(2)]
    assert sorted(computed) == ["0.png", *["1 broken.png"] * 2, "1.png", "2.png"]
    assert "1 broken.png: cannot be read (it is no picture of a known kind)" in caplog.text
    assert tables[0].equals(tables[1])
    assert tables[0]["file"].tolist() == ["0 known.png", "0.png", "1.png", "2.png"]
    assert tables[0].iloc[0, 1:].tolist() == own.iloc[0, 1:].tolist()
    # Each picture has its own features, whatever is looked at with it.
    (tmp_path / "alone").mkdir()
    shutil.copy(tmp_path / "new" / "1.png", tmp_path / "alone")
    assert predict(folder, tmp_path / "alone").equals(tables[0][2:3].reset_index(drop=True))


def test_a_run_on_the_rows_of_a_file_can_tell_nothing_of_pictures(
    run, tmp_path, call_script, no_pictures
):
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(1797, 4)))
    rows = f"--features={tmp_path / 'rows.npy'}"
    folder = run_tod_alone(tmp_path, *FEATURES, "--set=model.extractor=null", rows)
    output = tmp_path / "predictions.csv"
    done = call_script("predict.py", folder, run / "data", f"--output={output}")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "was trained on the rows of a file" in done.stderr
    assert not output.exists()


def test_what_cannot_be_predicted_is_one_line(run, tmp_path, call_script):
    folder, images = folder_of(run), run / "data"
    empty, bare = tmp_path / "empty", tmp_path / folder.name
    empty.mkdir()
    bare.mkdir()
    shutil.copy(folder / "config.yaml", bare)
    (tmp_path / "weights.pth").write_bytes(b"no weights")
    output = f"--output={tmp_path / 'predictions.csv'}"
    for arguments, words in (
        ((empty, images), "name the folder of a run that has ended a cycle"),
        ((bare, images), "has no weights; name the folder of a run"),
        ((folder, images, f"--weights={tmp_path / 'weights.pth'}"), "is no network of this run"),
        ((folder, empty), "holds no image file"),
        ((folder, tmp_path / "nowhere"), "is no folder; name the one in which the images lie"),
    ):
        done = call_script("predict.py", *arguments, output)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), words
        assert words in done.stderr
    assert not (tmp_path / "predictions.csv").exists()


def test_predictions_that_cannot_be_written_are_refused_before_the_network_is_asked(
    tmp_path, call_script
):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.csv").mkdir()
    folder, below_a_file = tmp_path / "folder.csv", tmp_path / "file" / "a.csv"
    for output, why in ((folder, "Is a directory"), (below_a_file, "")):
        done = call_script("predict.py", "no_run", "no_images", f"--output={output}")
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert f"{output}: cannot be written ({why}" in done.stderr
