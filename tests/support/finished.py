"""What a finished run of one trial has printed and left behind, and what holds for all of them."""

import itertools
import re
from pathlib import Path
from subprocess import CompletedProcess

import yaml

from tests.support.harness import checkpoint, table

PLAIN_COLUMNS = ("index", "score", "label", "class")
FILE_COLUMNS = (*PLAIN_COLUMNS, "file")
"""Of the files in `queries/`: of images that are no files, and of those that are."""


class Finished:
    """A run that has ended well; `sizes` are those of its labelled sets."""

    def __init__(
        self, process: CompletedProcess, output_dir: Path, title: str, sizes: list[int]
    ) -> None:
        assert (process.returncode, process.stderr) == (0, "")
        config, auxiliary, sampling = re.split(" auxiliary:| sampling:", title)
        self.path = output_dir / f"{config}_auxiliary_{auxiliary}_sampling_{sampling}_seed0"
        self.title = title
        self.sizes = sizes
        self.printed = process.stdout
        self.results = table(self.path / "results.csv")
        self.cycles = range(1, len(sizes) + 1)
        self.queries_of_cycle = [
            table(self.path / f"queries/trial1_cycle{cycle}.csv") for cycle in self.cycles[:-1]
        ]
        self.accuracies = [float(row["test_accuracy"]) for row in self.results]
        self.queries = list(itertools.chain(*self.queries_of_cycle))
        self.config = yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))

    def checkpoint(self, cycle: int) -> dict:
        return checkpoint(self.path, cycle)

    def check(self, columns: tuple[str, ...], pool_size: int, by_score: bool = True) -> None:
        """What holds for every run, and for one that queries by score."""
        files = {str(p.relative_to(self.path)) for p in self.path.rglob("*") if p.is_file()}
        assert {name for name in files if not name.startswith(".locks/")} == {
            *("config.yaml", "log.txt", "results.csv", "trials/trial1.csv", "learning_curve.png"),
            "queries/trial1_cycle0.csv",
            *(f"confusion/trial1_cycle{cycle}.csv" for cycle in self.cycles),
            *(f"queries/trial1_cycle{cycle}.csv" for cycle in self.cycles[:-1]),
            *(f"queries/trial1_cycle{cycle}.png" for cycle in self.cycles[:-1]),
            *(f"weights/trial1_cycle{cycle}.pth" for cycle in self.cycles),
        }
        assert list(self.results[0])[:4] == ["trial", "cycle", "num_labeled", "test_accuracy"]
        found = [(row["trial"], row["cycle"], row["num_labeled"]) for row in self.results]
        assert found == [
            ("1", str(c), str(size)) for c, size in zip(self.cycles, self.sizes, strict=True)
        ]
        lines = [
            f"{self.title} Trial:1/1 || Cycle:{cycle}/{len(self.sizes)} || "
            f"Label set size:{size} ||  Test acc:{accuracy:.2f}"
            for cycle, size, accuracy in zip(self.cycles, self.sizes, self.accuracies, strict=True)
        ]
        assert [line for line in self.printed.splitlines() if "Test acc" in line] == lines
        assert set(lines) <= set((self.path / "log.txt").read_text(encoding="utf-8").splitlines())

        assert all(tuple(row) == columns for row in self.queries)
        pairs = itertools.pairwise(self.sizes)
        for queries, (size, next_size) in zip(self.queries_of_cycle, pairs, strict=True):
            assert len(queries) == next_size - size
            scores = [float(row["score"]) for row in queries]
            assert scores == sorted(scores) or not by_score
        assert self.config["run"]["training_images"] == pool_size
        # No image is queried twice, neither in one cycle nor in two.
        indices = {int(row["index"]) for row in self.queries}
        assert len(indices) == len(self.queries) == self.sizes[-1] - self.sizes[0]
        assert indices <= set(range(pool_size))
        assert [self.checkpoint(cycle)["cycle"] for cycle in self.cycles] == list(self.cycles)
