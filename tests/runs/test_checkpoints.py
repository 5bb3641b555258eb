"""The state from which a trial goes on, and the weights that it leaves: never lost or mistaken."""

import logging
import shutil
import signal
from pathlib import Path

import pytest
import torch

from losses import CODLoss, LossPrediction
from samplers import query_by_predicted_loss, query_by_tod
from tests.support.harness import TINY_DIGITS, run_script, tiny_run
from tests.support.processes import go_on, interrupted, wait_for
from tests.support.saves import wait_after_two_saves
from tests.support.soak import differences, results, run_folder, start
from tod.config import InputError
from tod.runs.checkpoints import Progress

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


def test_damaged_state_never_becomes_the_spare(tmp_path):
    interrupted(tmp_path, signal.SIGKILL).communicate()
    progress = run_folder("main_TOD.py", tmp_path) / "progress"
    newest, before = progress / "trial1.pt", progress / "trial1.before.pt"
    spare = before.read_bytes()
    newest.write_bytes(b"damaged")
    process = start("main_TOD.py", tmp_path, first=wait_after_two_saves)
    assert any("continuing" in line for line in process.stdout)
    wait_for(newest, process)
    process.kill()
    process.communicate()
    assert before.read_bytes() in (spare, newest.read_bytes() if newest.exists() else spare)
    assert b"damaged" not in (before.read_bytes(), newest.exists() and newest.read_bytes())


# ------------------------------------------------------------ within a process


@pytest.fixture
def progress(tmp_path) -> Progress:
    """Two states of a trial, the older one as the spare."""
    progress = Progress(tmp_path, 1)
    for number in (1, 2):
        progress.save({"number": number, "weights": torch.full((3,), float(number))})
    return progress


def files(progress: Progress) -> tuple[bytes, bytes]:
    return progress.newest.read_bytes(), progress.spare.read_bytes()


def failing_with(error: Exception) -> object:
    def fail(*arguments: object, **settings: object) -> None:
        raise error

    return fail


def test_the_newest_state_is_loaded_with_its_tensors_on_the_cpu(progress):
    state = progress.load()
    assert state["number"] == 2
    assert state["weights"].device.type == "cpu"
    assert state["weights"].tolist() == [2.0] * 3


def tensors_in(value: object) -> list[torch.Tensor]:
    """All tensors in nested dicts and lists."""
    if isinstance(value, torch.Tensor):
        return [value]
    values = value.values() if isinstance(value, dict) else value
    return [t for v in values for t in tensors_in(v)] if isinstance(value, (dict, list)) else []


def test_all_that_a_trial_saves_loads_to_the_cpu(tmp_path):
    run = tiny_run(tmp_path)
    run.stop_after(4, query_by_tod, CODLoss)
    state = Progress(run.folder, 1).load()
    found = tensors_in(state)
    assert len(found) > 100
    assert {tensor.device.type for tensor in found} == {"cpu"}


def test_a_state_whose_digest_is_wrong_is_removed_and_the_spare_loaded(progress, caplog):
    newest, spare = files(progress)
    progress.newest.write_bytes(newest[:-1] + bytes([newest[-1] ^ 1]))
    caplog.set_level(logging.WARNING, logger="tod")
    assert progress.load()["number"] == 1
    assert caplog.text.count(f"{progress.newest}: is damaged") == 1
    assert not progress.newest.exists()
    assert progress.spare.read_bytes() == spare


def test_two_damaged_states_are_named_and_the_trial_begins_anew(progress, caplog):
    for path in (progress.newest, progress.spare):
        path.write_bytes(b"damaged")
    caplog.set_level(logging.WARNING, logger="tod")
    assert progress.load() is None
    assert caplog.text.count("is damaged") == 2
    assert not progress.exists()


DEVICE_ERRORS = [
    RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ..."),
    RuntimeError("CUDA error: device-side assert triggered"),
    torch.cuda.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
]


@pytest.mark.parametrize("error", DEVICE_ERRORS, ids=lambda error: str(error)[:30] or "memory")
def test_an_error_of_the_device_while_a_state_is_loaded_deletes_nothing(
    progress, monkeypatch, error
):
    before = files(progress)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "load", failing_with(error))
        with pytest.raises((InputError, type(error))) as raised:
            progress.load()
    if isinstance(raised.value, InputError):
        assert str(progress.newest) in str(raised.value)
        assert "\n" not in str(raised.value)
    assert files(progress) == before
    assert progress.load()["number"] == 2


def test_a_run_that_cannot_load_its_state_says_so_and_goes_on_later(tmp_path, monkeypatch):
    run, whole = (tiny_run(tmp_path / name) for name in ("stopped", "whole"))
    whole.start(query_by_tod, CODLoss)
    run.stop_after(4, query_by_tod, CODLoss)
    before = {path: path.read_bytes() for path in (run.folder / "progress").iterdir()}
    assert before
    with monkeypatch.context() as patched:
        error = RuntimeError("CUDA error: unspecified launch failure\nfor debugging ...")
        patched.setattr(torch, "load", failing_with(error))
        with pytest.raises(InputError) as refused:
            run.start(query_by_tod, CODLoss)
    assert "CUDA error: unspecified launch failure" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert {path: path.read_bytes() for path in (run.folder / "progress").iterdir()} == before
    run.start(query_by_tod, CODLoss)
    assert not differences(results(whole.folder), results(run.folder))


def test_memory_that_runs_out_costs_no_saved_state(progress, monkeypatch):
    before = files(progress)
    monkeypatch.setattr(
        torch, "load", failing_with(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    )
    with pytest.raises(RuntimeError):
        progress.load()
    assert files(progress) == before


# ------------------------------------------------------------- other versions


def test_a_state_of_another_version_is_one_line(tmp_path, monkeypatch):
    run = tiny_run(tmp_path)
    save = Progress.save

    def save_and_stop(progress: Progress, state: dict) -> None:
        del state["learner"]["total_losses"]
        save(progress, state)
        raise SystemExit(143)

    monkeypatch.setattr(Progress, "save", save_and_stop)
    with pytest.raises(SystemExit):
        run.start(query_by_tod, CODLoss)
    with pytest.raises(InputError, match=r"another version .*'total_losses'.*--overwrite"):
        run.start(query_by_tod, CODLoss)


@pytest.mark.parametrize("script", ["main_TOD.py", "main_LL4AL.py"])
def test_a_run_begun_by_the_first_version_is_refused_with_one_line_and_nothing_is_lost(
    tmp_path, script
):
    """That version kept the cycle beside the learner, and a module's optimiser in its loss."""
    method = script.removeprefix("main_").removesuffix(".py")
    sampling, auxiliary_loss = {
        "TOD": (query_by_tod, CODLoss),
        "LL4AL": (query_by_predicted_loss, LossPrediction),
    }[method]
    settings = [*TINY_DIGITS, f"--output-dir={tmp_path}"]
    run = tiny_run(tmp_path, script, method, method)
    with run.loop(sampling, auxiliary_loss) as loop:
        trial, learner = loop.trial, loop.trial.learner
        auxiliary = {"teacher": {}, "steps_taken": 3}
        if method == "LL4AL":
            (optimizer,) = learner.module_optimizers
            auxiliary = {
                "lossnet": trial.auxiliary.lossnet.state_dict(),
                "optimizer": optimizer.state_dict(),
            }
        loop.progress.save(
            {
                "cycle": 2,
                "labeled": torch.from_numpy(trial.labeled),
                "previous": trial.previous.state_dict(),
                "learner": {
                    "backbone": trial.backbone.state_dict(),
                    "optimizer": learner.optimizer.state_dict(),
                    "auxiliary": auxiliary,
                    "epoch": 1,
                    "step": 0,
                    "total_losses": torch.zeros(4),
                    "epoch_losses": {"loss": 2.0},
                },
                "train_seconds": 1.5,
            }
        )
    (run.folder / ".lock").touch()  # where that version had its locks
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    refused = run_script(script, *settings)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    for part in (str(run.folder), "another version", "--overwrite"):
        assert part in refused.stderr
    after = {path: path.read_bytes() for path in before if path.name != "log.txt"}
    assert after == {path: before[path] for path in after}
    again = run_script(script, *settings, "--overwrite")
    assert again.returncode == 0, again.stderr


# ------------------------------------------------- weights, and removals that fail


def test_only_the_last_weights_are_kept_where_asked(tmp_path):
    run = [*TINY_DIGITS, f"--output-dir={tmp_path}", "--keep-weights=last"]
    assert run_script("main_TOD.py", *run).returncode == 0
    weights = run_folder("main_TOD.py", tmp_path) / "weights"
    assert [path.name for path in weights.iterdir()] == ["trial1_cycle2.pth"]


def refuse_to_unlink(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Path]:
    """No file whose name begins so can be removed; gives those that were to be."""
    unlink, refused = Path.unlink, []

    def unlink_others(path: Path, missing_ok: bool = False) -> None:
        if path.name.startswith(name) and path.exists():
            refused.append(path)
            raise PermissionError(1, "Operation not permitted", str(path))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink_others)
    return refused


@pytest.mark.parametrize(
    ("name", "options"),
    [("trial1_cycle1.pth", ("--keep-weights=last",)), ("trial1", ())],
    ids=["an old checkpoint", "a finished trial's state"],
)
def test_what_cannot_be_removed_is_a_warning_and_the_run_ends_as_any_other(
    tmp_path, monkeypatch, capsys, name, options
):
    plain, refusing = (
        tiny_run(tmp_path / place, "main_TOD.py", "TOD", "TOD", *options)
        for place in ("plain", "refusing")
    )
    plain.start(query_by_tod, CODLoss)
    with monkeypatch.context() as patched:
        refused = refuse_to_unlink(patched, name)
        refusing.start(query_by_tod, CODLoss)
    assert refused
    shown = capsys.readouterr().out
    for path in refused:
        assert f"{path}: cannot be removed (Operation not permitted)" in shown
        assert path.exists()
        path.unlink()
    assert not differences(results(plain.folder), results(refusing.folder))


def test_a_state_that_could_not_be_removed_goes_with_the_next_command(tmp_path, monkeypatch):
    run = tiny_run(tmp_path)
    with monkeypatch.context() as patched:
        refuse_to_unlink(patched, "trial1")
        run.start(query_by_tod, CODLoss)
    assert list((run.folder / "progress").iterdir())
    rows = (run.folder / "results.csv").read_bytes()
    run.start(query_by_tod, CODLoss)
    assert not list((run.folder / "progress").iterdir())
    assert (run.folder / "results.csv").read_bytes() == rows
