"""A run on pictures as people have them: names that are no text, broken files, transparency."""

import os
import re
import shutil
from pathlib import Path

import pandas as pd
import yaml
from PIL import Image

from tests.support.harness import run_script
from tests.support.picture_runs import ODD, SETTINGS, folder_of, write_pictures
from tests.support.pictures import disc, plain, write_classes
from tod.analysis.results import read_rows


def test_names_that_are_no_text_come_back_from_all_that_a_run_leaves(tmp_path):
    write_pictures(tmp_path / "data")
    arguments = [*SETTINGS, f"--data-dir={tmp_path / 'data'}", f"--output-dir={tmp_path}"]
    done = run_script("main_TOD.py", *arguments)
    assert done.returncode == 0, done.stderr
    folder = folder_of(tmp_path)
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert config["run"]["class_names"] == ["=ten", ODD]
    path = folder / "queries" / "trial1_cycle1.csv"
    query = pd.read_csv(path, encoding_errors="surrogateescape")
    assert len(query) == 8
    assert {*query["class"]} <= {"=ten", ODD}
    assert all((tmp_path / "data" / "train" / file).is_file() for file in query["file"])
    assert b"caf\xe9_" in path.read_bytes()
    assert run_script("main_TOD.py", *arguments).returncode == 0  # it is finished

    page = tmp_path / "report.html"
    assert run_script("report.py", folder, f"--output={page}").returncode == 0
    assert "caf\\uDCE9" in page.read_text(encoding="utf-8")


def test_a_log_names_files_so_that_their_bytes_come_back(tmp_path):
    write_pictures(tmp_path / "data", ("a", "b"))
    (tmp_path / "data" / "train" / "a" / f"{ODD}.txt").touch()
    arguments = [*SETTINGS, f"--data-dir={tmp_path / 'data'}", f"--output-dir={tmp_path}"]
    assert run_script("main_TOD.py", *arguments).returncode == 0
    log = (folder_of(tmp_path) / "log.txt").read_text(encoding="utf-8")
    (shown,) = re.findall(r": (\S+) is left out \(1 such in all\)", log)
    name = shown.encode().decode("unicode_escape")
    assert os.fsencode(name) == b"a/caf\xe9.txt"


def test_unreadable_images_are_refused_or_listed_in_the_run_folder(tmp_path):
    write_pictures(tmp_path / "data")
    for name in ("x.png", f"{ODD}.jpg"):
        (tmp_path / "data" / "train" / "=ten" / name).write_bytes(b"no image")
    arguments = [*SETTINGS, f"--data-dir={tmp_path / 'data'}", f"--output-dir={tmp_path}"]
    refused = run_script("main_TOD.py", *arguments)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1] == "2 problems in all"
    assert not folder_of(tmp_path).exists()
    done = run_script("main_TOD.py", *arguments, "--set=images.unreadable=skip")
    assert done.returncode == 0, done.stderr
    path = folder_of(tmp_path) / "unreadable.csv"
    listed = pd.read_csv(path, encoding_errors="surrogateescape")
    assert listed["file"].tolist() == [f"train/=ten/{ODD}.jpg", "train/=ten/x.png"]
    assert listed["reason"].str.contains("it is no picture of a known kind").all()


def test_icons_on_nothing_are_learnt(tmp_path):
    random = iter(plain(200, seed=3, side=1))
    for label, side in enumerate((16, 28)):  # a small disc and a large one, of hidden colours
        for number in range(30):
            hidden = next(random).getpixel((0, 0))
            icon = Image.new("RGBA", (32, 32), (*hidden, 0))
            spot = disc(side, hidden)
            icon.paste(spot, ((32 - side) // 2,) * 2)
            split = "train" if number < 24 else "test"
            write_classes(tmp_path / "data", {f"{split}/{label}/{number}.png": icon})
    done = run_script(
        "main_TOD.py",
        *SETTINGS,
        "--set=model.width=8",
        "--set=images.size=32",
        "--set=active_learning.initial_labels=24",
        "--set=training.epochs=15",
        f"--data-dir={tmp_path / 'data'}",
        f"--output-dir={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    rows = read_rows(folder_of(tmp_path) / "results.csv")
    assert float(rows["test_accuracy"].iloc[-1]) == 100


def test_a_tilde_is_the_users_own_folder_in_every_path(tmp_path):
    write_pictures(tmp_path / "data", ("a", "b"))
    text = (Path(__file__).parents[1] / "config" / "image_folder.yaml").read_text(encoding="utf-8")
    assert "data_dir: data " in text
    text = text.replace("data_dir: data ", "data_dir: ~/data ")
    (tmp_path / "image_folder.yaml").write_text(text, encoding="utf-8")
    _, *settings = SETTINGS
    arguments = ["--config=~/image_folder.yaml", *settings, "--output-dir=~/results"]
    done = run_script("main_TOD.py", *arguments, HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    folder = "~/results/image_folder_auxiliary_NONE_sampling_TOD_seed0"
    for script, output in (("plot.py", "curves.png"), ("report.py", "report.html")):
        done = run_script(script, folder, f"--output=~/{output}", HOME=str(tmp_path))
        assert done.returncode == 0, done.stderr
        assert (tmp_path / output).exists()
    elsewhere = tmp_path / "elsewhere"
    shutil.move(tmp_path / "data", elsewhere / "data")
    arguments = ["--config=image_folder", *settings, "--output-dir=~/more"]
    done = run_script("main_TOD.py", *arguments, "--data-dir=~/data", HOME=str(elsewhere))
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "more").is_dir()


def test_runs_on_held_out_test_images_are_pooled_over_seeds(tmp_path):
    write_pictures(tmp_path / "data", ("a", "b"))
    shutil.rmtree(tmp_path / "data" / "test")
    arguments = [
        *SETTINGS,
        "--set=images.test_share=0.3",
        f"--data-dir={tmp_path / 'data'}",
        f"--output-dir={tmp_path}",
    ]
    for seed in (0, 1):
        done = run_script("main_TOD.py", *arguments, f"--seed={seed}")
        assert done.returncode == 0, done.stderr
    runs = [folder_of(tmp_path).with_name(folder_of(tmp_path).name[:-1] + str(s)) for s in (0, 1)]
    shown = run_script("plot.py", *runs, f"--output={tmp_path / 'curves.png'}")
    assert "seeds 0, 1" in shown.stdout
