"""The benchmarks run, at sizes too small to measure anything."""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from subprocess import CompletedProcess

import pytest
import torch

from benchmarks import baseline, machine, step
from benchmarks.scaling import images_per_second, table_of_picks
from benchmarks.workload import Workload, workload
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
def in_this_process(method: str, work: Workload) -> Iterator[Callable[[], object]]:
    yield getattr(baseline.Baseline(work), method)


def test_the_baseline_works_in_a_process_of_its_own():
    small = workload(4, 8, num_images=16, num_labeled=8, device=torch.device("cpu"))
    with baseline.baseline_in_its_own_process("score", small) as work:
        work()
        work()
        assert len(multiprocessing.active_children()) == 1
    assert not multiprocessing.active_children()


def test_scaling_measures_training_and_scoring_and_the_picks():
    cpu = torch.device("cpu")
    assert min(images_per_second(cpu, 16, 8, num_labeled=16, num_scored=16)) > 0
    header, _, *rows = cells(table_of_picks(load("digits").active_learning, cpu))
    assert header[0] == "50 of 500 images, 350 labelled"
    names = [row[0].split(",")[0] for row in rows]
    published = ["CORESET", "BALD", "BADGE", "NOISE_STABILITY", "TYPICLUST", "PROBCOVER"]
    assert names == [*published, *["MAXHERDING", "UHERDING", "BAIT", "DROPQUERY", "ALFAMIX"]]


def test_a_wrong_argument_is_one_line(tmp_path, monkeypatch, call_script):
    monkeypatch.chdir(tmp_path)
    done = call_script("benchmarks/step.py", "--repeats=0")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert not any(tmp_path.iterdir())
