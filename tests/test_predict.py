"""predict.py: a run's network on other images."""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.support.harness import TINY_DIGITS, run_script
from tests.support.picture_runs import ODD, SETTINGS, folder_of, write_pictures
from tests.support.pictures import write_classes
from tod.analysis.results import read_rows
from tod.config import load
from tod.data import load as load_dataset


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A folder of pictures, with a run on them in it."""
    root = tmp_path_factory.mktemp("run")
    write_pictures(root / "data", ("a", "=ten", "c,d"))
    done = run_script(
        "main_TOD.py", *SETTINGS, f"--data-dir={root / 'data'}", f"--output-dir={root}"
    )
    assert done.returncode == 0, done.stderr
    return root


def predicted(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, encoding_errors="surrogateescape")


def test_the_last_cycles_accuracy_is_that_of_the_predictions(run, tmp_path):
    output = tmp_path / "predictions.csv"
    (folder_of(run) / "weights" / "trial1_cycle9_best.pth").touch()  # the user's own
    done = run_script("predict.py", folder_of(run), run / "data" / "test", f"--output={output}")
    assert done.returncode == 0, done.stderr
    table = predicted(output)
    assert list(table.columns) == ["file", "class", "probability"]
    assert table["file"].tolist() == sorted(
        str(path.relative_to(run / "data" / "test")) for path in run.glob("data/test/*/*.png")
    )
    accuracy = 100 * (table["file"].map(os.path.dirname) == table["class"]).mean()
    recorded = float(read_rows(folder_of(run) / "results.csv")["test_accuracy"].iloc[-1])
    assert accuracy == pytest.approx(recorded, abs=1e-3)
    assert table["probability"].between(1 / 3, 1).all()


def test_a_simulated_run_classifies_files_too(tmp_path):
    done = run_script("main_TOD.py", *TINY_DIGITS, "--auxiliary=NONE", f"--output-dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    test = load_dataset(load("digits"), 0).test
    for index in range(60):
        image = Image.fromarray(test.image(index).transpose(1, 2, 0))
        write_classes(
            tmp_path, {f"images/{index // 30}/{int(test.labels[index])}_{index}.png": image}
        )
    run_folder = next(tmp_path.glob("digits_*"))
    arguments = [run_folder, tmp_path / "images", f"--output={tmp_path / 'a.csv'}"]
    done = run_script("predict.py", *arguments)
    assert done.returncode == 0, done.stderr
    table = predicted(tmp_path / "a.csv")
    assert len(table) == 60
    assert set(table["class"]) <= set(range(10))
    earlier = run_folder / "weights" / "trial1_cycle1.pth"
    done = run_script("predict.py", *arguments, f"--weights={earlier}")
    assert done.returncode == 0, done.stderr
    other = predicted(tmp_path / "a.csv")
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
    assert predicted(output)["file"].tolist() == sorted(names)
    assert "broken.jpg: cannot be read (it is no picture" in done.stderr
    assert "notes.txt is left out (1 such in all)" in done.stderr


@pytest.mark.parametrize(
    "wrong", ["no run", "no weights", "other weights", "no images", "no folder"]
)
def test_what_cannot_be_predicted_is_one_line(run, tmp_path, wrong):
    folder, images, more = folder_of(run), run / "data", []
    if wrong == "no run":
        folder = tmp_path
        words = "name the folder of a run that has ended a cycle"
    elif wrong == "no weights":
        folder = tmp_path / folder.name
        folder.mkdir()
        shutil.copy(folder_of(run) / "config.yaml", folder)
        words = "holds no weights; name the folder of a run"
    elif wrong == "other weights":
        (tmp_path / "weights.pth").write_bytes(b"no weights")
        more = [f"--weights={tmp_path / 'weights.pth'}"]
        words = "is no network of this run"
    elif wrong == "no images":
        images = tmp_path
        words = "holds no image file"
    else:
        images = tmp_path / "nowhere"
        words = "is no folder; name the one in which the images lie"
    done = run_script("predict.py", folder, images, *more, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr
    assert not (tmp_path / "predictions.csv").exists()
