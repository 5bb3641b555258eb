"""Memory of each configuration: the host's while it gets ready, and the device's in training.

python benchmarks/memory.py [CONFIG ...]

Each line is a process of its own, which reads random images in the published format and number (one
fewer in each file, since the published files have checksums) and trains for one step. "Needed" are
the uint8 images, the networks and the optimiser; host memory is the most that the process held
privately until it had saved a state and gone on from it, beyond what it held once its modules were
imported. The training step's own memory (activations, gradients) is the device's: on a CPU, it is
the host's too.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import machine

import command_line

MEGABYTE = 1e6


def write_images(config: str, root: Path) -> None:
    """The configuration's dataset, in the number of images that the paper has."""
    import formats

    writers: dict[str, Callable[[], object]] = {
        "digits": lambda: None,
        "cifar10": lambda: formats.write_cifar10(root, 49_995, 9_999),
        "cifar100": lambda: formats.write_cifar100(root, 49_999, 9_999),
        "svhn": lambda: formats.write_svhn(root, 73_256, 26_031),
        "caltech101": lambda: formats.write_caltech101(root, images_per_class=85),
    }
    writers[config]()


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


def measure(config: str, data_dir: str, device: str) -> None:
    """Prints one line of the table."""
    import torch

    import training
    from active_learning import Experiment, Trial
    from run_folder import RunFolder
    from samplers import query_by_tod
    from utils import select_device

    torch.zeros(1, device=select_device(device)).add_(1)
    before = private_bytes()
    with tempfile.TemporaryDirectory() as folder:
        run = command_line.parse_arguments(
            "",
            ("TOD",),
            ("TOD",),
            [
                f"--config={config}",
                f"--data-dir={data_dir}",
                f"--output-dir={folder}",
                f"--device={device}",
                "--set=model.pretrained=false",
                "--set=training.epochs=1",
                "--set=training.milestones=[]",
                *enough_labels(config),
            ],
        )
        with RunFolder(run) as run_folder, most_private_bytes() as in_training:
            with most_private_bytes() as ready:
                experiment = Experiment(run, query_by_tod, training.CODLoss, run_folder)
                trial = Trial(experiment, 1)
                # The momentum comes with the first step.
                momenta = trial.learner.optimizer.state
                for parameter in trial.backbone.parameters():
                    momenta[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
                trial._save()
                trial._continue_where_it_stopped()
            # A whole batch and a smaller one, each of which has a CUDA graph of its own.
            trial.labeled = trial.labeled[: run.config.training.batch_size * 3 // 2]
            with experiment.monitor:
                trial._train()
    dataset = experiment.dataset
    images = dataset.train.pixels.nbytes + dataset.test.pixels.nbytes
    network = sum(p.numel() * p.element_size() for p in trial.backbone.parameters())
    # The backbone, its predecessor, its teacher, and the momentum.
    needed = images + 4 * network
    host = ready[0] - before
    if experiment.device.type == "cuda":
        on_device = torch.cuda.max_memory_reserved(experiment.device)
    else:
        on_device = in_training[0] - before
    cells = [config, *(f"{size / MEGABYTE:,.0f}" for size in (images, 4 * network, host))]
    cells += [f"{host / needed:.2f}", f"{on_device / MEGABYTE:,.0f}"]
    print("| " + " | ".join(cells) + " |")


def enough_labels(config: str) -> list[str]:
    """Caltech-101's random copy has 85 images a class, and so fewer images than the published."""
    return ["--set=active_learning.cycles=2"] if config == "caltech101" else []


def main() -> None:
    """Measures and prints one table."""
    parser = command_line.Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    everything = ["digits", "cifar10", "cifar100", "svhn", "caltech101"]
    parser.add_argument("configs", nargs="*", metavar="CONFIG", help=f"default: {everything}")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--data-dir", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for config in arguments.configs:
        if config not in everything:
            parser.error(f"argument CONFIG: {config} is none of {', '.join(everything)}")
    if arguments.data_dir:
        measure(arguments.configs[0], arguments.data_dir, arguments.device)
        return
    from utils import select_device

    print(machine.describe(select_device(arguments.device)))
    header = ["", "uint8 images, MB", "networks and optimiser, MB", "host, MB", "host / needed"]
    print(machine.table([*header, "in a training step, MB"], []))
    for config in arguments.configs or everything:
        with tempfile.TemporaryDirectory() as data_dir:
            write_images(config, Path(data_dir))
            # A decoded copy is kept beside the files, as in any run after the first.
            command = [sys.executable, __file__, config, f"--device={arguments.device}"]
            command.append(f"--data-dir={data_dir}")
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        # Above its line stand warnings: the images are fewer than the published.
        print(done.stdout.splitlines()[-1], flush=True)


if __name__ == "__main__":
    with command_line.exit_status():
        main()
