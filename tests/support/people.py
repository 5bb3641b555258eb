"""A folder of pictures that people label, a run on it of seconds, and people who know the truth."""

import csv
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import main_TOD
from tests.support.harness import DEVICE
from tod.analysis import figures
from tod.engine.trial import Trial
from tod.system.files import rows_of_csv
from tod.system.files import sha256 as digest

CLASSES = ("cat", "dog")
SETTINGS = [
    "--config=own_images",
    f"--device={DEVICE}",
    "--precision=fp32",
    "--deterministic",
    "--set=model.width=4",
    "--set=images.size=8",
    "--set=active_learning.query_size=10",
    "--set=active_learning.subset_size=40",
    "--set=training.batch_size=8",
    "--set=training.epochs=2",
    "--set=training.milestones=[1]",
]


class People:
    """A folder of pictures, of one class after the other; the runs on it; and the truth."""

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

    def copy(self, place: Path) -> "People":
        """The same folders in another place; the images keep their time stamps."""
        shutil.copytree(self.place, place, dirs_exist_ok=True)
        return self._elsewhere(place, place / "photos")

    def _elsewhere(self, place: Path, data: Path) -> "People":
        twin = object.__new__(People)
        vars(twin).update(vars(self), place=place, data=data, truth={**self.truth})
        return twin

    def command(
        self, *arguments: object, sampling: str = "TOD", auxiliary: str = "NONE", quiet: bool = True
    ) -> list[str]:
        """The arguments of main_TOD.py for a run on the folder."""
        return [
            *SETTINGS,
            *["--quiet"] * quiet,
            f"--data-dir={self.data}",
            f"--output-dir={self.place}",
            f"--sampling={sampling}",
            f"--auxiliary={auxiliary}",
            *map(str, arguments),
        ]

    def round(self, *arguments: object, **choices: Any) -> None:
        main_TOD.main(self.command(*arguments, **choices))

    def rounds(self, numbers: Iterable[int], *arguments: object, **choices: Any) -> None:
        """Answers these batches, one after the other; -1 is the round that asks for the first."""
        for number in numbers:
            labels = ["--labels", self.answers(number)] if number >= 0 else []
            self.round(*labels, *arguments, **choices)

    def another_run(self, *labels: Path, quiet: bool = True) -> "People":
        """The same folder, with another run on it, which begins or goes on with these labels."""
        twin = self._elsewhere(self.place / "new", self.data)
        twin.round("--labels", *labels, quiet=quiet)
        return twin

    @property
    def run(self) -> Path:
        """The folder of the only run."""
        (folder,) = self.place.glob("own_images_*")
        return folder

    def batch(self, number: int) -> list[dict[str, str]]:
        return self.table(f"batches/batch{number}/batch.csv")

    def asked(self, numbers: Iterable[int]) -> list[str]:
        return [row["sha256"] for number in numbers for row in self.batch(number)]

    def unasked(self) -> list[str]:
        """The files of the pool that no batch asks for, by name."""
        asked = {
            row["file"] for path in self.run.glob("batches/*/batch.csv") for row in table(path)
        }
        files = {str(path.relative_to(self.data)) for path in self.data.glob("unlabeled/*.png")}
        return sorted(files - asked)

    def table(self, name: str) -> list[dict[str, str]]:
        return table(self.run / name)

    def labels(self) -> dict[str, str]:
        """The classes that the run has taken, by digest."""
        return {row["sha256"]: row["class"] for row in self.table("labels.csv")}

    def results(self, *columns: str) -> list[Any]:
        """The rows of the run's results; or of these columns, as tuples; or of one, as texts."""
        rows = self.table("results.csv")
        if len(columns) < 2:
            return [row[columns[0]] for row in rows] if columns else rows
        return [tuple(row[name] for name in columns) for row in rows]

    def wrong(self, row: dict[str, str]) -> str:
        return next(name for name in self.classes if name != self.truth[row["sha256"]])

    def answers(
        self, number: int, choose: Callable[[list[dict]], Sequence[dict]] = lambda rows: rows
    ) -> Path:
        """A file with the true classes of a batch's images, or of those chosen among its rows."""
        return self.says(choose(self.batch(number)), file=f"labels_batch{number}.csv")

    def says(
        self,
        rows: Sequence[dict[str, str]],
        class_name: str | None = None,
        file: str = "given.csv",
        skips: Sequence[dict[str, str]] = (),
    ) -> Path:
        """A file of the page: what rows of a batch show, the truth or a class, and its skips."""
        cells = [(row["file"], row["sha256"], "", "yes") for row in skips]
        for row in rows:
            cells.append((row["file"], row["sha256"], class_name or self.truth[row["sha256"]], ""))
        return write_table(self.place / file, cells, ("file", "sha256", "class", "skipped"))

    def disagreeing(self, rows: Sequence[dict[str, str]]) -> list[Path]:
        """Files of two people who name different classes."""
        return [self.says(rows, name, f"{name}.csv") for name in self.classes[:2]]


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


def stub_figures(replace: Callable[[object, str, Any], None] = setattr) -> None:
    """Figures are written as ever, but nothing is drawn: `tests/analysis` is about that."""
    replace(figures, "learning_curves", lambda *_: None)
    replace(figures, "rendered", lambda *_: b"a figure")


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Each file in a folder, and when it was written: 0 of a lock, which some filelocks touch."""
    return {
        str(path.relative_to(folder)): (
            path.read_bytes(),
            path.stat().st_mtime_ns if path.parent.name != ".locks" else 0,
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def all_but(*left: int) -> Callable[[list[dict]], list[dict]]:
    """Of a batch's rows, those that people answer."""
    return lambda rows: [row for number, row in enumerate(rows) if number not in left]


def killed_behind_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next round leaves once its batch is there, and before it has saved that it is."""
    monkeypatch.setattr(Trial, "start_next_cycle", lambda trial: sys.exit(137))
