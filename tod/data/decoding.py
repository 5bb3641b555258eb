"""Image files as uint8 tensors: decoded once, and kept decoded beside their originals."""

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from tod.config import Images, InputError
from tod.files import atomic_file, locked, reason, remove
from tod.settings import shortened

log = logging.getLogger("tod")


def load_images(folder: Path, files: Sequence[str], config: Images) -> Tensor:
    """Image files → (N, 3, size, size) uint8, resized to a square and centre-cropped.

    The decoded images are kept in `folder`, in a hidden file that fits the names, sizes and times
    of change of the files; a later call maps it into memory. Where it cannot be written, the
    images are decoded each time.

    Raises:
        InputError: a file cannot be read as an image.
    """
    size = config.size or config.resize
    resize = config.resize or size
    prefix = f".decoded_{resize}_{size}_"
    path = folder / f"{prefix}{_key(folder, files)}.npy"
    shape = (len(files), size, size, 3)
    with folder_lock(folder) as problem:
        pixels = _mapped(path, shape)
        if pixels is None:
            decoded = _decode_all(folder, files, resize, size)
            problem = problem or _keep(decoded, path, prefix)
            if problem:
                words = f"the decoded images cannot be kept ({problem})"
                log.warning(f"{folder}: {words}; they are decoded each time")
            # Mapped, all processes share them, and the system can take their memory back.
            kept = _mapped(path, shape)
            pixels = decoded if kept is None else kept
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


def _key(folder: Path, files: Sequence[str]) -> str:
    """Differs where the files, or what decodes them, do."""
    digest = hashlib.blake2b(PIL.__version__.encode(), digest_size=8)
    for name in files:
        status = (folder / name).stat()
        digest.update(b"%s\0%d\0%d\0" % (os.fsencode(name), status.st_size, status.st_mtime_ns))
    return digest.hexdigest()


def _mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The decoded images in a file, read as they are used; None where it is not whole."""
    try:
        pixels = np.load(path, mmap_mode="c")
    except (OSError, ValueError, EOFError):
        return None
    return pixels if pixels.shape == shape and pixels.dtype == np.uint8 else None


def _keep(pixels: np.ndarray, path: Path, prefix: str) -> str | None:
    """Writes the decoded images and removes those that they replace; gives why it cannot."""
    try:
        with atomic_file(path) as file:
            np.save(file, pixels)
    except InputError as error:
        # The disk's own words: here, nothing has to be mended for the run to go on.
        return reason(error.__context__)
    # Earlier files' images, and what is left of a process that was killed while it wrote.
    for stale in path.parent.glob(f"*{prefix}*"):
        if stale != path:
            remove(stale)
    return None


def _decode_all(folder: Path, files: Sequence[str], resize: int, size: int) -> np.ndarray:
    """Image files → (N, size, size, 3) uint8; a bar shows how far it is."""
    pixels = np.empty((len(files), size, size, 3), dtype=np.uint8)

    def decode(index: int) -> None:
        pixels[index] = _decode(folder / files[index], resize, size)

    # None leaves the bar out where there is no terminal.
    disable = None if logging.getLogger("tod.progress").isEnabledFor(logging.INFO) else True
    with ThreadPoolExecutor() as pool:
        done = pool.map(decode, range(len(files)))
        for _ in tqdm(done, f"decoding {folder}", len(files), leave=False, disable=disable):
            pass
    return pixels


def _decode(path: Path, resize: int, size: int) -> np.ndarray:
    """One image file → (size, size, 3) uint8."""
    border = (resize - size) // 2
    box = (border, border, border + size, border + size)
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"pixels of mode {image.mode}: convert it to 8 bits a channel")
            upright = ImageOps.exif_transpose(image).convert("RGB")
        return np.asarray(upright.resize((resize, resize), Image.Resampling.BILINEAR).crop(box))
    # Pillow's decoders raise many kinds of errors on damaged files.
    except Exception as error:
        raise InputError(
            f"{shortened(str(path), 300)}: cannot be read as an image ({reason(error)}); "
            "mend or remove it"
        ) from None
