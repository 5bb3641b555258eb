"""Training and scoring speed, beside a straightforward implementation of the same steps.

python benchmarks/step.py

The baseline feeds PIL transforms through a DataLoader without workers, makes a fresh iterator for
each unlabelled batch, and runs the same networks and losses in NCHW, fp32, eager, with one
optimiser and EMA call for each parameter. It has a process of its own, with the
defaults of the system for memory; both take turns, and medians count. The images are random bytes:
their content costs nothing.
"""

import argparse
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import machine

import command_line
from augmentation import ImageBatches
from configuration import Config
from losses import cod_loss, ranking_loss, task_losses
from models import build_backbone, build_lossnet, fold_batch_norm
from samplers import temporal_output_discrepancy
from training import CODLoss, Learner, LossPrediction, NoAuxiliary, new_backbone
from utils import (
    allow_tf32,
    fastest_memory_format,
    keep_freed_memory,
    precisions,
    select_device,
)

AUXILIARIES = {"NONE": NoAuxiliary, "COD": CODLoss, "LL4AL": LossPrediction}
NUM_CLASSES = 10


def parsed() -> argparse.Namespace:
    """The command line; the sizes that are not given depend on the device."""
    parser = command_line.Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    parser.add_argument(
        "--width", type=command_line.positive, default=64, help="of the ResNet-18 (default: 64)"
    )
    parser.add_argument(
        "--batch-size", type=command_line.positive, default=128, help="default: 128"
    )
    parser.add_argument(
        "--labeled", type=command_line.positive, help="images of an epoch (128 on a CPU, else 5000)"
    )
    parser.add_argument(
        "--scored", type=command_line.positive, help="images scored (256 on a CPU, else 10000)"
    )
    parser.add_argument(
        "--repeats", type=command_line.positive, default=3, help="turns of each (default: 3)"
    )
    return parser.parse_args()


class PILImages(Dataset):
    """Images through torchvision's transforms, one by one."""

    def __init__(self, pixels: np.ndarray, labels: Tensor, config: Config, train: bool) -> None:
        augmentation = [
            transforms.RandomHorizontalFlip(),
            transforms.RandomCrop(pixels.shape[1], padding=config.augmentation.crop_padding),
        ]
        self.pixels = pixels
        self.labels = labels
        self.transform = transforms.Compose(
            [
                *(augmentation if train else []),
                transforms.ToTensor(),
                transforms.Normalize(config.images.mean, config.images.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


class Baseline:
    """The same epoch and the same scores, written the straightforward way."""

    def __init__(
        self,
        run: command_line.Run,
        auxiliary: str,
        pixels: np.ndarray,
        labels: Tensor,
        num_labeled: int,
        device: torch.device,
    ) -> None:
        config = run.config
        self.config, self.auxiliary, self.device = config, auxiliary, device
        self.networks = [
            build_backbone(config.model, NUM_CLASSES).to(device).train() for _ in range(2)
        ]
        self.lossnet = build_lossnet(config.model).to(device)
        self.optimizers = [self._sgd(self.networks[0]), self._sgd(self.lossnet)]
        self.steps = 0
        views = PILImages(pixels, labels, config, train=True)
        plain = PILImages(pixels, labels, config, train=False)
        batch_size = config.training.batch_size
        labeled, unlabeled = range(num_labeled), range(num_labeled, len(pixels))
        self.labeled = DataLoader(views, batch_size, sampler=SubsetRandomSampler(labeled))
        self.unlabeled = DataLoader(views, batch_size, sampler=SubsetRandomSampler(unlabeled))
        self.plain = DataLoader(plain, batch_size)

    def _sgd(self, network: nn.Module) -> torch.optim.SGD:
        settings = self.config.training
        return torch.optim.SGD(
            network.parameters(),
            settings.lr,
            settings.momentum,
            weight_decay=settings.weight_decay,
            foreach=False,
            fused=False,
        )

    def train_epoch(self) -> None:
        for images, labels in self.labeled:
            self.train_step(images.to(self.device), labels.to(self.device))

    def train_step(self, images: Tensor, labels: Tensor) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        outputs = self.networks[0](images)
        losses = task_losses(outputs[0], labels)
        loss = losses.mean() + self._auxiliary_loss(images, outputs, losses)
        loss.backward()
        self.optimizers[0].step()
        if self.auxiliary == "LL4AL":
            self.optimizers[1].step()
        if self.auxiliary == "COD":
            self._update_teacher()

    def _auxiliary_loss(self, images: Tensor, outputs: tuple, losses: Tensor) -> Tensor | float:
        if self.auxiliary == "LL4AL":
            return ranking_loss(self.lossnet(outputs[3]), losses)
        if self.auxiliary == "NONE":
            return 0.0
        unlabeled, _ = next(iter(self.unlabeled))
        return self.config.cod.weight * (
            self._cod_loss(images, outputs)
            + self._cod_loss(unlabeled.to(self.device), self.networks[0](unlabeled.to(self.device)))
        )

    def _cod_loss(self, images: Tensor, outputs: tuple) -> Tensor:
        with torch.no_grad():
            ema_logits = self.networks[1](images)[0]
        return cod_loss(outputs[0], outputs[1], ema_logits)

    def _update_teacher(self) -> None:
        self.steps += 1
        alpha = min(1 - 1 / (self.steps + 1), self.config.cod.ema_decay)
        for teacher, student in zip(
            self.networks[1].parameters(), self.networks[0].parameters(), strict=True
        ):
            teacher.data.mul_(alpha).add_(student.data, alpha=1 - alpha)

    def score(self) -> Tensor:
        scores = []
        for network in self.networks:
            network.eval()
        with torch.no_grad():
            for images, _ in self.plain:
                both = [network(images.to(self.device))[0] for network in self.networks]
                scores.append(temporal_output_discrepancy(*both))
        for network in self.networks:
            network.train()
        return torch.cat(scores)


def serve_baseline(requests: Connection, method: str, *arguments: Any) -> None:
    """Does the work of a baseline once for each request, and says when it is done."""
    allow_tf32(False)
    torch.backends.cudnn.benchmark = True
    baseline = Baseline(*arguments)
    while True:
        requests.recv()
        getattr(baseline, method)()
        machine.synchronize(baseline.device)
        requests.send(True)


@contextmanager
def baseline_in_its_own_process(method: str, *arguments: Any) -> Iterator[Callable[[], object]]:
    """A call that does the work of `Baseline(*arguments).method()`, where nothing else runs."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=serve_baseline, args=(theirs, method, *arguments), daemon=True
    )
    process.start()
    theirs.close()

    def work() -> None:
        try:
            ours.send(True)
            ours.recv()
        except (EOFError, OSError):
            raise RuntimeError("the baseline's process has ended") from None

    try:
        yield work
    finally:
        process.terminate()
        process.join()


class Ours:
    """This project's epoch and scores."""

    def __init__(
        self,
        run: command_line.Run,
        auxiliary: str,
        precision: str,
        pixels: np.ndarray,
        labels: Tensor,
        num_labeled: int,
        device: torch.device,
    ) -> None:
        config = run.config
        self.images = ImageBatches(
            torch.from_numpy(pixels).permute(0, 3, 1, 2),
            torch.tensor(config.images.mean),
            torch.tensor(config.images.std),
            config.augmentation,
            device,
            fastest_memory_format(device, config.model.width),
        )
        self.labels = labels.to(device)
        self.labeled = np.arange(num_labeled)
        self.unlabeled = np.arange(num_labeled, len(pixels))
        self.backbone = new_backbone(run, NUM_CLASSES, device, "backbone", 1)
        self.previous = new_backbone(run, NUM_CLASSES, device, "previous", 1)
        loss = AUXILIARIES[auxiliary](run, NUM_CLASSES, device, 1)
        self.learner = Learner(run, 1, self.backbone, loss, precision)
        self.batch_size = config.training.batch_size

    def train_epoch(self) -> None:
        allow_tf32(self.learner.precision == "tf32")
        self.learner.start_cycle()
        self.learner.train_cycle(self.images, self.labels, self.labeled, self.unlabeled, cycle=2)

    def _batches(self) -> Iterator[Tensor]:
        indices = self.images.placed(torch.arange(len(self.labels)))
        return map(self.images.plain, indices.split(2 * self.batch_size))

    @torch.inference_mode()
    def score(self) -> Tensor:
        allow_tf32(self.learner.precision == "tf32")
        backbone, previous = fold_batch_norm(self.backbone), fold_batch_norm(self.previous)
        return torch.cat(
            [
                temporal_output_discrepancy(backbone(images)[0], previous(images)[0])
                for images in self._batches()
            ]
        )


def flops(work: Callable[[], object]) -> int:
    """The operations of the products and convolutions in a piece of work."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def main() -> None:
    """Measures and prints one table."""
    arguments = parsed()
    device = select_device(arguments.device)
    on_cpu = device.type == "cpu"
    num_labeled = arguments.labeled or (128 if on_cpu else 5_000)
    num_scored = arguments.scored or (256 if on_cpu else 10_000)
    torch.backends.cudnn.benchmark = True
    if on_cpu:
        keep_freed_memory()
    run = command_line.parse_arguments(
        "",
        ("TOD",),
        ("TOD",),
        [
            "--config=cifar10",
            f"--output-dir={tempfile.gettempdir()}",
            f"--set=model.width={arguments.width}",
            f"--set=training.batch_size={arguments.batch_size}",
            "--set=training.epochs=1",
            "--set=training.milestones=[]",
        ],
    )
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (num_labeled + num_scored, 32, 32, 3), dtype=np.uint8)
    labels = torch.from_numpy(random.integers(0, NUM_CLASSES, len(pixels)))
    dtypes = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
    peaks = {}
    for precision in precisions(device):
        allow_tf32(precision == "tf32")
        peaks[precision] = machine.peak_flops(device, dtypes[precision])

    print(machine.describe(device))
    print(
        f"ResNet-18 of width {arguments.width}, 32×32, batches of {arguments.batch_size}; "
        f"medians of {arguments.repeats} turns; measured peak: "
        + ", ".join(f"{name} {peak / 1e12:.3g} TFLOP/s" for name, peak in peaks.items())
    )
    header = ["", "baseline: images/s (share of fp32 peak)"]
    header += [f"{name}: images/s (ratio; share of peak)" for name in peaks]
    rows = []
    data = (pixels, labels, num_labeled, device)
    for auxiliary in AUXILIARIES:
        works = {p: Ours(run, auxiliary, p, *data).train_epoch for p in peaks}
        baseline = ("train_epoch", run, auxiliary, *data)
        rows.append(row(f"train, {auxiliary}", baseline, works, num_labeled, peaks, arguments))
    data = (pixels[:num_scored], labels[:num_scored], 1, device)
    # Scores are computed in fp32 whatever trained the networks, but with tf32 in tf32.
    works = {p: Ours(run, "NONE", p, *data).score for p in peaks if p != "bf16"}
    baseline = ("score", run, "NONE", *data)
    rows.append(row("score, TOD", baseline, works, num_scored, peaks, arguments))
    print(machine.table(header, rows))


def row(
    name: str,
    baseline: Sequence[Any],
    works: dict[str, Callable[[], object]],
    num_images: int,
    peaks: dict[str, float],
    arguments: argparse.Namespace,
) -> list[str]:
    """Measures one line of the table."""
    method, *settings = baseline
    operations = flops(getattr(Baseline(*settings), method))
    with baseline_in_its_own_process(*baseline) as work:
        works = {"baseline": work, **works}
        times = machine.interleaved(works, arguments.repeats, settings[-1])
    share = operations / times["baseline"] / peaks["fp32"]
    cells = [name, f"{num_images / times['baseline']:,.1f} ({share:.0%})"]
    for precision, peak in peaks.items():
        if precision in times:
            ratio = times["baseline"] / times[precision]
            share = operations / times[precision] / peak
            cells.append(f"{num_images / times[precision]:,.1f} ({ratio:.2f}; {share:.0%})")
        else:
            cells.append("as fp32")
    return cells


if __name__ == "__main__":
    with command_line.exit_status():
        main()
