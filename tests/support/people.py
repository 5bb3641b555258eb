"""A folder of pictures that people label, a run on it of seconds, and people who know the truth."""

import csv
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import main_TOD
from tests.support.harness import DEVICE
from tod.files import rows_of_csv

CLASSES = ("cat", "dog")
SETTINGS = [
    "--config=own_images",
    f"--device={DEVICE}",
    "--precision=fp32",
    "--deterministic",
    "--quiet",
    *(
        f"--set={setting}"
        for setting in (
            "model.width=4",
            "images.size=8",
            "active_learning.query_size=10",
            "active_learning.subset_size=40",
            "training.batch_size=8",
            "training.epochs=2",
            "training.milestones=[1]",
        )
    ),
]


class People:
    """A data folder, the runs on it, and somebody who knows what each picture shows.

    Args:
        place: where all of it lies.
        count: how many pictures there are.
        classes: their names; the pictures are of one after the other.
    """

    def __init__(self, place: Path, count: int = 60, classes: Sequence[str] = CLASSES) -> None:
        self.place = place
        self.data = place / "photos"
        self.classes = classes
        self.truth: dict[str, str] = {}
        for name in classes:
            (self.data / "train" / name).mkdir(parents=True)
        self.add(*(f"unlabeled/{number:03d}.png" for number in range(count)))

    def add(self, *files: str) -> None:
        """Makes pictures that differ from all there are; the truth is known by their digests."""
        for file in files:
            number = len(self.truth)
            label = number % len(self.classes)
            random = np.random.default_rng(number)
            pixels = random.integers(0, 100, (8, 8, 3)) + 150 * label // len(self.classes)
            path = self.data / file
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
            self.truth[digest(path)] = self.classes[label]

    def command(self, *arguments: object, sampling: str = "TOD", auxiliary: str = "NONE") -> list:
        """The arguments of main_TOD.py for a run on the folder."""
        return [
            *SETTINGS,
            f"--data-dir={self.data}",
            f"--output-dir={self.place}",
            f"--sampling={sampling}",
            f"--auxiliary={auxiliary}",
            *map(str, arguments),
        ]

    def round(self, *arguments: object, **choices: str) -> None:
        """Runs one round in this process."""
        main_TOD.main(self.command(*arguments, **choices))

    @property
    def run(self) -> Path:
        """The folder of the only run."""
        (folder,) = self.place.glob("own_images_*")
        return folder

    def batch(self, number: int) -> list[dict[str, str]]:
        """The rows of a batch."""
        return table(self.run / "batches" / f"batch{number}" / "batch.csv")

    def answers(
        self, number: int, choose: Callable[[list[dict]], Sequence[dict]] = lambda rows: rows
    ) -> Path:
        """A file with the true classes of a batch's images, or of those chosen among its rows."""
        path = self.place / f"labels_batch{number}.csv"
        rows = choose(self.batch(number))
        write_table(path, [(r["file"], r["sha256"], self.truth[r["sha256"]]) for r in rows])
        return path


def write_table(
    path: Path, rows: Sequence[Sequence[str]], columns: Sequence[str] = ("file", "sha256", "class")
) -> Path:
    """Writes a CSV file as a spreadsheet would."""
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, with every cell as it was written."""
    return [row for _, row in rows_of_csv(path.read_bytes().decode("utf-8", "surrogateescape"))[1]]


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
