"""Features that a pretrained network makes of pictures: computed once, and kept by content."""

import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from models.extractor import Extractor
from models.inference import without_tf32
from tod.config import Config
from tod.config.settings import counted
from tod.data import picture
from tod.data.dataset import Dataset, ImageSet
from tod.data.features import Features
from tod.data.listing import refuse, shown
from tod.data.of_files import digests, in_threads, made_of
from tod.data.store import KEY_SIZE, Kept, Made, Make, Store
from tod.system.machine import cores

log = logging.getLogger("tod")

PIXELS, PIXELS_ON_A_GPU = 8 * 224**2, 64 * 224**2
"""Of a batch that a thread computes; on a CPU, 30 MB of memory are for each 224×224."""
MOST_THREADS = 8


class Pictures(NamedTuple):
    """What an extractor looks at.

    Attributes:
        contents: what tells each picture, read as it is, from all others.
        paths: their files.
        open: gives one of them in RGB, by its position.
    """

    contents: Sequence[str]
    paths: Sequence[Path]
    open: Callable[[int], Image.Image]

    def only(self, chosen: Sequence[int]) -> "Pictures":
        """Those at these positions."""
        contents, paths = ([of[index] for index in chosen] for of in self[:2])
        return Pictures(contents, paths, lambda index: self.open(chosen[index]))


def pictures_in(
    folder: Path, files: Sequence[str], side: int, read: picture.Read, problems: list[str]
) -> Pictures:
    """Those in a folder's files, to be shrunk to squares of this side; `problems` takes what cannot
    be read.
    """
    how = f"{read.__name__}, {picture.VERSION}"
    contents = [f"{digest}, {how}" for digest in digests(folder, files, problems)]
    paths = [folder / file for file in files]
    return Pictures(contents, paths, lambda index: picture.rgb(paths[index], side, read)[0])


def _pictures_of(images: ImageSet, side: int, read: picture.Read, problems: list[str]) -> Pictures:
    """Those in the files of the images; where there are none, the images themselves."""
    if images.folder is not None:
        return pictures_in(images.folder, images.names, side, read, problems)
    contents = [
        hashlib.sha256(each.tobytes()).hexdigest() for some in images.chunks() for each in some
    ]

    def opened(index: int) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(images.image(index).transpose(1, 2, 0)))

    return Pictures(contents, [Path(f"image {i}") for i in range(len(images))], opened)


def store_of(folder: Path, dataset: str, pictures: Pictures, extractor: Extractor) -> Store:
    """Where the features of a dataset's pictures are kept, in a hidden file of a folder."""
    name = re.sub(r"[^\w-]", "_", f"{dataset}_{extractor.name}_{extractor.size}")
    texts = (f"{content}\n{extractor.description}" for content in pictures.contents)
    keys = [
        hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=KEY_SIZE).digest()
        for text in texts
    ]
    row = np.dtype((np.float32, extractor.num_features))
    return Store(folder / f".features_{name}", keys, row, "computing features in")


def load(
    store: Store, pictures: Pictures, extractor: Extractor, device: torch.device
) -> tuple[Kept, dict[int, str]]:
    """The features that are kept of pictures; those that are missing are computed. And why which
    picture has none, by position.
    """
    pixels = PIXELS if device.type == "cpu" else PIXELS_ON_A_GPU
    at_once = max(1, pixels // extractor.size**2)
    make = _computed(pictures, extractor, device, at_once)
    kept, failures, why_not_kept = store.load(make, at_once)
    if why_not_kept:
        words = f"the features cannot be kept ({why_not_kept})"
        log.warning(f"{store.path.parent}: {words}; they are computed each time")
    return kept, failures


def as_configured(
    dataset: Dataset, config: Config, device: torch.device
) -> tuple[Features, Features]:
    """Those of the training and of the test images, by the extractor that is configured."""
    extractor = Extractor(config.model.extractor, config.model.extractor_size)
    read = picture.reader(config.facts.read_as_published)
    place = config.dataset, Path(config.data_dir)
    return features_of(dataset, *place, extractor, read, device)


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
        [*train.paths, *test.paths],
        lambda index: train.open(index) if index < count else test.open(index - count),
    )
    kept, failures = load(store_of(folder, name, pictures, extractor), pictures, extractor, device)
    mend = "mend or remove it"
    refuse(
        [
            f"{shown(pictures.paths[i])}: cannot be read ({why}); {mend}"
            for i, why in failures.items()
        ]
    )
    stored, rows = torch.from_numpy(kept.values), torch.from_numpy(kept.rows)
    return Features(stored, rows[:count]), Features(stored, rows[count:])


@contextmanager
def _rounded_alike() -> Iterator[None]:
    """Features are kept for all runs, whatever the precision of the one that computes them, and
    whichever convolutions cuDNN finds fastest at the time.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        with without_tf32():
            yield
    finally:
        torch.backends.cudnn.benchmark = before


def _computed(pictures: Pictures, extractor: Extractor, device: torch.device, at_once: int) -> Make:
    """Makes the features of pictures, in batches: each thread decodes one, and computes it.

    Each has few threads of PyTorch's, on a GPU for the views alone: threads that share a batch wait
    for each other, above all beside other work. A batch is always as large: in others, the
    extractor would round otherwise.
    """
    threads = min(cores(), MOST_THREADS)
    size = (at_once, 3, extractor.size, extractor.size)
    # On a GPU a second batch would take memory and save no time.
    one_at_a_time = nullcontext() if device.type == "cpu" else Lock()

    def features(positions: Sequence[int]) -> list[Made | str]:
        if torch.get_num_threads() != cores() // threads:
            torch.set_num_threads(cores() // threads)  # of this thread
        batch = torch.zeros(size).to(memory_format=torch.channels_last)
        problems = {}
        for place, index in enumerate(positions):
            view = made_of(
                pictures.paths[index], lambda _, i=index: extractor.view(pictures.open(i))
            )
            if isinstance(view, str):
                problems[place] = view
            else:
                batch[place] = view
        with torch.inference_mode(), one_at_a_time:
            rows = extractor.network(batch.to(device)).float().cpu().numpy()
        return [
            problems.get(place) or (rows[place].tobytes(), False) for place in range(len(positions))
        ]

    def make(chosen: Sequence[int]) -> Iterator[Made | str]:
        before = torch.get_num_threads()
        # Both are made of large libraries, and perhaps a download, before threads need them.
        extractor.network.to(device), extractor.view
        count = counted(len(chosen), "picture")
        log.info(f"{extractor.name}: computes the features of {count}, to be kept")
        batches = (chosen[start : start + at_once] for start in range(0, len(chosen), at_once))
        try:
            with (
                _rounded_alike(),
                closing(in_threads(features, batches, threads)) as found,
            ):
                yield from chain.from_iterable(found)
        finally:
            torch.set_num_threads(before)
            if device.type == "cuda":
                torch.cuda.empty_cache()  # or what it no longer needs would not count as free

    return make
