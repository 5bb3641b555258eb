"""This project's epoch and scores, beside which the baseline is measured."""

import numpy as np
import torch
from torch import Tensor

from benchmarks.workload import NUM_CLASSES, Workload
from losses import CODLoss, LossPrediction, NoAuxiliary
from models import NetworkFactory, fastest_memory_format, fold_batch_norm
from models.inference import allow_tf32
from samplers import temporal_output_discrepancy
from tod.data.batches import ImageBatches
from tod.engine.learner import Learner

AUXILIARIES = {"NONE": NoAuxiliary, "COD": CODLoss, "LL4AL": LossPrediction}


class Ours:
    """One trial's second cycle, the first whose unlabelled batches are all different."""

    def __init__(self, work: Workload, precision: str) -> None:
        config, device = work.config, work.device
        self.images = ImageBatches(
            torch.from_numpy(work.pixels).permute(0, 3, 1, 2),
            torch.tensor(config.images.mean),
            torch.tensor(config.images.std),
            config.augmentation,
            device,
            fastest_memory_format(device, config.model.width),
        )
        self.labels = work.labels.to(device)
        self.labeled, self.unlabeled = np.split(np.arange(len(self.labels)), [work.num_labeled])
        seed, trial = 0, 1
        networks = NetworkFactory(config.model, NUM_CLASSES, device, seed, trial)
        self.backbone = networks.backbone("backbone")
        self.previous = networks.backbone("previous")
        loss = AUXILIARIES[work.auxiliary](config, networks)
        self.learner = Learner(config, seed, trial, self.backbone, loss, precision)
        self.learner.start_cycle(2)
        self.batch_size = config.training.batch_size

    def train_epoch(self) -> None:
        """Trains for one epoch on the labelled images.

        On CUDA the first one captures the graphs that all epochs of a cycle share.
        """
        allow_tf32(self.learner.precision == "tf32")
        self.learner.epoch = 0
        self.learner.train_cycle(self.images, self.labels, self.labeled, self.unlabeled)

    @torch.inference_mode()
    def score(self) -> Tensor:
        """TOD's scores of all images, (N,)."""
        allow_tf32(self.learner.precision == "tf32")
        backbone, previous = fold_batch_norm(self.backbone), fold_batch_norm(self.previous)
        indices = self.images.to_device(torch.arange(len(self.labels)))
        return torch.cat(
            [
                temporal_output_discrepancy(backbone(images)[0], previous(images)[0])
                for images in map(self.images.plain, indices.split(2 * self.batch_size))
            ]
        )
