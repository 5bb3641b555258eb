"""One image file as a viewer shows it: upright, in sRGB, on white; nothing in it can execute."""

import io
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import PIL
from PIL import ExifTags, Image
from PIL.BmpImagePlugin import DibImageFile
from PIL.IcoImagePlugin import IcoFile
from PIL.PngImagePlugin import PngImageFile

from tod.data import colour, depth, png
from tod.system.files import machine_lacks
from tod.system.machine import memory

VERSION = f"3, Pillow {PIL.__version__}"
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
OUT_OF_MEMORY = re.compile("out of memory|decoder error -9")
"""How Pillow's decoders say so."""
BYTES_A_PIXEL = 24
"""At most, while a picture is decoded."""
FINER = 4
"""A JPEG file is decoded to no less than this many times the side to which it is squashed: then the
pixels differ from a full decoding's by 0.3 of 255 levels on average, by 2 in 99 of 100, by 9 at an
edge at most (45 photographs of Caltech-101 at quality 90)."""

TILE_WIDTH, TILE_LENGTH = 322, 323  # tags of TIFF

Read = Callable[[Image.Image, int], Image.Image]


class Pixels(NamedTuple):
    """A decoded picture.

    Attributes:
        content: (size, size, 3) uint8.
        is_dim: it keeps few of the grey levels that its file has.
    """

    content: bytes
    is_dim: bool


def decode(path: Path, resize: int, size: int, read: Read) -> Pixels:
    """An image file, squashed to a square of side `resize`, of which the middle is kept.

    Args:
        path: the file.
        resize: in pixels.
        size: the side of the middle.
        read: an open picture and `resize` → its RGB pixels: `as_shown`, or `as_published`.

    Raises:
        Exception: the file holds no picture; Pillow's decoders raise many kinds.
    """
    border = (resize - size) // 2
    box = (border, border, border + size, border + size)
    pixels = rgb(path, resize, read)
    is_dim = pixels.info.get(depth.IS_DIM, False)
    if pixels.size != (size, size) or resize != size:
        pixels = pixels.resize((resize, resize), Image.Resampling.BILINEAR).crop(box)
    return Pixels(pixels.tobytes(), is_dim)


def rgb(path: Path, side: int, read: Read) -> Image.Image:
    """The RGB pixels of an image file that is to be shrunk to a square of this side, or not at all.

    Raises:
        Exception: the file holds no picture; Pillow's decoders raise many kinds.
    """
    # Pillow would map some files by their name, and mix up the lines of those that lie on a side.
    with path.open("rb") as file:
        try:
            return _read(file, FORMATS, side, read)
        except Exception as error:
            if OUT_OF_MEMORY.match(str(error)):
                raise MemoryError(str(error)) from None
            file.seek(0)
            if machine_lacks(error) or file.read(len(png.SIGNATURE)) != png.SIGNATURE:
                raise
            content, profile = png.without_metadata(file.read())
            return _read(io.BytesIO(content), ["PNG"], side, read, profile)


def _read(
    file: BinaryIO,
    formats: Sequence[str],
    side: int,
    read: Read,
    profile: bytes | None = None,
) -> Image.Image:
    icon = _pixels_of_an_icon(file)
    with (
        _memory_for(icon),  # Pillow decodes it as it opens it
        Image.open(file, formats=formats) as image,
        _memory_for(0 if icon else _pixels_to_decode(image)),
    ):
        if profile:
            image.info["icc_profile"] = profile
        return read(image, side)


def _pixels_of_an_icon(file: BinaryIO) -> int:
    """How many pixels the picture in an icon has, whatever its directory says; 0: it is none."""
    num_pixels = 0
    if file.read(4) == b"\0\0\1\0":
        file.seek(0)
        with suppress(Exception):  # opening a damaged one tells more
            place = IcoFile(file).entry[0].offset
            file.seek(place)
            is_png = file.read(len(png.SIGNATURE)) == png.SIGNATURE
            file.seek(place)
            width, height = (PngImageFile if is_png else DibImageFile)(file).size
            num_pixels = width * height if is_png else width * height // 2  # with its mask
    file.seek(0)
    return num_pixels


def _pixels_to_decode(image: Image.Image) -> int:
    """At most so many lie in memory at once: a tile of a TIFF file may exceed its picture."""
    tags = getattr(image, "tag_v2", {})
    tile = int(tags.get(TILE_WIDTH, 0)) * int(tags.get(TILE_LENGTH, 0))
    return image.width * image.height + tile


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


@contextmanager
def _memory_for(num_pixels: int) -> Iterator[None]:
    nbytes = num_pixels * BYTES_A_PIXEL
    if nbytes > memory() / 2:
        raise ValueError(f"its {num_pixels / 1e6:,.0f} megapixels do not fit into memory")
    with _budget.spent(nbytes):
        yield


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
    is undone; a single channel of more than 8 bits is scaled by its range.
    """
    _shrink(image, FINER * side)
    # Decoding forgets how the pixels lay in the file.
    layout = image.tile[0][3] if image.tile else ""
    layout = layout if isinstance(layout, str) else str(layout[0]) if layout else ""
    image.load()
    alpha = _alpha(image, layout)
    of_8_bits, is_dim = depth.of_8_bits(image, layout)
    colours = colour.in_srgb(of_8_bits, image.info.get("icc_profile"))
    if alpha is not None:
        colours = Image.composite(colours, Image.new("RGB", image.size, "white"), alpha)
    turn = TRANSPOSITIONS.get(_orientation(image))
    upright = colours if turn is None else colours.transpose(turn)
    upright.info[depth.IS_DIM] = is_dim
    return upright


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
    except Exception as error:
        if machine_lacks(error):
            raise
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
