"""The paper's comparison, run and written down."""

import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from experiments import reproduce
from experiments.reproduce import paper_rows, replace_section
from tests.support.forks import Process, one_thread
from tests.support.harness import PROJECT_DIR, TINY_DIGITS, run_script, write_run
from tod.analysis.results import read_runs

ENVIRONMENT = {"device": "a device", "precision": "fp32", "python": "3", "torch": "2"}
RUNS = Path("results", "reproduce")
RESULTS = RUNS / "results.md"
REST = ["--", *[argument for argument in TINY_DIGITS if not argument.startswith("--config")]]


def test_the_five_experiments_and_what_is_written_about_them(tmp_path):
    (tmp_path / RUNS).mkdir(parents=True)
    (tmp_path / RESULTS).write_text("# Results\n\nA reading.\n", encoding="utf-8")
    command = ["experiments/reproduce.py", "--config=digits", "--seed", "3", *REST]
    first = run_script(*command, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert len([path for path in (tmp_path / RUNS).iterdir() if path.is_dir()]) == 5
    text = (tmp_path / RESULTS).read_text(encoding="utf-8")
    assert text.startswith("# Results\n\nA reading.\n")
    assert "`python experiments/reproduce.py --config=digits --seed 3 -- --device=" in text
    assert "test accuracy over 1 seed (3), 1 trial in all. Differences: trial by trial" in text
    with_losses = ("TOD sampling + COD loss", "LL4AL sampling + LL4AL loss")
    for name in ("RANDOM sampling", "TOD sampling", *with_losses, "FULL sampling"):
        assert f"| digits, {name}, seed 3 |" in text
    assert "(paper)" not in text  # the paper has no digits
    assert "](results_digits.png)" in text
    with Image.open(tmp_path / RUNS / "results_digits.png") as picture:
        picture.load()

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / RUNS).glob("*/results.csv")}
    again = run_script(*command, cwd=tmp_path)
    assert again.stderr.count("has ended") == 5
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert (tmp_path / RESULTS).read_text(encoding="utf-8") == text


def test_the_papers_values_stand_at_the_same_shares(tmp_path):
    folder = write_run(tmp_path, [[80, 85, 90]], config="cifar10", training_images=1000)
    (row,) = paper_rows(read_runs([folder]), "cifar10", ["", "100", "150", "200", "area"])
    assert row[0] == "TOD sampling (paper)"
    assert row[1:] == ["79.5", "86.7", "89.4", "–"]
    full = write_run(tmp_path, [[95]], config="cifar10", sampling="FULL", training_images=100)
    (row,) = paper_rows(read_runs([full]), "cifar10", ["", "100", "area"])
    assert row == ["full training (paper)", "93.1", "–"]
    other = write_run(tmp_path / "other", [[80, 85, 90]], config="cifar10", training_images=1437)
    (row,) = paper_rows(read_runs([other]), "cifar10", ["", "100", "150", "200", "area"])
    assert row[1:] == ["–"] * 4


def test_the_papers_values_of_caltech101_stand_at_its_own_shares(tmp_path):
    folder = write_run(tmp_path, [[80, 85, 90]], config="caltech101", training_images=895)
    (row,) = paper_rows(read_runs([folder]), "caltech101", ["", *"123", "area"])
    assert "–" not in row[1:4]
    full = write_run(tmp_path, [[91]], config="caltech101", sampling="FULL", cycles=1)
    path = full / "config.yaml"
    path.write_text(path.read_text().replace("initial_labels: 868", "initial_labels: null"))
    (row,) = paper_rows(read_runs([full]), "caltech101", ["", "100", "area"])
    assert row == ["full training (paper)", "91.3", "–"]


def test_runs_of_another_command_are_not_published(tmp_path, refusal):
    command = ["experiments/reproduce.py", "--config=digits", "--seed=0", *REST]
    assert run_script(*command, cwd=tmp_path).returncode == 0
    text = (tmp_path / RESULTS).read_text(encoding="utf-8")
    line = refusal(reproduce, *command[1:], "--set=training.momentum=0.5")  # nothing has run
    assert "holds a run with another training.momentum" in line
    assert (tmp_path / RESULTS).read_text(encoding="utf-8") == text


def test_what_there_is_can_be_written_down_without_running_anything(tmp_path, refusal):
    nothing = ["experiments/reproduce.py", "--seed", "0", "1", "--only=none"]
    assert "holds none of the runs yet; leave out --only" in refusal(reproduce, *nothing[1:])
    for sampling in ("RANDOM", "TOD"):
        write_run(tmp_path / RUNS, [[80, 85, 90]], sampling=sampling, **ENVIRONMENT)
    done = run_script(*nothing, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / RESULTS).read_text(encoding="utf-8")
    assert "| digits, TOD sampling, seed 0 | 80.00 (1) | 85.00 (1) |" in text
    assert "a device, fp32, Python 3, PyTorch 2." in text
    assert len([path for path in (tmp_path / RUNS).iterdir() if path.is_dir()]) == 2


def test_what_has_not_ended_is_not_published(tmp_path):
    process = Process(
        [sys.executable, PROJECT_DIR / "experiments" / "reproduce.py", "--config=digits", *REST],
        cwd=tmp_path,
        env=one_thread(),
        stderr=subprocess.PIPE,
        text=True,
    )
    random = tmp_path / "results" / "reproduce" / "digits_auxiliary_NONE_sampling_RANDOM_seed0"
    while not (random / "results.csv").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    _, errors = process.communicate()
    assert process.returncode == 143
    assert f"{RESULTS}: is left as it was" in errors
    assert not (tmp_path / RESULTS).exists()


def test_the_published_section_is_what_the_committed_runs_say(tmp_path):
    for name in ("docs/results.md", "docs/results"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
    published = (PROJECT_DIR / "docs" / "results.md").read_text(encoding="utf-8")
    shutil.copy(PROJECT_DIR / "docs" / "results.md", tmp_path / "docs")
    shutil.copytree(PROJECT_DIR / "docs" / "results", tmp_path / "docs" / "results")
    pattern = r"^`python (experiments/reproduce.py .*--output-dir docs/results/.*)`$"
    (command,) = re.findall(pattern, published, re.MULTILINE)
    done = run_script(*shlex.split(command), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "docs" / "results.md").read_text(encoding="utf-8") == published


def test_what_was_written_into_the_file_during_the_runs_stays(tmp_path, monkeypatch):
    output = tmp_path / "results.md"
    write_run(tmp_path, [[80, 85, 90]], **ENVIRONMENT)

    def run(*arguments: object) -> dict:
        output.write_text("A reading.\n", encoding="utf-8")
        return {}

    monkeypatch.setattr(reproduce, "run_all", run)
    reproduce.main(["--seed=0", f"--output-dir={tmp_path}"])
    assert output.read_text(encoding="utf-8").startswith("A reading.\n\n<!-- digits: written")


def test_a_section_replaces_itself_alone():
    text = replace_section("# Results\n", "a", "one")
    text = replace_section(text, "b", "two")
    text = replace_section(text + "A reading.\n", "a", "three")
    assert "one" not in text
    assert text.index("three") < text.index("two") < text.index("A reading.")


def test_a_section_that_the_script_wrote_from_its_former_place_is_replaced_too():
    text = replace_section("# Results\n", "a", "one") + "A reading.\n"
    former = text.replace("experiments/", "benchmarks/")
    assert former != text
    assert replace_section(former, "a", "two") == text.replace("one", "two")
    other = "<!-- b: written by benchmarks/reproduce.py -->\nthree\n<!-- end of b -->\n"
    assert other in replace_section(former + other, "a", "two")


def test_a_section_without_its_end_is_refused_before_the_work(tmp_path, refusal):
    text = replace_section("", "digits", "one").replace("<!-- end of digits -->", "") + "A reading."
    (tmp_path / RUNS).mkdir(parents=True)
    (tmp_path / RESULTS).write_text(text, encoding="utf-8")
    assert "<!-- end of digits -->" in refusal(reproduce)
    assert (tmp_path / RESULTS).read_text(encoding="utf-8") == text
    assert list((tmp_path / RUNS).iterdir()) == [tmp_path / RESULTS]  # nothing has run


@pytest.mark.parametrize(
    "wrong",
    [
        ["--scale", "0"],
        ["--paper", "digits"],
        ["--config", "nothing"],
        ["--trials", "-1"],
        ["--output", "."],
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, wrong, refusal):
    line = refusal(reproduce, *wrong)
    assert all(word in line for word in wrong)
    assert not any(tmp_path.iterdir())
