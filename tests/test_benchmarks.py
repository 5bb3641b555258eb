"""The benchmarks run, at sizes too small to measure anything."""

import re
from subprocess import Popen

import pytest
import torch

from benchmarks.scaling import images_per_second, table_of_picks
from tests.support.harness import run_script
from tod.config import load
from tod.training.device import bf16_unit

CPU = "--device=cpu"


def cells(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_step_shows_images_per_second_ratios_and_shares_of_the_peak():
    sizes = ("--width=16", "--batch-size=8", "--labeled=16", "--scored=16", "--repeats=1")
    done = run_script("benchmarks/step.py", CPU, *sizes)
    assert done.returncode == 0, done.stderr
    _, _, *rows = cells(done.stdout)
    assert [row[0] for row in rows] == ["train, NONE", "train, COD", "train, LL4AL", "score, TOD"]
    for _, baseline, fp32, *bf16 in rows:
        base, ours = (float(cell.split()[0].replace(",", "")) for cell in (baseline, fp32))
        ratio = float(fp32.split("(")[1].split(";")[0])
        assert ratio == pytest.approx(ours / base, rel=0.02)
        assert baseline.endswith("%)") and fp32.endswith("%)")
        assert len(bf16) == (bf16_unit(torch.device("cpu")) is not None)
        assert all(cell.endswith("%)") or cell == "as fp32" for cell in bf16)


def test_data_shows_both_speeds():
    done = run_script("benchmarks/data.py", CPU, "--images=256", "--files=8", "--repeats=1")
    assert done.returncode == 0, done.stderr
    names = [row[0] for row in cells(done.stdout)]
    assert names[2:4] == ["DataLoader, 2 workers", "on the device"]
    assert [name for name in names if name.endswith("decoded into a file")] == [
        "8 of 224×224: decoded into a file",
        "4 of 500×375: decoded into a file",
        "1 of 4000×3000: decoded into a file",
    ]


def test_memory_of_an_image_folder_is_what_is_held_beside_the_images():
    image_folder = (CPU, "image_folder", "--files", "10", "20")
    done = run_script("benchmarks/memory.py", *image_folder, start=Popen)
    assert done.returncode == 0, done.stderr
    few, many = cells(done.stdout)[2:]
    assert [few[0], many[0]] == ["image_folder, 10 images", "image_folder, 20 images"]
    assert float(few[3]) > 0


def test_memory_shows_what_is_needed_and_what_is_held():
    done = run_script("benchmarks/memory.py", CPU, "digits", start=Popen)
    assert done.returncode == 0, done.stderr
    (row,) = cells(done.stdout)[2:]
    assert row[0] == "digits"
    assert float(row[4]) > 1


def test_rounds_shows_the_time_and_the_memory_of_each():
    done = run_script("benchmarks/rounds.py", CPU, "--images=300", "--width=4")
    assert done.returncode == 0, done.stderr
    rows = cells(done.stdout)[2:]
    assert [row[0] for row in rows] == ["0", "1", "2"]
    assert all(float(row[1]) > 0 and float(row[2].replace(",", "")) > 0 for row in rows)


def test_scaling_measures_training_and_scoring():
    speeds = images_per_second(torch.device("cpu"), 16, 8, num_labeled=16, num_scored=16)
    assert min(speeds) > 0


def test_ranks_are_measured_beside_one():
    small = ("--images=16", "--width=4", "--repeats=1")
    done = run_script("benchmarks/ranks.py", CPU, *small)
    assert done.returncode == 0, done.stderr
    rows = cells(done.stdout)[2:]
    assert [row[0] for row in rows] == ["train, NONE", "train, COD", "train, LL4AL", "score, TOD"]
    speeds = [cell.replace(",", "") for row in rows for cell in row[1:]]
    assert len(speeds) == 3 * 4  # of one rank, of two, of two processes
    assert all(float(number) > 0 for speed in speeds for number in re.findall(r"[\d.]+", speed))


def test_scaling_measures_the_picks():
    digits = load("digits").active_learning
    header, _, *rows = cells(table_of_picks(digits, torch.device("cpu")))
    assert header[0] == "50 of 500 images, 350 labelled"
    names = [row[0].split(",")[0] for row in rows]
    assert names == ["CORESET", "BALD", "BADGE", "NOISE_STABILITY", "TYPICLUST", "PROBCOVER"]


@pytest.mark.parametrize(
    ("script", "wrong"),
    [
        ("memory.py", ["imagenet"]),
        ("data.py", ["--images=0"]),
        ("step.py", ["--repeats=0"]),
        ("rounds.py", ["--images=0"]),
        ("ranks.py", ["--ranks=0"]),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, script, wrong):
    done = run_script(f"benchmarks/{script}", *wrong, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert not any(tmp_path.iterdir())
