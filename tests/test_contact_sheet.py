"""Contact sheets: which images they show, in which words, and where."""

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

import contact_sheet
from contact_sheet import COLUMNS, GAP, LINE, TILE
from datasets import Dataset, Images


def queried(scores, chosen):
    """`choose` for the positions `chosen` of the scored subset."""
    mask = np.zeros(len(scores), dtype=bool)
    mask[list(chosen)] = True
    return contact_sheet.choose(np.asarray(scores, dtype=float), mask)


# ------------------------------------------------------------ what is shown


def test_the_highest_queried_and_the_lowest_not_queried_are_shown():
    scores = np.random.default_rng(0).permutation(100) / 100
    ascending = np.argsort(scores)
    title, (high, low) = queried(scores, ascending[-30:])
    assert title == "the 30 highest of 100 scores were queried"
    assert high.heading == "queried: the 24 highest scores of 30, highest first"
    assert low.heading == "not queried: the 24 lowest scores of 70, lowest first"
    np.testing.assert_allclose(scores[high.positions], np.arange(99, 75, -1) / 100)
    np.testing.assert_allclose(scores[low.positions], np.arange(24) / 100)


def test_the_words_are_right_where_the_first_cycle_queries_the_lowest_scores():
    scores = np.arange(60) / 60
    title, (high, low) = queried(scores, range(30))
    assert title == "the 30 lowest of 60 scores were queried"
    assert high.heading == "queried: the 24 highest scores of 30, highest first"
    np.testing.assert_array_equal(high.positions, np.arange(29, 5, -1))
    assert low.heading == "not queried: the 24 lowest scores of 30, lowest first"
    np.testing.assert_array_equal(low.positions, np.arange(30, 54))


def test_few_images_are_all_shown():
    title, (high, low) = queried([0.1, 0.9, 0.5, 0.2], [1, 2])
    assert title == "the 2 highest of 4 scores were queried"
    assert high.heading == "queried: all 2, highest score first"
    assert low.heading == "not queried: all 2, lowest score first"
    assert (high.positions.tolist(), low.positions.tolist()) == ([1, 2], [0, 3])


@pytest.mark.parametrize("scores", [[1, 1, 1], [0, 5, 9]])
def test_the_title_claims_no_order_that_the_scores_do_not_show(scores):
    title, _ = queried(scores, [1])
    assert title == "1 of 3 scored images were queried"


def test_an_emptied_pool_has_nothing_that_was_not_queried():
    title, groups = queried([3, 1], [0, 1])
    assert title == "2 of 2 scored images were queried"
    assert [group.heading for group in groups] == ["queried: all 2, highest score first"]


# ------------------------------------------------------------------ layout


@pytest.mark.parametrize("counts", [(24, 24), (1, 9), (8, 16), (3,)])
def test_nothing_overlaps_or_leaves_the_sheet(counts):
    (width, height), headings, tiles = contact_sheet.layout(counts)
    assert [len(corners) for corners in tiles] == list(counts)
    # Two lines of text stand under each image.
    boxes = [(x, y, x + TILE, y + TILE + 2 * LINE) for x, y in itertools.chain(*tiles)]
    boxes += [(x, y, width, y + LINE) for x, y in headings]
    boxes.append((GAP, GAP, width, GAP + LINE))
    assert all(
        x >= 0 and y >= 0 and right <= width and bottom <= height for x, y, right, bottom in boxes
    )
    for a, b in itertools.combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    for corners in tiles:
        assert len({y for _, y in corners}) == -(-len(corners) // COLUMNS)


# ----------------------------------------------------------------- drawing


def test_small_images_are_enlarged_by_whole_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    tile = np.asarray(contact_sheet.thumbnail(pixels))
    np.testing.assert_array_equal(tile, pixels.transpose(1, 2, 0).repeat(3, 0).repeat(3, 1))


@pytest.mark.parametrize(("size", "expected"), [((8, 8), (96, 96)), ((64, 64), (64, 64))])
def test_tiles_are_never_larger_than_their_place(size, expected):
    assert contact_sheet.thumbnail(np.zeros((3, *size), np.uint8)).size == expected


def test_photographs_are_reduced():
    pixels = np.full((3, 224, 224), 7, np.uint8)
    tile = np.asarray(contact_sheet.thumbnail(pixels))
    assert tile.shape == (TILE, TILE, 3)
    assert (tile == 7).all()


def test_each_image_stands_in_its_place_with_a_caption():
    scores = np.array([0.5, 0.25, 0.75])
    title, groups = queried(scores, [2])
    pixels = np.zeros((3, 3, 1, 1), np.uint8)
    pixels[:, :, 0, 0] = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    sheet = np.asarray(contact_sheet.draw(title, groups, pixels, ["a", "b", "c"], scores))
    tiles = contact_sheet.layout([1, 2]).tiles
    for (x, y), color in zip(itertools.chain(*tiles), pixels[:, :, 0, 0], strict=True):
        assert (sheet[y : y + TILE, x : x + TILE] == color).all()
        for line in (y + TILE, y + TILE + LINE):
            assert (sheet[line : line + LINE, x : x + TILE] < 128).any()
    for x, y in contact_sheet.layout([1, 2]).headings:
        assert (sheet[y : y + LINE, x:] < 128).any()


def test_long_names_are_shortened_to_fit_their_tile():
    font = contact_sheet._font()
    assert isinstance(font, ImageFont.FreeTypeFont)
    assert contact_sheet.fitted("airplane", font) == "airplane"
    for name in ("W" * 1000, "a class name of many words", "i" * 200, "漢" * 50):
        short = contact_sheet.fitted(name, font)
        assert font.getlength(short) <= TILE
        assert short.endswith("…")
        assert name.startswith(short[:-1])
        assert len(short) > 5
    assert contact_sheet.fitted("two\nlines", font) == "two?lines"
    assert contact_sheet.fitted("", font) == ""


def test_a_query_becomes_a_png_of_its_images():
    random = np.random.default_rng(0)
    pixels = torch.from_numpy(random.integers(0, 256, (50, 3, 32, 32), dtype=np.uint8))
    images = Images(pixels, torch.arange(50) % 2)
    dataset = Dataset(images, images, ["<b>", "Ж"], torch.zeros(3), torch.ones(3))
    subset, scores = random.permutation(50)[:40], random.random(40)
    chosen = subset[np.argsort(scores)[-10:]]
    with Image.open(io.BytesIO(contact_sheet.of_query(subset, scores, chosen, dataset))) as image:
        assert image.format == "PNG"
        sheet = np.asarray(image)
    layout = contact_sheet.layout([10, 24])
    assert sheet.shape == (layout.size[1], layout.size[0], 3)
    (x, y), index = layout.tiles[0][0], subset[np.argmax(scores)]
    expected = pixels[index].numpy().transpose(1, 2, 0).repeat(3, 0).repeat(3, 1)
    np.testing.assert_array_equal(sheet[y : y + TILE, x : x + TILE], expected)
