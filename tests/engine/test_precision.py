"""The precision of training, as a user chooses it."""

import logging
import re
from functools import partial
from pathlib import Path

import pytest
import torch

import models
from tests.support.harness import Run, tiny_run
from tests.support.soak import differences, results
from tod.config import InputError, load
from tod.engine.device import bf16_unit, say_why, select_precision, work_of_a_step

CPU = torch.device("cpu")
LARGE = 2 * 10**9
"""Multiply-adds of a step from which bf16 pays."""


def run_in(place: Path, *arguments: str) -> Run:
    return tiny_run(place, "main_TOD.py", "TOD", "TOD", "--device=cpu", *arguments)


def test_what_the_device_does_not_compute_in_is_refused(tmp_path):
    run = run_in(tmp_path, "--precision=tf32")
    line = r"^--precision tf32: cpu \(.+\) does not compute in it; it offers fp32, bf16$"
    with pytest.raises(InputError, match=line):
        run.start()
    assert not run.folder.exists()


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
    return bf16_unit(CPU)


@pytest.mark.parametrize(
    "units", [(), ("avx512_bf16",), ("avx512_bf16", "amx_bf16")], ids=["no unit", "one", "two"]
)
def test_a_cpu_with_bf16_units_trains_in_bf16_and_says_why(monkeypatch, caplog, units):
    caplog.set_level(logging.INFO, logger="tod")
    unit = units[-1] if units else None
    assert has_bf16_units(monkeypatch, *units) == unit
    chosen = "bf16" if unit else "fp32"
    assert select_precision("auto", CPU, LARGE) == chosen
    assert select_precision("fp32", CPU, LARGE) == "fp32"
    say_why("auto", chosen, CPU, LARGE)
    why = rf"computes in bf16 \({unit}\)" if unit else "has no unit for bf16 that PyTorch knows of"
    assert re.fullmatch(rf"trains in {chosen}: cpu \(.*\) {why}", caplog.messages[-1])
    caplog.clear()
    for precision in ("bf16", "fp32"):  # asked for, or what the run has begun in
        say_why(precision, precision, CPU, LARGE)
    assert [each.levelname for each in caplog.records] == ["WARNING"] * (unit is None)
    assert all(each.startswith("trains in bf16, more slowly") for each in caplog.messages)


def test_a_small_step_is_in_fp32_everywhere_and_it_is_said_why(monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="tod")
    has_bf16_units(monkeypatch, "avx512_bf16")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    for device in map(torch.device, ("cpu", "cuda")):
        for chosen, name, width in (
            *(("fp32", "digits", 16), ("fp32", "digits", 64), ("bf16", "cifar10", 64)),
            ("bf16", "cifar10_small_network", 16),
        ):
            work = work_of_a_step(load(name, [f"model.width={width}"]))
            assert select_precision("auto", device, work) == chosen
    say_why("auto", "fp32", CPU, work_of_a_step(load("digits")))
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


def test_an_older_pytorch_is_asked_for_each_unit(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    for there, unit in (((0, 0), None), ((1, 0), "amx"), ((0, 1), "avx512_bf16")):
        for name, value in zip(names, there, strict=True):
            monkeypatch.setattr(torch.cpu, name, lambda value=value: bool(value), raising=False)
        assert bf16_unit(CPU) == unit
    for name in names:
        monkeypatch.delattr(torch.cpu, name)
    assert bf16_unit(CPU) is None


def test_a_run_goes_on_in_the_precision_it_began_with_to_the_same_bytes(tmp_path):
    whole, run = (run_in(tmp_path / place, "--precision=bf16") for place in ("whole", "run"))
    again = partial(run_in, tmp_path / "run")
    whole.start()
    run.stop_after(8)  # within an epoch
    with pytest.raises(InputError, match=r"^.*another precision \(bf16 there, fp32 here\).*$"):
        again("--precision=fp32").start()
    again("--precision=auto").start()
    in_bf16 = results(run.folder)
    assert not differences(results(whole.folder), in_bf16)
    again("--precision=fp32", "--overwrite").start()
    assert differences(in_bf16, results(run.folder))
