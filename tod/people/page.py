"""The page on which a person labels a batch of images, from its template in `label/`."""

import base64
import io
import json
import math
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from tod.people.requests import Request

LARGEST_SIDE = 512
LARGEST_PNG = 128
"""Longer side up to which a picture is kept to the pixel; the page enlarges such pictures."""
DIGITS = frozenset("0123456789")


def page(
    number: int, class_names: Sequence[str], images: Sequence[tuple[Request, bytes, str]]
) -> str:
    """The page for one batch, as self-contained HTML.

    Each of the `images`, in the order shown, has its picture as a PNG or JPEG file, and the address
    of the original relative to the page.
    """
    loader = FileSystemLoader(Path(__file__).parent / "label")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.filters["hash"] = lambda text: _base64(sha256(text.encode()).digest())
    keys = shortcuts(class_names)
    content = json.dumps([number, [*class_names], [request.sha256 for request, *_ in images]])
    return environment.get_template("label.html").render(
        batch={
            "number": number,
            # Of the browser's storage for answers, which all pages opened from disk may share.
            "key": f"tod-labels-{sha256(content.encode()).hexdigest()}",
            "classes": [{"name": name, "key": keys.get(name)} for name in class_names],
            "images": [
                {
                    "file": request.file,
                    "sha256": request.sha256,
                    "original": original,
                    "predicted": request.predicted or None,
                    "prediction": _prediction(request),
                }
                for request, _, original in images
            ],
            "largest_small_side": LARGEST_PNG,
        },
        pictures=(_data_url(picture) for _, picture, _ in images),
    )


def shortcuts(class_names: Sequence[str]) -> dict[str, str]:
    """The key of each class that has one.

    A class named by a digit has this digit; the others get the remaining digits, from 1 to 9 and
    then 0. A digit that begins a longer name is not used, since typing 12 must not choose 1.
    """
    begin_longer = {name[0] for name in class_names if len(name) > 1}
    named = {name: name for name in class_names if name in DIGITS - begin_longer}
    free = [key for key in "1234567890" if key not in begin_longer and key not in named]
    others = (name for name in class_names if name not in DIGITS)
    return named | dict(zip(others, free, strict=False))


def thumbnail(image: Image.Image) -> bytes:
    """A picture file for the page: a small one keeps its pixels, a larger one becomes a JPEG."""
    shown = image.copy() if image.mode in ("L", "RGB") else image.convert("RGB")
    shown.info = {}  # or Pillow would copy the source's metadata
    shown.thumbnail((LARGEST_SIDE,) * 2, Image.Resampling.LANCZOS, reducing_gap=2.0)
    content = io.BytesIO()
    kind = "PNG" if max(shown.size) <= LARGEST_PNG else "JPEG"
    shown.save(content, format=kind, quality=85)  # PNG ignores the quality
    return content.getvalue()


def _prediction(request: Request) -> str | None:
    probability = float(request.probability or "nan")
    if math.isnan(probability):  # also from a diverged network
        return request.predicted or None
    return f"{request.predicted}, {100 * probability:.0f} %"


def _data_url(picture: bytes) -> str:
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{_base64(picture)}"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
