"""Runs that are killed, interrupted, refused or out of room, as real processes."""

import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from formats import write_image_folder
from harness import PROJECT_DIR, TINY_DIGITS, run_script, tiny_run
from soak import RUN, SCRIPTS, differences, results, run_folder, soak, start

import active_learning
from active_learning import Trial, run_experiment
from configuration import InputError
from run_folder import RunFolder
from samplers import query_by_tod
from training import CODLoss


@pytest.mark.parametrize("script", SCRIPTS)
def test_killed_runs_end_bit_for_bit_as_uninterrupted_ones(script, tmp_path, pytestconfig):
    assert soak(script, pytestconfig.getoption("--kills"), tmp_path) >= 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of an uninterrupted run."""
    output_dir = tmp_path_factory.mktemp("finished")
    process = start("main_TOD.py", output_dir)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return run_folder("main_TOD.py", output_dir)


def go_on(output_dir: Path, *arguments: str) -> subprocess.CompletedProcess:
    return run_script("main_TOD.py", *RUN, f"--output-dir={output_dir}", *arguments)


def wait_for(path: Path, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.02)


def interrupted(output_dir: Path, signal_number: int) -> subprocess.Popen:
    """A run that was sent a signal once it had saved its second state."""
    process = start("main_TOD.py", output_dir)
    wait_for(run_folder("main_TOD.py", output_dir) / "progress" / "trial1.before.pt")
    process.send_signal(signal_number)
    return process


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_run_saves_says_how_to_go_on_and_goes_on(tmp_path, finished, number, status):
    process = interrupted(tmp_path, number)
    output, _ = process.communicate()
    assert process.returncode == status
    assert "the same command again continues" in output
    assert "Traceback" not in output
    again = go_on(tmp_path)
    assert again.returncode == 0
    assert "continuing with trial 1, cycle " in again.stdout
    assert not differences(results(finished), results(run_folder("main_TOD.py", tmp_path)))


def test_second_sigint_leaves_at_once():
    endless_step = (
        "import time, utils\n"
        "with utils.Interruption('') as interruption:\n"
        "    print('ready', flush=True)\n"
        "    while True:\n"
        "        time.sleep(0.01)\n"
        "        if interruption.requested:\n"
        "            print('requested', flush=True)\n"
        "            time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", endless_step], cwd=PROJECT_DIR, stdout=subprocess.PIPE, text=True
    )
    for word in ("ready\n", "requested\n"):
        assert process.stdout.readline() == word
        process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 130


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "bit-flipped": lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:],
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_state_is_named_and_the_one_before_it_used(tmp_path, finished, damage):
    interrupted(tmp_path, signal.SIGKILL).communicate()
    folder = run_folder("main_TOD.py", tmp_path)
    newest, before = (folder / "progress" / f"trial1{part}.pt" for part in ("", ".before"))
    if not newest.exists():
        shutil.copy(before, newest)
    newest.write_bytes(DAMAGES[damage](newest.read_bytes()))
    again = go_on(tmp_path)
    assert again.returncode == 0
    assert f"{newest}: is damaged" in again.stdout
    assert "continuing with trial 1" in again.stdout
    assert not differences(results(finished), results(folder))


def test_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(tmp_path, finished):
    def no_room_for_weights() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    full = subprocess.run(
        [sys.executable, PROJECT_DIR / "main_TOD.py", *RUN, f"--output-dir={tmp_path}"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=no_room_for_weights,
        capture_output=True,
        text=True,
        check=False,
    )
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


def test_second_process_on_a_run_folder_is_refused(tmp_path):
    first = start("main_TOD.py", tmp_path)
    wait_for(run_folder("main_TOD.py", tmp_path) / "config.yaml")
    first.send_signal(signal.SIGSTOP)  # or it might end before the second one looks
    second = go_on(tmp_path)
    first.kill()
    first.communicate()
    assert second.returncode == 2
    assert "is in use by another process" in second.stderr


def test_training_that_diverges_stops_with_place_and_advice(tmp_path):
    diverged = go_on(tmp_path, "--set=training.lr=1.0e+20")
    assert diverged.returncode == 2
    assert "Traceback" not in diverged.stderr
    for part in (
        "trial 1, cycle 1, epoch",
        "learning rate 1e+20",
        "training.lr=1e+19",
        "cod.weight",
    ):
        assert part in diverged.stderr


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


def test_a_trial_is_the_same_alone_as_after_others(tmp_path, finished):
    assert go_on(tmp_path, "--trials=2").returncode == 0
    alone = results(run_folder("main_TOD.py", tmp_path))
    del alone["learning_curve.png"]  # of all trials that there are
    assert alone
    together = {name: value for name, value in results(finished).items() if name in alone}
    assert not differences(alone, together)
    assert go_on(tmp_path).returncode == 0
    assert not differences(results(finished), results(run_folder("main_TOD.py", tmp_path)))


def test_only_the_last_weights_are_kept_where_asked(tmp_path):
    run = [*TINY_DIGITS, f"--output-dir={tmp_path}", "--keep-weights=last"]
    assert run_script("main_TOD.py", *run).returncode == 0
    weights = run_folder("main_TOD.py", tmp_path) / "weights"
    assert [path.name for path in weights.iterdir()] == ["trial1_cycle2.pth"]


def test_nothing_but_results_is_left_of_a_finished_run(finished):
    assert not list((finished / "progress").iterdir())
    assert not list(finished.rglob("*.partial"))


def test_memory_that_runs_out_is_one_line(tmp_path):
    # Each convolution between 8,192 channels has 2.4 GB of weights.
    def little_memory() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))

    refused = subprocess.run(
        [
            *(sys.executable, PROJECT_DIR / "main_TOD.py", *TINY_DIGITS),
            *("--device=cpu", "--set=model.width=1024", f"--output-dir={tmp_path}"),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=little_memory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr.startswith("out of memory")
    assert len(refused.stderr.splitlines()) == 1


def test_overwriting_that_was_killed_halfway_is_not_taken_for_another_run(tmp_path, finished):
    folder = run_folder("main_TOD.py", tmp_path)
    shutil.copytree(finished, folder)
    (folder / "config.yaml").unlink()
    refused = go_on(tmp_path)
    assert refused.returncode == 2
    assert "config.yaml: cannot be read back; --overwrite" in refused.stderr


def test_damaged_state_never_becomes_the_spare(tmp_path):
    interrupted(tmp_path, signal.SIGKILL).communicate()
    progress = run_folder("main_TOD.py", tmp_path) / "progress"
    newest, before = progress / "trial1.pt", progress / "trial1.before.pt"
    spare = before.read_bytes()
    newest.write_bytes(b"damaged")
    process = start("main_TOD.py", tmp_path)
    assert any("continuing" in line for line in process.stdout)
    process.kill()
    process.communicate()
    assert before.read_bytes() in (spare, newest.read_bytes() if newest.exists() else spare)
    assert b"damaged" not in (before.read_bytes(), newest.exists() and newest.read_bytes())


def test_run_whose_images_have_changed_is_refused(tmp_path):
    write_image_folder(tmp_path / "images")
    run = [
        *TINY_DIGITS[1:],
        "--config=image_folder",
        f"--data-dir={tmp_path / 'images'}",
        f"--output-dir={tmp_path / 'results'}",
        "--set=images.size=16",
        "--set=active_learning.initial_labels=10",
        "--set=active_learning.query_size=2",
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
    run = [
        *TINY_DIGITS[1:],
        "--config=image_folder",
        f"--output-dir={tmp_path / 'results'}",
        "--set=images.size=16",
        "--set=active_learning.initial_labels=10",
        "--set=active_learning.query_size=2",
    ]
    answers = {}
    for place in ("images", "others", "nowhere"):
        answers[place] = run_script("main_TOD.py", *run, f"--data-dir={tmp_path / place}")
    (tmp_path / "images").rename(tmp_path / "moved")
    moved = run_script("main_TOD.py", *run, f"--data-dir={tmp_path / 'moved'}")
    assert [answer.returncode for answer in (*answers.values(), moved)] == [0, 2, 2, 0]
    assert "other images than are there now" in answers["others"].stderr
    assert "nowhere" in answers["nowhere"].stderr
    assert "is finished" in moved.stdout


def test_overwriting_some_trials_never_removes_the_others(tmp_path):
    run = [*TINY_DIGITS, f"--output-dir={tmp_path}", "--set=active_learning.trials=2"]
    rows = run_folder("main_TOD.py", tmp_path) / "results.csv"
    for arguments in (["--trials=1"], ["--trials=1", "--overwrite"], ["--trials=2"]):
        assert run_script("main_TOD.py", *run, *arguments).returncode == 0
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


def test_output_that_nobody_reads_does_not_stop_a_run(tmp_path):
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(
            [
                *(sys.executable, PROJECT_DIR / "main_TOD.py", *TINY_DIGITS),
                f"--output-dir={tmp_path}",
            ],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert process.returncode == 0, process.stderr
    assert "Test acc" in (run_folder("main_TOD.py", tmp_path) / "log.txt").read_text()


def test_outputs_that_overflow_are_a_divergence_and_no_traceback(tmp_path):
    diverged = run_script(
        "main_TOD.py",
        *TINY_DIGITS,
        f"--output-dir={tmp_path}",
        "--set=training.lr=1.0e+3",
        "--set=training.epochs=1",
        "--set=training.batch_size=64",
    )
    assert diverged.returncode == 2
    assert "not finite" in diverged.stderr
    assert "Traceback" not in diverged.stderr


@pytest.mark.parametrize(
    ("steps", "precision"), [(1, "fp32"), (2, "fp32"), (8, "fp32"), (8, "bf16")]
)
def test_run_stopped_within_an_epoch_goes_on_with_its_next_step(
    tmp_path, monkeypatch, steps, precision
):
    choices = ("main_TOD.py", "TOD", "TOD", f"--precision={precision}")
    whole, stopped = (tiny_run(tmp_path / name, *choices) for name in ("whole", "stopped"))
    run_experiment(whole, query_by_tod, CODLoss)

    after_step = Trial._after_step
    taken = 0

    def after_step_with_sigterm(trial: Trial) -> None:
        nonlocal taken
        taken += 1
        if taken == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        after_step(trial)

    monkeypatch.setattr(Trial, "_after_step", after_step_with_sigterm)
    with pytest.raises(SystemExit) as leaving:
        run_experiment(stopped, query_by_tod, CODLoss)
    assert leaving.value.code == 143
    run_experiment(stopped, query_by_tod, CODLoss)
    assert taken == 2 * 3 + 2 * 4  # each step of both cycles once
    assert not differences(results(whole.folder), results(stopped.folder))


def test_state_is_saved_within_an_epoch_when_that_takes_long(tmp_path, monkeypatch):
    saved = []
    save = Trial._save
    monkeypatch.setattr(active_learning, "SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(
        Trial, "_save", lambda trial: (saved.append(trial.learner.step), save(trial))
    )
    run_experiment(tiny_run(tmp_path), query_by_tod, CODLoss)
    assert saved.count(1) == 4  # after the first step of each of two epochs in two cycles


@pytest.mark.parametrize("last", ["write_learning_curve", "finish_trial"])
def test_a_run_killed_after_its_last_row_is_ended_by_the_same_command(tmp_path, monkeypatch, last):
    run = tiny_run(tmp_path)
    rows = []
    with monkeypatch.context() as patched:
        original = getattr(RunFolder, last)

        def kill_after_last_row(folder: RunFolder, *arguments: int) -> None:
            rows[:] = folder.rows()
            if len(rows) == 2:
                raise SystemExit(137)
            original(folder, *arguments)

        patched.setattr(RunFolder, last, kill_after_last_row)
        with pytest.raises(SystemExit):
            run_experiment(run, query_by_tod, CODLoss)
    curve = run.folder / "learning_curve.png"
    before = curve.read_bytes()
    run_experiment(run, query_by_tod, CODLoss)
    assert curve.read_bytes() != before
    assert not list((run.folder / "progress").iterdir())
    with RunFolder(run) as folder:
        assert folder.rows() == rows


def test_a_run_leaves_the_loggers_as_it_found_them_also_when_refused(tmp_path):
    loggers = [logging.getLogger(name) for name in ("tod", "tod.progress")]
    before = [(log.handlers, log.level, log.propagate) for log in loggers]
    run = tiny_run(tmp_path, "main_TOD.py", "TOD", "TOD", "--quiet")
    run_experiment(run, query_by_tod, CODLoss)
    assert [(log.handlers, log.level, log.propagate) for log in loggers] == before
    other = tiny_run(tmp_path, "main_TOD.py", "TOD", "TOD", "--set=training.lr=0.05")
    with pytest.raises(InputError, match="lr"):
        run_experiment(other, query_by_tod, CODLoss)
    assert [(log.handlers, log.level, log.propagate) for log in loggers] == before


def test_a_state_of_another_version_is_one_line(tmp_path, monkeypatch):
    run = tiny_run(tmp_path)
    save = RunFolder.save_progress

    def save_and_stop(folder: RunFolder, trial: int, state: dict) -> None:
        del state["learner"]["total_losses"]
        save(folder, trial, state)
        raise SystemExit(143)

    monkeypatch.setattr(RunFolder, "save_progress", save_and_stop)
    with pytest.raises(SystemExit):
        run_experiment(run, query_by_tod, CODLoss)
    with pytest.raises(InputError, match=r"another version .*'total_losses'.*--overwrite"):
        run_experiment(run, query_by_tod, CODLoss)


def test_memory_that_runs_out_costs_no_saved_state(tmp_path, monkeypatch):
    run = tiny_run(tmp_path)
    with RunFolder(run) as folder:
        folder.save_progress(1, {"cycle": 1})
        saved = folder._progress_files(1)[0]

        def no_room(*arguments: object, **settings: object) -> None:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(torch, "load", no_room)
        with pytest.raises(RuntimeError):
            folder.load_progress(1, torch.device("cpu"))
        assert saved.exists()
