"""The precision of training, as a user chooses it."""

import re

import pytest
import torch

from tests.support.harness import TINY_DIGITS, run_script
from tests.support.soak import differences, results
from tod.config import InputError
from tod.training.device import select_precision

NAME = "digits_auxiliary_TOD_sampling_TOD_seed0"
RUN = [*TINY_DIGITS, "--device=cpu", "--output-dir"]


def test_what_the_device_does_not_compute_in_is_refused(tmp_path):
    refused = run_script("main_TOD.py", *RUN, tmp_path, "--precision=tf32")
    assert refused.returncode == 2
    assert re.fullmatch(
        r"--precision tf32: cpu \(.+\) does not compute in it; it offers fp32, bf16\n",
        refused.stderr,
    )
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize(("capability", "chosen"), [((7, 5), "fp32"), ((8, 0), "bf16")])
def test_an_older_gpu_computes_in_fp32_alone(monkeypatch, capability, chosen):
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    assert select_precision("auto", gpu) == chosen
    if chosen == "fp32":
        for name in ("tf32", "bf16"):
            with pytest.raises(InputError, match=f"{name}: cuda \\(a GPU\\) .* offers fp32$"):
                select_precision(name, gpu)


def test_a_run_goes_on_in_the_precision_it_began_with(tmp_path):
    first = run_script(
        "main_TOD.py", *RUN, tmp_path, "--trials=1", "--set=active_learning.trials=2"
    )
    assert first.returncode == 0, first.stderr
    other = [tmp_path, "--set=active_learning.trials=2", "--precision=bf16"]
    refused = run_script("main_TOD.py", *RUN, *other)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert "another precision (fp32 there, bf16 here)" in refused.stderr
    anew = run_script("main_TOD.py", *RUN, *other, "--overwrite")
    assert anew.returncode == 0, anew.stderr


def test_bf16_gives_the_same_bytes_again_and_others_than_fp32(tmp_path):
    for name, precision in (("one", "bf16"), ("two", "bf16"), ("three", "fp32")):
        done = run_script("main_TOD.py", *RUN, tmp_path / name, f"--precision={precision}")
        assert done.returncode == 0, done.stderr
    one, two, three = (results(tmp_path / name / NAME) for name in ("one", "two", "three"))
    assert not differences(one, two)
    assert differences(one, three)
