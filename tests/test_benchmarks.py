"""The benchmarks run, at sizes too small to measure anything."""

import multiprocessing
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch

from benchmarks import baseline, machine, step
from benchmarks.scaling import images_per_second, table_of_picks
from benchmarks.workload import one_epoch, random_images
from tests.support.harness import run_script
from tod.config import load
from tod.engine.device import bf16_unit

CPU = "--device=cpu"
ROWS = ["train, NONE", "train, COD", "train, LL4AL", "score, TOD"]


def cells(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def rows_of(done: CompletedProcess) -> list[list[str]]:
    assert done.returncode == 0, done.stderr
    return cells(done.stdout)[2:]


def test_step_shows_images_per_second_ratios_and_shares_of_the_peak(call_script, monkeypatch):
    monkeypatch.setitem(machine.PRODUCTS, "cpu", 256)
    monkeypatch.setattr(step, "baseline_in_its_own_process", in_this_process)
    sizes = ("--width=4", "--batch-size=8", "--labeled=16", "--scored=16", "--repeats=1")
    rows = rows_of(call_script("benchmarks/step.py", CPU, *sizes))
    assert [row[0] for row in rows] == ROWS
    for _, published, fp32, *bf16 in rows:
        base, ours = (float(cell.split()[0].replace(",", "")) for cell in (published, fp32))
        ratio = float(fp32.split("(")[1].split(";")[0])
        assert ratio == pytest.approx(ours / base, rel=0.02, abs=0.01)
        assert published.endswith("%)") and fp32.endswith("%)")
        assert len(bf16) == (bf16_unit(torch.device("cpu")) is not None)
        assert all(cell.endswith("%)") or cell == "as fp32" for cell in bf16)


@contextmanager
def in_this_process(method: str, *arguments: Any) -> Iterator[Callable[[], object]]:
    yield getattr(baseline.Baseline(*arguments), method)


def test_the_baseline_works_in_a_process_of_its_own_and_its_end_is_told(monkeypatch):
    pixels, labels = random_images(16)
    arguments = (one_epoch(4, 8), "NONE", pixels, labels, 8, torch.device("cpu"))
    with baseline.baseline_in_its_own_process("score", *arguments) as work:
        work()
        work()
        (process,) = multiprocessing.active_children()
        process.kill()
        process.join()
        with pytest.raises(RuntimeError, match="the baseline's process has ended"):
            work()
    assert not multiprocessing.active_children()


def test_data_shows_both_speeds():
    small = ("--images=256", "--files=8", "--repeats=1")
    names = [row[0] for row in rows_of(run_script("benchmarks/data.py", CPU, *small))]
    assert names[:2] == ["DataLoader, 2 workers", "on the device"]
    assert [name for name in names if name.endswith("decoded into a file")] == [
        "8 of 224×224: decoded into a file",
        "4 of 500×375: decoded into a file",
        "1 of 4000×3000: decoded into a file",
    ]


def test_memory_shows_what_is_needed_and_what_is_held(call_script):
    # Each line is measured by a process that starts cold.
    what = ("digits", "image_folder", "--files", "10", "20")
    digits, few, many = rows_of(call_script("benchmarks/memory.py", CPU, *what))
    names = ("digits", "image_folder, 10 images", "image_folder, 20 images")
    assert (digits[0], few[0], many[0]) == names
    assert float(digits[4]) > 1 and float(few[3]) > 0


def test_rounds_shows_the_time_and_the_memory_of_each():
    rows = rows_of(run_script("benchmarks/rounds.py", CPU, "--images=300", "--width=4"))
    assert [row[0] for row in rows] == ["0", "1", "2"]
    assert all(float(row[1]) > 0 and float(row[2].replace(",", "")) > 0 for row in rows)


def test_ranks_are_measured_beside_one():
    small = ("--images=16", "--width=4", "--repeats=1")
    rows = rows_of(run_script("benchmarks/ranks.py", CPU, *small))
    assert [row[0] for row in rows] == ROWS
    speeds = [cell.replace(",", "") for row in rows for cell in row[1:]]
    assert len(speeds) == 3 * 4  # of one rank, of two, of two processes
    assert all(float(number) > 0 for speed in speeds for number in re.findall(r"[\d.]+", speed))


def test_scaling_measures_training_and_scoring_and_the_picks():
    cpu = torch.device("cpu")
    assert min(images_per_second(cpu, 16, 8, num_labeled=16, num_scored=16)) > 0
    header, _, *rows = cells(table_of_picks(load("digits").active_learning, cpu))
    assert header[0] == "50 of 500 images, 350 labelled"
    names = [row[0].split(",")[0] for row in rows]
    assert names == ["CORESET", "BALD", "BADGE", "NOISE_STABILITY", "TYPICLUST", "PROBCOVER"]


WRONG = {"memory": "imagenet", "data": "--images=0", "step": "--repeats=0", "ranks": "--ranks=0"}


@pytest.mark.parametrize(("script", "wrong"), [*WRONG.items(), ("rounds", "--images=0")])
def test_wrong_arguments_are_one_line(tmp_path, monkeypatch, call_script, script, wrong):
    monkeypatch.chdir(tmp_path)
    done = call_script(f"benchmarks/{script}.py", wrong)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert not any(tmp_path.iterdir())
