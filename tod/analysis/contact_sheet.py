"""Contact sheets: pictures of the queried images of a cycle and of the others scored."""

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
    """The contact sheet of a query as a PNG file: a title and two groups of images in rows.

    `subset` holds the training set indices of the scored images, (M,), `scores` their scores, (M,),
    and `queried` the indices of the queried images.
    """
    images, class_names = dataset.train, drawable(dataset.class_names, "class")

    def shown(position: int) -> Image.Image:
        index = subset[position]
        image = Image.fromarray(images.image(index).transpose(1, 2, 0))
        return tile(image, class_names[int(images.labels[index])], f"{scores[position]:.4g}")

    title, groups = choose(scores, np.isin(subset, queried))
    return _sheet(title, [(heading, [*map(shown, positions)]) for heading, positions in groups])


def of_batch(number: int, pictures: Sequence[bytes], captions: Sequence[tuple[str, str]]) -> bytes:
    """The contact sheet of a batch for people, as a PNG file.

    The pictures are image files, best first; each has a caption of two lines.
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
    """A PNG file of groups of tiles in rows, each below its heading."""
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
    # Run lengths alone take a third of the time of zlib's default, for a tenth more bytes.
    sheet.save(content, format="PNG", compress_type=zlib.Z_RLE)
    return content.getvalue()


def choose(scores: np.ndarray, is_queried: np.ndarray) -> tuple[str, list[tuple[str, np.ndarray]]]:
    """The content of a contact sheet: the queried images and the others, extreme scores first.

    These are the highest scores of the queried images and the lowest of the others; if the lowest
    scores were queried, as in TOD's first cycle, the other way round. The title says which scores
    were queried, if the scores show it. Each group has a heading, and the positions of its images
    among the M scored ones, in the order shown.
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
    """An image above its class and another line: TILE wide, two lines higher.

    Small images are enlarged by a whole factor, photographs reduced.
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
    """The text, shortened with an ellipsis to the width of a tile."""
    text = shown = "".join(c if c.isprintable() else "?" for c in text[:TILE])
    letters = font(text)
    while letters.getlength(shown) > TILE:
        text = text[:-1]
        shown = f"{text}…"
    return shown


@functools.cache
def font(text: str = "") -> ImageFont.FreeTypeFont:
    """A font that has the letters of a text."""
    return ImageFont.truetype(font_for(text) or own_font(), 10)
