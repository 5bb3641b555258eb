"""Converts pictures of any mode and depth to sRGB of 8 bits, and finds their opacity."""

import io
import re
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from tod.system.files import machine_lacks

FEW = 32
"""A picture that keeps fewer of its grey levels than this is dim."""
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # a tag of TIFF, and one of its values


def alpha(image: Image.Image, layout: str) -> Image.Image | None:
    """The opacity of each pixel as an image of mode L; None if all are opaque."""
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
    if (
        "16" in layout
    ):  # a transparent colour of 16-bit channels, of which Pillow keeps the high bytes
        keyed.info["transparency"] = tuple(value >> 8 for value in transparent)
    if image.mode == "L" and layout in ("L;2", "L;4"):  # a transparent level of fewer bits
        keyed.info["transparency"] = transparent * (255 // (2 ** int(layout[-1]) - 1))
    return keyed.convert("RGBA").getchannel("A")


def of_8_bits(image: Image.Image, layout: str) -> tuple[Image.Image, bool]:
    """The picture with 8 bits a channel, and whether it is dim: it had more levels than it keeps.

    A single channel of 12 or 16 bits is scaled by the range of its type, floats by 0 to 1. Few
    files use the range of 32-bit integers, so these are scaled by the smallest of 8, 16 and 32 bits
    that holds the picture's values: then most pictures of a kind stay comparable. Pillow has
    already reduced several channels of 16 bits to their high bytes. `layout` is the pixels' layout
    in the file, as Pillow's decoders name it.
    """
    if not image.mode.startswith(("I", "F")):
        if re.search(";16[BLN]", layout) is None:
            return image, False
        colours = (image.getchannel(band) for band in image.getbands() if band != "A")
        return image, max(band.getextrema()[1] for band in colours) < FEW - 1
    values = np.asarray(image)
    if image.mode == "F":
        highest = 1.0
    elif bits := re.search("1[26]", layout) or re.search("16", image.mode):
        highest = 2 ** int(bits[0]) - 1 if not layout.endswith("S") else 2**15 - 1
    elif image.format in ("PNG", "PPM"):
        highest = 2**16 - 1
    else:
        whole = 2**31 - 1
        if not layout.endswith("S"):
            values, whole = values.view(np.uint32), 2**32 - 1
        highest = next((h for h in (2**8 - 1, 2**16 - 1) if values.max() <= h), whole)
    # NaN fails both comparisons.
    if not (values.min() >= 0 and values.max() <= highest):
        raise ValueError(
            f"values from {values.min():g} to {values.max():g}, not from 0 to {highest:g}: "
            "convert it to 8 bits a channel"
        )
    levels = np.rint(values.astype(np.float32) * np.float32(255 / highest)).astype(np.uint8)
    if image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        levels = 255 - levels
    of_8_bits = Image.fromarray(levels)
    num_levels = sum(count > 0 for count in of_8_bits.histogram())
    return of_8_bits, num_levels < FEW and num_levels < len(np.unique(values))


def in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB of a picture of any mode, without alpha."""
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
    """The mode that an embedded ICC profile describes, and its conversion to sRGB.

    The conversion is None if the profile is sRGB itself, or unreadable.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}[space]
        srgb = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, srgb, mode, "RGB")
    # ImageCms raises its own errors, OSError and others; the colour space may be any other.
    except Exception as error:
        if machine_lacks(error):
            raise
        return "RGB", None
    if mode == "RGB":
        levels = np.arange(0, 256, 15, dtype=np.uint8)
        grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
        moved = np.asarray(ImageCms.applyTransform(Image.fromarray(grid), transform))
        if np.abs(moved.astype(int) - grid).max() <= 1:
            return mode, None
    return mode, transform
