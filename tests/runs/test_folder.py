"""The run's folder: what is shown of it, refused, overwritten, and never lost."""

import resource
import shutil
from pathlib import Path

import pytest

from losses import CODLoss
from samplers import query_by_tod
from tests.support.faults import failing
from tests.support.formats import write_image_folder
from tests.support.harness import TINY_DIGITS, run_script, tiny_run
from tests.support.processes import go_on, run_limited
from tests.support.soak import RUN, differences, results, run_folder
from tod.config import InputError


def test_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(tmp_path, finished):
    # No room for a state.
    full = run_limited(resource.RLIMIT_FSIZE, 100_000, *RUN, f"--output-dir={tmp_path}")
    assert full.returncode == 2
    assert len(full.stderr.strip().splitlines()) == 1
    assert "cannot be written (File too large)" in full.stderr
    folder = run_folder("main_TOD.py", tmp_path)
    assert not list(folder.rglob("*.partial"))
    assert go_on(tmp_path).returncode == 0
    assert not differences(results(finished), results(folder))


def test_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", Path("/proc/nowhere")):
        refused = go_on(place)
        assert refused.returncode == 2
        assert len(refused.stderr.strip().splitlines()) == 1
        assert "cannot be written" in refused.stderr
        assert "--output-dir" in refused.stderr


def test_finished_run_says_so_and_shows_its_table(finished):
    before = {path: path.read_bytes() for path in finished.rglob("*.*") if path.is_file()}
    again = go_on(finished.parent)
    assert again.returncode == 0
    assert "is finished" in again.stdout
    assert "± " in again.stdout
    assert before == {path: path.read_bytes() for path in finished.rglob("*.*") if path.is_file()}


def test_folder_of_another_configuration_is_refused_naming_the_value(finished):
    other = go_on(finished.parent, "--set=training.momentum=0.5")
    assert other.returncode == 2
    assert "training.momentum (0.9 there, 0.5 here)" in other.stderr


def test_nothing_but_results_is_left_of_a_finished_run(finished):
    assert not list((finished / "progress").iterdir())
    assert not list(finished.rglob("*.partial"))


def test_overwrite_starts_afresh(tmp_path):
    run = [*TINY_DIGITS, f"--output-dir={tmp_path}"]
    assert run_script("main_TOD.py", *run).returncode == 0
    folder = run_folder("main_TOD.py", tmp_path)
    before = results(folder)
    (folder / "notes.txt").write_text("the user's own")
    again = run_script("main_TOD.py", *run, "--overwrite", "--set=training.momentum=0.5")
    assert again.returncode == 0
    assert differences(before, results(folder))
    assert (folder / "notes.txt").exists()


def test_overwriting_that_was_killed_halfway_is_not_taken_for_another_run(tmp_path, finished):
    folder = run_folder("main_TOD.py", tmp_path)
    shutil.copytree(finished, folder)
    (folder / "config.yaml").unlink()
    refused = go_on(tmp_path)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert f"{folder / 'config.yaml'}: cannot be read (" in refused.stderr
    assert "start the run afresh with --overwrite" in refused.stderr


def test_overwriting_some_trials_never_removes_the_others(tmp_path):
    run = [*TINY_DIGITS, f"--output-dir={tmp_path}", "--set=active_learning.trials=2"]
    rows = run_folder("main_TOD.py", tmp_path) / "results.csv"
    said = []
    for arguments in (
        ["--trials=1"],
        ["--trials=1"],
        ["--trials=1", "--overwrite"],
        ["--trials=2"],
    ):
        done = run_script("main_TOD.py", *run, *arguments)
        assert done.returncode == 0
        said.append("the trials of --trials are finished, others are not" in done.stdout)
        assert "--overwrite starts it afresh" not in done.stdout
    assert said == [False, True, False, False]
    before = rows.read_bytes()
    refused = run_script("main_TOD.py", *run, "--trials=2", "--overwrite")
    assert refused.returncode == 2
    assert "--overwrite would remove its other trials too" in refused.stderr
    assert rows.read_bytes() == before
    rows.unlink()
    (rows.parent / "progress" / "trial1.pt").touch()  # a trial in its first cycle
    refused = run_script("main_TOD.py", *run, "--trials=2", "--overwrite")
    assert "--overwrite would remove its other trials too" in refused.stderr
    assert run_script("main_TOD.py", *run, "--overwrite").returncode == 0
    assert len(rows.read_text().splitlines()) == 1 + 2 * 2


def test_a_trial_is_the_same_alone_as_after_others(tmp_path, finished):
    assert go_on(tmp_path, "--trials=2").returncode == 0
    alone = results(run_folder("main_TOD.py", tmp_path))
    del alone["learning_curve.png"]  # of all trials that there are
    assert alone
    together = {name: value for name, value in results(finished).items() if name in alone}
    assert not differences(alone, together)
    assert go_on(tmp_path).returncode == 0
    assert not differences(results(finished), results(run_folder("main_TOD.py", tmp_path)))


IMAGE_FOLDER = [
    *TINY_DIGITS[1:],
    "--config=image_folder",
    "--set=images.size=16",
    "--set=active_learning.initial_labels=10",
    "--set=active_learning.query_size=2",
]


def test_run_whose_images_have_changed_is_refused(tmp_path):
    write_image_folder(tmp_path / "images")
    run = [
        *IMAGE_FOLDER,
        f"--data-dir={tmp_path / 'images'}",
        f"--output-dir={tmp_path / 'results'}",
        "--set=active_learning.trials=2",
    ]
    assert run_script("main_TOD.py", *run, "--trials=1").returncode == 0
    next((tmp_path / "images" / "train").rglob("*.png")).unlink()
    again = run_script("main_TOD.py", *run)
    assert again.returncode == 2
    assert "other images than are there now" in again.stderr


def test_a_finished_run_is_shown_for_its_own_images_alone(tmp_path):
    for name in ("images", "others"):
        write_image_folder(tmp_path / name)
    next((tmp_path / "others" / "train").rglob("*.png")).unlink()
    run = [*IMAGE_FOLDER, f"--output-dir={tmp_path / 'results'}"]
    answers = {}
    for place in ("images", "others", "nowhere"):
        answers[place] = run_script("main_TOD.py", *run, f"--data-dir={tmp_path / place}")
    (tmp_path / "images").rename(tmp_path / "moved")
    moved = run_script("main_TOD.py", *run, f"--data-dir={tmp_path / 'moved'}")
    assert [answer.returncode for answer in (*answers.values(), moved)] == [0, 2, 2, 0]
    assert "other images than are there now" in answers["others"].stderr
    assert "nowhere" in answers["nowhere"].stderr
    assert "is finished" in moved.stdout


def test_results_that_cannot_be_read_are_never_taken_for_none(tmp_path):
    both = "--set=active_learning.trials=2"
    first = tiny_run(tmp_path, "main_TOD.py", "TOD", "TOD", both, "--trials=1")
    first.start(query_by_tod, CODLoss)
    rows = (first.folder / "results.csv").read_bytes()
    second = tiny_run(tmp_path, "main_TOD.py", "TOD", "TOD", both, "--trials=2", "--overwrite")
    with failing("open for reading", tmp_path, at=1), pytest.raises(InputError, match="Input/out"):
        second.start(query_by_tod, CODLoss)
    assert (first.folder / "results.csv").read_bytes() == rows
