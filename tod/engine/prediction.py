"""What the weights of a run say of image files."""

import logging
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

import models
from tod.config import Config, InputError, load, read_run
from tod.config.identity import cycle_files
from tod.config.schema import Images
from tod.data import picture
from tod.data.batches import ImageBatches
from tod.data.decoding import decoded_once
from tod.data.listing import image_files
from tod.people.labels import Label, read_labels
from tod.system.files import reason, sha256

log = logging.getLogger("tod")

NOT_A_RUN = "name the folder of a run that has ended a cycle"


class Classifier(NamedTuple):
    """A run's network, and what it needs to know of pictures and classes.

    `labels` are what people have said of images, by their SHA-256; None where the dataset has them.
    """

    network: nn.Module
    config: Config
    class_names: list[str]
    mean: Tensor
    std: Tensor
    device: torch.device
    labels: dict[str, Label] | None


def read_classifier(run_folder: Path, weights: Path | None, device: torch.device) -> Classifier:
    """The network of a run's folder: of the last cycle of its first trial, or of a file in it.

    Raises:
        InputError: the folder holds no run that has ended a cycle, or a file is damaged.
    """
    run = read_run(run_folder, NOT_A_RUN)["run"]
    config = load(str(run_folder / "config.yaml"))
    weights = weights or _last_weights(run_folder)
    try:
        class_names, mean, std = run["class_names"], *map(torch.tensor, (run["mean"], run["std"]))
        network = models.build_backbone(config.model, len(class_names))
        checkpoint = torch.load(weights, map_location="cpu", weights_only=True)
        network.load_state_dict(checkpoint["state_dict_backbone"])
    # A damaged file can raise anything at all, with advice that is none.
    except Exception as error:
        why = f" ({reason(error)})" if isinstance(error, OSError) else ""
        place = run_folder / "weights"
        raise InputError(
            f"{weights}: is no network of this run{why}; name a file of {place}"
        ) from None
    memory_format = models.fastest_memory_format(device, config.model.width)
    network = models.fold_batch_norm(network).to(device, memory_format=memory_format)
    labels = read_labels(run_folder, {}) if config.facts.from_people else None
    if labels is not None and not (run_folder / "labels.csv").exists():
        log.warning(f"{run_folder / 'labels.csv'}: is missing: `labelled` stays empty")
    return Classifier(network, config, class_names, mean, std, device, labels)


def _last_weights(run_folder: Path) -> Path:
    places = cycle_files(run_folder / "weights", ".pth")
    if not places:
        raise InputError(f"{run_folder}: holds no weights; {NOT_A_RUN}")
    first_trial = min(places)[0]
    return places[max(place for place in places if place[0] == first_trial)]


@torch.inference_mode()
def predictions(classifier: Classifier, folder: Path) -> pd.DataFrame:
    """What each image file below a folder shows.

    Args:
        classifier: of a run.
        folder: the files may lie at any depth.

    Returns:
        A row an image, in the order of the files: `file`, relative to the folder, `class`, and the
        network's `probability` for it; of a run that people label, also `labelled`, the class that
        they have given. Files that cannot be read have none, and a warning.

    Raises:
        InputError: there is no image.
    """
    config = classifier.config
    images, read = config.images, picture.as_shown
    if config.facts.read_as_published:
        read = picture.as_published
    elif not (images.size or images.resize):
        images = Images(size=config.side)
    files = image_files(folder)
    rows, unreadable = [], []
    batch_size = 2 * config.training.batch_size
    batches = decoded_once(folder, files, images, batch_size, read)
    for start, (pixels, problems) in zip(range(0, len(files), batch_size), batches, strict=True):
        probabilities = _probabilities(classifier, pixels)
        best = probabilities.max(dim=1)
        for i, (probability, label) in enumerate(zip(*map(Tensor.tolist, best), strict=True)):
            if i in problems:
                unreadable.append(f"{folder / files[start + i]}: cannot be read ({problems[i]})")
            else:
                rows.append((files[start + i], classifier.class_names[label], probability))
    if unreadable:
        log.warning(f"{unreadable[0]}; there is no prediction for it ({len(unreadable)} such)")
    table = pd.DataFrame(rows, columns=["file", "class", "probability"], dtype=object)
    table["probability"] = [f"{probability:.6g}" for probability in table["probability"]]
    if classifier.labels is not None:
        table["labelled"] = [_said(classifier.labels, folder / file) for file in table["file"]]
    return table


def _said(labels: dict[str, Label], path: Path) -> str:
    with suppress(OSError):  # it has gone meanwhile
        if label := labels.get(sha256(path)):
            return label.class_name
    return ""


def _probabilities(classifier: Classifier, pixels: Tensor) -> Tensor:
    """Pixels (N, 3, H, W) uint8 → (N, C)."""
    device = classifier.device
    memory_format = models.fastest_memory_format(device, classifier.config.model.width)
    batches = ImageBatches(
        pixels,
        classifier.mean,
        classifier.std,
        classifier.config.augmentation,
        device,
        memory_format,
    )
    images = batches.plain(torch.arange(len(pixels), device=device))
    return classifier.network(images)[0].softmax(dim=1).cpu()
