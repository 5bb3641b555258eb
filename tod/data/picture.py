"""One image file as a viewer shows it: upright, in sRGB, on white; nothing in it can execute."""

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
BYTES_A_PIXEL = 24
"""At most, while a picture is decoded."""
# Above these, Pillow refuses a picture for its texts or its profile, which may be large; and for
# its size: above twice this.
PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = 2**26, 2**28
Image.MAX_IMAGE_PIXELS = memory() // (4 * BYTES_A_PIXEL)
# Its warnings name no file.
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
"""What turns a picture of each EXIF orientation upright."""
OUT_OF_MEMORY = re.compile("out of memory|decoder error -9")  # as Pillow's decoders say it
FINER = 4
"""A JPEG file is decoded to no less than this many times the side to which it is squashed: then the
pixels differ from a full decoding's by 0.3 of 255 levels on average, by 2 in 99 of 100, by 9 at an
edge at most (45 photographs of Caltech-101 at quality 90)."""
TILE_WIDTH, TILE_LENGTH = 322, 323  # tags of TIFF

Read = Callable[[Image.Image, int], tuple[Image.Image, bool]]
"""An open picture, and the side of the square to which it is to be squashed → its RGB pixels, and
whether they are dim: few grey levels are left of the file's."""


def decode(path: Path, resize: int, size: int, read: Read) -> tuple[bytes, bool]:
    """An image file, squashed to a square of side `resize`, of which the middle `size` is kept:
    (size, size, 3) uint8, and whether it is dim.
    """
    border = (resize - size) // 2
    box = (border, border, border + size, border + size)
    pixels, is_dim = rgb(path, resize, read)
    if pixels.size != (size, size) or resize != size:
        pixels = pixels.resize((resize, resize), Image.Resampling.BILINEAR).crop(box)
    return pixels.tobytes(), is_dim


def rgb(path: Path, side: int, read: Read) -> tuple[Image.Image, bool]:
    """What `read` makes of an image file that is to be shrunk to a square of this side, if at all.

    Raises:
        Exception: the file holds no picture; Pillow's decoders raise many kinds.
    """
    # Pillow would map some files by their name, and mix up the lines of those that lie on a side.
    with path.open("rb") as file:
        is_icon = file.read(4) == b"\0\0\1\0"
        file.seek(0)
        try:
            with (
                # Pillow decodes an icon as it opens it, of whatever size its directory says.
                _budget.spent(memory() // 2 // BYTES_A_PIXEL if is_icon else 0),
                Image.open(file, formats=FORMATS) as image,
                _budget.spent(0 if is_icon else _pixels_to_decode(image)),
            ):
                return read(image, side)
        except Image.DecompressionBombError:
            raise ValueError("its pixels do not fit into memory") from None
        except UnidentifiedImageError:  # whose words name the file again
            raise ValueError("it is no picture of a known kind") from None
        except Exception as error:
            if OUT_OF_MEMORY.match(str(error)):
                raise MemoryError(str(error)) from None
            raise


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
    """RGB as the published code reads Caltech-101: transparency, profile and orientation go."""
    return image.convert("RGB"), False


def as_shown(image: Image.Image, side: int) -> tuple[Image.Image, bool]:
    """RGB as a viewer shows the picture, to be squashed to a square of this side.

    Its colour profile is converted to sRGB, what is transparent shows white, its EXIF orientation
    is undone; a single channel of more than 8 bits is scaled by its range.
    """
    _shrink(image, FINER * side)
    # Decoding forgets how the pixels lay in the file.
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
