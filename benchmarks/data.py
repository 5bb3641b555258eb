"""Images augmented and image files decoded a second, beside a DataLoader with two workers.

python benchmarks/data.py

Augmented: random flips and crops of 32×32 images, normalised, in batches of 128. Decoded: JPEG
files, squashed to 256×256, of which the middle 224×224 are kept; here they are written to the disk,
too, from which the next run maps them, and the DataLoader has to decode them again in each epoch.
The DataLoader runs PIL transforms; its workers live on from epoch to epoch. Both take turns;
medians count.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import machine
from benchmarks.baseline import PILImages
from benchmarks.workload import random_images, write_photographs
from tod.analysis.tables import markdown
from tod.config import cli, load
from tod.config.schema import Images
from tod.data.batches import ImageBatches
from tod.data.decoding import load_images
from tod.engine.device import keep_freed_memory, select_device
from tod.system.files import remove

LOADER = "DataLoader, 2 workers"
SIZES = {(224, 224): 1.0, (500, 375): 0.5, (4000, 3000): 0.02}
"""Of the files: width, height, and how many there are of `--files`."""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = cli.Parser(description=__doc__)
    add = parser.add_argument
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    add("--images", type=cli.positive, default=12_800, help="of an epoch (default: 12800)")
    add("--files", type=cli.positive, default=2000, help="of the smallest size (default: 2000)")
    add("--repeats", type=cli.positive, default=5, help="epochs of each (default: 5)")
    return parser.parse_args(argv)


class Files(Dataset):
    """Image files, decoded when they are asked for."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.names = folder, names
        self.transform = v2.Compose([v2.Resize((256, 256)), v2.CenterCrop(224), v2.PILToTensor()])

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.folder / self.names[index]) as image:
            return self.transform(image.convert("RGB"))


def augmentation(count: int, device: torch.device) -> dict[str, Callable[[], None]]:
    """The works that make an epoch of augmented batches, by name."""
    config = load("cifar10")
    random = np.random.default_rng(0)
    pixels, labels = random_images(count)
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

    return {LOADER: dataloader, "on the device": ours}


def decoding(folder: Path, names: Sequence[str]) -> dict[str, Callable[[], None]]:
    """The works that decode the files once, by name."""
    loader = DataLoader(
        Files(folder, names), batch_size=128, num_workers=2, persistent_workers=True
    )

    def ours() -> None:
        for kept in folder.glob(".decoded*"):
            remove(kept)
        load_images([(folder, names)], Images(resize=256, size=224))

    def dataloader() -> None:
        for _ in loader:
            pass

    return {LOADER: dataloader, "decoded into a file": ours}


def rates(
    works: dict[str, Callable[[], None]], count: int, repeats: int, device: torch.device
) -> list[list[str]]:
    """For each work, its name, how many a second, and how many times the DataLoader's."""
    times = machine.interleaved(works, repeats, device)
    return [
        [name, f"{count / seconds:,.0f}", f"{times[LOADER] / seconds:.2f}"]
        for name, seconds in times.items()
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints two tables."""
    arguments = parse_arguments(argv)
    device = select_device(arguments.device)
    keep_freed_memory()
    print(machine.describe(device))
    works = augmentation(arguments.images, device)
    rows = rates(works, arguments.images, arguments.repeats, device)
    print(markdown([["", "augmented images/s", "ratio"], *rows]))
    rows = []
    for (width, height), share in SIZES.items():
        count = max(1, round(share * arguments.files))
        with tempfile.TemporaryDirectory() as root:
            folder = Path(root) / "photographs"
            names = write_photographs(folder, count, width, height)
            found = rates(decoding(folder, names), count, arguments.repeats, device)
        rows += [[f"{count} of {width}×{height}: {name}", *cells] for name, *cells in found]
    print(markdown([["", "JPEG files/s", "ratio"], *rows]), end="")


if __name__ == "__main__":
    with cli.exit_status():
        main()
