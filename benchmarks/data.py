"""Augmented images a second: batches made on the device, and a DataLoader with two workers.

python benchmarks/data.py

Random flips and crops of 32×32 images, normalised, in batches of 128. The DataLoader runs PIL
transforms; its workers live on from epoch to epoch. Both take turns; medians count.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import machine
from step import PILImages

import command_line
import configuration
from augmentation import ImageBatches
from utils import keep_freed_memory, select_device


def main() -> None:
    """Measures and prints one table."""
    parser = command_line.Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    parser.add_argument(
        "--images", type=command_line.positive, default=12_800, help="of an epoch (default: 12800)"
    )
    parser.add_argument(
        "--repeats", type=command_line.positive, default=5, help="epochs of each (default: 5)"
    )
    arguments = parser.parse_args()
    device = select_device(arguments.device)
    config = configuration.load("cifar10")
    keep_freed_memory()
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (arguments.images, 32, 32, 3), dtype=np.uint8)
    mean, std = torch.tensor(config.images.mean), torch.tensor(config.images.std)
    images = ImageBatches(
        torch.from_numpy(pixels).permute(0, 3, 1, 2), mean, std, config.augmentation, device
    )
    loader = DataLoader(
        PILImages(pixels, torch.zeros(len(pixels)), config, train=True),
        batch_size=128,
        shuffle=True,
        num_workers=2,
        persistent_workers=True,
        pin_memory=device.type == "cuda",
    )

    def ours() -> None:
        views = images.random_views(random.permutation(len(pixels)), random)
        for batch in images.placed(views).split(128):
            images.augmented(batch)

    def dataloader() -> None:
        for batch, _ in loader:
            batch.to(device, non_blocking=True)

    works = {"DataLoader, 2 workers": dataloader, "on the device": ours}
    times = machine.interleaved(works, arguments.repeats, device)
    slowest = times["DataLoader, 2 workers"]
    print(machine.describe(device))
    rows = [
        [name, f"{len(pixels) / seconds:,.0f}", f"{slowest / seconds:.1f}"]
        for name, seconds in times.items()
    ]
    print(machine.table(["", "augmented images/s", "ratio"], rows))


if __name__ == "__main__":
    with command_line.exit_status():
        main()
