"""The run's folder: what is shown of it, refused, overwritten, and never lost."""

import errno
import re
import resource
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import main_TOD
from tests.support.faults import failing
from tests.support.formats import write_image_folder
from tests.support.harness import TINY_DIGITS, tiny_run
from tests.support.loading import refused
from tests.support.processes import go_on, run_limited
from tests.support.soak import RUN, differences, refusal, results, run_folder
from tod.analysis.results import ACCURACY
from tod.runs.folder import RunFolder
from tod.system.files import write_atomically

pytestmark = pytest.mark.usefixtures("cheap_pictures")
TWO_TRIALS = "--set=active_learning.trials=2"
IMAGE_FOLDER = [
    *(*TINY_DIGITS[1:], TWO_TRIALS, "--config=image_folder", "--set=images.size=16"),
    *("--set=active_learning.initial_labels=10", "--set=active_learning.query_size=2"),
]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}


def test_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(tmp_path, finished):
    # No room for a state.
    full = run_limited(resource.RLIMIT_FSIZE, 100_000, *RUN, f"--output-dir={tmp_path}")
    assert (full.returncode, len(full.stderr.strip().splitlines())) == (2, 1)
    assert "cannot be written (File too large)" in full.stderr
    folder = run_folder("main_TOD.py", tmp_path)
    assert not list(folder.rglob("*.partial"))
    go_on(tmp_path)
    assert not differences(results(finished), results(folder))


def test_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", Path("/proc/nowhere")):
        line = refusal(place)
        assert "cannot be written" in line and "--output-dir" in line


def test_a_finished_run_shows_its_table_and_stays_as_it_is(finished, capsys):
    before = contents(finished)
    assert not list((finished / "progress").iterdir())
    assert not list(finished.rglob("*.partial"))
    main_TOD.main([*RUN, f"--output-dir={finished.parent}"])
    shown = capsys.readouterr().out
    assert "is finished" in shown and "± " in shown
    other = refusal(finished.parent, "--set=training.momentum=0.5")
    assert "training.momentum (0.9 there, 0.5 here)" in other
    assert before == contents(finished)


def test_overwrite_starts_afresh_and_leaves_what_is_not_the_run_s(tmp_path, whole):
    run = tiny_run(tmp_path, "main_TOD.py", "TOD", "TOD", "--overwrite", "--set=training.lr=0.05")
    shutil.copytree(whole, run.folder)
    (run.folder / "notes.txt").write_text("the user's own")
    run.start()
    assert differences(results(whole), results(run.folder))
    assert (run.folder / "notes.txt").exists()


def test_overwriting_that_was_killed_halfway_is_not_taken_for_another_run(tmp_path, finished):
    folder = run_folder("main_TOD.py", tmp_path)
    shutil.copytree(finished, folder)
    (folder / "config.yaml").unlink()
    line = refusal(tmp_path)
    assert f"{folder / 'config.yaml'}: cannot be read (" in line
    assert "start the run afresh with --overwrite" in line


def test_overwriting_some_trials_leaves_the_others_untouched(tmp_path, capsys):
    def start(*arguments: str) -> str:
        settings = (TWO_TRIALS, "--set=training.epochs=1", *arguments)
        tiny_run(tmp_path, "main_TOD.py", "TOD", "TOD", *settings).start()
        shown = capsys.readouterr().out
        assert "--overwrite starts it afresh" not in shown
        return shown

    finished = "the trials of --trials are finished, others are not"
    assert finished not in start("--trials=1")
    assert finished in start("--trials=1")
    assert finished not in start("--trials=1", "--overwrite", "--set=training.lr=0.2")
    folder = run_folder("main_TOD.py", tmp_path)
    first = contents(folder)
    another = refused(start, "--trials=2", "--overwrite")
    assert "holds a run with another training.lr" in another
    assert "leave out --trials to start all of them afresh" in another
    assert contents(folder) == first
    again = ("--trials=2", "--set=training.lr=0.2")
    recorded = (folder / "config.yaml").read_text()
    without = re.sub(r"^active_learning: (.*\n  )*.*\n", "", recorded, flags=re.MULTILINE)
    (folder / "config.yaml").write_text(without)
    assert "another active_learning.trials (None there, 2 here)" in refused(start, *again)
    (folder / "config.yaml").write_text(recorded)
    start(*again)
    for left in ("queries/trial2_cycle9.csv", "progress/trial2.pt"):
        (folder / left).touch()
    assert "Test acc" in start(*again, "--overwrite")
    found = contents(folder)
    assert all(found[path] == content for path, content in first.items() if "1" in path.name)
    assert not [path for path in found if path.name in ("trial2_cycle9.csv", "trial2.pt")]
    assert (folder / "results.csv").read_text().count("\n") == 1 + 2 * 2


def folders_of_two(tmp_path: Path) -> list[RunFolder]:
    """Those of two processes, which have a trial each."""
    run = tiny_run(tmp_path, "main_TOD.py", "TOD", "TOD", TWO_TRIALS)
    return [RunFolder(run.folder, run.identity, [trial], [1, 2]) for trial in (1, 2)]


def row(trial: int, cycle: int) -> dict[str, str]:
    return {"trial": str(trial), "cycle": str(cycle), "num_labeled": "40", ACCURACY: "9"}


def test_of_processes_that_end_together_one_is_the_last(tmp_path, monkeypatch):
    folders = folders_of_two(tmp_path)
    for folder, trial in zip(folders, (1, 2), strict=True):
        folder.write_row(row(trial, 1))

    def write_slowly(path: Path, *content: str) -> None:
        write_atomically(path, *content)
        if path.parent.name == "trials":
            time.sleep(0.3)

    monkeypatch.setattr("tod.runs.folder.write_atomically", write_slowly)
    with ThreadPoolExecutor(2) as processes:
        is_last = [*processes.map(RunFolder.write_row, folders, (row(1, 2), row(2, 2)))]
    assert sorted(is_last) == [False, True]


def test_without_locks_the_last_of_several_processes_leaves_the_rows_of_all(tmp_path, monkeypatch):
    first, second = folders_of_two(tmp_path)

    def no_lock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    def write_when_another_has(path: Path, content: str, mark: str = "") -> None:
        if path.name == "results.csv" and "2,1," not in content:
            assert not second.write_row(row(2, 1))
        write_atomically(path, content, mark)

    monkeypatch.setattr("tod.runs.folder.locked", no_lock)
    monkeypatch.setattr("tod.runs.folder.write_atomically", write_when_another_has)
    assert not first.write_row(row(1, 1))
    lines = (first.path / "results.csv").read_text().splitlines()
    assert [line[:4] for line in lines[1:]] == ["1,1,", "2,1,"]
    assert not first.write_row(row(1, 2)) and second.write_row(row(2, 2))


def test_a_run_is_shown_for_its_own_images_and_goes_on_with_these_alone(tmp_path, capsys):
    def start(images: str, *arguments: str) -> str:
        places = (f"--data-dir={tmp_path / images}", f"--output-dir={tmp_path / 'results'}")
        main_TOD.main([*IMAGE_FOLDER, *places, *arguments])
        return capsys.readouterr().out

    def lose_an_image(images: str) -> None:
        next((tmp_path / images / "train").rglob("*.png")).unlink()

    for images in ("images", "others"):
        write_image_folder(tmp_path / images)
    lose_an_image("others")
    start("images", "--trials=1")
    (tmp_path / "images").rename(tmp_path / "moved")
    assert "the trials of --trials are finished" in start("moved", "--trials=1")
    for images, line in (("others", "other images than are there now"), ("nowhere", "nowhere")):
        assert line in refused(start, images, "--trials=1")
    lose_an_image("moved")
    assert "other images than are there now" in refused(start, "moved")


def test_results_that_cannot_be_read_are_never_taken_for_none(tmp_path):
    first, second = (
        tiny_run(tmp_path, "main_TOD.py", "TOD", "TOD", TWO_TRIALS, *arguments)
        for arguments in (("--trials=1",), ("--trials=2", "--overwrite"))
    )
    first.start()
    rows = (first.folder / "results.csv").read_bytes()
    with failing("open for reading", tmp_path, at=1):
        assert "Input/out" in refused(second.start)
    assert (first.folder / "results.csv").read_bytes() == rows


@pytest.mark.parametrize("name", ["device", "ranks", "python", "torch"])
def test_a_run_that_goes_on_elsewhere_says_that_its_numbers_may_differ(tmp_path, capsys, name):
    run = tiny_run(tmp_path)
    run.stop_after(4)
    recorded = run.folder / "config.yaml"
    text = recorded.read_text(encoding="utf-8")
    (now,) = re.findall(rf"^  {name}: (.*)$", text, re.MULTILINE)
    recorded.write_text(text.replace(f"\n  {name}: {now}\n", f"\n  {name}: 7\n"), "utf-8")
    run.start()
    line = f"the run began with {name} 7 and goes on with {now.strip(chr(39))}: its numbers may"
    assert line in capsys.readouterr().out
