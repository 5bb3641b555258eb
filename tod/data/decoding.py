"""Image files as uint8 tensors: decoded once, into a file beside them that is mapped."""

import hashlib
import logging
import os
import shutil
import tempfile
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import UnidentifiedImageError
from torch import Tensor

from tod.config import InputError
from tod.config.schema import Images
from tod.config.settings import shortened
from tod.data import depth, picture
from tod.data.kept import AHEAD, KEY_SIZE, NO_KEY, Decoded, Kept, KeptImages, mapped, progress_bar
from tod.data.picture import Pixels
from tod.system.files import locked, reason, refuse_what_the_machine_lacks
from tod.system.machine import cores

log = logging.getLogger("tod")

Decode = Callable[[Path], Pixels]


def load_images(
    listings: Sequence[tuple[Path, Sequence[str]]],
    config: Images,
    read: picture.Read = picture.as_shown,
) -> list[tuple[Tensor, dict[int, str]]]:
    """Image files → pixels (N, 3, size, size) uint8, resized to a square and centre-cropped.

    They are kept in their folder, in a hidden file that a later call maps into memory, as far as
    the files are still the same; a decoding that was interrupted goes on where it stopped. Where
    the folder cannot be written to, they are decoded each time, into a temporary file.

    Args:
        listings: folders, and the names of files in each, relative to it.
        config: the sizes.
        read: what makes RGB pixels of an open picture.

    Returns:
        For each folder, the pixels, and why which of the files could not be read, by position;
        their pixels are 0.

    Raises:
        InputError: a disk has no room for the decoded images.
    """
    resize, size = _sides(config)
    decode = partial(picture.decode, resize=resize, size=size, read=read)
    stores = [
        KeptImages(folder / f".decoded_{resize}_{size}", (size,) * 2 + (3,))
        for folder, _ in listings
    ]
    keys = [
        [file_key(folder, name, picture.VERSION, read.__name__) for name in files]
        for folder, files in listings
    ]
    _refuse_a_small_disk(stores, keys)
    with pillow_limits_off():
        loaded = [
            _load(store, partial(_decoded, folder, files, decode), of_files)
            for store, (folder, files), of_files in zip(stores, listings, keys, strict=True)
        ]
    dim = [
        folder / files[index]
        for (folder, files), (kept, _) in zip(listings, loaded, strict=True)
        for index in np.flatnonzero(kept.is_dim)
    ]
    _warn_of_dim_pictures(dim)
    return [(_as_tensor(kept.pixels), problems) for kept, problems in loaded]


def _load(
    store: KeptImages, decoded: Decoded, keys: Sequence[bytes]
) -> tuple[Kept, dict[int, str]]:
    kept = store.find(keys)
    if kept is not None and not kept.missing:
        return kept, {}
    with folder_lock(store.path.parent) as problem:
        if problem is None:
            problems = _fill(store, keys, decoded)
            return store.find(keys), problems
    if kept is None or len(kept.missing) > AHEAD:
        words = f"the decoded images cannot be kept ({problem})"
        log.warning(f"{store.path.parent}: {words}; they are decoded each time")
        return _decode_into_a_temporary_file(store, decoded, len(keys))
    problems = {}
    for index, found in decoded(kept.missing, 1):
        if isinstance(found, str):
            problems[index] = found
        else:
            kept.pixels[index] = np.frombuffer(found.content, np.uint8).reshape(store.shape)
            kept.is_dim[index] = found.is_dim
    return kept, problems


def _fill(store: KeptImages, keys: Sequence[bytes], decoded: Decoded) -> dict[int, str]:
    try:
        return store.fill(keys, decoded)
    except OSError as error:
        raise InputError(
            f"{store.path}: cannot be written ({reason(error)}); what was decoded is kept: "
            "mend this and run the same command again"
        ) from None


def _decode_into_a_temporary_file(
    store: KeptImages, decoded: Decoded, count: int
) -> tuple[Kept, dict[int, str]]:
    problems: dict[int, str] = {}
    is_dim = np.zeros(count, bool)
    try:
        with (
            tempfile.TemporaryFile() as file,
            progress_bar(f"decoding {store.path.parent}", count, 0) as bar,
            closing(decoded(range(count), 16)) as results,
        ):
            for index, found in results:
                if isinstance(found, str):
                    problems[index], found = found, Pixels(bytes(store.size), False)
                file.write(found.content)
                is_dim[index] = found.is_dim
                bar.update()
            file.flush()
            no_keys = np.zeros((count, KEY_SIZE), np.uint8)
            return Kept(mapped(file, count, store.shape), no_keys, is_dim), problems
    except OSError as error:
        raise InputError(
            f"{tempfile.tempdir or 'TMPDIR'}: the decoded images cannot be written there either "
            f"({reason(error)}); make room, or name another place by TMPDIR"
        ) from None


def _refuse_a_small_disk(stores: Sequence[KeptImages], keys: Sequence[Sequence[bytes]]) -> None:
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
    """What `load_images` gives of a folder, batch by batch; nothing is kept."""
    resize, size = _sides(config)
    decode = partial(picture.decode, resize=resize, size=size, read=read)
    dim: list[Path] = []
    for start in range(0, len(files), batch_size):
        batch = files[start : start + batch_size]
        pixels, problems = np.zeros((len(batch), size, size, 3), np.uint8), {}
        with pillow_limits_off():
            for index, found in _decoded(folder, batch, decode, range(len(batch)), batch_size):
                if isinstance(found, str):
                    problems[index] = found
                    continue
                pixels[index] = np.frombuffer(found.content, np.uint8).reshape(pixels.shape[1:])
                if found.is_dim:
                    dim.append(folder / batch[index])
        yield _as_tensor(pixels), problems
    _warn_of_dim_pictures(dim)


def _warn_of_dim_pictures(paths: Sequence[Path]) -> None:
    if paths:
        log.warning(
            f"{shortened(str(paths[0]), 300)}: fewer than {depth.FEW} of its grey levels are left "
            f"in 8 bits ({len(paths)} such in all); stretch them beforehand, all by one factor"
        )


def _sides(config: Images) -> tuple[int, int]:
    """Of the square to which a picture is squashed, and of its middle that remains."""
    size = config.size or config.resize
    return config.resize or size, size


def _as_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


@contextmanager
def folder_lock(folder: Path) -> Iterator[str | None]:
    """While one process decodes images or downloads data into a folder, others wait for it.

    Gives None, or where nothing can be locked, and nobody waits, the reason.
    """
    with ExitStack() as stack:
        problem = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder / ".lock"))
        except OSError as error:
            problem = reason(error)
        yield problem


@contextmanager
def pillow_limits_off() -> Iterator[None]:
    """Without Pillow's limit, and without its warnings, which do not name the file."""
    with picture.without_pillows_limit(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def file_key(folder: Path, name: str, *reader: str) -> bytes:
    """Differs where the file does, to the system, or what reads it; of none, if it is not there."""
    try:
        status = (folder / name).stat()
    except OSError:
        return NO_KEY
    seen = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    content = (*reader, *map(str, seen))
    digest = hashlib.blake2b(os.fsencode(name), digest_size=KEY_SIZE, key=b"tod")
    digest.update("\0".join(["", *content]).encode())
    return digest.digest()


def _decoded(
    folder: Path, files: Sequence[str], decode: Decode, chosen: Sequence[int], ahead: int
) -> Generator[tuple[int, Pixels | str], None, None]:
    """For each of the chosen files, in order, its pixels, or why it cannot be read.

    At most `ahead` of them wait for the one before.
    """

    def result(index: int) -> tuple[int, Pixels | str]:
        try:
            return index, decode(folder / files[index])
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
