"""The device, its precision and its threads."""

import ctypes
import logging
import os
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from models import multiply_adds
from models.inference import allow_tf32
from tod.config import Config, InputError
from tod.config.settings import counted
from tod.system.machine import is_out_of_memory, own_cores

log = logging.getLogger("tod")

WORK_OF_A_THREAD = 10**9
"""The multiply-adds of a step that pay for a thread. With less work, threads spend more time
waiting for each other than computing, above all beside other processes, and bf16 saves little."""
WORK_FOR_BF16 = 2 * WORK_OF_A_THREAD
THREADS = torch.get_num_threads()
"""PyTorch's default: one for each physical core, unless OMP_NUM_THREADS is set."""


def select_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of this name; `auto` is CUDA, else Apple's MPS, else the CPU.

    The ranks on a node divide its GPUs among them.
    """
    if name != "cpu":
        cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
        there = [*["cuda"] * cuda, *["mps"] * mps, "cpu"]
        if name not in ("auto", *there):
            found = ", ".join(there)
            raise InputError(f"--device {name}: PyTorch finds none here; it finds {found}")
        name = there[0] if name == "auto" else name
    if name != "cuda":
        return torch.device(name)
    device = torch.device(name, local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def device_name(device: torch.device) -> str:
    """The device's name for people; a CPU's includes the number of threads in use."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return f"cpu ({_processor()}, threads: {torch.get_num_threads()})"
    return device.type


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def precisions(device: torch.device) -> tuple[str, ...]:
    """The precisions in which the device trains."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return ("fp32", "tf32", "bf16")
    return ("fp32", "bf16") if device.type == "cpu" else ("fp32",)


def bf16_unit(device: torch.device) -> str | None:
    """The hardware unit for bf16 that PyTorch finds on a CUDA device or a CPU; None if it has none.

    A CPU without such a unit can compute in bf16, but more slowly than in fp32.
    """
    if device.type == "cuda" and "bf16" in precisions(device):
        major, minor = torch.cuda.get_device_capability(device)
        return f"compute capability {major}.{minor}"
    if device.type != "cpu":
        return None
    if hasattr(torch.cpu, "get_capabilities"):
        there = torch.cpu.get_capabilities()
        return next((unit for unit in ("amx_bf16", "avx512_bf16") if there.get(unit)), None)
    # Older versions of PyTorch have a function for each unit, or none.
    asked = {"amx": "_is_amx_tile_supported", "avx512_bf16": "_is_avx512_bf16_supported"}
    return next((unit for unit, f in asked.items() if getattr(torch.cpu, f, bool)()), None)


def work_of_a_step(config: Config) -> int:
    """The approximate multiply-adds of a batch's forward pass."""
    return config.training.batch_size * multiply_adds(config.model, config.side)


def select_threads(device: torch.device, work: int, begun: Mapping[str, Any]) -> int:
    """The number of threads for a process: on a CPU as many as the work of a step pays for.

    It is at most the number of cores that the process may use. A run that has recorded its number
    keeps it, since another number rounds differently. `work` is this process's part of a step.
    """
    # Earlier versions recorded the number in the name of the device alone.
    recorded = f"threads: {begun.get('threads')}, {begun.get('device')}"
    if not (before := re.search(r"threads: ([1-9]\d{0,3})\b", recorded)):
        most = _most_threads()
        return max(1, min(most, work // WORK_OF_A_THREAD)) if device.type == "cpu" else most
    threads = int(before[1])
    if device.type == "cpu" and threads > own_cores() and not os.environ.get("OMP_NUM_THREADS"):
        log.warning(
            f"goes on with the {threads} threads that it began with, for the same numbers, on "
            f"{counted(own_cores(), 'core')}; OMP_NUM_THREADS={own_cores()} is faster"
        )
    return threads


def _most_threads() -> int:
    return min(THREADS, own_cores())


def select_precision(name: str, device: torch.device, work: int) -> str:
    """The precision of this name; `auto` is bf16 for large work on hardware with a unit for it.

    Small work is in fp32 everywhere, so that it is the same experiment on every machine.
    """
    there = precisions(device)
    if name == "auto":
        return "bf16" if bf16_unit(device) and work >= WORK_FOR_BF16 else "fp32"
    if name not in there:
        raise InputError(
            f"--precision {name}: {device_name(device)} does not compute in it; "
            f"it offers {', '.join(there)}"
        )
    return name


def say_why(asked: str, precision: str, device: torch.device, work: int) -> None:
    """Logs which precision `auto` has chosen and why, and warns where bf16 is slower than fp32."""
    unit = bf16_unit(device)
    why = f"computes in bf16 ({unit})" if unit else "has no unit for bf16 that PyTorch knows of"
    if asked == "auto":
        if work < WORK_FOR_BF16:
            billions = f"{work / 1e9:.2g} billion multiply-adds"
            why = f"has {billions} a step to do; bf16 pays from 2 billion on"
        log.info(f"trains in {precision}: {device_name(device)} {why}")
    elif precision == "bf16" and not unit:
        log.warning(f"trains in bf16, more slowly than in fp32: {device_name(device)} {why}")


def prepare(
    device: torch.device, precision: str, deterministic: bool, threads: int | None = None
) -> None:
    """Sets up PyTorch in this process, before anything computes.

    `threads` defaults to the number of cores that the process may use; OMP_NUM_THREADS, if set,
    overrides it.
    """
    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(threads or _most_threads())
    allow_tf32(precision == "tf32")
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        # CUDA then gives the same bytes each time, at some cost in speed; a CPU always does.
        # PyTorch warns of an operation that has no deterministic form.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # `torch.use_deterministic_algorithms` would also import a compiler, which takes seconds.
        torch.set_deterministic_debug_mode("warn")
        # Nothing here reads uninitialized memory.
        torch.utils.deterministic.fill_uninitialized_memory = False
    if device.type == "cpu":
        keep_freed_memory()


def keep_freed_memory() -> None:
    """Keeps freed host memory in this process (with glibc; elsewhere nothing changes).

    By default glibc returns the memory of large tensors and requests it again at each step, and the
    kernel clears every page anew, which takes a third of a training step on a CPU, or more.
    """
    trim_threshold, mmap_max = -1, -4  # parameters of mallopt
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(trim_threshold, -1)  # never
        libc.mallopt(mmap_max, 0)


@contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Turns running out of memory into an InputError that says what to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise InputError(
                "out of memory; what was saved stays. Try a smaller training.batch_size, "
                "model.width or images.size, or another --device, in another --output-dir"
            ) from None
        raise
