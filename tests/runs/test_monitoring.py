"""What a run shows while it goes on: the bar in a terminal, lines elsewhere, TensorBoard."""

import importlib
import io
import re
import sys

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from tests.support import forks
from tests.support.harness import PROJECT_DIR, TINY_DIGITS, tiny_run
from tests.support.processes import shown_in_a_terminal
from tests.support.soak import differences, results
from tod.analysis.results import read_rows
from tod.runs import monitor as monitoring
from tod.runs.monitor import Monitor

pytestmark = pytest.mark.usefixtures("cheap_pictures")
LOSSES = {
    ("main_TOD.py", "NONE"): set(),
    ("main_TOD.py", "TOD"): {"loss/cod_labeled", "loss/cod_unlabeled"},
    ("main_LL4AL.py", "LL4AL"): {"loss/ranking"},
}


def events(folder) -> EventAccumulator:
    place = str(folder / "tensorboard" / "trial1")
    accumulator = EventAccumulator(place, size_guidance={"histograms": 0})  # 0: all
    accumulator.Reload()
    return accumulator


def steps(accumulator: EventAccumulator, tag: str) -> list[int]:
    return [event.step for event in accumulator.Scalars(tag)]


@pytest.mark.parametrize(("script", "auxiliary"), LOSSES)
def test_tensorboard_shows_losses_rate_accuracy_and_scores(tmp_path, capsys, script, auxiliary):
    module = importlib.import_module(script.removesuffix(".py"))
    run = [*TINY_DIGITS, f"--auxiliary={auxiliary}", "--output-dir"]
    module.main([*run, str(tmp_path / "shown"), "--tensorboard"])
    assert "Test acc" in capsys.readouterr().out
    module.main([*run, str(tmp_path / "plain"), "--quiet"])
    plain = capsys.readouterr()
    assert plain.err == ""
    # So short a training hardly beats chance, which is the only warning.
    assert all("is not shown to be better than chance" in x for x in plain.out.splitlines())
    (folder,), (other,) = (list((tmp_path / name).iterdir()) for name in ("shown", "plain"))
    assert not (other / "tensorboard").exists()
    assert "Test acc" in (other / "log.txt").read_text(encoding="utf-8")
    assert not differences(results(folder), results(other))  # it is shown, and changes nothing

    found = events(folder)
    scalars = {"loss/loss", "loss/task", "learning rate", "test accuracy", "labelled images"}
    assert set(found.Tags()["scalars"]) == scalars | LOSSES[script, auxiliary]
    values = {tag: [event.value for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    assert steps(found, "loss/task") == [1, 2, 3, 4]
    assert steps(found, "test accuracy") == [2, 4]
    assert values["learning rate"] == pytest.approx([0.1, 0.01, 0.1, 0.01])
    (histogram,) = found.Histograms("scores")
    assert histogram.histogram_value.num == 100
    last = read_rows(folder / "results.csv")["train_loss"].astype(float)
    assert values["loss/loss"][1::2] == pytest.approx(last.tolist(), rel=1e-4)
    if auxiliary == "TOD":  # the parts make up the loss
        weight = tiny_run(tmp_path).config.cod.weight
        names = ("loss/task", "loss/cod_labeled", "loss/cod_unlabeled")
        of_epochs = zip(*(values[name] for name in names), strict=True)
        parts = [task + weight * (labeled + unlabeled) for task, labeled, unlabeled in of_epochs]
        assert values["loss/loss"] == pytest.approx(parts, rel=1e-4)


def test_a_terminal_gets_one_bar_over_the_whole_run(tmp_path):
    command = [sys.executable, PROJECT_DIR / "main_TOD.py", *TINY_DIGITS]
    text = shown_in_a_terminal([*command, "--output-dir", tmp_path, "--set=training.epochs=3"])
    bars = re.findall(
        r"trial 1/1 cycle (\d)/2 epoch (\d)/3 (\d+)%\|.*?img/s, loss [\d.]+, lr [\d.]+", text
    )
    assert bars
    for cycle, epoch, percentage in bars:  # 3 epochs with 40 labels, then 3 with 60
        taken = (0, 40 * 3)[int(cycle) - 1] + (40, 60)[int(cycle) - 1] * int(epoch)
        assert abs(int(percentage) - 100 * taken / 300) <= 0.5
    assert bars == sorted(bars, key=lambda bar: (int(bar[0]), int(bar[1])))
    assert text.count("Test acc") == 2


def test_without_a_terminal_a_line_comes_now_and_then(tmp_path, monkeypatch):
    config = tiny_run(tmp_path).config
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(monitoring, "SECONDS_BETWEEN_LINES", 0.0)
    lines = []
    monkeypatch.setattr(monitoring.log, "info", lines.append)
    with Monitor(config, 1, [40, 60]) as monitor:
        monitor.start_trial(1, 1, 0, {}, 0.1)
        monitor.epoch_ended(1, 1, 1, 40, {"loss": 2.5}, 0.1)
    (line,) = lines
    assert line.startswith("trial 1/1 cycle 1/2 epoch 1/2: loss 2.5, lr 0.1, ")
    assert re.search(r"lr 0.1, \d+ images/s, 00:00 left$", line)


# What a trial has trained on, of 40 labels and then 60, for two epochs each.
IMAGES_UNTIL = {(1, 0): 0, (1, 1): 40, (1, 2): 80, (2, 0): 80, (2, 1): 140, (2, 2): 200}


@pytest.mark.parametrize("saved", [*IMAGES_UNTIL][1:])
def test_a_resumed_run_shows_each_epoch_once(tmp_path, monkeypatch, saved):
    # Of the files of one second, TensorBoard takes the process's 10th for older than its 9th.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))
    config = tiny_run(tmp_path).config
    places = [(1, 1), (1, 2), (2, 1), (2, 2)]
    for start, losses, value in (((1, 0), {}, 1.0), (saved, {"loss": 1.0}, 2.0)):
        with Monitor(config, 1, [40, 60], tensorboard=tmp_path / "tensorboard") as monitor:
            monitor.start_trial(1, *start, losses, 0.1)
            assert monitor.bar.total == 200 - IMAGES_UNTIL[start]
            for cycle, epoch in [place for place in places if place >= start]:
                if (cycle, epoch) != start:
                    monitor.epoch_ended(1, cycle, epoch, 40, {"loss": value}, 0.1)
                if epoch == 2:
                    monitor.evaluated(40, value)
                    monitor.scored(np.arange(3.0))
    found = events(tmp_path)
    assert (steps(found, "loss/loss"), steps(found, "test accuracy")) == ([1, 2, 3, 4], [2, 4])
    assert [histogram.step for histogram in found.Histograms("scores")] == [2, 4]
    values = {tag: [event.value for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    assert values["loss/loss"] == [1.0 if place <= saved else 2.0 for place in places]
    assert values["test accuracy"] == [1.0 if saved > (1, 2) else 2.0, 2.0]


def test_what_is_saved_is_also_shown_after_kill_9(tmp_path):
    script = f"""
import os
from pathlib import Path
from tests.support import forks
from tests.support.harness import tiny_run
from tod.runs.monitor import Monitor
place = Path({str(tmp_path)!r})
with Monitor(tiny_run(place).config, 1, [40, 60], tensorboard=place / "tensorboard") as monitor:
    monitor.start_trial(1, 1, 0, {{}}, 0.1)
    for epoch in (1, 2):
        monitor.epoch_ended(1, 1, epoch, 40, {{"loss": 1.0}}, 0.1)
    monitor.flush()
    os.kill(os.getpid(), 9)
"""
    killed = forks.run([sys.executable, "-c", script])
    assert killed.returncode == -9
    assert steps(events(tmp_path), "loss/loss") == [1, 2]


def test_a_run_goes_on_where_tensorboard_cannot_write(tmp_path, capsys):
    run = tiny_run(tmp_path, "main_TOD.py", "TOD", "TOD", "--tensorboard")
    run.folder.mkdir()
    (run.folder / "tensorboard").write_text("no folder")
    run.start()
    assert capsys.readouterr().out.count("tensorboard: cannot be written") == 1
    assert len(read_rows(run.folder / "results.csv")) == 2
