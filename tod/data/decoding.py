"""Image files as uint8 tensors: decoded once, into a store beside them that is mapped."""

import logging
import os
import shutil
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import UnidentifiedImageError
from torch import Tensor

from tod.config import InputError
from tod.config.schema import Images
from tod.config.settings import shortened
from tod.data import colour, picture
from tod.data.picture import pillow_limits_off
from tod.data.store import Made, Store, file_key
from tod.system.files import reason, refuse_what_the_machine_lacks
from tod.system.machine import cores

log = logging.getLogger("tod")


class Decoded(NamedTuple):
    """What was read of a folder's files.

    Attributes:
        stored: (M, 3, size, size) uint8, mapped from a file that may have other images too.
        rows: where each file's image is stored, (N,) int64; −1: it could not be read.
        problems: why, by position.
    """

    stored: Tensor
    rows: Tensor
    problems: dict[int, str]


def load_images(
    folders: Sequence[tuple[Path, Sequence[str]]],
    config: Images,
    read: picture.Read = picture.as_shown,
) -> list[Decoded]:
    """The images of folders, of which the files are named, as squares of `config`'s size.

    They are kept in their folder, in a hidden file that a later call maps into memory, as far as
    the files are still the same; a decoding that was interrupted goes on where it stopped. Where
    the folder cannot be written to, they are decoded each time, into a temporary file.
    """
    resize, size = _sides(config)
    decode = partial(picture.decode, resize=resize, size=size, read=read)
    stores = [Store(folder / f".decoded_{resize}_{size}", (size, size, 3)) for folder, _ in folders]
    keys = [
        [file_key(folder, name, picture.VERSION, read.__name__) for name in files]
        for folder, files in folders
    ]
    _refuse_a_small_disk(stores, keys)
    loaded, dim = [], []
    for store, (folder, files), of_files in zip(stores, folders, keys, strict=True):
        with pillow_limits_off():
            make = partial(made_of_files, folder, files, decode)
            kept, problems, why = store.load(of_files, make, f"decoding {folder}")
        if why:
            words = f"the decoded images cannot be kept ({why})"
            log.warning(f"{folder}: {words}; they are decoded each time")
        dim += [folder / files[index] for index in kept.flagged]
        loaded.append(Decoded(_as_tensor(kept.values), torch.from_numpy(kept.rows), problems))
    _warn_of_dim_pictures(dim)
    return loaded


def _refuse_a_small_disk(stores: Sequence[Store], keys: Sequence[Sequence[bytes]]) -> None:
    """Refuses, before anything is decoded, a disk without room for all of it."""
    needed: dict[int, int] = defaultdict(int)
    for store, of_files in zip(stores, keys, strict=True):
        folder = store.path.parent
        disk = folder.stat().st_dev
        needed[disk] += store.needed(of_files)
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
    for start in range(0, len(files), batch_size):
        batch = files[start : start + batch_size]
        pixels, problems = np.zeros((len(batch), size, size, 3), np.uint8), {}
        with pillow_limits_off():
            for index, made in made_of_files(folder, batch, decode, range(len(batch)), batch_size):
                if isinstance(made, str):
                    problems[index] = made
                    continue
                content, is_dim = made
                pixels[index] = np.frombuffer(content, np.uint8).reshape(pixels.shape[1:])
                if is_dim:
                    dim.append(folder / batch[index])
        yield _as_tensor(pixels), problems
    _warn_of_dim_pictures(dim)


def _warn_of_dim_pictures(paths: Sequence[Path]) -> None:
    if paths:
        log.warning(
            f"{shortened(str(paths[0]), 300)}: fewer than {colour.FEW} of its grey levels are "
            f"left in 8 bits ({len(paths)} such in all); stretch them beforehand, all by one factor"
        )


def _sides(config: Images) -> tuple[int, int]:
    """Of the square to which a picture is squashed, and of its middle that remains."""
    size = config.size or config.resize
    return config.resize or size, size


def _as_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def made_of_files(
    folder: Path,
    files: Sequence[str],
    make: Callable[[Path], Made],
    chosen: Sequence[int],
    ahead: int,
) -> Generator[tuple[int, Made | str], None, None]:
    """For each of the chosen files, in order, what is made of it, or why it cannot be read.

    At most `ahead` of them wait for the one before.
    """

    def result(index: int) -> tuple[int, Made | str]:
        try:
            return index, make(folder / files[index])
        # Pillow's decoders raise many kinds of errors on damaged files.
        except Exception as error:
            refuse_what_the_machine_lacks(folder / files[index], error)
            unknown = isinstance(error, UnidentifiedImageError)  # whose words name the file again
            return index, "it is no picture of a known kind" if unknown else reason(error)

    waiting: deque[Future] = deque()
    pool = ThreadPoolExecutor(cores())
    try:
        for index in chosen:
            waiting.append(pool.submit(result, index))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
