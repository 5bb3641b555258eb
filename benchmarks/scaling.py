"""How cost grows: with trials at once, with pool size, batch size and width, and picking by pairs.

python benchmarks/scaling.py

Trials at once are ranks of `torchrun`, each training one trial of the digits; on a CPU, each has
one thread. The second table trains with the COD loss, and scores, random 32×32 images. The third
picks as the strategies that pick image by image do, at the sizes of the paper's CIFAR-100
experiment, on random features in 100 clouds.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import machine
from benchmarks.ours import Ours
from benchmarks.workload import workload
from samplers import DROPOUT_MASKS, RIDGE, mutual_information
from tod.analysis.tables import markdown
from tod.config import PROJECT_DIR, cli, load
from tod.config.schema import ActiveLearning
from tod.engine.device import (
    allow_tf32,
    keep_freed_memory,
    select_device,
    select_precision,
    work_of_a_step,
)
from tod.strategies.calibration import held_out_temperature
from tod.strategies.clusters import pick_central
from tod.strategies.covering import pick_covering, purity_radius
from tod.strategies.diversity import (
    DRAWS,
    k_center_greedy,
    k_means_plus_plus,
    nearest_squared_distances,
)
from tod.strategies.fisher import fisher_vectors, pick_informative
from tod.strategies.herding import pick_herding, smallest_distance, unit_length
from tod.strategies.interpolation import class_means, number_of_flips
from tod.strategies.typicality import pick_typical

SIZES = (
    *((16, 128, pool) for pool in (256, 1024, 4096)),
    *((16, batch_size, 256) for batch_size in (32, 64, 256)),
    *((width, 128, 256) for width in (32, 64)),
)
"""Width, batch size, and images scored on a CPU."""


def trials_at_once(device: str) -> list[list[str]]:
    """Seconds of one, two and three trials at once, each in a process of its own."""
    rows = []
    for count in (1, 2, 3):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            command += [f"--nproc_per_node={count}", str(PROJECT_DIR / "main_TOD.py")]
            command += ["--config=digits", f"--device={device}", f"--trials=1-{count}"]
            command += ["--set=active_learning.cycles=3", f"--output-dir={folder}"]
            variables = {**os.environ, "OMP_NUM_THREADS": "1"}
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=variables)
            seconds = time.perf_counter() - began
        rows.append([str(count), f"{seconds:.1f}", f"{seconds / count:.1f}"])
    return rows


def images_per_second(
    device: torch.device, width: int, batch_size: int, num_labeled: int, num_scored: int
) -> tuple[float, float]:
    """Training, in labelled images, and scoring."""
    work = workload(width, batch_size, num_labeled + num_scored, num_labeled, device)
    work = work._replace(auxiliary="COD")
    ours = Ours(work, select_precision("auto", device, work_of_a_step(work.config)))
    times = machine.interleaved({"train": ours.train_epoch, "score": ours.score}, 3, device)
    return num_labeled / times["train"], len(work.labels) / times["score"]


def table_of_picks(settings: ActiveLearning, device: torch.device) -> str:
    """Seconds of the last query's choice, once the images have passed through the network."""
    num_labeled = settings.initial_labels + (settings.cycles - 2) * settings.query_size
    torch.manual_seed(0)
    spots = torch.randn(100, 512, device=device).abs()

    known = torch.randint(100, (num_labeled,), device=device)

    def features_of(classes: torch.Tensor) -> torch.Tensor:
        """As a network's: not negative, and a cloud for each of 100 classes."""
        cloud = 0.7 * torch.randn(len(classes), 512, device=device)
        return (spots[classes] + cloud).clamp_min_(0)

    features = features_of(torch.randint(100, (settings.subset_size,), device=device))
    labeled = features_of(known)
    gradients = torch.rand(settings.subset_size, 100, device=device)
    draws = torch.randint(DRAWS, (settings.query_size,), device=device)

    def core_set() -> None:
        nearest = nearest_squared_distances(features, labeled)
        k_center_greedy(features, nearest, settings.query_size)

    def probcover() -> None:
        random = np.random.default_rng(0)
        delta = purity_radius(torch.cat([labeled, features]), 100, random)
        pick_covering(features, labeled, delta, settings.query_size, random)

    def typiclust() -> None:
        everything = torch.cat([labeled, features]).cpu().numpy()
        is_labeled = np.arange(len(everything)) < num_labeled
        pick_typical(everything, is_labeled, settings.query_size, np.random.default_rng(0))

    head = torch.nn.Linear(512, 100, device=device)

    @torch.inference_mode()
    def bald() -> None:
        masked = (features * (torch.rand_like(features) < 0.5) / 0.5 for _ in range(DROPOUT_MASKS))
        mutual_information([head(each).softmax(dim=1) for each in masked]).topk(settings.query_size)

    def uherding() -> None:
        held_out_temperature(labeled, known, 5e-4, np.random.default_rng(0))
        rows = unit_length(features), unit_length(labeled)
        width = smallest_distance(rows[1])
        pick_herding(*rows, settings.query_size, torch.rand_like(features[:, 0]), width)

    @torch.inference_mode()
    def bait() -> None:
        vectors = (fisher_vectors(head(each), each) for each in (features, labeled))
        pick_informative(*vectors, settings.query_size, RIDGE)

    def central(candidates: np.ndarray) -> None:
        rows = unit_length(features).cpu().numpy()
        pick_central(rows, candidates, settings.query_size, np.random.default_rng(0))

    @torch.inference_mode()
    def alfamix() -> None:
        anchors = class_means(labeled, known)
        number_of_flips(head(features), features, head.weight, anchors, len(features))
        central(np.arange(len(features)))

    changes = torch.rand(settings.subset_size, 30 * 10, device=device)
    lengths = changes.square().sum(dim=1)
    works = {
        "CORESET": core_set,
        "BALD": bald,
        "BADGE": lambda: k_means_plus_plus(gradients, features, draws),
        "NOISE_STABILITY, 10 classes": lambda: k_center_greedy(
            changes, lengths, settings.query_size
        ),
        "TYPICLUST": typiclust,
        "PROBCOVER": probcover,
        "MAXHERDING": lambda: pick_herding(
            unit_length(features), unit_length(labeled), settings.query_size
        ),
        "UHERDING": uherding,
        "BAIT": bait,
        "DROPQUERY": lambda: central(np.arange(len(features))),
        "ALFAMIX": alfamix,
    }
    title = f"{settings.query_size:,} of {settings.subset_size:,} images, {num_labeled:,} labelled"
    rows = [[name, f"{machine.seconds(work, device):.1f}"] for name, work in works.items()]
    return markdown([[title, "s"], *rows])


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints three tables."""
    parser = cli.Parser(description=__doc__)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    arguments = parser.parse_args(argv)
    device = select_device(arguments.device)
    # As in a run: scores are computed in fp32.
    allow_tf32(False)
    torch.backends.cudnn.benchmark = True
    keep_freed_memory()
    print(machine.describe(device))
    rows = trials_at_once(arguments.device)
    print(markdown([["trials at once", "s", "s a trial"], *rows]))
    scale = 1 if device.type == "cpu" else 20
    rows = []
    for width, batch_size, num_scored in SIZES:
        pool = num_scored * scale
        train, score = images_per_second(device, width, batch_size, 256 * scale, pool)
        rows.append([str(width), str(batch_size), f"{pool:,}", f"{train:,.0f}", f"{score:,.0f}"])
    header = ["width", "batch size", "pool", "trained images/s (COD)", "scored images/s (TOD)"]
    print(markdown([header, *rows]))
    print(table_of_picks(load("cifar100").active_learning, device), end="")


if __name__ == "__main__":
    with cli.exit_status():
        main()
