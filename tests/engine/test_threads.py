"""How many threads a run takes on a CPU: what a step's work pays for, and what it began with."""

import pytest
import torch
import yaml

from tests.support.harness import tiny_run
from tests.support.soak import differences, results
from tod.config import load
from tod.engine import device as devices
from tod.runs.commands import share_of_machine
from tod.system import machine

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(devices, "THREADS", 8)
    monkeypatch.setattr(devices, "own_cores", lambda: 8)
    yield
    torch.set_num_threads(before)


def selected(config: str, ranks: int = 1, **begun: object) -> int:
    return devices.select_threads(CPU, devices.work_of_a_step(load(config)) // ranks, begun)


@pytest.mark.parametrize(
    ("config", "ranks", "threads"),
    [
        *(("digits", 1, 1), ("cifar10", 1, 8), ("cifar10", 4, 8)),
        *(("cifar10_small_network", 1, 4), ("cifar10_small_network", 4, 1)),
    ],
)
def test_a_cpu_takes_the_threads_that_a_step_pays_for(config, ranks, threads):
    assert selected(config, ranks) == threads


def test_a_run_keeps_the_threads_that_it_began_with(caplog):
    assert selected("cifar10", threads=3) == 3
    assert selected("digits", device="cpu (AMD EPYC, threads: 2)") == 2  # an earlier version's
    assert selected("digits", device="cuda (NVIDIA H100)") == 1
    assert selected("digits", threads="many", device=None) == 1
    assert not caplog.messages
    assert selected("digits", threads=16) == 16
    assert "goes on with the 16 threads that it began with" in caplog.messages[0]
    assert "OMP_NUM_THREADS=8 is faster" in caplog.messages[0]


def test_omp_num_threads_decides(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", str(before))
    devices.prepare(CPU, "fp32", deterministic=True, threads=before + 1)
    assert torch.get_num_threads() == before
    monkeypatch.delenv("OMP_NUM_THREADS")
    devices.prepare(CPU, "fp32", deterministic=True, threads=before + 1)
    assert torch.get_num_threads() == before + 1


@pytest.mark.parametrize(("physical", "own"), [(8, 3), (2, 4)])
def test_predictions_take_the_cores_that_their_process_may_have(monkeypatch, physical, own):
    monkeypatch.setattr(devices, "THREADS", physical)
    monkeypatch.setattr(devices, "own_cores", lambda: own)
    devices.prepare(CPU, "fp32", deterministic=False)
    assert torch.get_num_threads() == min(physical, own)


def test_a_small_run_goes_on_with_its_one_thread_to_the_same_bytes(tmp_path, monkeypatch):
    whole, run = (
        tiny_run(tmp_path / name, "main_TOD.py", "RANDOM", "NONE", "--device=cpu")
        for name in ("whole", "stopped")
    )
    whole.start()
    recorded = yaml.safe_load((whole.folder / "config.yaml").read_text(encoding="utf-8"))
    assert torch.get_num_threads() == recorded["run"]["threads"] == 1
    run.stop_after(3)
    monkeypatch.setattr(devices, "WORK_OF_A_THREAD", 1)
    torch.set_num_threads(2)
    run.start()
    assert torch.get_num_threads() == 1
    assert not differences(results(whole.folder), results(run.folder))


def test_runs_at_once_share_the_cores(monkeypatch):
    shares = [int(share_of_machine(0, processes)[machine.SHARE]) for processes in (1, 2, 1000)]
    assert shares == [machine.cores(), max(1, machine.cores() // 2), 1]
    monkeypatch.setenv(machine.SHARE, "1")
    assert machine.own_cores() == 1
    assert share_of_machine(0, 2)[machine.SHARE] == "1"
    monkeypatch.setenv(machine.SHARE, "nonsense")
    assert machine.own_cores() == machine.cores()
