"""Contact sheets: what was queried in a cycle, and what was scored and left, as pictures."""

import functools
import io
import math
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tod.analysis.fonts import drawable, font_for, own_font
from tod.config.settings import counted
from tod.data import Dataset

IMAGES_PER_GROUP = 24
IMAGES_OF_BATCH = 96
COLUMNS = 8
TILE = 96
"""Side of the square for one image, in pixels: three times that of a CIFAR image."""
GAP = 8
LINE = 14
"""Height of a line of text, in pixels."""


def of_query(
    subset: np.ndarray, scores: np.ndarray, queried: np.ndarray, dataset: Dataset
) -> bytes:
    """The contact sheet of one query, as a PNG file: below a title, two groups of images in rows.

    `subset` has the training set indices of the scored images, (M,), and `scores` theirs, (M,);
    `queried` has the indices of the queried ones.
    """
    images, class_names = dataset.train, drawable(dataset.class_names, "class")

    def shown(position: int) -> Image.Image:
        index = subset[position]
        image = Image.fromarray(images.image(index).transpose(1, 2, 0))
        return tile(image, class_names[int(images.labels[index])], f"{scores[position]:.4g}")

    title, groups = choose(scores, np.isin(subset, queried))
    return _sheet(title, [(heading, [*map(shown, positions)]) for heading, positions in groups])


def of_batch(number: int, pictures: Sequence[bytes], captions: Sequence[tuple[str, str]]) -> bytes:
    """The contact sheet of a batch that people are to label, as a PNG file.

    The pictures are image files, best first; their captions are two lines each.
    """
    names = drawable([name for name, _ in captions[:IMAGES_OF_BATCH]], "class")
    tiles = [
        tile(Image.open(io.BytesIO(content)), name, text)
        for content, name, (_, text) in zip(pictures, names, captions, strict=False)
    ]
    count = counted(len(pictures), "image")
    heading = count if len(tiles) == len(pictures) else f"the first {len(tiles)} of {count}"
    return _sheet(f"batch {number}", [(f"{heading}, best first", tiles)])


def _sheet(title: str, groups: Sequence[tuple[str, Sequence[Image.Image]]]) -> bytes:
    """Groups of tiles in rows, each below its heading, as a PNG file."""
    width, height, head = TILE + GAP, TILE + 2 * LINE + GAP, GAP + LINE + GAP // 2
    heights = [head + math.ceil(len(tiles) / COLUMNS) * height for _, tiles in groups]
    y = GAP + LINE
    sheet = Image.new("RGB", (GAP + COLUMNS * width, y + sum(heights)), "white")
    canvas = ImageDraw.Draw(sheet)
    canvas.text((GAP, GAP), title, "black", font())
    for (heading, tiles), of_group in zip(groups, heights, strict=True):
        canvas.text((GAP, y + GAP), heading, "black", font())
        for number, image in enumerate(tiles):
            row, column = divmod(number, COLUMNS)
            sheet.paste(image, (GAP + column * width, y + head + row * height))
        y += of_group
    content = io.BytesIO()
    # Run lengths alone: a third of the time that zlib's default takes, for a tenth more bytes.
    sheet.save(content, format="PNG", compress_type=zlib.Z_RLE)
    return content.getvalue()


def choose(scores: np.ndarray, is_queried: np.ndarray) -> tuple[str, list[tuple[str, np.ndarray]]]:
    """What a contact sheet shows: the queried and the others, those that differ most first.

    These are the highest scores of the queried and the lowest of the others; or, where the lowest
    were queried, as in TOD's first cycle, the other way round. The title says by which scores the
    images were queried, where these show it. Each group is a heading, and the positions of its
    images among the M scored ones, in the order shown.
    """
    ascending = np.argsort(scores, kind="stable")
    queried, left = ascending[is_queried[ascending]], ascending[~is_queried[ascending]]
    title = f"{len(queried)} of {len(scores)} scored images were queried"
    order = ("highest", "lowest")
    if len(left):
        highest = scores[queried].min() >= scores[left].max()
        if highest != (scores[queried].max() <= scores[left].min()):
            order = order if highest else order[::-1]
            title = f"the {len(queried)} {order[0]} of {len(scores)} scores were queried"
    groups = []
    for which, what, positions in zip(
        order, ("queried", "not queried"), (queried, left), strict=True
    ):
        shown = f"all {len(positions)}, {which} score first"
        if len(positions) > IMAGES_PER_GROUP:
            shown = f"the {IMAGES_PER_GROUP} {which} scores of {len(positions)}, {which} first"
        if len(positions):
            in_order = positions[::-1] if which == "highest" else positions
            groups.append((f"{what}: {shown}", in_order[:IMAGES_PER_GROUP]))
    return title, groups


def tile(image: Image.Image, name: str, text: str) -> Image.Image:
    """An image, and below it its class and another line: TILE wide, two lines higher.

    Small images are enlarged by whole pixels, photographs reduced.
    """
    factor = TILE // max(image.size)
    if factor >= 1:
        size = (image.width * factor, image.height * factor)
        image = image.resize(size, Image.Resampling.NEAREST)
    else:
        image.thumbnail((TILE, TILE), Image.Resampling.BILINEAR, reducing_gap=1.0)
    whole = Image.new("RGB", (TILE, TILE + 2 * LINE), "white")
    whole.paste(image, ((TILE - image.width) // 2, (TILE - image.height) // 2))
    canvas = ImageDraw.Draw(whole)
    canvas.text((0, TILE), fitted(name), "black", font(name))
    canvas.text((0, TILE + LINE), text, "dimgrey", font())
    return whole


def fitted(text: str) -> str:
    """As much of a text as fits under a tile, with dots for the rest."""
    text = shown = "".join(c if c.isprintable() else "?" for c in text[:TILE])
    letters = font(text)
    while letters.getlength(shown) > TILE:
        text = text[:-1]
        shown = f"{text}…"
    return shown


@functools.cache
def font(text: str = "") -> ImageFont.FreeTypeFont:
    """A font with the letters of a text."""
    return ImageFont.truetype(font_for(text) or own_font(), 10)
