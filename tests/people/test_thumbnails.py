"""What the page is made of: a picture of each image, and a key for each class."""

import io

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tod.people.page import shortcuts, thumbnail


def noise(width, height, mode="RGB"):
    shape = (height, width) if mode == "L" else (height, width, len(mode))
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8), mode)


def shown(image):
    return Image.open(io.BytesIO(thumbnail(image)))


def test_shortcuts_are_the_digits_of_the_names_or_those_left():
    assert shortcuts(["cat", "dog", "bird"]) == {"cat": "1", "dog": "2", "bird": "3"}
    digits = [*"0123456789"]
    assert shortcuts(digits) == dict(zip(digits, digits, strict=True))
    assert shortcuts(["cat", "2", "dog", "0"]) == {"cat": "1", "2": "2", "dog": "3", "0": "0"}
    assert shortcuts([*"abcdefghijk"]) == dict(zip("abcdefghij", "1234567890", strict=True))
    assert shortcuts(["²", "٣", ""]) == {"²": "1", "٣": "2", "": "3"}
    # A digit that begins a longer name is none.
    assert shortcuts(["1", "10", "2", "cat"]) == {"2": "2", "10": "3", "cat": "4"}
    assert shortcuts(["2-wheeler", "cat", "dog"]) == {"2-wheeler": "1", "cat": "3", "dog": "4"}


@pytest.mark.parametrize("size", [(8, 8), (32, 20), (128, 128)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_small_thumbnail_is_the_picture_to_the_pixel(size, mode):
    picture = shown(noise(*size, mode))
    assert (picture.format, picture.mode) == ("PNG", mode)
    assert picture.tobytes() == noise(*size, mode).tobytes()


def test_a_large_thumbnail_is_a_jpeg_of_512_pixels_at_most():
    for size, expected in {
        (129, 10): (129, 10),
        (2048, 512): (512, 128),
        (3000, 2): (512, 1),
    }.items():
        image = noise(*size)
        assert (shown(image).format, shown(image).size) == ("JPEG", expected)
        assert image.size == size


@pytest.mark.parametrize("size", [(8, 8), (600, 400)])
def test_a_thumbnail_is_the_same_every_time_and_without_the_source_s_metadata(size, tmp_path):
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Comment", "who took it")
    noise(*size).save(tmp_path / "noted.png", pnginfo=notes, dpi=(300, 300), icc_profile=b"any")
    with Image.open(tmp_path / "noted.png") as noted:
        assert thumbnail(noted) == thumbnail(noise(*size)) == thumbnail(noise(*size))


@pytest.mark.parametrize("mode", ["1", "P", "RGBA", "CMYK", "LA"])
@pytest.mark.parametrize("side", [20, 200])
def test_a_thumbnail_is_made_of_any_mode(mode, side):
    assert shown(noise(side, side).convert(mode)).mode == "RGB"
