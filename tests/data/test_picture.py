"""One picture: what is loaded is what a viewer shows."""

import io
import struct
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.pictures import (
    disc,
    exif_with_a_negative_ratio,
    expressed_in,
    grey_png,
    icc_profile,
    png,
    png_chunk,
    unsigned_tiff,
)
from tod.data import colour, picture

SIDE = 16
COLOUR = (40, 180, 60)


def shown(path: Path, side: int = SIDE) -> np.ndarray:
    """(side, side, 3), as the image folders load it."""
    content, _ = picture.decode(path, side, side, picture.as_shown)
    return np.frombuffer(content, np.uint8).reshape(side, side, 3)


def has_memory(monkeypatch: pytest.MonkeyPatch, nbytes: int) -> None:
    """As if the machine had so much."""
    monkeypatch.setattr(picture, "memory", lambda: nbytes)


def written(path: Path, content: bytes | Image.Image, **options: object) -> Path:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content.save(path, **options)
    return path


def flat(colour: tuple[int, ...] = COLOUR, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (SIDE, SIDE), colour)


# ----------------------------------------------------------- transparency


@pytest.mark.parametrize("hidden", [(0, 0, 0), (255, 0, 0), (10, 200, 90)])
@pytest.mark.parametrize("kind", ["png", "webp", "tif", "tga", "ico", "palette.png", "gif"])
def test_what_is_transparent_shows_white_whatever_colour_lies_hidden(tmp_path, hidden, kind):
    image = disc(SIDE, hidden)
    if kind == "palette.png":
        image = image.quantize(8)
    options = (
        {"lossless": True} if kind == "webp" else {"sizes": [(16, 16)]} if kind == "ico" else {}
    )
    pixels = shown(written(tmp_path / f"disc.{kind}", image, **options))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert np.abs(pixels[SIDE // 2, SIDE // 2].astype(int)).max() <= 1


@pytest.mark.parametrize("premultiplied", [False, True])
def test_what_is_half_transparent_is_blended_with_white(tmp_path, premultiplied):
    colour = (100, 15, 15, 128) if premultiplied else (200, 30, 30, 128)
    content = io.BytesIO()
    flat(colour, "RGBA").save(content, "TIFF")
    alpha, as_written = (struct.pack("<HHIHH", 338, 3, 1, kind, 0) for kind in (1, 2))
    assert as_written in content.getvalue()
    content = content.getvalue().replace(as_written, alpha if premultiplied else as_written)
    path = written(tmp_path / "a.tif", content)
    assert np.abs(shown(path) - np.array([227, 142, 142])).max() <= 1


def test_opaque_pixels_are_those_without_alpha(tmp_path):
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    opaque = Image.fromarray(np.dstack([pixels, np.full((SIDE, SIDE), 255, np.uint8)]))
    assert (shown(written(tmp_path / "a.png", opaque)) == pixels).all()


def test_grey_with_alpha_is_blended_too(tmp_path):
    image = Image.new("LA", (SIDE, SIDE), (100, 0))
    image.putpixel((3, 3), (100, 255))
    pixels = shown(written(tmp_path / "a.png", image))
    assert pixels[0, 0].tolist() == [255] * 3
    assert pixels[3, 3].tolist() == [100] * 3


@pytest.mark.parametrize(("bits", "value"), [(1, 1), (2, 2), (4, 9), (8, 77), (16, 40_000)])
def test_a_transparent_grey_value_shows_white(tmp_path, bits, value):
    values = np.zeros((SIDE, SIDE), dtype=int)
    values[:8] = value
    values[12:] = 2**bits - 1 if bits > 1 else 0
    pixels = shown(written(tmp_path / "a.png", grey_png(values, bits, transparent=value)))
    assert (pixels[:8] == 255).all()
    assert (pixels[8:12] == 0).all()
    assert (pixels[12:] == (255 if bits > 1 else 0)).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_a_transparent_colour_shows_white(tmp_path, bits):
    # A line of the transparent colour above one of another.
    lines = np.array([COLOUR] * SIDE + [(1, 2, 3)] * SIDE).reshape(2, SIDE, 3)
    scale, kind = (1, ">u1") if bits == 8 else (257, ">u2")
    rows = b"".join(b"\0" + (line * scale).astype(kind).tobytes() for line in lines)
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        [
            png_chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, 2, bits, 2, 0, 0, 0)),
            png_chunk(b"tRNS", struct.pack(">HHH", *(c * scale for c in COLOUR))),
            png_chunk(b"IDAT", zlib.compress(rows)),
            png_chunk(b"IEND", b""),
        ]
    )
    pixels = shown(written(tmp_path / "a.png", content))
    assert (pixels[0] == 255).all()
    assert (pixels[-1] == (1, 2, 3)).all()


# ---------------------------------------------------------------- colours


@pytest.mark.parametrize("space", ["sRGB", "Adobe RGB", "Display P3"])
@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp"])
def test_a_colour_is_the_same_in_each_profile(tmp_path, space, ending):
    image = flat(expressed_in(space, COLOUR))
    assert (image.getpixel((0, 0)) == COLOUR) == (space == "sRGB")
    options = {"quality": 100, "subsampling": 0} if ending == "jpg" else {}
    options |= {"lossless": True} if ending == "webp" else {}
    path = written(tmp_path / f"a.{ending}", image, icc_profile=icc_profile(space), **options)
    assert np.abs(shown(path) - np.array(COLOUR)).max() <= 2


def test_a_profile_of_srgb_changes_no_pixel(tmp_path):
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    path = written(tmp_path / "a.png", image, icc_profile=icc_profile("sRGB"))
    assert (shown(path) == pixels).all()


@pytest.mark.parametrize("profile", [b"no profile", icc_profile("Adobe RGB")[:200], bytes(500)])
def test_an_unreadable_profile_counts_as_srgb(tmp_path, profile):
    path = written(tmp_path / "a.png", flat(), icc_profile=profile)
    assert (shown(path) == COLOUR).all()


@pytest.mark.parametrize("mode", ["L", "LA", "P", "CMYK", "RGBA"])
def test_a_profile_of_rgb_goes_with_every_mode(tmp_path, mode):
    image = flat((120, 120, 120))
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    path = written(tmp_path / "a.tif", image, icc_profile=icc_profile("Display P3"))
    assert np.abs(shown(path) - np.array([120] * 3)).max() <= 3


def test_a_profile_and_transparency_go_together(tmp_path):
    colour = expressed_in("Display P3", COLOUR)
    image = disc(SIDE, (255, 0, 0), inside=colour)
    path = written(tmp_path / "a.png", image, icc_profile=icc_profile("Display P3"))
    pixels = shown(path)
    assert pixels[0, 0].tolist() == [255] * 3
    assert np.abs(pixels[SIDE // 2, SIDE // 2] - np.array(COLOUR)).max() <= 2


# ------------------------------------------------------------------ depth


@pytest.mark.parametrize(
    ("kind", "values", "levels"),
    [
        ("u2.png", np.array([0, 257, 40_092, 65_535]), [0, 1, 156, 255]),
        ("u2.tif", np.array([0, 257, 40_092, 65_535]), [0, 1, 156, 255]),
        ("u2.pgm", np.array([0, 257, 40_092, 65_535]), [0, 1, 156, 255]),
        ("f4.tif", np.array([0, 1 / 255, 0.5, 1]), [0, 1, 128, 255]),
    ],
)
def test_a_deep_single_channel_is_scaled_by_the_range_of_its_type(tmp_path, kind, values, levels):
    pixels = np.repeat(values, 4)[None].repeat(SIDE, axis=0)
    path = tmp_path / f"a.{kind}"
    if kind == "u2.png":
        written(path, grey_png(pixels, 16))
    elif kind == "u2.pgm":
        written(path, b"P5 16 16 65535\n" + pixels.astype(">u2").tobytes())
    else:
        written(path, Image.fromarray(pixels.astype(f"<{kind[:2]}")))
    found = shown(path)
    assert (found == found[:1, :, :1]).all()
    assert found[0, ::4, 0].tolist() == levels


@pytest.mark.parametrize(
    ("kind", "values", "levels"),
    [
        *(
            (kind, values, levels)
            for kind in (np.int32, np.uint32)
            for values, levels in (
                ([0, 0, 0, 0], [0, 0, 0, 0]),
                ([0, 1, 128, 255], [0, 1, 128, 255]),
                ([0, 256, 257, 514], [0, 1, 1, 2]),
                ([0, 257, 40_092, 65_535], [0, 1, 156, 255]),
            )
        ),
        (np.int32, [0, 2**24, 2**30, 2**31 - 1], [0, 2, 128, 255]),
        (np.uint32, [0, 2**32 // 255, 2**31, 2**32 - 1], [0, 1, 128, 255]),
    ],
)
def test_integers_of_32_bits_are_scaled_by_the_smallest_range_that_holds_them(
    tmp_path, kind, values, levels
):
    pixels = np.repeat(np.array(values, kind), 4)[None].repeat(SIDE, axis=0)
    content = unsigned_tiff(pixels) if kind == np.uint32 else Image.fromarray(pixels)
    assert shown(written(tmp_path / "a.tif", content))[0, ::4, 0].tolist() == levels


def test_negative_integers_are_refused(tmp_path):
    path = written(tmp_path / "a.tif", Image.fromarray(np.full((SIDE, SIDE), -1, np.int32)))
    with pytest.raises(ValueError, match="values from -1 to -1, not from 0 to 255"):
        shown(path)


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
    assert picture.decode(path, SIDE, SIDE, picture.as_shown).is_dim == is_dim


@pytest.mark.parametrize(
    ("brightest", "is_dim"), [(255, True), (256 * 31 - 1, True), (9000, False)]
)
def test_a_picture_of_three_channels_of_16_bits_without_light_is_dim(tmp_path, brightest, is_dim):
    line = np.linspace(0, brightest, 3 * SIDE).astype(">u2")
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        [
            png_chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 16, 2, 0, 0, 0)),
            png_chunk(b"IDAT", zlib.compress((b"\0" + line.tobytes()) * SIDE)),
            png_chunk(b"IEND", b""),
        ]
    )
    path = written(tmp_path / "a.png", content)
    assert picture.decode(path, SIDE, SIDE, picture.as_shown).is_dim == is_dim


@pytest.mark.parametrize("value", [-0.5, 1.5, 300.0, np.nan, np.inf])
def test_floats_outside_of_0_to_1_are_refused(tmp_path, value):
    pixels = np.full((SIDE, SIDE), 0.5, dtype=np.float32)
    pixels[3, 3] = value
    path = written(tmp_path / "a.tif", Image.fromarray(pixels))
    with pytest.raises(ValueError, match=r"from 0 to 1: convert it to 8 bits"):
        shown(path)


# --------------------------------------------------------------- metadata


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_a_picture_is_turned_upright(tmp_path, orientation, ending):
    upright = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    upright[:8, :8] = 255
    upright[:8, 8:] = (255, 0, 0)
    turns = {1: None, **{o: t for o, t in picture.TRANSPOSITIONS.items()}}
    inverse = {6: 8, 8: 6}.get(orientation, orientation)
    stored = Image.fromarray(upright)
    stored = stored if turns[inverse] is None else stored.transpose(turns[inverse])
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if ending == "jpg" else {}
    options |= {"lossless": True} if ending == "webp" else {}
    path = written(tmp_path / f"a.{ending}", stored, exif=exif, **options)
    assert np.abs(shown(path).astype(int) - upright).max() <= 4


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_exif_that_could_not_be_written_again_turns_the_picture_all_the_same(tmp_path, ending):
    pixels = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    pixels[:8] = 255
    path = written(
        tmp_path / f"a.{ending}", Image.fromarray(pixels), exif=exif_with_a_negative_ratio(6)
    )
    found = shown(path)
    # Orientation 6: what was stored at the top belongs to the right.
    assert found[:, 10:].min() > 200
    assert found[:, :6].max() < 50


TEXT = b"key\0\0" + zlib.compress(bytes(3_000_000))
METADATA = {
    "a compressed text of 3 MB": [png_chunk(b"zTXt", TEXT)],
    "100 MB of texts": [png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(900_000)))] * 110,
    "a profile of 3 MB": [png_chunk(b"iCCP", TEXT)],
    "a comment with a wrong checksum": [png_chunk(b"tEXt", b"Comment\0hello", crc=1)],
    "a profile with a wrong checksum": [png_chunk(b"iCCP", TEXT, crc=1)],
    "EXIF with a wrong checksum": [png_chunk(b"eXIf", b"II*\0nonsense", crc=1)],
    "damaged EXIF": [png_chunk(b"eXIf", b"II*\0nonsense")],
}


@pytest.mark.parametrize("chunks", METADATA.values(), ids=METADATA)
def test_metadata_never_keeps_a_png_from_being_read(tmp_path, chunks):
    path = written(tmp_path / "a.png", png(flat(), *chunks))
    assert (shown(path) == COLOUR).all()


def test_the_orientation_of_a_png_outlives_its_damaged_comment(tmp_path):
    pixels = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    pixels[:8] = 255
    exif = png_chunk(b"eXIf", exif_with_a_negative_ratio(6)[6:])
    comment = png_chunk(b"tEXt", b"Comment\0hello", crc=1)
    path = written(tmp_path / "a.png", png(Image.fromarray(pixels), exif, comment))
    assert shown(path)[:, 10:].min() == 255


def test_damaged_pixels_of_a_png_are_no_metadata(tmp_path):
    content = bytearray(png(flat()))
    content[content.index(b"IDAT") + 6] ^= 255
    with pytest.raises(Exception, match=r"\w"):
        shown(written(tmp_path / "a.png", bytes(content)))


def test_a_cut_jpeg_is_not_filled_up(tmp_path):
    random = np.random.default_rng(0)
    content = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(content, "JPEG")
    with pytest.raises(OSError, match="truncated"):
        shown(written(tmp_path / "a.jpg", content.getvalue()[:-400]))


# ----------------------------------------------------------------- limits


def test_what_only_claims_to_be_a_picture_starts_no_other_program(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr("subprocess.check_call", lambda *a, **k: started.append(a))
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: started.append(a))
    for ending in ("png", "jpg", "eps"):
        path = written(
            tmp_path / f"photo.{ending}",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n",
        )
        with pytest.raises(OSError, match="cannot identify"):
            shown(path)
    assert not started


def test_only_pictures_have_a_pictures_ending():
    assert {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"} <= picture.ENDINGS
    assert not {".h5", ".hdf5", ".mpg", ".mpeg", ".eps", ".ps", ".pdf", ".grib"} & picture.ENDINGS


def test_a_picture_of_200_megapixels_is_read(tmp_path):
    image = Image.new("1", (20_000, 10_000), 1)
    path = written(tmp_path / "large.png", image)
    with picture.without_pillows_limit():
        assert (shown(path) == 255).all()


def test_a_picture_beyond_the_memory_is_refused_with_its_size(tmp_path, monkeypatch):
    has_memory(monkeypatch, 2 * 10**6 * picture.BYTES_A_PIXEL)
    path = written(tmp_path / "large.png", Image.new("RGB", (2000, 1000)))
    with pytest.raises(ValueError, match="its 2 megapixels do not fit into memory"):
        shown(path)


def icon(inside: bytes, bits: int) -> bytes:
    """An icon that says of itself that it is 16 pixels wide and high."""
    header = struct.pack("<HHH", 0, 1, 1)
    return header + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, bits, len(inside), 22) + inside


def large_inside(kind: str, side: int = 2000) -> bytes:
    """A small file, which says that it has 16×16 pixels, and decodes to a square of this side."""
    if kind == "png.ico":
        return icon(png(Image.new("L", (side, side))), 32)
    if kind == "bmp.ico":
        header = struct.pack("<IiiHHIIiiII", 40, side, 2 * side, 1, 8, 1, 2, 0, 0, 256, 0)
        line = b"\xfa\0" * (side // 250) + b"\0\0"  # runs of 250 pixels
        return icon(header + bytes(1024) + line * side + bytes((side + 16) * side // 8), 8)
    data = zlib.compress(bytes(side * side))
    tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side}
    tags |= {324: 8 + 2 + 12 * 10 + 4, 325: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


@pytest.mark.parametrize("kind", ["png.ico", "bmp.ico", "tile.tif"])
def test_a_picture_asks_for_the_memory_of_what_is_decoded_not_of_what_it_says(
    tmp_path, monkeypatch, kind
):
    path = written(tmp_path / f"a.{kind}", large_inside(kind))
    has_memory(monkeypatch, 2 * 10**6 * picture.BYTES_A_PIXEL)
    allocated = []
    new = Image.core.new
    monkeypatch.setattr(Image.core, "new", lambda *a: allocated.append(a) or new(*a))
    with pytest.raises(ValueError, match="its 4 megapixels do not fit into memory"):
        shown(path)
    assert not allocated
    has_memory(monkeypatch, 9 * 10**6 * picture.BYTES_A_PIXEL)
    assert shown(path).shape == (SIDE, SIDE, 3)
    assert picture._budget.used == 0


@pytest.mark.parametrize("words", ["out of memory when reading image file", "decoder error -9"])
def test_a_decoder_without_memory_does_not_call_the_picture_broken(tmp_path, monkeypatch, words):
    path = written(tmp_path / "a.png", flat())

    def load(image: Image.Image) -> None:
        raise OSError(words)

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(MemoryError, match=words):
        shown(path)


@pytest.mark.parametrize("place", ["PIL.Image.Image.getexif", "PIL.ImageCms.buildTransform"])
def test_without_memory_a_picture_is_not_shown_in_another_way(tmp_path, monkeypatch, place):
    path = written(tmp_path / "a.png", flat(), icc_profile=icc_profile("Adobe RGB"))

    def without_memory(*arguments: object) -> None:
        raise MemoryError

    colour._to_srgb.cache_clear()
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(place, without_memory)
        shown(path)
    assert (shown(path) != COLOUR).any()


def test_a_large_jpeg_is_nearly_what_its_full_decoding_gives(tmp_path):
    y, x = np.mgrid[:1600, :1200]
    waves = [127 + 120 * np.sin(x / a + y / b) for a, b in ((9, 40), (25, 13), (60, 7))]
    image = Image.fromarray(np.dstack(waves).astype(np.uint8))
    path = written(tmp_path / "a.jpg", image, quality=90)
    with Image.open(path) as opened:
        plain = opened.convert("RGB").resize((SIDE * 4,) * 2, Image.Resampling.BILINEAR)
    difference = np.abs(shown(path, SIDE * 4).astype(int) - np.asarray(plain))
    assert difference.max() <= 2
    assert difference.mean() <= 0.5


def test_a_picture_that_lies_on_its_side_is_not_mixed_up(tmp_path):
    for mode in ("L", "RGB", "RGBA", "CMYK"):
        image = Image.new("L", (32, 16), 0)
        image.paste(255, (0, 0, 16, 16))
        exif = Image.Exif()
        exif[0x0112] = 6
        path = written(tmp_path / f"{mode}.tif", image.convert("RGB").convert(mode), exif=exif)
        pixels = shown(path)
        assert pixels[:7].min() > 250, mode
        assert pixels[9:].max() < 5, mode


def test_a_palette_of_transparent_colours_shows_white():
    image = Image.new("P", (SIDE, SIDE))
    image.putpalette([255, 0, 0, 0, *COLOUR, 255], "RGBA")  # red on nothing; opaque
    image.paste(1, (8, 0, SIDE, SIDE))
    image.tile = []  # as when it has been read from a file
    found = np.asarray(picture.as_shown(image, SIDE))
    assert (found[:, :8] == 255).all()
    assert (found[:, 8:] == COLOUR).all()


def test_a_profile_outlives_its_pictures_damaged_comment(tmp_path):
    colour = expressed_in("Display P3", COLOUR)
    profile = b"P3\0\0" + zlib.compress(icc_profile("Display P3") + bytes(1_500_000))
    comment = png_chunk(b"tEXt", b"Comment\0hello", crc=1)
    for chunks in ([png_chunk(b"iCCP", profile)], [png_chunk(b"iCCP", profile), comment]):
        path = written(tmp_path / "a.png", png(flat(colour), *chunks))
        assert np.abs(shown(path) - np.array(COLOUR)).max() <= 2


def test_a_profile_of_grey_does_not_concern_colours(tmp_path):
    grey = bytearray(icc_profile("sRGB"))
    grey[16:20] = b"GRAY"
    for name, old in ((b"kTRC", b"rTRC"), (b"wtpt", b"wtpt")):
        place = grey.index(old)
        grey[place : place + 4] = name
    for mode in ("RGB", "RGBA", "CMYK"):
        path = written(tmp_path / f"{mode}.tif", flat().convert(mode), icc_profile=bytes(grey))
        assert np.abs(shown(path) - np.array(COLOUR)).max() <= 1


def test_where_white_is_zero_a_deep_picture_is_turned(tmp_path):
    values = np.zeros((SIDE, SIDE), dtype=np.uint16)
    values[8:] = 65_535
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF")
    black_is_zero, white_is_zero = (struct.pack("<HHIHH", 262, 3, 1, k, 0) for k in (1, 0))
    assert black_is_zero in buffer.getvalue()
    content = buffer.getvalue().replace(black_is_zero, white_is_zero)
    found = shown(written(tmp_path / "a.tif", content))
    assert (found[:8] == 255).all()
    assert (found[8:] == 0).all()


def test_twelve_bits_are_scaled_by_their_own_range(tmp_path):
    content = bytearray(unsigned_tiff(np.full((SIDE, SIDE), 2**32 - 1, dtype=np.uint32)))
    for tag, old, new in ((258, 32, 12), (279, 4 * SIDE * SIDE, SIDE * SIDE * 3 // 2)):
        place = content.index(struct.pack("<HHII", tag, 4, 1, old))
        content[place : place + 12] = struct.pack("<HHII", tag, 4, 1, new)
    assert (shown(written(tmp_path / "a.tif", bytes(content))) == 255).all()


def test_threads_wait_for_memory_that_others_have(monkeypatch):
    has_memory(monkeypatch, 200)
    budget = picture._Budget()
    most, running = [0], [0]
    lock = threading.Lock()

    def work(nbytes: int) -> None:
        with budget.spent(nbytes):
            with lock:
                running[0] += nbytes
                most[0] = max(most[0], running[0])
            time.sleep(0.01)
            with lock:
                running[0] -= nbytes

    threads = [threading.Thread(target=work, args=(size,)) for size in (60, 30, 50, 90, 10, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 < most[0] <= 100
    assert budget.used == 0
