"""One picture: what is loaded is what a viewer shows."""

import struct

import numpy as np
import pytest
from PIL import Image

from tests.support.decoding import shown
from tests.support.pictures import disc, expressed_in, icc_profile, raw_png, unsigned_tiff, written
from tod.data import picture

SIDE = 16
COLOUR = (40, 180, 60)


def flat(colour=COLOUR, mode="RGB"):
    return Image.new(mode, (SIDE, SIDE), colour)


def change_a_tag(path, tag, old, new, kind=3):
    """Gives a TIFF file's tag of one number, of 16 bits or of kind 4, another value."""
    before, after = (struct.pack("<HHII", tag, kind, 1, value) for value in (old, new))
    content = path.read_bytes()
    assert before in content
    path.write_bytes(content.replace(before, after))


def differs(pixels, colour):
    """By how many levels, at most."""
    return np.abs(pixels.astype(int) - np.array(colour)).max()


@pytest.mark.parametrize("hidden", [(0, 0, 0), (255, 0, 0), (10, 200, 90)])
@pytest.mark.parametrize("kind", ["png", "webp", "tif", "tga", "ico", "palette.png", "gif"])
def test_what_is_transparent_shows_white_whatever_colour_lies_hidden(tmp_path, hidden, kind):
    image = disc(SIDE, hidden)
    image = image.quantize(8) if kind == "palette.png" else image
    pixels = shown(written(tmp_path / f"disc.{kind}", image))
    assert pixels[0, 0].tolist() == [255] * 3
    assert pixels[SIDE // 2, SIDE // 2].max() <= 1


@pytest.mark.parametrize(("kind", "red"), [(1, (100, 15, 15, 128)), (2, (200, 30, 30, 128))])
def test_what_is_half_transparent_is_blended_with_white_also_premultiplied(tmp_path, kind, red):
    path = written(tmp_path / "a.tif", flat(red, "RGBA"))
    change_a_tag(path, 338, 2, kind)
    assert differs(shown(path), [227, 142, 142]) <= 1


@pytest.mark.parametrize(("bits", "value"), [(1, 1), (2, 2), (4, 9), (8, 77), (16, 40_000)])
def test_a_transparent_grey_value_shows_white(tmp_path, bits, value):
    highest = 2**bits - 1 if bits > 1 else 0
    values = np.array([value] * 8 + [0] * 4 + [highest] * 4)[:, None].repeat(SIDE, axis=1)
    pixels = shown(written(tmp_path / "a.png", raw_png(values, bits, [value])))
    levels = np.array([255] * 8 + [0] * 4 + [255 if bits > 1 else 0] * 4)
    assert (pixels == levels[:, None, None]).all()


@pytest.mark.parametrize(("bits", "scale"), [(8, 1), (16, 257)])
def test_a_transparent_colour_shows_white(tmp_path, bits, scale):
    # A line of the transparent colour above one of another.
    lines = scale * np.array([COLOUR] * SIDE + [(1, 2, 3)] * SIDE).reshape(2, SIDE, 3)
    pixels = shown(written(tmp_path / "a.png", raw_png(lines, bits, lines[0, 0])))
    assert (pixels[0] == 255).all() and (pixels[-1] == (1, 2, 3)).all()


def test_a_palette_of_transparent_colours_shows_white():
    image = Image.new("P", (SIDE, SIDE))
    image.putpalette([255, 0, 0, 0, *COLOUR, 255], "RGBA")  # red on nothing; opaque
    image.paste(1, (8, 0, SIDE, SIDE))
    image.tile = []  # as when it has been read from a file
    found = np.asarray(picture.as_shown(image, SIDE)[0])
    assert (found[:, :8] == 255).all() and (found[:, 8:] == COLOUR).all()


@pytest.mark.parametrize("space", ["sRGB", "Adobe RGB", "Display P3"])
@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp"])
def test_a_colour_is_the_same_in_each_profile(tmp_path, space, ending):
    image = flat(expressed_in(space, COLOUR))
    assert (image.getpixel((0, 0)) == COLOUR) == (space == "sRGB")
    path = written(tmp_path / f"a.{ending}", image, icc_profile=icc_profile(space))
    assert differs(shown(path), COLOUR) <= 2


UNREADABLE = (b"no profile", icc_profile("Adobe RGB")[:200], bytes(500))


@pytest.mark.parametrize("profile", [None, icc_profile("sRGB"), *UNREADABLE])
@pytest.mark.parametrize("opaque", [[], [np.full((SIDE, SIDE), 255, np.uint8)]])
def test_neither_srgb_nor_an_unreadable_profile_nor_alpha_of_opaque_pixels_changes_a_pixel(
    tmp_path, profile, opaque
):
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    image = Image.fromarray(np.dstack([noise, *opaque]))
    assert (shown(written(tmp_path / "a.png", image, icc_profile=profile)) == noise).all()


@pytest.mark.parametrize("mode", ["L", "LA", "P", "CMYK", "RGBA"])
def test_a_profile_of_rgb_goes_with_every_mode(tmp_path, mode):
    image = flat((120, 120, 120))
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    path = written(tmp_path / "a.tif", image, icc_profile=icc_profile("Display P3"))
    assert differs(shown(path), [120] * 3) <= 3


def test_a_profile_and_transparency_go_together(tmp_path):
    image = disc(SIDE, (255, 0, 0), inside=expressed_in("Display P3", COLOUR))
    pixels = shown(written(tmp_path / "a.png", image, icc_profile=icc_profile("Display P3")))
    assert pixels[0, 0].tolist() == [255] * 3
    assert differs(pixels[SIDE // 2, SIDE // 2], COLOUR) <= 2


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK"])
def test_a_profile_of_grey_does_not_concern_colours(tmp_path, mode):
    colours = icc_profile("sRGB")
    grey = colours[:16] + b"GRAY" + colours[20:].replace(b"rTRC", b"kTRC", 1)
    path = written(tmp_path / "a.tif", flat().convert(mode), icc_profile=grey)
    assert differs(shown(path), COLOUR) <= 1


OF_16_BITS = [0, 257, 40_092, 65_535], [0, 1, 156, 255]
OF_SMALL_RANGES = [
    ([0, 0, 0, 0], [0, 0, 0, 0]),
    ([0, 1, 128, 255], [0, 1, 128, 255]),
    ([0, 256, 257, 514], [0, 1, 1, 2]),
    OF_16_BITS,
]


@pytest.mark.parametrize(
    ("kind", "values", "levels"),
    [
        *((kind, *OF_16_BITS) for kind in ("u2.png", "u2.tif", "u2.pgm")),
        ("f4.tif", [0, 1 / 255, 0.5, 1], [0, 1, 128, 255]),
        # Scaled by the smallest range that holds them.
        *((kind, *case) for kind in ("i4.tif", "u4.tif") for case in OF_SMALL_RANGES),
        ("i4.tif", [0, 2**24, 2**30, 2**31 - 1], [0, 2, 128, 255]),
        ("u4.tif", [0, 2**32 // 255, 2**31, 2**32 - 1], [0, 1, 128, 255]),
    ],
)
def test_a_deep_single_channel_is_scaled_by_its_range(tmp_path, kind, values, levels):
    pixels = np.repeat(np.array(values), 4)[None].repeat(SIDE, axis=0)
    if kind == "u2.png":
        content = raw_png(pixels, 16)
    elif kind == "u2.pgm":
        content = b"P5 16 16 65535\n" + pixels.astype(">u2").tobytes()
    elif kind == "u4.tif":
        content = unsigned_tiff(pixels)
    else:
        content = Image.fromarray(pixels.astype(f"<{kind[:2]}"))
    found = shown(written(tmp_path / f"a.{kind}", content))
    assert (found == found[:1, :, :1]).all()
    assert found[0, ::4, 0].tolist() == levels


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (np.int32, -1, "values from -1 to 0, not from 0 to 255"),
        *(
            (np.float32, value, "from 0 to 1: convert it to 8 bits")
            for value in (-0.5, 1.5, 300.0, np.nan, np.inf)
        ),
    ],
)
def test_values_beyond_their_range_are_refused(tmp_path, kind, value, words):
    pixels = np.zeros((SIDE, SIDE), kind)
    pixels[3, 3] = value
    with pytest.raises(ValueError, match=words):
        shown(written(tmp_path / "a.tif", Image.fromarray(pixels)))


def test_where_white_is_zero_a_deep_picture_is_turned(tmp_path):
    values = np.zeros((SIDE, SIDE), dtype=np.uint16)
    values[8:] = 65_535
    path = written(tmp_path / "a.tif", Image.fromarray(values))
    change_a_tag(path, 262, 1, 0)
    assert (shown(path) == 255 - values[:, :, None] // 257).all()


def test_twelve_bits_are_scaled_by_their_own_range(tmp_path):
    white = unsigned_tiff(np.full((SIDE, SIDE), 2**32 - 1, dtype=np.uint32))
    path = written(tmp_path / "a.tif", white)
    change_a_tag(path, 258, 32, 12, kind=4)
    change_a_tag(path, 279, 4 * SIDE * SIDE, SIDE * SIDE * 3 // 2, kind=4)
    assert (shown(path) == 255).all()


RAMP = np.arange(SIDE**2).reshape(SIDE, SIDE)


@pytest.mark.parametrize(
    ("values", "is_dim"),
    [
        (RAMP, True),  # one level of 16 bits
        (29 * RAMP, True),  # 30 levels
        (31 * RAMP, False),
        (40_000 + RAMP, True),  # bright, without contrast
        (257 * (RAMP // 32), False),  # eight levels, and all of them stay
        (0 * RAMP, False),
    ],
)
@pytest.mark.parametrize("kind", ["u2", "i4"])
def test_a_picture_that_keeps_few_levels_of_many_is_dim(tmp_path, values, is_dim, kind):
    if kind == "i4":  # above 8 bits, so that the range is that of 16
        values = np.where(np.eye(SIDE, dtype=bool), values.max() + 300, values)
    path = written(tmp_path / "a.tif", Image.fromarray(values.astype(f"<{kind}")))
    assert picture.decode(path, SIDE, SIDE, picture.as_shown)[1] == is_dim


@pytest.mark.parametrize(
    ("brightest", "is_dim"), [(255, True), (256 * 31 - 1, True), (9000, False)]
)
def test_a_picture_of_three_channels_of_16_bits_without_light_is_dim(tmp_path, brightest, is_dim):
    lines = np.linspace(np.zeros(SIDE), np.full(SIDE, brightest), 3 * SIDE)
    path = written(tmp_path / "a.png", raw_png(lines.reshape(SIDE, SIDE, 3), 16))
    assert picture.decode(path, SIDE, SIDE, picture.as_shown)[1] == is_dim


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_a_picture_is_turned_upright(tmp_path, orientation, ending):
    upright = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    upright[:8, :8] = 255
    upright[:8, 8:] = (255, 0, 0)
    stored = Image.fromarray(upright)
    if orientation > 1:
        back = {6: 8, 8: 6}.get(orientation, orientation)
        stored = stored.transpose(picture.TRANSPOSITIONS[back])
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = written(tmp_path / f"a.{ending}", stored, exif=exif)
    assert differs(shown(path), upright) <= 4


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK"])
def test_a_picture_that_lies_on_its_side_is_not_mixed_up(tmp_path, mode):
    image = Image.new("L", (32, 16), 0)
    image.paste(255, (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = shown(written(tmp_path / "a.tif", image.convert("RGB").convert(mode), exif=exif))
    assert pixels[:7].min() > 250 and pixels[9:].max() < 5
