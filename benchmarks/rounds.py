"""A round with people's labels on a large pool: the time from the labels to the next batch.

python benchmarks/rounds.py [--images 100000]

Small PNG files (32×32) in 100 folders are asked for and labelled by main_TOD.py, each round in a
process of its own, as a user runs it: round 0 reads them all, the next two train on 90 and on 180
labels for two epochs, a ResNet-18 of full width. Seconds are the whole process's, without its
training; memory is the most that it held privately.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import machine
from tod.analysis.results import read_rows
from tod.analysis.tables import markdown
from tod.config import PROJECT_DIR, cli
from tod.engine.device import select_device
from tod.people.requests import read_batches

HEADER = ["round", "seconds without training", "memory, MB"]


def write_images(root: Path, count: int) -> None:
    """Random pictures without labels, and two classes."""
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (root / "train" / name).mkdir(parents=True)
    for number in range(count):
        folder = root / "unlabeled" / f"{number % 100:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png", compress_level=1)


def timed(command: Sequence[object]) -> tuple[float, int]:
    """The seconds that a command takes, and the most bytes that it holds privately."""
    began, most = time.monotonic(), 0
    process = subprocess.Popen([*map(str, command)])
    while process.poll() is None:
        most = max(most, private_bytes(process.pid))
        time.sleep(0.01)
    if process.returncode:
        raise SystemExit(process.returncode)
    return time.monotonic() - began, most


def private_bytes(process: int) -> int:
    """What a process holds in memory that belongs to no file; 0, if it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def answers(run_folder: Path, path: Path) -> Path:
    """Writes some class for each image of the last batch."""
    rows = read_batches(run_folder)[-1]
    lines = (f"{row.sha256},{'ab'[i % 2]}\n" for i, row in enumerate(rows))
    path.write_text("sha256,class\n" + "".join(lines))
    return path


def train_seconds(run_folder: Path) -> float:
    """Of the last cycle."""
    path = run_folder / "results.csv"
    return float(read_rows(path)["train_seconds"].iloc[-1]) if path.exists() else 0.0


def main(argv: Sequence[str] | None = None) -> None:
    """Measures three rounds, and prints a line for each."""
    parser = cli.Parser(description=__doc__)
    parser.add_argument("--images", type=cli.positive, default=100_000, help="default: 100000")
    parser.add_argument("--width", type=cli.positive, default=64, help="default: 64")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    arguments = parser.parse_args(argv)
    print(machine.describe(select_device(arguments.device)))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_images(place / "photos", arguments.images)
        command = [
            *(sys.executable, PROJECT_DIR / "main_TOD.py", "--config=own_images", "--quiet"),
            *(f"--data-dir={place / 'photos'}", f"--output-dir={place}"),
            *(f"--device={arguments.device}", "--set=training.epochs=2"),
            "--set=training.milestones=[]",
            f"--set=model.width={arguments.width}",
        ]
        run_folder = place / "own_images_auxiliary_TOD_sampling_TOD_seed0"
        rows = []
        for number in range(3):
            labels = answers(run_folder, place / "labels.csv") if number else None
            seconds, memory = timed([*command, *([f"--labels={labels}"] if labels else [])])
            seconds -= train_seconds(run_folder)
            rows.append([str(number), f"{seconds:.1f}", f"{memory / 1e6:,.0f}"])
        print(markdown([HEADER, *rows]), end="")


if __name__ == "__main__":
    with cli.exit_status():
        main()
