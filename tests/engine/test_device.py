"""The device: how ranks share out GPUs, and that a CPU keeps its memory."""

import platform
import subprocess
import sys

import pytest
import torch

from tests.support.harness import PROJECT_DIR, tiny_run
from tod.engine.device import select_device


@pytest.mark.parametrize(("ranks", "gpus"), [(2, 2), (5, 2), (3, 1)])
def test_ranks_share_out_the_gpus_of_their_node(monkeypatch, ranks, gpus):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    devices = [select_device("auto", local_rank) for local_rank in range(ranks)]
    assert [device.index for device in devices] == [rank % gpus for rank in range(ranks)]
    assert chosen == devices


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is about glibc's malloc")
def test_memory_is_kept_for_the_next_step_and_not_cleared_anew():
    script = """
import resource, torch
from tod.engine.device import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for size in (10, 9, 11):  # more than malloc ever keeps by default
        torch.ones(size * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min(faults() for _ in range(10)))
keep_freed_memory()
print(min(faults() for _ in range(10)))
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=PROJECT_DIR, capture_output=True, text=True, check=True)
    assert [int(count) < 50 for count in done.stdout.split()] == [False, True]


def test_deterministic_operations_cost_no_compiler():
    script = """
import sys, torch
from tod.engine.device import prepare
prepare(torch.device("cpu"), "fp32", deterministic=True)
print(torch.get_deterministic_debug_mode(), "torch._inductor" in sys.modules)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=PROJECT_DIR, capture_output=True, text=True, check=True)
    assert done.stdout == "1 False\n"


def test_a_cpu_run_leaves_cuda_alone(tmp_path, monkeypatch):
    def refuse(*device: object) -> None:
        raise AssertionError("CUDA is initialised")

    for name in ("_lazy_init", "current_device", "mem_get_info", "get_device_capability"):
        monkeypatch.setattr(torch.cuda, name, refuse)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    run = tiny_run(tmp_path, "main_TOD.py", "TOD", "TOD", "--device=cpu")
    run.start()
    assert (run.folder / "results.csv").exists()
