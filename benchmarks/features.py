"""What the features of photographs cost: beside the bare network, in time and in memory.

python benchmarks/features.py

The photographs are crops of scikit-learn's two, as JPEG files of 300×200 pixels. The bare network
runs over as many random images in a plain loop, with all cores and without decoding; both take
turns, and medians count. The memory is the most that a process of its own has had (its resident
set), beyond what it has when PyTorch, the extractor and all modules are there.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import machine
from models.extractor import LITE0, Extractor
from tod.analysis.tables import markdown
from tod.config import cli
from tod.data import extraction, picture
from tod.engine.device import keep_freed_memory, select_device
from tod.system.machine import own_cores

BATCH_SIZE = 64


def write_photographs(folder: Path, count: int) -> list[str]:
    """JPEG files of 300×200 pixels, no two alike; their names."""
    random, photographs = np.random.default_rng(0), load_sample_images().images
    names = [f"{index:06d}.jpg" for index in range(count)]
    for index, name in enumerate(names):
        photograph = photographs[index % len(photographs)]
        top, left = random.integers(0, np.array(photograph.shape[:2]) - (200, 300))
        crop = photograph[top : top + 200, left : left + 300]
        Image.fromarray(crop).save(folder / name, quality=90)
    return names


def compute(folder: Path, names: list[str], extractor: Extractor, device: torch.device) -> None:
    """Computes and keeps the features of a folder's photographs, all anew."""
    for kept in folder.glob(".features*"):
        kept.unlink()
    pictures = extraction.pictures_in(folder, names, extractor.side, picture.as_shown, [])
    store = extraction.store_of(folder, "benchmark", pictures, extractor)
    kept, failures = extraction.load(store, pictures, extractor, device)
    if failures or kept.missing:
        raise RuntimeError("a photograph has no features")


def resident() -> int:
    """The most memory that this process has had, in bytes, as Linux knows it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def print_memory(folder: Path, extractor: Extractor, device: torch.device) -> None:
    """What a process takes for the photographs in a folder, beyond all that is loaded."""
    names = sorted(path.name for path in folder.glob("*.jpg"))
    extractor.network.to(device), extractor.view(Image.new("RGB", (8, 8)))
    before = resident()
    compute(folder, names, extractor, device)
    print((resident() - before) / 1e6)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    parser.add_argument("--extractor", default=LITE0, help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="default: %(default)s")
    counts = parser.add_argument("--photographs", type=int, nargs="+", default=[512, 4096])
    counts.help = "numbers to compute; the speed is of the first (default: 512 4096)"
    parser.add_argument("--memory", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = select_device(arguments.device)
    keep_freed_memory()
    extractor = Extractor(arguments.extractor)
    if arguments.memory:
        print_memory(arguments.memory, extractor, device)
        return
    print(machine.describe(device))
    bare = extractor.build().eval().to(device)
    torch.set_num_threads(own_cores())
    images = torch.randn(BATCH_SIZE, 3, extractor.size, extractor.size, device=device)
    first = arguments.photographs[0]

    def plain_loop() -> None:
        with torch.inference_mode():
            for _ in range(0, first, BATCH_SIZE):
                bare(images).cpu()

    rows = [["photographs", "images/s", "of the bare network's", "memory, MB"]]
    for count in arguments.photographs:
        with tempfile.TemporaryDirectory() as folder:
            names = write_photographs(Path(folder), count)
            cells = ["", ""]
            if count == first:
                works = {
                    "bare": plain_loop,
                    "extraction": lambda f=folder, n=names: compute(Path(f), n, extractor, device),
                }
                times = machine.interleaved(works, arguments.repeats, device)
                ratio = times["bare"] / times["extraction"]
                cells = [f"{count / times['extraction']:.1f}", f"{ratio:.2f}"]
            command = [sys.executable, __file__, "--memory", folder, "--device", arguments.device]
            command += ["--extractor", arguments.extractor]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append([f"{count:,}", *cells, f"{float(done.stdout):.0f}"])
    print(markdown(rows), end="")


if __name__ == "__main__":
    with cli.exit_status():
        main()
