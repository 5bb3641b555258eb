"""What a benchmark ran on, and what it is measured against."""

import platform
import time
from collections.abc import Callable, Sequence
from datetime import date
from statistics import median

import torch
import torchvision
from torch import nn

from tod.analysis.tables import markdown
from tod.engine.device import device_name

PRODUCTS = {"cuda": 8192}
"""The side of the matrices whose product tells the peak, by device; elsewhere 2048."""


def describe(device: torch.device) -> str:
    """Date, hardware and versions, in one line."""
    return (
        f"{date.today()}; {device_name(device)}; Python {platform.python_version()}, "
        f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    )


def print_line(cells: Sequence[str]) -> None:
    """Prints a line of a table once it is known: the next may take minutes."""
    print(markdown([cells]).splitlines()[0], flush=True)


def synchronize(device: torch.device) -> None:
    """Waits for all that a GPU was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """How long a piece of work takes."""
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began


def interleaved(
    works: dict[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, float]:
    """The median seconds of each piece of work; they take turns, and the first does not count."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            elapsed = seconds(work, device)
            if turn > 0:
                times[name].append(elapsed)
    return {name: median(values) for name, values in times.items()}


def peak_flops(device: torch.device, dtype: torch.dtype, repeats: int) -> float:
    """The most operations a second that a large matrix product or convolution reaches here."""
    size = PRODUCTS.get(device.type, 2048)
    a = torch.randn(size, size, device=device, dtype=dtype)
    convolution = nn.Conv2d(256, 256, 3, padding=1, bias=False, device=device, dtype=dtype)
    convolution.to(memory_format=torch.channels_last)
    images = torch.randn(size // 64, 256, 16, 16, device=device, dtype=dtype)
    images = images.contiguous(memory_format=torch.channels_last)
    operations = {"product": 2 * size**3, "convolution": 2 * 9 * 256 * images.numel()}
    with torch.inference_mode():
        works = {"product": lambda: a @ a, "convolution": lambda: convolution(images)}
        times = interleaved(works, repeats, device)
    return max(operations[name] / times[name] for name in works)
