"""Ranks that share one trial (--parallel data), beside one rank alone: training and scoring.

python benchmarks/ranks.py

Random 32×32 images, 128 labelled a step, in fp32 or what --precision names; on a CPU, each rank has
one thread. One rank and several take turns, in processes of their own; medians.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import machine
from benchmarks.ours import AUXILIARIES, Ours
from benchmarks.workload import one_epoch, random_images
from tod import cli
from tod.analysis.tables import markdown
from tod.runs.ranks import ranks_from_environment, run_as_ranks, started_by
from tod.training.data_parallel import DataParallel
from tod.training.device import keep_freed_memory, select_device, select_precision
from tod.training.one_rank import OneRank

Speeds = dict[str, float]
"""Images/s, by what is done."""


def measure(ranks: OneRank, device: torch.device, arguments: argparse.Namespace) -> Speeds:
    """Trains with each auxiliary loss, and scores; called by all ranks together."""
    keep_freed_memory()
    # Ranks share out whole batches of 256 to score: so that each has two at least.
    pixels, labels = random_images(max(2 * arguments.images, 512 * arguments.ranks))
    config = one_epoch(arguments.width, 128)
    speeds = {}
    for auxiliary in AUXILIARIES:
        ours = Ours(
            config, auxiliary, arguments.precision, pixels, labels, arguments.images, device, ranks
        )
        ours.train_epoch()
        speeds[f"train, {auxiliary}"] = arguments.images / machine.seconds(ours.train_epoch, device)
    ours.score()
    speeds["score, TOD"] = len(pixels) / machine.seconds(ours.score, device)
    return speeds


def measure_as_rank(arguments: argparse.Namespace) -> None:
    """Measures beside the other ranks; rank 0 writes what it has found."""
    rank, local_rank, world_size = ranks_from_environment()
    device = select_device(arguments.device, local_rank)
    if world_size == 1:
        speeds = measure(OneRank(), device, arguments)
    else:
        with DataParallel(rank, world_size, arguments.device) as group:
            group.use(device)
            speeds = measure(group, device, arguments)
    if rank == 0:
        arguments.write_to.write_text(json.dumps(speeds), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints the table."""
    argv = sys.argv[1:] if argv is None else argv
    parser = cli.Parser(description=__doc__)
    add = parser.add_argument
    add("--ranks", type=cli.positive, default=2, help="beside one (default: 2)")
    add("--images", type=cli.positive, default=512, help="labelled ones (default: 512)")
    add("--width", type=cli.positive, default=64, help="of the network (default: 64)")
    add("--repeats", type=cli.positive, default=3, help="turns (default: 3)")
    add("--precision", choices=("fp32", "bf16"), default="fp32")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--write-to", type=cli.path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if started_by() is not None:
        measure_as_rank(arguments)
        return
    device = select_device(arguments.device)
    if device.type == "cuda" and arguments.ranks > torch.cuda.device_count():
        parser.error(f"argument --ranks: there are {torch.cuda.device_count()} GPUs")
    select_precision(arguments.precision, device)
    if device.type == "cpu":
        os.environ["OMP_NUM_THREADS"] = "1"
    print(machine.describe(device))
    found: dict[int, list[Speeds]] = {1: [], arguments.ranks: []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speeds.json"
        command = [sys.executable, __file__, *argv, f"--write-to={path}"]
        for _ in range(arguments.repeats):
            for count, speeds in found.items():
                if status := run_as_ranks(command, count):
                    sys.exit(status)
                speeds.append(json.loads(path.read_text(encoding="utf-8")))
    rows = []
    for work in found[1][0]:
        one, several = (median(each[work] for each in found[n]) for n in (1, arguments.ranks))
        rows.append([work, f"{one:,.1f}", f"{several:,.1f}", f"{several / one:.2f}"])
    header = ["images/s", "one rank", f"{arguments.ranks} ranks", "ratio"]
    print(markdown([header, *rows]), end="")


if __name__ == "__main__":
    with cli.exit_status():
        main()
