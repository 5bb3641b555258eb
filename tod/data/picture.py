"""Reads an image file as a viewer shows it: upright, in sRGB, on white; executes nothing."""

import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import PIL
from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError

from tod.data import colour
from tod.system.files import machine_lacks
from tod.system.machine import memory

VERSION = f"3, Pillow {PIL.__version__}"
"""Changes when the same file may give other pixels."""

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
BYTES_A_PIXEL = 24
"""At most, while a picture is decoded."""
# Pillow's limits for texts and profiles, which may be large, and half its limit for the size of a
# picture.
PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = 2**26, 2**28
Image.MAX_IMAGE_PIXELS = memory() // (4 * BYTES_A_PIXEL)
# Pillow's warnings name no file.
warnings.filterwarnings("ignore", module="PIL")

TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that turns a picture of each EXIF orientation upright."""
OUT_OF_MEMORY = re.compile("out of memory|decoder error -9")  # as Pillow's decoders say it
FINER = 4
"""A JPEG file is decoded to at least this multiple of the side to which it is squashed. Its pixels
then differ from a full decoding's by 0.3 of 255 levels on average, by at most 2 in 99 of 100, and
by at most 9 at edges (45 photographs of Caltech-101 at quality 90)."""
TILE_WIDTH, TILE_LENGTH = 322, 323  # tags of TIFF

Read = Callable[[Image.Image, int], tuple[Image.Image, bool]]
"""An open picture, and the side of the square to which it will be squashed → its RGB pixels, and
whether they are dim: they keep few of the file's grey levels."""


def decode(path: Path, resize: int, size: int, read: Read) -> tuple[bytes, bool]:
    """Decodes an image file, squashes it to side `resize` and crops the middle to side `size`.

    Returns the pixels, (size, size, 3) uint8, and whether they are dim.
    """
    border = (resize - size) // 2
    box = (border, border, border + size, border + size)
    pixels, is_dim = rgb(path, resize, read)
    if pixels.size != (size, size) or resize != size:
        pixels = pixels.resize((resize, resize), Image.Resampling.BILINEAR).crop(box)
    return pixels.tobytes(), is_dim


def rgb(path: Path, side: int, read: Read) -> tuple[Image.Image, bool]:
    """The result of `read` for an image file that will be shrunk, if at all, to a square of `side`.

    Raises:
        Exception: the file holds no picture; Pillow's decoders raise many kinds.
    """
    # By its name, Pillow would map some files, and mix up the lines of rotated ones.
    with path.open("rb") as file:
        is_icon = file.read(4) == b"\0\0\1\0"
        file.seek(0)
        try:
            with (
                # Pillow decodes an icon when it opens it, whatever size its directory claims.
                _budget.spent(memory() // 2 // BYTES_A_PIXEL if is_icon else 0),
                Image.open(file, formats=FORMATS) as image,
                _budget.spent(0 if is_icon else _pixels_to_decode(image)),
            ):
                return read(image, side)
        except Image.DecompressionBombError:
            raise ValueError("its pixels do not fit into memory") from None
        except UnidentifiedImageError:  # its message names the file again
            raise ValueError("it is no picture of a known kind") from None
        except Exception as error:
            if OUT_OF_MEMORY.match(str(error)):
                raise MemoryError(str(error)) from None
            raise


def _pixels_to_decode(image: Image.Image) -> int:
    """The most pixels in memory at once; a tile of a TIFF file may exceed its picture."""
    tags = getattr(image, "tag_v2", {})
    tile = int(tags.get(TILE_WIDTH, 0)) * int(tags.get(TILE_LENGTH, 0))
    return image.width * image.height + tile


class _Budget:
    """Memory that the threads share: a thread that needs more than is left waits."""

    def __init__(self) -> None:
        self.used = 0
        self.changed = threading.Condition()

    @contextmanager
    def spent(self, num_pixels: int) -> Iterator[None]:
        nbytes, limit = num_pixels * BYTES_A_PIXEL, memory() // 2
        if nbytes > limit:
            raise Image.DecompressionBombError
        with self.changed:
            self.changed.wait_for(lambda: self.used == 0 or self.used + nbytes <= limit)
            self.used += nbytes
        try:
            yield
        finally:
            with self.changed:
                self.used -= nbytes
                self.changed.notify_all()


_budget = _Budget()


def reader(as_is_published: bool) -> Read:
    """How a dataset's files are read."""
    return as_published if as_is_published else as_shown


def as_published(image: Image.Image, side: int) -> tuple[Image.Image, bool]:
    """RGB as TOD's published code reads files: no transparency, profile or orientation."""
    return image.convert("RGB"), False


def as_shown(image: Image.Image, side: int) -> tuple[Image.Image, bool]:
    """RGB as a viewer shows the picture, to be squashed to a square of this side.

    Its colour profile is converted to sRGB, transparent pixels show white, its EXIF orientation is
    undone, and a single channel of more than 8 bits is scaled by its range.
    """
    _shrink(image, FINER * side)
    # Pillow forgets the layout in the file when it decodes.
    layout = image.tile[0][3] if image.tile else ""
    layout = layout if isinstance(layout, str) else str(layout[0]) if layout else ""
    image.load()
    alpha = colour.alpha(image, layout)
    of_8_bits, is_dim = colour.of_8_bits(image, layout)
    colours = colour.in_srgb(of_8_bits, image.info.get("icc_profile"))
    if alpha is not None:
        colours = Image.composite(colours, Image.new("RGB", image.size, "white"), alpha)
    turn = TRANSPOSITIONS.get(_orientation(image))
    return colours if turn is None else colours.transpose(turn), is_dim


def _shrink(image: Image.Image, side: int) -> None:
    """Makes Pillow decode a JPEG file to 1/8, 1/4 or 1/2 of its size, if that is at least `side`.

    The size must be a multiple, or the last pixels would cover less than the others.
    """
    for scale in (8, 4, 2):
        width, height = image.width // scale, image.height // scale
        if min(width, height) >= side and (width * scale, height * scale) == image.size:
            image.draft(None, (width, height))
            return


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    # Damaged metadata does not affect the pixels.
    except Exception as error:
        if machine_lacks(error):
            raise
        return None
