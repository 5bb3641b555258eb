"""Augmented images a second: batches made on the device, and a DataLoader with two workers.

python benchmarks/data.py

Random flips and crops of 32×32 images, normalised, in batches of 128. The DataLoader runs PIL
transforms; its workers live on from epoch to epoch. Both take turns; medians count.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import machine
from benchmarks.baseline import PILImages
from benchmarks.workload import random_images
from tod import cli
from tod.analysis.tables import markdown
from tod.config import load
from tod.data.batches import ImageBatches
from tod.training.device import keep_freed_memory, select_device


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = cli.Parser(description=__doc__)
    add = parser.add_argument
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    add("--images", type=cli.positive, default=12_800, help="of an epoch (default: 12800)")
    add("--repeats", type=cli.positive, default=5, help="epochs of each (default: 5)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints one table."""
    arguments = parse_arguments(argv)
    device = select_device(arguments.device)
    config = load("cifar10")
    keep_freed_memory()
    random = np.random.default_rng(0)
    pixels, labels = random_images(arguments.images)
    mean, std = torch.tensor(config.images.mean), torch.tensor(config.images.std)
    images = ImageBatches(
        torch.from_numpy(pixels).permute(0, 3, 1, 2), mean, std, config.augmentation, device
    )
    loader = DataLoader(
        PILImages(pixels, labels, config, train=True),
        batch_size=128,
        shuffle=True,
        num_workers=2,
        persistent_workers=True,
        pin_memory=device.type == "cuda",
    )

    def ours() -> None:
        views = images.random_views(random.permutation(len(pixels)), random)
        for batch in images.to_device(views).split(128):
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
    print(markdown([["", "augmented images/s", "ratio"], *rows]), end="")


if __name__ == "__main__":
    with cli.exit_status():
        main()
