"""Memory of each configuration: the host's while it gets ready, and the device's in training.

python benchmarks/memory.py [CONFIG ...] [--files N ...]

Each line is a process of its own, which reads random images in the published format and number (one
fewer in each file, since the published files have checksums) and trains for one step. "Needed" are
the uint8 images, the networks and the optimiser; host memory is the most that the process held
privately until it had saved a state and gone on from it, beyond what it held once its modules were
imported. The training step's own memory (activations, gradients) is the device's: on a CPU, it is
the host's too. `image_folder` is another matter: its images, here 224×224, are mapped from a file,
and its lines are of what the process holds beside until they are loaded and have a fingerprint.
"""

import argparse
import importlib
import json
import logging
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import machine
from benchmarks.published import WRITERS
from benchmarks.workload import write_photographs
from losses import CODLoss
from tod import data
from tod.analysis.tables import markdown
from tod.config import Config, cli, load
from tod.engine.device import prepare, select_device, select_precision, work_of_a_step
from tod.engine.trial import Experiment, Trial
from tod.runs.checkpoints import Progress
from tod.runs.signals import Interruption

FOLDER = "image_folder"
HEADER = [
    "",
    "uint8 images, MB",
    "networks and optimiser, MB",
    "host, MB",
    "host / needed",
    "in a training step, MB",
]
LIBRARIES = ("scipy.io", "sklearn.datasets", "sklearn.model_selection", "torchvision.datasets")
"""What reading images imports when it first needs it."""
MEGABYTE = 1e6


def private_bytes() -> int:
    """What this process holds in memory that belongs to no file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise OSError("the kernel does not say how much memory is private")


@contextmanager
def most_private_bytes() -> Iterator[list[int]]:
    """The most that the process held during the block, sampled every two milliseconds."""
    most = [private_bytes()]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.002):
            most[0] = max(most[0], private_bytes())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()
        most[0] = max(most[0], private_bytes())


def one_epoch(name: str, data_dir: str) -> Config:
    """The configuration of this name, for a single epoch from random weights."""
    overrides = ["model.pretrained=false", "training.epochs=1", "training.milestones=[]"]
    if name == "caltech101":  # its random copy has fewer images than the published one
        overrides.append("active_learning.cycles=2")
    return load(name, overrides, data_dir)


def measured(config: Config, device: torch.device) -> list[str]:
    """The cells of one line of the table."""
    for library in LIBRARIES:
        importlib.import_module(library)
    torch.zeros(1, device=device).add_(1)
    before = private_bytes()
    with most_private_bytes() as in_training:
        with most_private_bytes() as ready:
            trial = trial_that_went_on(config, device)
        # A whole batch and a smaller one, each of which has a CUDA graph of its own.
        trial.labeled = trial.labeled[: config.training.batch_size * 3 // 2]
        trial.train()
    dataset = trial.experiment.dataset
    images = dataset.train.nbytes + dataset.test.nbytes
    network = sum(p.numel() * p.element_size() for p in trial.backbone.parameters())
    # The backbone, its predecessor, its teacher, and the momentum.
    needed = images + 4 * network
    host = ready[0] - before
    if device.type == "cuda":
        on_device = torch.cuda.max_memory_reserved(device)
    else:
        on_device = in_training[0] - before
    sizes = [f"{size / MEGABYTE:,.0f}" for size in (images, 4 * network, host)]
    return [config.name, *sizes, f"{host / needed:.2f}", f"{on_device / MEGABYTE:,.0f}"]


def measured_folder(data_dir: str) -> list[str]:
    """The cells of the line of a folder of image files."""
    before = private_bytes()
    overrides = ["images.size=224", "active_learning.cycles=1", "active_learning.initial_labels=2"]
    with most_private_bytes() as ready:
        dataset = data.load(load(FOLDER, overrides, data_dir), seed=0)
        dataset.fingerprint()
    images = dataset.train.nbytes + dataset.test.nbytes
    sizes = [f"{size / MEGABYTE:,.0f}" for size in (images, 0, ready[0] - before)]
    return [f"{FOLDER}, {len(dataset.train):,} images", *sizes, "", ""]


def write_image_folder(root: Path, count: int) -> None:
    """`train` has so many JPEG files of 224×224 in two classes, `test` ten."""
    for split, number in (("train", count), ("test", 10)):
        for name in ("a", "b"):
            write_photographs(root / split / name, number // 2, 224, 224)


def trial_that_went_on(config: Config, device: torch.device) -> Trial:
    """A trial of TOD with the COD loss, as it is after its state was saved and read back."""
    precision, seed = select_precision("auto", device, work_of_a_step(config)), 0
    prepare(device, precision, deterministic=False)
    dataset = data.load(config, seed)
    experiment = Experiment(config, seed, CODLoss, dataset, device, precision, Interruption(""))
    dataset.fingerprint()  # as a run does for its config.yaml
    trial = Trial(experiment, 1)
    # The momentum comes with the first step.
    momenta = trial.learner.optimizer.state
    for parameter in trial.backbone.parameters():
        momenta[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    with tempfile.TemporaryDirectory() as folder:
        progress = Progress(Path(folder), 1)
        progress.save(trial.state_dict())
        trial.load_state_dict(progress.load())
    return trial


def measured_by_a_process(config: str, device: str, files: int = 0) -> list[str]:
    """The cells of one line of the table, of which the images are written here first."""
    with tempfile.TemporaryDirectory() as data_dir:
        if config == FOLDER:
            write_image_folder(Path(data_dir), files)
        else:
            WRITERS[config](Path(data_dir))
        command = [sys.executable, __file__, config, f"--device={device}", f"--data-dir={data_dir}"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = cli.Parser(description=__doc__)
    everything = [*WRITERS, FOLDER]
    parser.add_argument("configs", nargs="*", metavar="CONFIG", help=f"default: {everything}")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--files",
        nargs="+",
        type=cli.positive,
        default=[2_000, 20_000],
        help=f"of {FOLDER}, a line each (default: 2000 20000)",
    )
    parser.add_argument("--data-dir", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    for config in arguments.configs:
        if config not in everything:
            parser.error(f"argument CONFIG: {config} is none of {', '.join(everything)}")
    arguments.configs = arguments.configs or everything
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints one table, line by line."""
    arguments = parse_arguments(argv)
    device = select_device(arguments.device)
    if arguments.data_dir:
        (name,) = arguments.configs
        logging.getLogger("tod").setLevel(logging.ERROR)  # it warns of fewer images than published
        if name == FOLDER:
            print(json.dumps(measured_folder(arguments.data_dir)))
        else:
            print(json.dumps(measured(one_epoch(name, arguments.data_dir), device)))
        return
    print(machine.describe(device))
    print(markdown([HEADER]), end="", flush=True)
    for name in arguments.configs:
        for files in arguments.files if name == FOLDER else [0]:
            cells = measured_by_a_process(name, arguments.device, files)
            machine.print_line(HEADER, cells)


if __name__ == "__main__":
    with cli.exit_status():
        main()
