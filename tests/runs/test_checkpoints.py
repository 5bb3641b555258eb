"""The state from which a trial goes on: never lost or mistaken."""

import logging
import re
from unittest.mock import patch

import pytest
import torch
from torch.utils._pytree import tree_flatten

from tests.support.harness import tiny_run
from tests.support.loading import refused
from tests.support.soak import SCRIPTS, differences, results
from tod.runs.checkpoints import Progress

pytestmark = pytest.mark.usefixtures("cheap_pictures")
DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "bit-flipped": lambda content: content[:500] + bytes([content[500] ^ 1]) + content[501:],
    "of another digest": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "empty": lambda content: b"",
}


@pytest.fixture
def progress(tmp_path) -> Progress:
    """Two states of a trial, the older one as the spare."""
    progress = Progress(tmp_path, 1)
    for number in (1, 2):
        progress.save({"number": number, "weights": torch.full((3,), float(number))})
    return progress


def files(progress: Progress) -> tuple[bytes, bytes]:
    return progress.newest.read_bytes(), progress.spare.read_bytes()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_named_and_removed_and_the_spare_loaded(progress, caplog, damage):
    newest, spare = files(progress)
    progress.newest.write_bytes(DAMAGES[damage](newest))
    caplog.set_level(logging.WARNING, logger="tod")
    assert progress.load()["number"] == 1
    assert caplog.text.count(f"{progress.newest}: is damaged") == 1
    assert not progress.newest.exists()
    progress.save({"number": 3})  # what was damaged never becomes the spare
    assert (progress.spare.read_bytes(), progress.load()["number"]) == (spare, 3)
    for path in (progress.newest, progress.spare):
        path.write_bytes(b"damaged")
    assert progress.load() is None and not progress.exists()
    assert caplog.text.count("is damaged") == 3
    assert caplog.text.count("using what was saved before") == 2


def test_a_run_goes_on_after_a_state_that_fails_to_load_or_is_damaged(tmp_path, whole, capsys):
    run = tiny_run(tmp_path)
    run.stop_after(8)
    progress = Progress(run.folder, 1)
    before = files(progress)
    error = RuntimeError("CUDA error: unspecified launch failure\nfor debugging ...")
    with patch.object(torch, "load", side_effect=error):
        line = refused(run.start)
    assert f"{progress.newest}: cannot be read by this PyTorch (CUDA error: unspecified" in line
    assert files(progress) == before
    found = [each for each in tree_flatten(progress.load())[0] if isinstance(each, torch.Tensor)]
    assert len(found) > 100
    assert {tensor.device.type for tensor in found} == {"cpu"}
    progress.newest.write_bytes(DAMAGES["bit-flipped"](progress.newest.read_bytes()))
    run.start()
    shown = capsys.readouterr().out
    assert f"{progress.newest}: is damaged" in shown
    assert "continuing with trial 1, cycle 2, epoch 1" in shown
    assert not differences(results(whole), results(run.folder))


def test_results_without_a_sound_state_stay_as_they_are(tmp_path):
    two_trials = "--set=active_learning.trials=2"
    run = tiny_run(tmp_path, "main_TOD.py", "TOD", "TOD", two_trials)
    run.stop_after(8)
    before = (run.folder / "results.csv").read_bytes()
    assert before.count(b"\n") == 2
    for path in (run.folder / "progress").iterdir():
        path.write_bytes(b"damaged")
    for _ in ("damaged", "gone"):
        line = refused(run.start)
        assert "trial 1 has results, but no sound state to go on from; bring back progress/" in line
        assert line.endswith("or start the run afresh with --overwrite --trials 1")
        assert (run.folder / "results.csv").read_bytes() == before


@pytest.mark.parametrize(
    "error", [torch.cuda.OutOfMemoryError("CUDA out of memory"), MemoryError()]
)
def test_too_little_memory_while_a_state_is_loaded_deletes_nothing(progress, error):
    before = files(progress)
    with patch.object(torch, "load", side_effect=error), pytest.raises(type(error)):
        progress.load()
    assert files(progress) == before
    assert progress.load()["number"] == 2


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_state_of_another_version_is_refused_with_one_line_and_nothing_is_lost(tmp_path, script):
    method = SCRIPTS[script]
    run = tiny_run(tmp_path, script, method, method)
    with run.loop() as loop:
        state = {**loop.trial.state_dict(), "train_seconds": 1.5}
        learner = state["learner"]
        for part in (state, learner, learner["auxiliary"]):
            for key in [*part]:  # which that version did not have
                value = part.pop(key)
                loop.progress.save(state)
                part[key] = value
                line = refused(loop.resume)
                assert re.match(f"{run.folder}: .*another version .*'{key}'.*--overwrite$", line)
    (run.folder / ".lock").touch()  # where the first version had its locks
    paths = [path for path in run.folder.rglob("*") if path.is_file() and path.name != "log.txt"]
    before = [path.read_bytes() for path in paths]
    assert refused(run.start) == line
    assert [path.read_bytes() for path in paths] == before
    tiny_run(tmp_path, script, method, method, "--overwrite").start()
    assert len(results(run.folder)) > 3
