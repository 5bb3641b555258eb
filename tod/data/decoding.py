"""Image files as uint8 tensors: decoded once, into a file beside them that is mapped."""

import hashlib
import logging
import os
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tod.config import Images
from tod.data import picture
from tod.data.kept import KEY_SIZE, KeptImages
from tod.files import locked, reason

log = logging.getLogger("tod")

Decode = Callable[[Path], bytes]


def load_images(
    folder: Path,
    files: Sequence[str],
    config: Images,
    read: picture.Read = picture.as_shown,
) -> tuple[Tensor, dict[int, str]]:
    """Image files → pixels (N, 3, size, size) uint8, resized to a square and centre-cropped.

    They are kept in `folder`, in a hidden file that a later call maps into memory, as far as the
    files are still the same; a decoding that was interrupted goes on where it stopped. Where the
    folder cannot be written to, the images are decoded into memory each time.

    Args:
        folder: where the files lie.
        files: their names, relative to it.
        config: the sizes.
        read: what makes RGB pixels of an open picture.

    Returns:
        The pixels, and why which of the files could not be read, by position; their pixels are 0.

    Raises:
        InputError: the disk has no room for the decoded images.
    """
    size = config.size or config.resize
    resize = config.resize or size
    decode = partial(picture.decode, resize=resize, size=size, read=read)
    store = KeptImages(folder / f".decoded_{resize}_{size}", (size, size, 3))
    keys = [_key(folder, name, read.__name__) for name in files]
    problems: dict[int, str] = {}
    with _decoding_as_we_like():
        if not store.holds(keys):
            with folder_lock(folder) as problem:
                if problem:
                    words = f"the decoded images cannot be kept ({problem})"
                    log.warning(f"{folder}: {words}; they are decoded each time")
                    return _in_memory(folder, files, decode, store.shape)
                if not store.holds(keys):  # nor has another process decoded them meanwhile
                    problems = store.fill(keys, partial(_decoded, folder, files, decode))
        # What could not be read once may be readable now.
        again = [i for i in store.unread() if i not in problems]
        for index, content in _decoded(folder, files, decode, again):
            if isinstance(content, str):
                problems[index] = content
            else:
                store.put(index, content, keys[index])
    return _as_tensor(store.pixels()), problems


def decoded_once(
    folder: Path,
    files: Sequence[str],
    config: Images,
    batch_size: int,
    read: picture.Read = picture.as_shown,
) -> Iterator[tuple[Tensor, dict[int, str]]]:
    """What `load_images` gives, batch by batch; nothing is kept."""
    size = config.size or config.resize
    decode = partial(picture.decode, resize=config.resize or size, size=size, read=read)
    for start in range(0, len(files), batch_size):
        with _decoding_as_we_like():
            found = _in_memory(folder, files[start : start + batch_size], decode, (size, size, 3))
        yield found


def _in_memory(
    folder: Path, files: Sequence[str], decode: Decode, shape: tuple[int, ...]
) -> tuple[Tensor, dict[int, str]]:
    pixels, problems = np.zeros((len(files), *shape), np.uint8), {}
    for index, content in _decoded(folder, files, decode, range(len(files))):
        if isinstance(content, str):
            problems[index] = content
        else:
            pixels[index] = np.frombuffer(content, np.uint8).reshape(shape)
    return _as_tensor(pixels), problems


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
def _decoding_as_we_like() -> Iterator[None]:
    """Without Pillow's limit, and without its warnings, which do not name the file."""
    with picture.without_pillows_limit(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def _key(folder: Path, name: str, read: str) -> bytes:
    """Differs where the file does, to the system, or what reads it."""
    status = (folder / name).stat()
    seen = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    content = (picture.VERSION, read, *map(str, seen))
    digest = hashlib.blake2b(os.fsencode(name), digest_size=KEY_SIZE, key=b"tod")
    digest.update("\0".join(["", *content]).encode())
    return digest.digest()


def _decoded(
    folder: Path, files: Sequence[str], decode: Decode, chosen: Sequence[int], at_once: int = 16
) -> Generator[tuple[int, bytes | str], None, None]:
    """For each of the chosen files, in order, its pixels, or why it cannot be read."""

    def result(index: int) -> tuple[int, bytes | str]:
        try:
            return index, decode(folder / files[index])
        # Pillow's decoders raise many kinds of errors on damaged files.
        except Exception as error:
            return index, reason(error)

    waiting: deque[Future] = deque()
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for index in chosen:
            waiting.append(pool.submit(result, index))
            # Those behind go on while the first ones are written; more must not pile up.
            if len(waiting) > at_once:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
