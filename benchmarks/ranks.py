"""Ranks that share one trial (--parallel data), beside one rank alone: training and scoring.

python benchmarks/ranks.py

Random 32×32 images, 128 labelled a step, in fp32 or what --precision names; on a CPU, each rank has
one thread. One rank, several, and as many processes that have nothing to do with each other, each
with a rank's share of every batch, take turns; medians. The last are what the machine has to give.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import machine
from benchmarks.ours import AUXILIARIES, Ours
from benchmarks.workload import one_epoch, random_images
from tod.analysis.tables import markdown
from tod.config import cli
from tod.engine.data_parallel import DataParallel
from tod.engine.device import keep_freed_memory, select_device, select_precision
from tod.engine.one_rank import OneRank
from tod.runs.commands import run_commands, share_of_machine
from tod.runs.ranks import ranks_from_environment, run_as_ranks

Speeds = dict[str, float]
"""Images/s, by what is done."""


def measure(ranks: OneRank, device: torch.device, arguments: argparse.Namespace) -> Speeds:
    """Trains with each auxiliary loss, and scores; called by all ranks together."""
    keep_freed_memory()
    # Ranks share out whole batches of 256 to score: so that each has two at least.
    pixels, labels = random_images(max(2 * arguments.images, 512 * arguments.ranks))
    config = one_epoch(arguments.width, arguments.batch_size)
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
    """Measures, beside the other ranks where there are any; rank 0 writes what it has found."""
    rank, local_rank, world_size = ranks_from_environment()
    device = select_device(arguments.device, local_rank)
    if world_size == 1:
        speeds = measure(OneRank(), device, arguments)
    else:
        with DataParallel(rank, world_size, arguments.device) as group:
            group.use(device)
            speeds = measure(group, device, arguments)
    if rank == 0:
        path = arguments.write_to / f"{os.getpid()}.json"
        path.write_text(json.dumps(speeds), encoding="utf-8")


def run_at_once(command: Sequence[str], count: int) -> int:
    """Runs a command in so many processes that know nothing of each other; its exit status."""
    commands = dict.fromkeys(range(count), command)
    statuses = run_commands(commands, count, lambda slot: share_of_machine(slot, count))
    return max(statuses.values())


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
    add("--batch-size", type=cli.positive, default=128, help="labelled ones (default: 128)")
    add("--write-to", type=cli.path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.write_to is not None:
        measure_as_rank(arguments)
        return
    device = select_device(arguments.device)
    if device.type == "cuda" and arguments.ranks > torch.cuda.device_count():
        parser.error(f"argument --ranks: there are {torch.cuda.device_count()} GPUs")
    select_precision(arguments.precision, device, work=0)
    if device.type == "cpu":
        os.environ["OMP_NUM_THREADS"] = "1"
    print(machine.describe(device))
    ranks, command = arguments.ranks, [sys.executable, __file__, *argv]
    share = [f"--images={arguments.images // ranks}"]
    share += [f"--batch-size={arguments.batch_size // ranks}"]
    works: dict[str, Callable[[str], int]] = {
        "one rank": lambda written: run_as_ranks([*command, written], 1),
        f"{ranks} ranks": lambda written: run_as_ranks([*command, written], ranks),
        f"{ranks} processes": lambda written: run_at_once([*command, *share, written], ranks),
    }
    found: dict[str, list[Speeds]] = {name: [] for name in works}
    for _ in range(arguments.repeats):
        for name, work in works.items():
            with tempfile.TemporaryDirectory() as folder:
                if status := work(f"--write-to={folder}"):
                    sys.exit(status)
                speeds = [json.loads(path.read_bytes()) for path in Path(folder).iterdir()]
            found[name].append({key: sum(each[key] for each in speeds) for key in speeds[0]})
    rows = []
    for key in found["one rank"][0]:
        one, *several = (median(each[key] for each in turns) for turns in found.values())
        rows.append([key, f"{one:,.1f}", *(f"{each:,.1f} ({each / one:.2f})" for each in several)])
    print(markdown([["images/s (ratio)", *works], *rows]), end="")


if __name__ == "__main__":
    with cli.exit_status():
        main()
