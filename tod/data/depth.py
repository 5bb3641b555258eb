"""Pictures of more than 8 bits a channel in 8 bits, and what they lose by it."""

import re

import numpy as np
from PIL import Image

FEW = 32
"""A picture that keeps fewer of its grey levels than this is dim."""
IS_DIM = "is dim"
"""The key under which a picture's `info` says so."""

PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # a tag of TIFF, and one of its values


def of_8_bits(image: Image.Image, layout: str) -> tuple[Image.Image, bool]:
    """The picture with 8 bits a channel, and whether it is dim: keeps few levels, and has more.

    A single channel of 12 or 16 bits is scaled by the range of its type, floats by 0 to 1. Few
    files use the range of 32-bit integers: they are scaled by the smallest of 8, 16 and 32 bits
    that holds the picture's values, so that most pictures of a kind stay comparable.

    Args:
        image: loaded; of several channels of 16 bits, Pillow has kept the high bytes.
        layout: how the pixels lay in the file, as Pillow's decoders name it.

    Raises:
        ValueError: values are beyond the range.
    """
    if not image.mode.startswith(("I", "F")):
        has_16_bits = re.search(";16[BLN]", layout) is not None
        return image, has_16_bits and _brightest(image) < FEW - 1
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
    # NaN lies nowhere.
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


def _brightest(image: Image.Image) -> int:
    """The highest level of all channels but alpha."""
    return max(max(image.getchannel(band).getextrema()) for band in image.getbands() if band != "A")
