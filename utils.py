"""Seeds, the EMA teacher, the device, signals: what has no better home."""

import ctypes
import logging
import os
import platform
import signal
import zlib
from contextlib import suppress
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from torch import nn

from configuration import InputError

log = logging.getLogger("tod")


def random_generator(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """The random numbers for one purpose at one place (trial, cycle, epoch …) of a run.

    Each place has a stream of its own, so nothing depends on what was drawn elsewhere: trials and
    strategies can be compared pairwise, and an epoch can be repeated without the ones before it.
    """
    key = (zlib.crc32(purpose.encode()), *numbers)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def seed_torch(seed: int, purpose: str, *numbers: int) -> None:
    """Seeds PyTorch's global generator, which initialises networks, for one purpose and place."""
    torch.manual_seed(int(random_generator(seed, purpose, *numbers).integers(2**63)))


@torch.no_grad()
def update_ema(ema_model: nn.Module, model: nn.Module, step: int, decay: float = 0.999) -> None:
    """Moves the teacher's parameters towards the backbone's (Huang et al., ICCV 2021, section 3.3).

    `w_ema ← α·w_ema + (1−α)·w` with α = min(1 − 1/(step + 1), decay). Buffers stay: the teacher's
    batch-norm statistics are its own.

    Args:
        ema_model: the teacher, changed in place.
        model: the backbone, of the same architecture.
        step: the optimiser steps taken in this trial, from 1.
        decay: the largest α.
    """
    alpha = min(1.0 - 1.0 / (step + 1), decay)
    # One call for all parameters.
    torch._foreach_lerp_(list(ema_model.parameters()), list(model.parameters()), 1.0 - alpha)


def select_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of this name; `auto` is CUDA, else Apple's MPS, else the CPU.

    The ranks on a node share out its GPUs.

    Raises:
        InputError: this machine, or its PyTorch, has no such device.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, is_there in available.items() if is_there)
    if not available[name]:
        there = ", ".join(device for device, is_there in available.items() if is_there)
        raise InputError(f"--device {name}: PyTorch finds none here; it finds {there}")
    if name != "cuda":
        return torch.device(name)
    device = torch.device(name, local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def device_name(device: torch.device) -> str:
    """The device as a person knows it; of a CPU, with the number of threads in use."""
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


def fastest_memory_format(device: torch.device, width: int) -> torch.memory_format:
    """Channels-last where it is faster and safe, for images and for networks of this width.

    On a CPU, the backward pass of a narrow channels-last 1×1 convolution of stride 2 corrupts the
    heap (oneDNN in PyTorch 2.15, 4 and 8 channels at 64×64; 12 and more are sound).
    """
    if device.type == "cuda" or (device.type == "cpu" and width >= 16):
        return torch.channels_last
    return torch.contiguous_format


def keep_freed_memory() -> None:
    """Keeps freed host memory with this process (glibc; elsewhere nothing changes).

    By default glibc gives the memory of large tensors back and asks for it again at each step, and
    the kernel clears every page anew: on a CPU a third of a training step, and more.
    """
    trim_threshold, mmap_max = -1, -4  # mallopt's names for them
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(trim_threshold, -1)  # never
        libc.mallopt(mmap_max, 0)


def precisions(device: torch.device) -> tuple[str, ...]:
    """The precisions in which the device trains."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return ("fp32", "tf32", "bf16")
    return ("fp32", "bf16") if device.type == "cpu" else ("fp32",)


def select_precision(name: str, device: torch.device) -> str:
    """The precision of this name; `auto` is bf16 on a CUDA device that computes in it, else fp32.

    Raises:
        InputError: the device does not compute in it.
    """
    there = precisions(device)
    if name == "auto":
        return "bf16" if device.type == "cuda" and "bf16" in there else "fp32"
    if name not in there:
        raise InputError(
            f"--precision {name}: {device_name(device)} does not compute in it; "
            f"it offers {', '.join(there)}"
        )
    return name


def allow_tf32(allowed: bool) -> None:
    """Whether CUDA may round the inputs of fp32 products and convolutions to TF32's 10 bits."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def make_deterministic() -> None:
    """Makes CUDA give the same bytes each time, for some speed.

    Where an operation has no deterministic form, PyTorch warns and names it. A CPU needs nothing.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Nothing here reads memory that it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device or the host had no room, for a tensor or for what a library needs."""
    messages = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
    return isinstance(error, MemoryError) or any(m in str(error) for m in messages)


class Interruption:
    """Turns SIGINT and SIGTERM into a request, which the loop answers once its progress is saved.

    A second SIGINT leaves at once.

    Args:
        advice: how to go on.
    """

    def __init__(self, advice: str) -> None:
        self.advice = advice
        self._signal: int | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self._signal is not None

    def stop_if_requested(self) -> None:
        """Leaves with the shell's exit status for the signal: 130 or 143.

        Raises:
            SystemExit: where a signal has come.
        """
        if self._signal is not None:
            log.warning("interrupted; %s", self.advice)
            raise SystemExit(128 + self._signal)

    def _request(self, signal_number: int, frame: FrameType | None) -> None:
        if self.requested and signal_number == signal.SIGINT:
            os._exit(128 + signal.SIGINT)
        self._signal = signal_number

    def __enter__(self) -> "Interruption":
        signals = (signal.SIGINT, signal.SIGTERM)
        self._previous = {number: signal.signal(number, self._request) for number in signals}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
