"""Image files as uint8 tensors: found, decoded once, and kept decoded beside their originals."""

import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

import configuration
from configuration import InputError, shortened

log = logging.getLogger("tod")
progress = logging.getLogger("tod.progress")
"""Its level says whether a bar may be shown."""


def class_folders(folder: Path) -> list[str]:
    """The names of the folders in `folder`, each a class, in order."""
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(names) < 2:
        raise InputError(f"{folder}: holds {len(names)} class folders; there must be at least two")
    return names


def list_images(folder: Path, class_names: Sequence[str]) -> tuple[list[str], list[int]]:
    """The image files of each class, relative to `folder`, and their labels."""
    endings = {e for e, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    files, labels = [], []
    others = [p for p in sorted(folder.iterdir()) if not (p.is_dir() or p.name.startswith("."))]
    for label, name in enumerate(class_names):
        for path in sorted((folder / name).glob("*")):
            if path.name.startswith("."):
                continue
            if path.suffix.lower() in endings and not path.is_dir():
                files.append(f"{name}/{path.name}")
                labels.append(label)
            else:
                others.append(path)
    if others:
        log.warning(
            "%s: %s is left out (%d such in all): images lie in their class's folder itself, with "
            "an image's ending",
            folder,
            others[0].relative_to(folder),
            len(others),
        )
    return files, labels


def load_images(folder: Path, files: Sequence[str], config: configuration.Images) -> Tensor:
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
    kept = _mapped(path, shape)
    if kept is None:
        with alone(folder) as is_alone:
            # Another process may have been faster.
            kept = _mapped(path, shape)
            if kept is None:
                decoded = _decode(folder, files, resize, size)
                if is_alone:
                    _keep(decoded, path, prefix)
                else:
                    _warn_of_decoding_again(folder, "its files cannot be locked")
                kept = _mapped(path, shape)
    return torch.from_numpy(decoded if kept is None else kept).permute(0, 3, 1, 2)


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


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """While one process decodes images or downloads data into a folder, others wait for it.

    Gives whether they do: where nothing can be written or locked, they cannot.
    """
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((folder / ".lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
            is_alone = True
        except OSError:
            is_alone = False
        yield is_alone


def _keep(pixels: np.ndarray, path: Path, prefix: str) -> None:
    """Writes the decoded images, and removes those that they replace; warns where it cannot."""
    partial = path.with_name(f"{prefix}partial")
    try:
        with partial.open("wb") as file:
            np.save(file, pixels)
        for stale in path.parent.glob(f"{prefix}*.npy"):
            stale.unlink()
        partial.replace(path)
    except OSError as error:
        _warn_of_decoding_again(path.parent, error.strerror)
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _warn_of_decoding_again(folder: Path, reason: str) -> None:
    log.warning(
        "%s: the decoded images cannot be kept (%s); they are decoded each time", folder, reason
    )


def _decode(folder: Path, files: Sequence[str], resize: int, size: int) -> np.ndarray:
    """Image files → (N, size, size, 3) uint8."""
    pixels = np.empty((len(files), size, size, 3), dtype=np.uint8)
    border = (resize - size) // 2
    box = (border, border, border + size, border + size)

    def decode(index: int) -> None:
        path = folder / files[index]
        try:
            with Image.open(path) as image:
                if image.mode.startswith(("I", "F")):
                    raise ValueError(f"pixels of mode {image.mode}: convert it to 8 bits a channel")
                upright = ImageOps.exif_transpose(image).convert("RGB")
            square = upright.resize((resize, resize), Image.Resampling.BILINEAR).crop(box)
        # Pillow's decoders raise many kinds of errors on damaged files.
        except Exception as error:
            raise InputError(
                f"{shortened(str(path), 300)}: cannot be read as an image "
                f"({shortened(str(error), 300)}); mend or remove it"
            ) from None
        pixels[index] = np.asarray(square)

    with ThreadPoolExecutor() as pool:
        done = pool.map(decode, range(len(files)))
        # None: where there is no terminal.
        hidden = None if progress.isEnabledFor(logging.INFO) else True
        for _ in tqdm(done, f"decoding {folder}", len(files), leave=False, disable=hidden):
            pass
    return pixels
