"""The paper's comparison, run and written down."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from experiments import reproduce
from experiments.reproduce import paper_rows, replace_section
from tests.analysis.conftest import write_full_run
from tests.experiments.conftest import QUICK, REST, run, stopped
from tests.support.harness import write_run
from tests.support.loading import refused
from tod.analysis.results import read_runs

ENVIRONMENT = {"device": "a device", "precision": "fp32", "python": "3", "torch": "2"}
BY_HAND = ["--", "--set=active_learning.cycles=3"]
"""The settings of runs that `write_run` writes."""
RUNS = Path("results", "reproduce")
RESULTS = RUNS / "results.md"
COMMAND = ["--config=digits", "--seed", "3", *REST, *QUICK]


@pytest.fixture(scope="module")
def five(tmp_path_factory) -> Path:
    """Where the five experiments were run beside a file with a text; nobody changes it."""
    place = tmp_path_factory.mktemp("five")
    (place / RUNS).mkdir(parents=True)
    (place / RESULTS).write_text("# Results\n\nA reading.\n", encoding="utf-8")
    done = run("reproduce", *COMMAND, cwd=place)
    assert done.returncode == 0, done.stderr
    return place


def test_the_five_experiments_and_what_is_written_about_them(five):
    assert len([path for path in (five / RUNS).iterdir() if path.is_dir()]) == 5
    text = (five / RESULTS).read_text(encoding="utf-8")
    assert text.startswith("# Results\n\nA reading.\n")
    assert "`python experiments/reproduce.py --config=digits --seed 3 -- --device=" in text
    assert "test accuracy over 1 seed (3), 1 trial in all. Differences: trial by trial" in text
    with_losses = ("TOD sampling + COD loss", "LL4AL sampling + LL4AL loss")
    for name in ("RANDOM sampling", "TOD sampling", *with_losses, "FULL sampling"):
        assert f"| {name} |" in text
    assert "(paper)" not in text  # the paper has no digits
    assert "](results_digits.png)" in text
    with Image.open(five / RUNS / "results_digits.png") as picture:
        picture.load()


def test_runs_that_have_ended_are_not_run_again_and_those_of_another_command_not_published(
    five, tmp_path, refusal
):
    shutil.copytree(five, tmp_path, dirs_exist_ok=True)
    text = RESULTS.read_text(encoding="utf-8")
    line = refusal(reproduce.main, *COMMAND, "--set=training.momentum=0.5")  # nothing has run
    assert "holds a run with another training.momentum" in line
    before = {path: path.stat().st_mtime_ns for path in RUNS.glob("*/results.csv")}
    again = run("reproduce", *COMMAND)
    assert again.stderr.count("is finished already") == len(before) == 5
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert RESULTS.read_text(encoding="utf-8") == text


def test_the_papers_values_stand_at_the_same_shares(tmp_path):
    folder = write_run(tmp_path, [[80, 85, 90]], config="cifar10", training_images=1000)
    (row,) = paper_rows(read_runs([folder]), "cifar10", ["", "100", "150", "200", "area"])
    assert row == ["TOD sampling (paper)", "79.5", "86.7", "89.4", "–"]
    full = write_run(tmp_path, [[95]], config="cifar10", sampling="FULL", training_images=100)
    (row,) = paper_rows(read_runs([full]), "cifar10", ["", "100", "area"])
    assert row == ["full training (paper)", "93.1", "–"]
    other = write_run(tmp_path / "other", [[80, 85, 90]], config="cifar10", training_images=1437)
    (row,) = paper_rows(read_runs([other]), "cifar10", ["", "100", "150", "200", "area"])
    assert row[1:] == ["–"] * 4
    # Those of Caltech-101 are of all its images.
    caltech101 = write_run(tmp_path, [[80, 85, 90]], config="caltech101", training_images=895)
    full = write_full_run(tmp_path, config="caltech101")
    rows = paper_rows(read_runs([caltech101, full]), "caltech101", ["", *"123", "area"])
    assert "–" not in rows[0][1:4] and rows[1][3] == "91.3"


def test_what_there_is_can_be_written_down_without_running_anything(refusal):
    nothing = ["--seed", "0", "1", "--only=none", *BY_HAND]
    line = refusal(reproduce.main, *nothing)
    assert line.endswith("that has digits_auxiliary_NONE_sampling_RANDOM_seed0\n")
    write_run(RUNS, [[80, 85, 90]] * 3, sampling="RANDOM", **ENVIRONMENT)
    write_run(RUNS, [[80, 85, 90]], sampling="TOD", **ENVIRONMENT)
    reproduce.main(nothing)
    text = RESULTS.read_text(encoding="utf-8")
    assert "| TOD sampling | 80.00 (1) | 85.00 (1) |" in text
    assert "a device, fp32, Python 3, PyTorch 2." in text
    assert "missing or unfinished: RANDOM/NONE with seed 1; TOD/NONE with seed 0, 1;" in text
    assert len([path for path in RUNS.iterdir() if path.is_dir()]) == 2
    line = refused(reproduce.main, [*nothing, "--set=training.lr=9"])
    assert "RANDOM_seed0: has results of another training.lr (" in line
    assert RESULTS.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("further", "said"),
    [
        ("--set=training.lr=9", "another training.lr (0.02 there, 9.0 here)"),
        ("--set=active_learning.trials=2", "another active_learning.trials (3 there, 2 here)"),
        ("--precision=bf16", "another precision (fp32 there, bf16 here)"),
        ("--trials=2", "further trials (1)"),
    ],
)
def test_what_another_command_has_run_is_not_written_down(further, said):
    write_run(RUNS, [[80, 85, 90], [81, 86, 91]], sampling="RANDOM", **ENVIRONMENT)
    line = refused(reproduce.main, ["--seed", "0", "--only=none", *BY_HAND, further])
    assert f"RANDOM_seed0: has results of {said}; name another --output-dir, or" in line
    assert not RESULTS.exists()


def test_every_machine_that_has_made_a_run_is_named():
    for seed, device in enumerate(("a CPU", "a GPU", "a CPU")):
        environment = {**ENVIRONMENT, "device": device}
        write_run(RUNS, [[80, 85, 90]], sampling="RANDOM", seed=seed, **environment)
    reproduce.main(["--seed", "0", "1", "2", "--only=none", *BY_HAND])
    text = RESULTS.read_text(encoding="utf-8")
    assert "\na CPU, fp32, Python 3, PyTorch 2; a GPU, fp32, Python 3, PyTorch 2.\n" in text


def test_what_has_not_ended_is_not_published():
    first = RUNS / "digits_auxiliary_NONE_sampling_RANDOM_seed0"
    errors = stopped("reproduce", "--config=digits", *REST, saved=[first])
    assert f"{RESULTS}: is left as it was" in errors
    assert not RESULTS.exists()


def test_what_was_written_into_the_file_during_the_runs_stays(monkeypatch):
    write_run(RUNS, [[80, 85, 90]], **ENVIRONMENT)

    def run(*arguments: object) -> dict:
        RESULTS.write_text("A reading.\n", encoding="utf-8")
        return {}

    monkeypatch.setattr(reproduce, "run_all", run)
    reproduce.main(["--seed=0", *BY_HAND])
    assert RESULTS.read_text(encoding="utf-8").startswith("A reading.\n\n<!-- digits: written")


def test_a_section_replaces_itself_alone_also_one_from_the_scripts_former_place():
    text = replace_section(replace_section("# Results\n", "a", "one"), "b", "two") + "A reading.\n"
    new = text.replace("one", "three")
    assert text.index("one") < text.index("two") < text.index("A reading.")
    assert replace_section(text, "a", "three") == new
    former = text.replace("<!-- a: written by experiments/", "<!-- a: written by benchmarks/")
    assert former != text
    assert replace_section(former, "a", "three") == new


def test_a_section_without_its_end_is_refused_before_the_work(tmp_path, refusal):
    text = replace_section("", "digits", "one").replace("<!-- end of digits -->", "") + "A reading."
    RUNS.mkdir(parents=True)
    RESULTS.write_text(text, encoding="utf-8")
    assert "<!-- end of digits -->" in refusal(reproduce.main)
    assert RESULTS.read_text(encoding="utf-8") == text
    assert list(RUNS.iterdir()) == [RESULTS]  # nothing has run


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("--scale 0", "--scale 0: must be above 0"),
        ("--paper digits", "--paper: the paper has no curves for digits"),
        ("--config nothing", "nothing: cannot be read (No such file"),
        ("--trials -1", "--trials: -1"),
        ("--output .", ". does not end in .md"),
        ("--output runs.md", "runs.md: cannot be written (Is a directory)"),
        ("--name a/b", "--name: a/b is no name of a file"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, wrong, said, refusal):
    (tmp_path / "runs.md").mkdir()
    assert said in refusal(reproduce.main, *wrong.split())
    assert [path.name for path in tmp_path.iterdir()] == ["runs.md"]
