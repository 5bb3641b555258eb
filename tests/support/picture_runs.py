"""A short run on a folder of pictures, whose names need be no text."""

import os
from pathlib import Path

from tests.support.harness import DEVICE
from tests.support.pictures import plain, write_classes
from tod.analysis import records

ODD = os.fsdecode(b"caf\xe9")
SETTINGS = [
    "--config=image_folder",
    f"--device={DEVICE}",
    "--precision=fp32",
    "--auxiliary=NONE",
    *(
        f"--set={setting}"
        for setting in (
            "model.width=4",
            "images.size=16",
            "active_learning.trials=1",
            "active_learning.cycles=2",
            "active_learning.initial_labels=8",
            "active_learning.query_size=8",
            "active_learning.subset_size=16",
            "training.batch_size=8",
            "training.epochs=1",
            "training.milestones=[]",
        )
    ),
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
    records._write_picture = lambda path, draw: None
