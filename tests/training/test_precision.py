"""The precision of training, as a user chooses it."""

import logging
import re

import pytest
import torch

import models
from tests.support.harness import TINY_DIGITS, run_script
from tests.support.soak import differences, results
from tod.config import InputError, load
from tod.training.device import bf16_unit, say_why, select_precision, work_of_a_step

NAME = "digits_auxiliary_TOD_sampling_TOD_seed0"
RUN = [*TINY_DIGITS, "--device=cpu", "--precision=auto", "--output-dir"]
LARGE = 2 * 10**9
"""Multiply-adds of a step from which bf16 pays."""


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
    assert select_precision("auto", gpu, LARGE) == chosen
    if chosen == "fp32":
        for name in ("tf32", "bf16"):
            with pytest.raises(InputError, match=f"{name}: cuda \\(a GPU\\) .* offers fp32$"):
                select_precision(name, gpu, LARGE)


def has_bf16_units(monkeypatch: pytest.MonkeyPatch, *units: str) -> str | None:
    there = {"avx2": True, "amx_bf16": False, "avx512_bf16": False} | dict.fromkeys(units, True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: there, raising=False)
    return bf16_unit(torch.device("cpu"))


def test_a_cpu_with_bf16_units_trains_in_bf16_and_says_why(monkeypatch, caplog):
    cpu = torch.device("cpu")
    caplog.set_level(logging.INFO, logger="tod")
    assert has_bf16_units(monkeypatch) is None
    assert select_precision("auto", cpu, LARGE) == "fp32"
    say_why("auto", "fp32", cpu, LARGE)
    assert re.fullmatch(
        r"trains in fp32: cpu \(.*\) has no unit for bf16 that PyTorch knows of",
        caplog.messages[-1],
    )
    for units, named in (
        (("avx512_bf16",), "avx512_bf16"),
        (("avx512_bf16", "amx_bf16"), "amx_bf16"),
    ):
        assert has_bf16_units(monkeypatch, *units) == named
        assert select_precision("auto", cpu, LARGE) == "bf16"
        say_why("auto", "bf16", cpu, LARGE)
        assert caplog.messages[-1].startswith("trains in bf16: cpu (")
        assert caplog.messages[-1].endswith(f"computes in bf16 ({named})")
        assert select_precision("fp32", cpu, LARGE) == "fp32"


def test_a_small_step_is_in_fp32_everywhere_and_it_is_said_why(monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="tod")
    has_bf16_units(monkeypatch, "avx512_bf16")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    for device in map(torch.device, ("cpu", "cuda")):
        chosen = {
            (name, width): select_precision("auto", device, work_of_a_step(load(name, [width])))
            for name, width in (
                ("digits", "model.width=16"),
                ("digits", "model.width=64"),
                ("cifar10", "model.width=64"),
                ("cifar10_small_network", "model.width=16"),
            )
        }
        assert list(chosen.values()) == ["fp32", "fp32", "bf16", "bf16"]
    say_why("auto", "fp32", torch.device("cpu"), work_of_a_step(load("digits")))
    assert caplog.messages[-1].endswith(
        "has 0.11 billion multiply-adds a step to do; bf16 pays from 2 billion on"
    )


@pytest.mark.parametrize("model", ["resnet", "imagenet_resnet"])
@pytest.mark.parametrize(("width", "side"), [(4, 32), (16, 64), (8, 224)])
def test_the_work_of_a_step_is_that_of_its_convolutions(model, width, side):
    settings = [f"model.name={model}", f"model.width={width}", f"images.size={side}"]
    config = load("own_images", [*settings, "training.batch_size=10"])
    counts = []
    network = models.build_backbone(config.model, 10).eval()
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(
                lambda layer, _, maps: counts.append(layer.weight.numel() * maps[0, 0].numel())
            )
    network(torch.zeros(1, 3, side, side))
    assert work_of_a_step(config) == 10 * sum(counts)


def test_bf16_that_is_slower_than_fp32_is_a_warning(monkeypatch, caplog):
    cpu = torch.device("cpu")
    for units, warnings in (((), 1), (("amx_bf16",), 0)):
        caplog.clear()
        has_bf16_units(monkeypatch, *units)
        for precision in ("bf16", "fp32"):  # asked for, or what the run has begun in
            say_why(precision, precision, cpu, LARGE)
        assert len(caplog.messages) == warnings
        assert all(each.startswith("trains in bf16, more slowly") for each in caplog.messages)


def test_an_older_pytorch_is_asked_for_each_unit(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    cpu = torch.device("cpu")
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    for there, unit in (((0, 0), None), ((1, 0), "amx"), ((0, 1), "avx512_bf16")):
        for name, value in zip(names, there, strict=True):
            monkeypatch.setattr(torch.cpu, name, lambda value=value: bool(value), raising=False)
        assert bf16_unit(cpu) == unit
    for name in names:
        monkeypatch.delattr(torch.cpu, name)
    assert bf16_unit(cpu) is None


def test_a_run_goes_on_in_the_precision_it_began_with(tmp_path):
    first = run_script(
        "main_TOD.py",
        *RUN,
        tmp_path,
        "--trials=1",
        "--set=active_learning.trials=2",
        "--precision=bf16",
    )
    assert first.returncode == 0, first.stderr
    other = [tmp_path, "--set=active_learning.trials=2", "--precision=fp32"]
    refused = run_script("main_TOD.py", *RUN, *other)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert "another precision (bf16 there, fp32 here)" in refused.stderr
    auto = run_script("main_TOD.py", *RUN, tmp_path, "--set=active_learning.trials=2", "--trials=2")
    assert auto.returncode == 0, auto.stderr
    anew = run_script("main_TOD.py", *RUN, *other, "--overwrite")
    assert anew.returncode == 0, anew.stderr


def test_bf16_gives_the_same_bytes_again_and_others_than_fp32(tmp_path):
    for name, precision in (("one", "bf16"), ("two", "bf16"), ("three", "fp32")):
        done = run_script("main_TOD.py", *RUN, tmp_path / name, f"--precision={precision}")
        assert done.returncode == 0, done.stderr
    one, two, three = (results(tmp_path / name / NAME) for name in ("one", "two", "three"))
    assert not differences(one, two)
    assert differences(one, three)
