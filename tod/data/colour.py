"""Colours of embedded ICC profiles in sRGB."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from tod.system.files import machine_lacks


def in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
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
