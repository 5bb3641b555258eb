"""The published step as one would write it: PIL transforms, DataLoader, NCHW, fp32, eager."""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler
from torchvision import transforms

from benchmarks import machine
from benchmarks.workload import NUM_CLASSES, Workload
from losses import cod_loss, ranking_loss, task_losses
from models import build_backbone, stage_channels
from models.inference import allow_tf32
from models.lossnet import LossNet
from samplers import temporal_output_discrepancy


class PILImages(Dataset):
    """Images through torchvision's transforms, one by one."""

    def __init__(self, work: Workload, train: bool) -> None:
        self.work, config = work, work.config
        augmentation = [
            transforms.RandomHorizontalFlip(),
            transforms.RandomCrop(work.pixels.shape[1], padding=config.augmentation.crop_padding),
        ]
        normalize = transforms.Normalize(config.images.mean, config.images.std)
        views = augmentation if train else []
        self.transform = transforms.Compose([*views, transforms.ToTensor(), normalize])

    def __len__(self) -> int:
        return len(self.work.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = Image.fromarray(self.work.pixels[index])
        return self.transform(image), self.work.labels[index]


class Baseline:
    """The same epoch and the same scores, written the straightforward way."""

    def __init__(self, work: Workload) -> None:
        self.config, self.auxiliary, self.device = work.config, work.auxiliary, work.device
        self.networks = [
            build_backbone(self.config.model, NUM_CLASSES).to(self.device) for _ in range(2)
        ]
        self.lossnet = LossNet(stage_channels(self.config.model)).to(self.device)
        training = self.config.training
        sgd = partial(
            torch.optim.SGD,
            lr=training.lr,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
            foreach=False,
            fused=False,
        )
        self.optimizers = [sgd(each.parameters()) for each in (self.networks[0], self.lossnet)]
        self.steps = 0
        views, plain = PILImages(work, train=True), PILImages(work, train=False)
        n = work.num_labeled
        self.labeled, self.unlabeled = (
            DataLoader(views, training.batch_size, sampler=SubsetRandomSampler(part))
            for part in (range(n), range(n, len(views)))
        )
        self.plain = DataLoader(plain, training.batch_size)

    def train_epoch(self) -> None:
        for images, labels in self.labeled:
            images = images.to(self.device)
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            outputs = self.networks[0](images)
            losses = task_losses(outputs[0], labels.to(self.device))
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
        unlabeled = next(iter(self.unlabeled))[0].to(self.device)
        of_unlabeled = self._cod_loss(unlabeled, self.networks[0](unlabeled))
        return self.config.cod.weight * (self._cod_loss(images, outputs) + of_unlabeled)

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
        return torch.cat(scores)


def serve_baseline(requests: Connection, method: str, workload: Workload) -> None:
    """Does the work of a baseline once for each request, and says when it is done."""
    allow_tf32(False)
    torch.backends.cudnn.benchmark = True
    baseline = Baseline(workload)
    while True:
        requests.recv()
        getattr(baseline, method)()
        machine.synchronize(baseline.device)
        requests.send(True)


@contextmanager
def baseline_in_its_own_process(method: str, workload: Workload) -> Iterator[Callable[[], object]]:
    """A call that does the work of `Baseline(workload).method()`, where nothing else runs."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=serve_baseline, args=(theirs, method, workload), daemon=True
    )
    process.start()
    theirs.close()

    def work() -> None:
        ours.send(True)
        ours.recv()

    try:
        yield work
    finally:
        process.terminate()
        process.join()
