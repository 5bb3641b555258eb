"""What the weights of a run say of image files."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import models
from models.extractor import Extractor
from tod.config import Config, InputError, load, read_run
from tod.config.identity import cycle_files
from tod.config.schema import Images
from tod.data import extraction, picture
from tod.data.batches import FeatureBatches, ImageBatches
from tod.data.decoding import decoded_once
from tod.data.listing import image_files
from tod.people.labels import Label, read_labels
from tod.system.files import reason, sha256

log = logging.getLogger("tod")

AT_ONCE = 4096
"""So many features are classified at once."""
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
    if config.model.sees_a_file:
        raise InputError(
            f"{run_folder}: was trained on the rows of a file (model.extractor: null); it can tell "
            "nothing of pictures"
        )
    network = _classifier(run_folder, run, config, weights)
    memory_format = models.fastest_memory_format(device, config.model.width)
    network = models.fold_batch_norm(network).to(device, memory_format=memory_format)
    labels = read_labels(run_folder, {}) if config.facts.from_people else None
    if labels is not None and not (run_folder / "labels.csv").exists():
        log.warning(f"{run_folder / 'labels.csv'}: is missing: `labelled` stays empty")

    files = image_files(folder)
    problems: dict[int, str] = {}
    views = _features if config.model.is_linear else _images
    rows = {}
    for positions, inputs in views(Files(folder, files, config, run, device, problems)):
        best = network(inputs)[0].softmax(dim=1).max(dim=1)
        for i, probability, label in zip(positions, *map(Tensor.tolist, best), strict=True):
            rows[i] = (files[i], run["class_names"][label], f"{probability:.6g}")
    if problems:
        first, why = min(problems.items())
        words = f"there is no prediction for it ({len(problems)} such)"
        log.warning(f"{folder / files[first]}: cannot be read ({why}); {words}")
    found = [rows[i] for i in sorted(rows.keys() - problems.keys())]
    table = pd.DataFrame(found, columns=["file", "class", "probability"], dtype=object)
    if labels is not None:
        table["labelled"] = [_said(labels, folder / file) for file in table["file"]]
    return table


class Files(NamedTuple):
    """Files to classify with a run's network.

    `problems` takes why which of them has no picture, by position.
    """

    folder: Path
    files: Sequence[str]
    config: Config
    run: dict[str, Any]
    device: torch.device
    problems: dict[int, str]

    @property
    def read(self) -> picture.Read:
        return picture.reader(self.config.facts.read_as_published)


Inputs = Iterator[tuple[Sequence[int], Tensor]]
"""The positions of some files, and what the network is to see of them, (n, …)."""


def _images(wanted: Files) -> Inputs:
    """The pictures, normalised."""
    folder, files, config, run, device, problems = wanted
    images = config.images
    if not (images.size or images.resize):
        images = Images(size=config.side)
    memory_format = models.fastest_memory_format(device, config.model.width)
    mean, std = torch.tensor(run["mean"]), torch.tensor(run["std"])
    batch_size = 2 * config.training.batch_size
    decoded = decoded_once(folder, files, images, batch_size, wanted.read)
    for start, (pixels, unreadable) in zip(range(0, len(files), batch_size), decoded, strict=True):
        problems |= {start + i: why for i, why in unreadable.items()}
        batches = ImageBatches(pixels, mean, std, config.augmentation, device, memory_format)
        positions = range(start, start + len(pixels))
        yield positions, batches.plain(batches.to_device(torch.arange(len(pixels))))


def _features(wanted: Files) -> Inputs:
    """The features of the pictures, of unit length: those that the run has, and others, which are
    computed and kept.
    """
    folder, files, config, _, device, problems = wanted
    extractor = Extractor(config.model.extractor, config.model.extractor_size)
    pictures = extraction.pictures_in(folder, files, extractor.side, wanted.read, [])
    of_run = extraction.store_of(Path(config.data_dir), config.dataset, pictures, extractor).find()
    parts = [(of_run, range(len(files)))]
    if missing := of_run.missing:
        others = pictures.only(missing)
        store = extraction.store_of(folder, config.dataset, others, extractor)
        kept, failures = extraction.load(store, others, extractor, device)
        problems |= {missing[i]: why for i, why in failures.items()}
        parts.append((kept, missing))
    for kept, positions in parts:
        there = torch.from_numpy(np.flatnonzero(kept.rows >= 0))
        if not len(there):
            continue
        batches = FeatureBatches(torch.from_numpy(kept.values), torch.from_numpy(kept.rows), device)
        for some in there.split(AT_ONCE):
            yield [positions[i] for i in some.tolist()], batches.plain(batches.to_device(some))


def _classifier(
    run_folder: Path, run: dict[str, Any], config: Config, weights: Path | None
) -> nn.Module:
    """The network."""
    if weights is None:
        places = cycle_files(run_folder / "weights", ".pth")
        if not places:
            advice = "name the folder of a run that has kept them"
            raise InputError(f"{run_folder}: has no weights; {advice}")
        first_trial = min(places)[0]
        weights = places[max(place for place in places if place[0] == first_trial)]
    try:
        found = torch.load(weights, map_location="cpu", weights_only=True)["state_dict_backbone"]
        num_features = found["linear.weight"].shape[1] if config.model.is_linear else 0
        network = models.build_backbone(config.model, len(run["class_names"]), num_features)
        network.load_state_dict(found)
        return network
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
