"""One image file as a viewer shows it: upright, in sRGB, on white; nothing in it can execute."""

import io
import re
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import PIL
from PIL import ExifTags, Image, ImageCms

from tod.machine import memory

VERSION = f"2, Pillow {PIL.__version__}"
"""Differs where the same file may give other pixels."""

Image.init()
FORMATS = tuple(
    name
    for name in (
        *("AVIF", "BMP", "DDS", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO"),
        *("PCX", "PNG", "PPM", "SGI", "TGA", "TIFF", "WEBP"),
    )
    if name in Image.OPEN
)
"""The raster formats that are read. Pillow knows others: EPS would start Ghostscript."""
ENDINGS = {ending for ending, name in Image.registered_extensions().items() if name in FORMATS}

TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture of each EXIF orientation upright."""
BYTES_A_PIXEL = 24
"""At most, while a picture is decoded."""
FINER = 4
"""A JPEG file is decoded to no less than this many times the side to which it is squashed: then the
pixels differ from a full decoding's by 0.3 of 255 levels on average, by 2 in 99 of 100, by 9 at an
edge at most (45 photographs of Caltech-101 at quality 90)."""

PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # a tag of TIFF, and one of its values

Read = Callable[[Image.Image, int], Image.Image]


def decode(path: Path, resize: int, size: int, read: Read) -> bytes:
    """An image file, squashed to a square of side `resize`, of which the middle is kept.

    Args:
        path: the file.
        resize: in pixels.
        size: the side of the middle.
        read: an open picture and `resize` → its RGB pixels: `as_shown`, or `as_published`.

    Returns:
        (size, size, 3) uint8.

    Raises:
        Exception: the file holds no picture; Pillow's decoders raise many kinds.
    """
    border = (resize - size) // 2
    box = (border, border, border + size, border + size)
    pixels = rgb(path, resize, read)
    if pixels.size != (size, size) or resize != size:
        pixels = pixels.resize((resize, resize), Image.Resampling.BILINEAR).crop(box)
    return pixels.tobytes()


def rgb(path: Path, side: int, read: Read) -> Image.Image:
    """The RGB pixels of an image file that is to be shrunk to a square of this side, or not at all.

    Raises:
        Exception: the file holds no picture; Pillow's decoders raise many kinds.
    """
    # Pillow would map some files by their name, and mix up the lines of those that lie on a side.
    with path.open("rb") as file:
        try:
            with Image.open(file, formats=FORMATS) as image:
                return _read_within_memory(image, read, side)
        except Exception:
            file.seek(0)
            if file.read(len(PNG_SIGNATURE)) != PNG_SIGNATURE:
                raise
            content, profile = _png_without_metadata(file.read())
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                image.info["icc_profile"] = profile
                return _read_within_memory(image, read, side)


class _Budget:
    """Memory that the threads share: who wants more than is left waits for the others."""

    def __init__(self) -> None:
        self.used = 0
        self.changed = threading.Condition()

    @contextmanager
    def spent(self, nbytes: int) -> Iterator[None]:
        with self.changed:
            self.changed.wait_for(lambda: self.used == 0 or self.used + nbytes <= memory() / 2)
            self.used += nbytes
        try:
            yield
        finally:
            with self.changed:
                self.used -= nbytes
                self.changed.notify_all()


_budget = _Budget()


def _read_within_memory(image: Image.Image, read: Read, side: int) -> Image.Image:
    num_pixels = image.width * image.height
    nbytes = num_pixels * BYTES_A_PIXEL
    if nbytes > memory() / 2:
        raise ValueError(f"its {num_pixels / 1e6:,.0f} megapixels do not fit into memory")
    with _budget.spent(nbytes):
        return read(image, side)


@contextmanager
def without_pillows_limit() -> Iterator[None]:
    """Lets Pillow open a picture of any size: `decode` has a limit of its own, by memory."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def as_published(image: Image.Image, side: int) -> Image.Image:
    """RGB as the published code reads Caltech-101: transparency, profile and orientation go."""
    return image.convert("RGB")


def as_shown(image: Image.Image, side: int) -> Image.Image:
    """RGB as a viewer shows the picture, to be squashed to a square of this side.

    Its colour profile is converted to sRGB, what is transparent shows white, its EXIF orientation
    is undone; a single channel of more than 8 bits is scaled by the range of its type.
    """
    _shrink(image, FINER * side)
    # Decoding forgets how the pixels lay in the file.
    layout = image.tile[0][3] if image.tile else ""
    layout = layout if isinstance(layout, str) else str(layout[0]) if layout else ""
    image.load()
    alpha = _alpha(image, layout)
    colours = _in_srgb(_of_8_bits(image, layout), image.info.get("icc_profile"))
    if alpha is not None:
        colours = Image.composite(colours, Image.new("RGB", image.size, "white"), alpha)
    turn = TRANSPOSITIONS.get(_orientation(image))
    return colours if turn is None else colours.transpose(turn)


def _shrink(image: Image.Image, side: int) -> None:
    """Has a JPEG file decoded to an eighth, a quarter or half of its size, if that is `side` yet.

    Where the size is no multiple, the last pixels would be larger than the others.
    """
    for scale in (8, 4, 2):
        width, height = image.width // scale, image.height // scale
        if min(width, height) >= side and (width * scale, height * scale) == image.size:
            image.draft(None, (width, height))
            return


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    # Damaged metadata does not concern the pixels.
    except Exception:
        return None


def _alpha(image: Image.Image, layout: str) -> Image.Image | None:
    """How opaque each pixel is, as an image of mode L; None where all are."""
    if image.mode in ("RGBA", "LA", "PA"):
        return image.getchannel("A")
    transparent = image.info.get("transparency")
    if transparent is None:
        has_alpha = image.palette is not None and image.palette.mode == "RGBA"
        return image.convert("RGBA").getchannel("A") if has_alpha else None
    if image.mode.startswith("I"):
        opaque = np.asarray(image) != transparent
        return Image.fromarray(np.where(opaque, 255, 0).astype(np.uint8))
    keyed = image.copy()
    if "16" in layout:  # the key of 16-bit channels, of which Pillow keeps the high bytes
        keyed.info["transparency"] = tuple(value >> 8 for value in transparent)
    if image.mode == "L" and layout in ("L;2", "L;4"):  # the key of channels of fewer bits
        keyed.info["transparency"] = transparent * (255 // (2 ** int(layout[-1]) - 1))
    return keyed.convert("RGBA").getchannel("A")


def _of_8_bits(image: Image.Image, layout: str) -> Image.Image:
    """The picture itself, or a single channel of 16 or 32 bits as one of mode L."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    if image.mode == "F":
        highest = 1.0
    elif bits := re.search("1[26]", layout) or re.search("16", image.mode):
        highest = 2 ** int(bits[0]) - 1 if not layout.endswith("S") else 2**15 - 1
    elif image.format in ("PNG", "PPM"):
        highest = 2**16 - 1
    elif layout.endswith("S"):
        highest = 2**31 - 1
    else:
        values, highest = values.view(np.uint32), 2**32 - 1
    # NaN lies nowhere.
    if not (values.min() >= 0 and values.max() <= highest):
        raise ValueError(
            f"values from {values.min():g} to {values.max():g}, not from 0 to {highest:g}: "
            "convert it to 8 bits a channel"
        )
    levels = values.astype(np.float32) * np.float32(255 / highest)
    if image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        levels = 255 - levels
    return Image.fromarray(np.rint(levels).astype(np.uint8))


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB of a picture of any mode; alpha goes."""
    if profile:
        mode, transform = _to_srgb(profile)
        is_of_its_kind = {
            "RGB": image.mode != "CMYK",
            "L": image.mode in ("1", "L", "LA"),
            "CMYK": image.mode == "CMYK",
        }
        if transform is not None and is_of_its_kind[mode]:
            return ImageCms.applyTransform(image.convert(mode), transform)
    return image if image.mode == "RGB" else image.convert("RGB")


@lru_cache(maxsize=16)
def _to_srgb(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """For an embedded ICC profile, the mode that it describes and what converts that to sRGB.

    None where nothing must be converted: it is sRGB's own, or unreadable.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}[space]
        srgb = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, srgb, mode, "RGB")
    # ImageCms raises errors of its own, OSError and others; a profile may be of any other space.
    except Exception:
        return "RGB", None
    if mode == "RGB":
        levels = np.arange(0, 256, 15, dtype=np.uint8)
        grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
        moved = np.asarray(ImageCms.applyTransform(Image.fromarray(grid), transform))
        if np.abs(moved.astype(int) - grid).max() <= 1:
            return mode, None
    return mode, transform


PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
LARGEST_PROFILE = 2**26


def _png_without_metadata(content: bytes) -> tuple[bytes, bytes | None]:
    """A PNG file with its pixels and its orientation alone, and the profile that it had.

    Pillow refuses a picture for large or damaged texts and profiles.

    Args:
        content: what follows the file's signature.
    """
    kept, profile, place = [PNG_SIGNATURE], None, 0
    while place < len(content):
        length, kind = (
            int.from_bytes(content[place : place + 4], "big"),
            content[place + 4 : place + 8],
        )
        end = place + 12 + length
        checked, checksum = content[place + 4 : end - 4], content[end - 4 : end]
        is_sound = zlib.crc32(checked) == int.from_bytes(checksum, "big")
        if kind in PNG_PIXELS or (kind == b"eXIf" and is_sound):
            kept.append(content[place:end])
        elif kind == b"iCCP" and is_sound:
            _, _, compressed = checked[4:].partition(b"\0")
            with suppress(zlib.error):
                profile = zlib.decompressobj().decompress(compressed[1:], LARGEST_PROFILE)
        place = end
    return b"".join(kept), profile
