"""A short run on a folder of pictures, whose names need be no text."""

import os
from pathlib import Path

from tests.support.harness import TINY_DIGITS
from tests.support.pictures import plain, write_classes
from tod.analysis import records

ODD = os.fsdecode(b"caf\xe9")
SETTINGS = [
    "--config=image_folder",
    *TINY_DIGITS[1:],
    "--auxiliary=NONE",
    "--set=images.size=16",
    *(f"--set=active_learning.{name}=8" for name in ("initial_labels", "query_size")),
    "--set=active_learning.subset_size=16",
    "--set=training.batch_size=8",
    "--set=training.epochs=1",
    "--set=training.milestones=[]",
]


def folder_of(output_dir: Path) -> Path:
    return output_dir / "image_folder_auxiliary_NONE_sampling_TOD_seed0"


def write_pictures(root: Path, class_names: tuple[str, ...] = (ODD, "=ten")) -> None:
    images = plain(100)
    for name in class_names:
        files = [f"train/{name}/{ODD}_{number:02d}.png" for number in range(12)]
        files += [f"test/{name}/{number}.png" for number in range(3)]
        write_classes(root, {file: next(images) for file in files})


def without_pictures() -> None:
    """Draws nothing as a run goes on; what draws is tested on its own."""
    records._write_picture = lambda *_: None
