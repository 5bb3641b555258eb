"""A run on pictures as people have them: names that are no text, broken files, a user's folder."""

import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

import main_TOD
import plot
from tests.support.harness import run_script
from tests.support.loading import refused
from tests.support.picture_runs import ODD, SETTINGS, folder_of, write_pictures
from tod.analysis import records
from tod.config import PROJECT_DIR, entry_script


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> None:
    """The user's own folder is the test's; nothing is drawn as a run goes on."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(records, "_write_picture", lambda *_: None)


def test_names_that_are_no_text_come_back_from_all_that_a_run_leaves_in_a_users_folder(tmp_path):
    write_pictures(tmp_path / "data")
    (tmp_path / "data" / "train" / "=ten" / f"{ODD}.txt").touch()
    text = (PROJECT_DIR / "config" / "image_folder.yaml").read_text(encoding="utf-8")
    assert "data_dir: data " in text
    text = text.replace("data_dir: data ", "data_dir: ~/data ")
    (tmp_path / "image_folder.yaml").write_text(text, encoding="utf-8")
    arguments = ["--config=~/image_folder.yaml", *SETTINGS[1:], "--output-dir=~/results"]
    main_TOD.main(arguments)

    folder = folder_of(tmp_path / "results")
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert config["run"]["class_names"] == ["=ten", ODD]
    path = folder / "queries" / "trial1_cycle1.csv"
    query = pd.read_csv(path, encoding_errors="surrogateescape")
    assert len(query) == 8
    assert {*query["class"]} <= {"=ten", ODD}
    assert all((tmp_path / "data" / "train" / file).is_file() for file in query["file"])
    assert b"caf\xe9_" in path.read_bytes()
    log = (folder / "log.txt").read_text(encoding="utf-8")
    (escaped,) = re.findall(r": (\S+) is left out \(1 such in all\)", log)
    assert os.fsencode(escaped.encode().decode("unicode_escape")) == b"=ten/caf\xe9.txt"

    shown = [f"~/results/{folder.name}", "--output=~/report.html"]
    for script, argv in (("main_TOD.py", arguments), ("report.py", shown)):  # it is finished
        done = run_script(script, *argv)
        assert done.returncode == 0, done.stderr
    plot.main([shown[0], "--output=~/curves.png"])
    assert (tmp_path / "curves.png").exists()
    assert "caf\\uDCE9" in (tmp_path / "report.html").read_text(encoding="utf-8")
    named = entry_script.parse(main_TOD.SCRIPT, [*SETTINGS, "--data-dir=~/elsewhere"])
    assert Path(named.identity.config.data_dir) == tmp_path / "elsewhere"


def test_unreadable_images_are_refused_or_listed_in_the_run_folder(tmp_path):
    write_pictures(tmp_path / "data")
    for name in ("x.png", f"{ODD}.jpg"):
        (tmp_path / "data" / "train" / "=ten" / name).write_bytes(b"no image")
    arguments = [*SETTINGS, f"--data-dir={tmp_path / 'data'}", f"--output-dir={tmp_path}"]
    assert refused(main_TOD.main, arguments, lines=0).splitlines()[-1] == "2 problems in all"
    assert not folder_of(tmp_path).exists()
    main_TOD.main([*arguments, "--set=images.unreadable=skip"])
    path = folder_of(tmp_path) / "unreadable.csv"
    listed = pd.read_csv(path, encoding_errors="surrogateescape")
    assert listed["file"].tolist() == [f"train/=ten/{ODD}.jpg", "train/=ten/x.png"]
    assert listed["reason"].str.contains("it is no picture of a known kind").all()


def test_runs_on_held_out_test_images_are_pooled_over_seeds(tmp_path, capsys):
    write_pictures(tmp_path / "data", ("a", "b"))
    shutil.rmtree(tmp_path / "data" / "test")
    places = [f"--data-dir={tmp_path / 'data'}", f"--output-dir={tmp_path / 'results'}"]
    one_cycle = ["--set=images.test_share=0.3", "--set=active_learning.cycles=1"]
    for seed in (0, 1):
        main_TOD.main([*SETTINGS, *one_cycle, *places, f"--seed={seed}"])
    runs = sorted((tmp_path / "results").iterdir())
    plot.main([*map(str, runs), f"--output={tmp_path / 'curves.png'}"])
    assert "seeds 0, 1" in capsys.readouterr().out
