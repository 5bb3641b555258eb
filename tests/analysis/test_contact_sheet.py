"""Contact sheets: which images they show, in which words, and where."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from tod.analysis import contact_sheet
from tod.analysis.contact_sheet import COLUMNS, GAP, LINE, TILE
from tod.data import Dataset, ImageSet

RANDOM = np.random.default_rng(0).permutation(100) / 100
ORDER = np.argsort(RANDOM).tolist()
CHOICES = {
    "the 30 highest of 100 scores were queried": (
        (RANDOM, ORDER[-30:]),
        ("queried: the 24 highest scores of 30, highest first", ORDER[:-25:-1]),
        ("not queried: the 24 lowest scores of 70, lowest first", ORDER[:24]),
    ),
    "the 30 lowest of 60 scores were queried": (  # as in the first cycle
        (np.arange(60) / 60, range(30)),
        ("queried: the 24 lowest scores of 30, lowest first", [*range(24)]),
        ("not queried: the 24 highest scores of 30, highest first", [*range(59, 35, -1)]),
    ),
    "the 2 highest of 4 scores were queried": (
        ([0.1, 0.9, 0.5, 0.2], [1, 2]),
        ("queried: all 2, highest score first", [1, 2]),
        ("not queried: all 2, lowest score first", [0, 3]),
    ),
    "2 of 2 scored images were queried": (
        ([3.0, 1.0], [0, 1]),
        ("queried: all 2, highest score first", [0, 1]),
    ),
}


def queried(scores, chosen):
    """`choose` for the positions `chosen` of the scored subset."""
    mask = np.zeros(len(scores), dtype=bool)
    mask[list(chosen)] = True
    title, groups = contact_sheet.choose(np.asarray(scores, dtype=float), mask)
    return title, [(heading, positions.tolist()) for heading, positions in groups]


@pytest.mark.parametrize(("title", "case"), CHOICES.items(), ids=CHOICES)
def test_a_sheet_shows_the_extremes_of_what_was_queried_and_of_what_was_not(title, case):
    (scores, chosen), *groups = case
    assert queried(scores, chosen) == (title, groups)


@pytest.mark.parametrize("scores", [[1, 1, 1], [0, 5, 9]])
def test_the_title_claims_no_order_that_the_scores_do_not_show(scores):
    title, _ = queried(scores, [1])
    assert title == "1 of 3 scored images were queried"


def drawn(queried, left=0):
    """A sheet of so many queried and other images, each of its own colour, and their corners.

    The corners are (x, y), group by group in the order shown.
    """
    # The others in ascending order of their scores, and before them the queried in descending.
    colors = np.arange(1, queried + left + 1)
    scores = np.concatenate([np.arange(queried, 0, -1), np.arange(-left, 0)])
    pixels = np.stack([colors, 255 - colors, 0 * colors], axis=1).astype(np.uint8)
    pixels = torch.from_numpy(pixels)[:, :, None, None].repeat(1, 1, 8, 8)
    indices = np.arange(len(colors))
    sheet = sheet_of(pixels, ["name"], indices, scores, indices[:queried])
    places = [np.argwhere((sheet == (color, 255 - color, 0)).all(2)) for color in colors]
    for place in places:
        assert len(place) == TILE**2  # whole, and hidden by no other
        assert (np.ptp(place, axis=0) == TILE - 1).all()
    return sheet, [tuple(place.min(axis=0)[::-1]) for place in places]


def sheet_of(pixels, class_names, *query):
    """The pixels of the sheet of a query: what `of_query` gets before the images' dataset."""
    images = ImageSet(pixels, torch.arange(len(pixels)) % len(class_names))
    dataset = Dataset(images, images, class_names, torch.zeros(3), torch.ones(3))
    with Image.open(io.BytesIO(contact_sheet.of_query(*query, dataset))) as image:
        assert image.format == "PNG"
        return np.asarray(image)


@pytest.mark.parametrize("counts", [(24, 24), (1, 9), (8, 16), (3,)])
def test_nothing_overlaps_or_leaves_the_sheet(counts):
    sheet, corners = drawn(*counts)
    height, width, _ = sheet.shape
    for x, y in corners:
        assert x + TILE + GAP <= width and y + TILE + 2 * LINE + GAP <= height
        for line in (y + TILE, y + TILE + LINE):  # class and score
            assert (sheet[line : line + LINE, x : x + TILE] < 128).any()
    assert (sheet[GAP : GAP + LINE] < 128).any()  # the title
    first, tops = 0, []
    for count in counts:
        # Row by row, each from left to right, below the group's heading.
        group = corners[first : first + count]
        assert group == sorted(group, key=lambda corner: (corner[1], corner[0]))
        assert len({y for _, y in group}) == -(-count // COLUMNS)
        top = group[0][1]
        assert (sheet[top - LINE - GAP // 2 : top - GAP // 2] < 128).any()
        tops.append(top)
        first += count
    assert tops == sorted(tops)


@pytest.mark.parametrize("side", [8, 32, 64, 224])
def test_images_are_enlarged_by_whole_pixels_or_reduced_to_their_place(side):
    pixels = np.random.default_rng(0).integers(0, 256, (3, side, side), dtype=np.uint8)
    pixels = pixels if side <= TILE else np.full_like(pixels, 7)
    image = Image.fromarray(pixels.transpose(1, 2, 0))
    tile = np.asarray(contact_sheet.tile(image, "", "1")).transpose(2, 0, 1)
    times = max(TILE // side, 1)
    expected = pixels.repeat(times, 1).repeat(times, 2)[:, :TILE, :TILE]
    around = TILE - expected.shape[1]
    half = (around // 2, around - around // 2)  # in the middle
    expected = np.pad(expected, ((0, 0), half, half), constant_values=255)
    np.testing.assert_array_equal(tile[:, :TILE], expected)


def test_long_names_are_shortened_to_fit_their_tile():
    font = contact_sheet.font()
    assert isinstance(font, ImageFont.FreeTypeFont)
    assert contact_sheet.fitted("airplane") == "airplane"
    for name in ("W" * 1000, "a class name of many words", "i" * 200, "漢" * 50):
        short = contact_sheet.fitted(name)
        assert font.getlength(short) <= TILE and len(short) > 5
        assert short.endswith("…") and name.startswith(short[:-1])
    assert contact_sheet.fitted("two\nlines") == "two?lines"
    assert contact_sheet.fitted("") == ""


def test_a_query_becomes_a_png_of_its_images():
    random = np.random.default_rng(0)
    pixels = torch.from_numpy(random.integers(0, 256, (50, 3, 32, 32), dtype=np.uint8))
    subset, scores = random.permutation(50)[:40], random.random(40)
    ascending = np.argsort(scores)
    sheet = sheet_of(pixels, ["<b>", "Ж"], subset, scores, subset[ascending[-10:]])
    empty, corners = drawn(10, 24)
    assert sheet.shape == empty.shape
    shown = [*ascending[:-11:-1], *ascending[:24]]  # the highest first, then the lowest
    for (x, y), position in zip(corners, shown, strict=True):
        expected = pixels[subset[position]].numpy().transpose(1, 2, 0).repeat(3, 0).repeat(3, 1)
        np.testing.assert_array_equal(sheet[y : y + TILE, x : x + TILE], expected)
