"""Features that a pretrained network makes of pictures: computed once, and kept by content."""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from models.extractor import Extractor
from tod.data import picture
from tod.data.dataset import Dataset, ImageSet
from tod.data.features import Features
from tod.data.listing import refuse, shown
from tod.data.of_files import digests, in_threads
from tod.data.store import KEY_SIZE, Kept, Made, Make, Store
from tod.system.machine import own_cores

log = logging.getLogger("tod")

AT_ONCE, AT_ONCE_ON_A_GPU = 16, 128
"""How many pictures the extractor sees at once: always so many, or it would round otherwise."""


class Pictures(NamedTuple):
    """What an extractor looks at.

    Attributes:
        contents: what tells each picture, read as it is, from all others.
        names: for messages.
        open: gives one of them in RGB, by its position.
    """

    contents: Sequence[str]
    names: Sequence[str]
    open: Callable[[int], Image.Image]

    def only(self, chosen: Sequence[int]) -> "Pictures":
        """Those at these positions."""
        contents, names = ([of[index] for index in chosen] for of in self[:2])
        return Pictures(contents, names, lambda index: self.open(chosen[index]))


def pictures_in(
    folder: Path, files: Sequence[str], side: int, read: picture.Read, problems: list[str]
) -> Pictures:
    """Those in a folder's files, to be shrunk to squares of this side; `problems` takes what cannot
    be read.
    """
    how = f"{read.__name__}, {picture.VERSION}"
    contents = [f"{digest}, {how}" for digest in digests(folder, files, problems)]
    names = [shown(folder / file) for file in files]
    return Pictures(contents, names, lambda i: picture.rgb(folder / files[i], side, read)[0])


def _pictures_of(images: ImageSet, side: int, read: picture.Read, problems: list[str]) -> Pictures:
    """Those in the files of the images; where there are none, the images themselves."""
    if images.folder is not None:
        return pictures_in(images.folder, images.names, side, read, problems)
    contents = [
        hashlib.sha256(each.tobytes()).hexdigest() for some in images.chunks() for each in some
    ]

    def opened(index: int) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(images.image(index).transpose(1, 2, 0)))

    return Pictures(contents, [f"image {i}" for i in range(len(images))], opened)


def store_of(folder: Path, dataset: str, pictures: Pictures, extractor: Extractor) -> Store:
    """Where the features of a dataset's pictures are kept, in a hidden file of a folder."""
    name = re.sub(r"[^\w-]", "_", f"{dataset}_{extractor.name}_{extractor.size}")
    lines = (f"{content}\n{extractor.description}".encode() for content in pictures.contents)
    keys = [hashlib.blake2b(line, digest_size=KEY_SIZE).digest() for line in lines]
    row = np.dtype((np.float32, extractor.num_features))
    return Store(folder / f".features_{name}", keys, row, "computing features in")


def load(
    store: Store, pictures: Pictures, extractor: Extractor, device: torch.device
) -> tuple[Kept, dict[int, str]]:
    """The features that are kept of pictures; those that are missing are computed. And why which
    picture has none, by position.
    """
    at_once = AT_ONCE if device.type == "cpu" else AT_ONCE_ON_A_GPU
    make = _computed(pictures, extractor, device, at_once)
    kept, failures, why_not_kept = store.load(make, at_once)
    if why_not_kept:
        words = f"the features cannot be kept ({why_not_kept})"
        log.warning(f"{store.path.parent}: {words}; they are computed each time")
    return kept, failures


def features_of(
    dataset: Dataset,
    name: str,
    folder: Path,
    extractor: Extractor,
    read: picture.Read,
    device: torch.device,
) -> tuple[Features, Features]:
    """Those of the training and of the test images of a dataset of this name, kept in a folder."""
    problems: list[str] = []
    sets = (dataset.train, dataset.test)
    train, test = (_pictures_of(images, extractor.side, read, problems) for images in sets)
    refuse(problems)
    count = len(train.contents)
    pictures = Pictures(
        [*train.contents, *test.contents],
        [*train.names, *test.names],
        lambda index: train.open(index) if index < count else test.open(index - count),
    )
    kept, failures = load(store_of(folder, name, pictures, extractor), pictures, extractor, device)
    mend = "mend or remove it"
    refuse([f"{pictures.names[i]}: cannot be read ({why}); {mend}" for i, why in failures.items()])
    stored, rows = torch.from_numpy(kept.values), torch.from_numpy(kept.rows)
    return Features(stored, rows[:count]), Features(stored, rows[count:])


def _computed(pictures: Pictures, extractor: Extractor, device: torch.device, at_once: int) -> Make:
    """Makes the features of pictures; some are decoded while those before them are computed."""

    def view(index: int) -> Tensor:
        return extractor.view(pictures.open(index))

    def make(chosen: Sequence[int]) -> Iterator[Made | str]:
        network = extractor.network.to(device)
        batch = torch.zeros(at_once, 3, extractor.size, extractor.size)
        views = in_threads(view, chosen, ahead=2 * at_once)
        with closing(views), _all_cores(device):
            while found := list(islice(views, at_once)):
                for place, each in enumerate(found):
                    if not isinstance(each, str):
                        batch[place] = each
                with torch.inference_mode():
                    on_device = batch.to(device, memory_format=torch.channels_last)
                    features = network(on_device).float().cpu().numpy()
                for each, row in zip(found, features, strict=False):
                    yield each if isinstance(each, str) else (row.tobytes(), False)

    return make


@contextmanager
def _all_cores(device: torch.device) -> Iterator[None]:
    """On a CPU, PyTorch computes with all cores of this process, or as OMP_NUM_THREADS says."""
    before = torch.get_num_threads()
    if device.type == "cpu" and not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(own_cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)
