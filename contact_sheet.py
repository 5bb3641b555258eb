"""Contact sheets: what was queried in a cycle, and what was scored and left, as pictures.

Torch is never imported here: pixels come as arrays.
"""

import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from datasets import Dataset

IMAGES_PER_GROUP = 24
COLUMNS = 8
TILE = 96
"""Side of the square for one image, in pixels: three times that of a CIFAR image."""
GAP = 8
LINE = 14
"""Height of a line of text, in pixels."""


class Group(NamedTuple):
    """Images under one heading; `positions` in the scored subset, in the order shown."""

    heading: str
    positions: np.ndarray


class Layout(NamedTuple):
    """Where things go, in pixels: (width, height), and left upper corners.

    `headings` has one corner a group, `tiles` one list of corners a group.
    """

    size: tuple[int, int]
    headings: list[tuple[int, int]]
    tiles: list[list[tuple[int, int]]]


def of_query(
    subset: np.ndarray, scores: np.ndarray, queried: np.ndarray, dataset: "Dataset"
) -> bytes:
    """The contact sheet of one query, as a PNG file.

    Args:
        subset: training set indices of the images that were scored, (M,).
        scores: their scores, (M,).
        queried: training set indices of the images that were queried.
        dataset: what the indices refer to.
    """
    title, groups = choose(scores, np.isin(subset, queried))
    shown = subset[np.concatenate([group.positions for group in groups])]
    names = [dataset.class_names[int(dataset.train.labels[i])] for i in shown]
    sheet = draw(title, groups, dataset.train.pixels[shown].numpy(), names, scores)
    content = io.BytesIO()
    # Run lengths alone: a third of the time that zlib's default takes, for a tenth more bytes.
    sheet.save(content, format="PNG", compress_type=zlib.Z_RLE)
    return content.getvalue()


def choose(scores: np.ndarray, is_queried: np.ndarray) -> tuple[str, list[Group]]:
    """What a contact sheet shows: the highest-scored queried, the lowest-scored not queried.

    Args:
        scores: (M,), of the scored images.
        is_queried: (M,), whether each was queried.

    Returns:
        A title that says by which scores the images were queried (TOD's first cycle may query the
        lowest), and the groups; what has no images is left out.
    """
    ascending = np.argsort(scores, kind="stable")
    queried = ascending[is_queried[ascending]][::-1]
    left = ascending[~is_queried[ascending]]
    shown = (
        Group(_heading("queried", "highest", len(queried)), queried[:IMAGES_PER_GROUP]),
        Group(_heading("not queried", "lowest", len(left)), left[:IMAGES_PER_GROUP]),
    )
    return _title(scores[queried], scores[left]), [g for g in shown if len(g.positions)]


def _heading(what: str, which: str, count: int) -> str:
    if count <= IMAGES_PER_GROUP:
        return f"{what}: all {count}, {which} score first"
    return f"{what}: the {IMAGES_PER_GROUP} {which} scores of {count}, {which} first"


def _title(queried: np.ndarray, left: np.ndarray) -> str:
    """Which of the scored images were queried; no more than the scores themselves show."""
    count, of = len(queried), len(queried) + len(left)
    if not count or not len(left):
        return f"{count} of {of} scored images were queried"
    highest, lowest = queried.min() >= left.max(), queried.max() <= left.min()
    if highest == lowest:
        return f"{count} of {of} scored images were queried"
    return f"the {count} {'highest' if highest else 'lowest'} of {of} scores were queried"


def layout(counts: Sequence[int]) -> Layout:
    """Places a title, and below it each group's heading and its images in rows.

    Args:
        counts: the number of images of each group.
    """
    step_x, step_y = TILE + GAP, TILE + 2 * LINE + GAP
    headings, tiles = [], []
    y = GAP + LINE
    for count in counts:
        y += GAP
        headings.append((GAP, y))
        y += LINE + GAP // 2
        tiles.append(
            [(GAP + i % COLUMNS * step_x, y + i // COLUMNS * step_y) for i in range(count)]
        )
        y += -(-count // COLUMNS) * step_y
    return Layout((GAP + COLUMNS * step_x, y), headings, tiles)


def draw(
    title: str,
    groups: Sequence[Group],
    pixels: np.ndarray,
    names: Sequence[str],
    scores: np.ndarray,
) -> Image.Image:
    """Draws a contact sheet.

    Args:
        title: the first line.
        groups: what to show, K images in all.
        pixels: of the images in the groups' order, (K, 3, H, W) uint8.
        names: their class names, K.
        scores: of the whole subset, (M,), which the groups' positions refer to.
    """
    places = layout([len(group.positions) for group in groups])
    sheet = Image.new("RGB", places.size, "white")
    canvas, font = ImageDraw.Draw(sheet), _font()
    canvas.text((GAP, GAP), title, "black", font)
    shown = iter(zip(pixels, names, strict=True))
    for group, heading, corners in zip(groups, places.headings, places.tiles, strict=True):
        canvas.text(heading, group.heading, "black", font)
        for position, (x, y) in zip(group.positions, corners, strict=True):
            image, name = next(shown)
            tile = thumbnail(image)
            sheet.paste(tile, (x + (TILE - tile.width) // 2, y + (TILE - tile.height) // 2))
            canvas.text((x, y + TILE), fitted(name, font), "black", font)
            canvas.text((x, y + TILE + LINE), f"{scores[position]:.4g}", "dimgrey", font)
    return sheet


def thumbnail(pixels: np.ndarray) -> Image.Image:
    """An image (3, H, W) uint8 to fit a tile: whole pixels enlarged, photographs reduced."""
    image = Image.merge("RGB", [Image.fromarray(channel) for channel in pixels])
    factor = TILE // max(image.size)
    if factor >= 1:
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((TILE, TILE), Image.Resampling.BILINEAR, reducing_gap=1.0)
    return image


def fitted(text: str, font: ImageFont.FreeTypeFont) -> str:
    """As much of a text as fits under a tile, with dots for the rest."""
    text = "".join(c if c.isprintable() else "?" for c in text[:TILE])
    if font.getlength(text) <= TILE:
        return text
    # Nearly the right length at once: measuring text takes longer than drawing it.
    text = text[: int(len(text) * TILE / font.getlength(text))]
    while text and font.getlength(f"{text}…") > TILE:
        text = text[:-1]
    return f"{text}…"


def _font() -> ImageFont.FreeTypeFont:
    """Matplotlib's font: the one in Pillow has no letters but those of English."""
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(str(path), 10)
