"""The grid of experiments."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest

import main_TOD
from experiments import grid
from experiments.cells import shortened_training
from tests.experiments.conftest import QUICK, REST, WITHOUT_PICTURES, run, stopped
from tests.support.forks import FIRST
from tests.support.forks import run as run_forked
from tests.support.harness import PROJECT_DIR, write_run
from tests.support.processes import shown_in_a_terminal

GRID = ["--config", "digits", "--strategy", "RANDOM/NONE", "LL4AL/LL4AL"]
FOLDERS = [
    f"digits_auxiliary_{name}_seed0" for name in ("LL4AL_sampling_LL4AL", "NONE_sampling_RANDOM")
]
KEPT = ("results.csv", "queries/trial1_cycle1.csv", "weights/trial1_cycle2.pth")


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Path, CompletedProcess]:
    """The folder in which a grid has run both of its cells at once; nobody changes it."""
    place = tmp_path_factory.mktemp("grid")
    done = run("grid", *GRID, f"--output-dir={place}", "--processes=2", *REST, *QUICK)
    assert done.returncode == 0, done.stderr
    return place, done


def rows_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("| ")]


def test_grid_runs_each_cell_and_prints_one_table(both, capsys):
    place, done = both
    assert sorted(path.name for path in place.iterdir() if path.is_dir()) == FOLDERS
    assert "Learning curves" in (place / "report_digits.html").read_text(encoding="utf-8")
    assert "LL4AL/LL4AL, seed 0: has ended (" in done.stderr
    rows = rows_of(done.stdout)
    assert any("RANDOM" in row for row in rows) and any("LL4AL" in row for row in rows)
    shutil.copytree(place, "copy")
    with pytest.raises(SystemExit) as left:
        grid.main([*GRID, "--output-dir=copy", "--only=none", *REST, *QUICK])
    assert left.value.code == 0
    assert rows_of(capsys.readouterr().out) == rows


def test_a_run_beside_others_gives_what_it_gives_alone_and_is_not_run_again(both):
    command = ["grid", *GRID, "--output-dir=alone", "--only=1", *REST, *QUICK]
    alone = run(*command)
    assert alone.returncode == 0, alone.stderr
    (folder,) = Path("alone").iterdir()
    assert folder.name == FOLDERS[0]
    for name in KEPT[1:]:  # the first one has seconds
        assert (folder / name).read_bytes() == (both[0] / folder.name / name).read_bytes()
    times = [(folder / name).stat().st_mtime_ns for name in KEPT]
    write_run(Path("alone"), [[80, 85, 90]], sampling="RANDOM")  # another's, of other settings
    again = run(*command)
    assert (again.returncode, len(rows_of(again.stdout))) == (0, len(rows_of(alone.stdout)))
    assert "LL4AL/LL4AL, seed 0: is finished already (1 of 1 runs)" in again.stderr
    assert times == [(folder / name).stat().st_mtime_ns for name in KEPT]
    # Where the images have moved, it looks at them.
    assert "LL4AL/LL4AL, seed 0: has ended (" in run(*command, "--data-dir=elsewhere").stderr


@pytest.mark.parametrize("only", [[], ["--only=3"]])
def test_all_strategies_are_run_but_for_those_that_cannot(tmp_path, monkeypatch, capsys, only):
    called = []
    monkeypatch.setattr(grid, "run_all", lambda *arguments: called.append(arguments) or {})
    command = ["--config=digits", "--strategy", "all", "--seed", "0", "2", "--processes=2"]
    with pytest.raises(SystemExit):
        grid.main([*command, f"--output-dir={tmp_path}", *only, *REST])
    alone = {sampling: f"{sampling}/NONE" for sampling in main_TOD.SAMPLING if sampling != "BALD"}
    methods = [*(alone | {"TIDAL": "TIDAL/TIDAL"}).values()]
    cells = [(m, seed) for m in (*methods, "TOD/TOD", "LL4AL/LL4AL") for seed in (0, 2)]
    ((found, processes),) = called
    assert [(cell.strategy, cell.seed) for cell in found] == (cells[3:4] if only else cells)
    arguments = found[0].arguments
    assert (arguments.output_dir, arguments.further, processes) == (tmp_path, REST[1:], 2)
    assert capsys.readouterr().err.count("digits, BALD/NONE: is left out; it needs dropout") == 1


def test_a_terminal_gets_one_bar_over_all_runs(tmp_path, monkeypatch):
    monkeypatch.setenv(FIRST, WITHOUT_PICTURES)
    script = PROJECT_DIR / "experiments/grid.py"
    # Runs that learn, and have nothing to say under --quiet.
    settings = ("training.epochs=30", "training.milestones=[]", "training.lr=0.02")
    learning = [*REST, *(f"--set={setting}" for setting in settings)]
    command = [sys.executable, script, *GRID, "--output-dir", tmp_path, "--processes=2", *learning]
    text = shown_in_a_terminal(command)
    bars = re.findall(r"(\d) of 2 runs: +\d+%\|[^|]*\| (\d)/4", text)
    assert bars and bars == sorted(bars)
    assert "Test acc" not in text and "has ended" not in text
    assert "| RANDOM sampling | " in text
    # Begun again, it starts from what there is.
    assert re.search(r"2 of 2 runs: +100%\|[^|]*\| 4/4", shown_in_a_terminal(command))


def test_a_killed_grid_goes_on_where_it_stopped(tmp_path):
    command = [*GRID, f"--output-dir={tmp_path}", "--processes=2", *REST]
    command += ["--set=training.epochs=3", "--set=training.milestones=[2]"]
    errors = stopped("grid", *command, saved=[tmp_path / name for name in FOLDERS])
    assert errors.count("has stopped with status 143") == 2
    assert "no run has ended a cycle yet" not in errors
    # What was saved is gone on from, not begun again.
    again = run("grid", *command)
    assert again.returncode == 0, again.stderr
    for folder in (tmp_path / name for name in FOLDERS):
        assert "continuing with trial 1, cycle" in (folder / "log.txt").read_text()
        assert len((folder / "results.csv").read_text().splitlines()) == 3


def test_a_run_that_fails_is_told_with_what_it_printed(tmp_path):
    failing = [f"--output-dir={tmp_path}", "--processes=2", *REST, "--set=training.lr=1e30"]
    done = run("grid", *GRID, *failing)
    assert done.returncode == 2
    assert done.stderr.count("is not finite; what was saved stays") == 2
    assert "digits, RANDOM/NONE, seed 0: has stopped with status 2" in done.stderr
    assert "no run has ended a cycle yet" in done.stdout


def test_a_folder_with_another_run_is_refused_before_any_of_the_grid_runs(tmp_path, refusal):
    folder = write_run(tmp_path, [[80, 90, 95]], sampling="LL4AL", auxiliary="LL4AL")
    line = refusal(grid.main, *GRID, "--output-dir", tmp_path, *REST)
    assert "LL4AL_seed0: holds a run with another" in line
    assert [*tmp_path.iterdir()] == [folder]


def test_scale_shortens_epochs_milestones_and_detach_epoch_alike():
    assert shortened_training("cifar10", 1.0) == []
    assert shortened_training("cifar10", 0.25) == [
        "--set=training.epochs=50",
        "--set=training.milestones=[40]",
        "--set=ll4al.detach_epoch=30",
    ]


PEOPLES = (
    *("--set=dataset=own_images", "--set=images.size=8"),
    *("--set=active_learning.trials=1", "--set=active_learning.cycles=null"),
)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        *(
            (["--strategy", name], f"--strategy {name}")
            for name in ("TOD", "TOD/LL4AL", "LL4AL/TOD", "ENTROPHY/NONE")
        ),
        (["--only", "9"], "--only 9"),
        (["--scale", "2"], "--scale 2"),
        (["--config", "nothing"], "nothing: cannot be read (No such file or directory); --config "),
        (["--strategy", "BALD/NONE", "RANDOM/NONE"], "--sampling BALD: needs dropout"),
        (["--config", "own_images"], "own_images: its labels come from people"),
        (["--", *PEOPLES], "--config digits: its labels come from people"),
        (["--strategy", "TOD/NONE", "TOD/NONE"], "TOD/NONE is named twice"),
        (["--seed", "1", "1"], "1 is named twice"),
        (["--seed", "-1"], "--seed"),
        (["--config", "digits", "digits"], "digits is named twice"),
        (["--", "--seed", "3"], "--seed: belongs before the --"),
        (["--", "--output-dir=x"], "--output-dir: belongs before the --"),
        (["--", "--parallel=data"], "--parallel: here --processes, before the --, runs several"),
        (["--", "--overwrite"], "remove the runs' folders"),
        ([*REST, "--epochs=3"], "unrecognized arguments: --epochs=3"),
        (["--set", "training.lr=1", *REST], "--set training.lr=1; what is for the entry scripts"),
    ],
)
def test_what_cannot_be_meant_is_one_line_before_anything_runs(tmp_path, wrong, said, refusal):
    assert said in refusal(grid.main, "--config", "digits", *wrong)
    assert not any(tmp_path.iterdir())


def test_the_script_and_the_module_refuse_with_status_2():
    wrong = ["--config", "digits", "--only", "9"]
    # Cold, and without a word about where modules lie.
    cold = subprocess.run(
        [sys.executable, "experiments/grid.py", *wrong],
        cwd=PROJECT_DIR,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    module = run_forked([sys.executable, "-m", "experiments.grid", *wrong], cwd=PROJECT_DIR)
    for done in (cold, module):
        assert (done.returncode, done.stderr) == (2, "--only 9: must be from 0 to 4, or none\n")
