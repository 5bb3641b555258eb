"""What the weights of a run say of image files."""

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

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


@torch.inference_mode()
def predictions(
    run_folder: Path, weights: Path | None, folder: Path, device: torch.device
) -> pd.DataFrame:
    """What each image file below a folder shows, by a run's weights: of a file, or the last ones
    of its first trial.

    Returns:
        A row an image, in the order of the files: `file`, relative to the folder, `class`, and the
        network's `probability` for it; of a run that people label, also `labelled`, the class that
        they have given. Files that cannot be read have none, and a warning.
    """
    run = read_run(run_folder, NOT_A_RUN)["run"]
    config = load(str(run_folder / "config.yaml"))
    network, mean, std = _classifier(run_folder, run, config, weights)
    memory_format = models.fastest_memory_format(device, config.model.width)
    network = models.fold_batch_norm(network).to(device, memory_format=memory_format)
    labels = read_labels(run_folder, {}) if config.facts.from_people else None
    if labels is not None and not (run_folder / "labels.csv").exists():
        log.warning(f"{run_folder / 'labels.csv'}: is missing: `labelled` stays empty")

    images, read = config.images, picture.as_shown
    if config.facts.read_as_published:
        read = picture.as_published
    elif not (images.size or images.resize):
        images = Images(size=config.side)
    files = image_files(folder)
    rows, unreadable = [], []
    batch_size = 2 * config.training.batch_size
    decoded = decoded_once(folder, files, images, batch_size, read)
    for start, (pixels, problems) in zip(range(0, len(files), batch_size), decoded, strict=True):
        batches = ImageBatches(pixels, mean, std, config.augmentation, device, memory_format)
        logits = network(batches.plain(torch.arange(len(pixels), device=device)))[0]
        best = logits.softmax(dim=1).max(dim=1)
        for i, (probability, label) in enumerate(zip(*map(Tensor.tolist, best), strict=True)):
            if i in problems:
                unreadable.append(f"{folder / files[start + i]}: cannot be read ({problems[i]})")
            else:
                rows.append((files[start + i], run["class_names"][label], f"{probability:.6g}"))
    if unreadable:
        log.warning(f"{unreadable[0]}; there is no prediction for it ({len(unreadable)} such)")
    table = pd.DataFrame(rows, columns=["file", "class", "probability"], dtype=object)
    if labels is not None:
        table["labelled"] = [_said(labels, folder / file) for file in table["file"]]
    return table


def _classifier(
    run_folder: Path, run: dict[str, Any], config: Config, weights: Path | None
) -> tuple[nn.Module, Tensor, Tensor]:
    """The network, and the mean and standard deviation of what it was trained on."""
    if weights is None:
        places = cycle_files(run_folder / "weights", ".pth")
        if not places:
            raise InputError(f"{run_folder}: holds no weights; {NOT_A_RUN}")
        first_trial = min(places)[0]
        weights = places[max(place for place in places if place[0] == first_trial)]
    try:
        network = models.build_backbone(config.model, len(run["class_names"]))
        checkpoint = torch.load(weights, map_location="cpu", weights_only=True)
        network.load_state_dict(checkpoint["state_dict_backbone"])
        return network, torch.tensor(run["mean"]), torch.tensor(run["std"])
    # A damaged file can raise anything at all, with advice that is none.
    except Exception as error:
        why = f" ({reason(error)})" if isinstance(error, OSError) else ""
        place = run_folder / "weights"
        raise InputError(
            f"{weights}: is no network of this run{why}; name a file of {place}"
        ) from None


def _said(labels: dict[str, Label], path: Path) -> str:
    with suppress(OSError):  # it has gone meanwhile
        if label := labels.get(sha256(path)):
            return label.class_name
    return ""
