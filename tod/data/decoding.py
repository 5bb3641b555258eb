"""Image files as uint8 tensors: decoded once, into a store beside them that is mapped."""

import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tod.config import InputError
from tod.config.schema import Images
from tod.data import colour, picture
from tod.data.dataset import ImageSet
from tod.data.listing import Scan, shown
from tod.data.of_files import file_key, of_files
from tod.data.store import Store

log = logging.getLogger("tod")


def load_images(
    scans: Sequence[Scan],
    config: Images,
    problems: list[str],
    read: picture.Read = picture.as_shown,
) -> tuple[list[ImageSet], list[tuple[str, str]]]:
    """The readable images of folders, as squares of `config`'s size; and which files are left out,
    and why each. `problems` takes those that cannot be read, and are not to be left out.

    They are kept in their folder, in a hidden file that a later call maps into memory, as far as
    the files are still the same; a decoding that was interrupted goes on where it stopped. Where
    the folder cannot be written to, they are decoded each time, into a temporary file.
    """
    resize, size = _sides(config)
    decode = partial(picture.decode, resize=resize, size=size, read=read)
    name, reader = f".decoded_{resize}_{size}", f"{picture.VERSION}\0{read.__name__}"
    row = np.dtype((np.uint8, (size, size, 3)))
    stores = []
    for folder, _, labels in scans:
        keys = [file_key(folder, file, reader) for file in labels]
        stores.append(Store(folder / name, keys, row))
    _refuse_a_small_disk(stores)
    images, unreadable, lines, dim = [], [], [], []
    for (folder, _, labels), store in zip(scans, stores, strict=True):
        files = [*labels]
        kept, failures, why_not_kept = store.load(of_files(folder, files, decode))
        if why_not_kept:
            words = f"the decoded images cannot be kept ({why_not_kept})"
            log.warning(f"{folder}: {words}; they are decoded each time")
        dim += [folder / files[index] for index in kept.flagged]
        numbers, rows = torch.tensor([*labels.values()]).long(), torch.from_numpy(kept.rows)
        everything = ImageSet(_as_tensor(kept.values), numbers, files, rows, folder)
        images.append(everything.subset(np.flatnonzero(kept.rows >= 0)))
        for index, why in sorted(failures.items()):
            unreadable.append((f"{folder.name}/{files[index]}", why))
            path = shown(folder / files[index])
            lines.append(f"{path}: cannot be read as an image ({why})")
    _warn_of_dim_pictures(dim)
    if config.unreadable == "refuse":
        mend = "mend or remove it, or go on without it by images.unreadable=skip"
        problems += [f"{line}; {mend}" for line in lines]
    elif lines:
        log.warning(f"{lines[0]}; the run goes on without it ({len(lines)} such in all)")
    return images, unreadable


def _refuse_a_small_disk(stores: Sequence[Store]) -> None:
    """Refuses, before anything is decoded, a disk without room for all of it."""
    needed: Counter[int] = Counter()
    for store in stores:
        folder = store.path.parent
        disk = folder.stat().st_dev
        needed[disk] += store.needed()
        free = shutil.disk_usage(folder).free
        if needed[disk] > free and os.access(folder, os.W_OK):
            raise InputError(
                f"{folder}: the decoded images need {needed[disk] / 1e9:.3g} GB there, and "
                f"{free / 1e9:.3g} GB are free; make room, or choose a smaller images.size"
            )


def decoded_once(
    folder: Path,
    files: Sequence[str],
    config: Images,
    batch_size: int,
    read: picture.Read = picture.as_shown,
) -> Iterator[tuple[Tensor, dict[int, str]]]:
    """The pixels of a folder's files, batch by batch, and why which cannot be read; none is kept.

    Pixels are (n, 3, size, size) uint8, and 0 where a file cannot be read.
    """
    resize, size = _sides(config)
    decode = partial(picture.decode, resize=resize, size=size, read=read)
    dim: list[Path] = []
    results = of_files(folder, files, decode)(range(len(files)))
    for start in range(0, len(files), batch_size):
        batch = files[start : start + batch_size]
        pixels, problems = np.zeros((len(batch), size, size, 3), np.uint8), {}
        for index, made in enumerate(islice(results, len(batch))):
            if isinstance(made, str):
                problems[index] = made
                continue
            content, is_dim = made
            pixels[index] = np.frombuffer(content, np.uint8).reshape(pixels.shape[1:])
            dim += [folder / batch[index]] if is_dim else []
        yield _as_tensor(pixels), problems
    _warn_of_dim_pictures(dim)


def _warn_of_dim_pictures(paths: Sequence[Path]) -> None:
    if paths:
        log.warning(
            f"{shown(paths[0])}: fewer than {colour.FEW} of its grey levels are left in 8 bits "
            f"({len(paths)} such in all); stretch them beforehand, all by one factor"
        )


def _sides(config: Images) -> tuple[int, int]:
    """Of the square to which a picture is squashed, and of its middle that remains."""
    size = config.size or config.resize
    return config.resize or size, size


def _as_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)
