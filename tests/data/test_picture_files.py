"""Picture files that are damaged, hostile or larger than the memory: what is read, and refused."""

import os
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from tests.support.decoding import shown
from tests.support.pictures import expressed_in, icc_profile, odd_exif, png, png_chunk, written
from tod.data import colour, picture

SIDE = 16
COLOUR = (40, 180, 60)
FLAT = Image.new("RGB", (SIDE, SIDE), COLOUR)
MEGAPIXEL = 10**6 * picture.BYTES_A_PIXEL


TEXT = b"key\0\0" + zlib.compress(bytes(3_000_000))
METADATA = {
    "a compressed text of 3 MB": [png_chunk(b"zTXt", TEXT)],
    "100 MB of texts": [png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(900_000)))] * 110,
    "a profile of 3 MB": [png_chunk(b"iCCP", TEXT)],
    "damaged EXIF": [png_chunk(b"eXIf", b"II*\0nonsense")],
}


@pytest.mark.parametrize("chunks", METADATA.values(), ids=METADATA)
def test_metadata_never_keeps_a_png_from_being_read(tmp_path, chunks):
    assert (shown(written(tmp_path / "a.png", png(FLAT, *chunks))) == COLOUR).all()


def test_a_large_profile_is_followed(tmp_path):
    image = Image.new("RGB", (SIDE, SIDE), expressed_in("Display P3", COLOUR))
    profile = b"P3\0\0" + zlib.compress(icc_profile("Display P3") + bytes(1_500_000))
    path = written(tmp_path / "a.png", png(image, png_chunk(b"iCCP", profile)))
    assert np.abs(shown(path) - np.array(COLOUR)).max() <= 2


@pytest.mark.parametrize("kind", ["a.jpg", "a.png", "a.webp"])
def test_exif_that_could_not_be_written_again_turns_the_picture_all_the_same(tmp_path, kind):
    image = Image.new("RGB", (SIDE, SIDE))
    image.paste("white", (0, 0, SIDE, 8))
    found = shown(written(tmp_path / kind, image, exif=odd_exif(6)))
    # Orientation 6: what was stored at the top belongs to the right.
    assert found[:, 10:].min() > 200 and found[:, :6].max() < 50


def test_damaged_pixels_of_a_png_are_no_metadata(tmp_path):
    content = bytearray(png(FLAT))
    content[content.index(b"IDAT") + 6] ^= 255
    with pytest.raises(Exception, match=r"\w"):
        shown(written(tmp_path / "a.png", bytes(content)))


def test_a_cut_jpeg_is_not_filled_up(tmp_path):
    path = written(tmp_path / "a.jpg", Image.radial_gradient("L"))
    os.truncate(path, path.stat().st_size - 400)
    with pytest.raises(OSError, match="truncated"):
        shown(path)


@pytest.mark.parametrize("ending", ["png", "jpg", "eps"])
def test_what_only_claims_to_be_a_picture_starts_no_other_program(tmp_path, monkeypatch, ending):
    started = []
    for name in ("check_call", "Popen"):
        monkeypatch.setattr(f"subprocess.{name}", lambda *a, **k: started.append(a))
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n"
    with pytest.raises(ValueError, match="it is no picture"):
        shown(written(tmp_path / f"photo.{ending}", content))
    assert not started


def test_only_pictures_have_a_pictures_ending():
    assert {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"} <= picture.ENDINGS
    assert not {".h5", ".hdf5", ".mpg", ".mpeg", ".eps", ".ps", ".pdf", ".grib"} & picture.ENDINGS


def test_a_large_jpeg_is_nearly_what_its_full_decoding_gives(tmp_path):
    y, x = np.mgrid[:1600, :1200]
    waves = [127 + 120 * np.sin(x / a + y / b) for a, b in ((9, 40), (25, 13), (60, 7))]
    image = Image.fromarray(np.dstack(waves).astype(np.uint8))
    path = written(tmp_path / "a.jpg", image, quality=90, subsampling=2)
    with Image.open(path) as opened:
        plain = opened.convert("RGB").resize((SIDE * 4,) * 2, Image.Resampling.BILINEAR)
    difference = np.abs(shown(path, SIDE * 4).astype(int) - np.asarray(plain))
    assert difference.max() <= 2 and difference.mean() <= 0.5


def large_inside(kind: str, side: int) -> Image.Image | bytes:
    """A file that decodes to a square of this side, of which all but the first say 16×16 pixels."""
    if kind == "plain.png":
        return Image.new("L", (side, side))
    if kind == "tile.tif":
        data = zlib.compress(bytes(side * side))
        tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side}
        tags |= {324: 8 + 2 + 12 * 10 + 4, 325: len(data)}
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
        return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data
    inside, bits = png(Image.new("L", (side, side))), 32
    if kind == "bmp.ico":
        header = struct.pack("<IiiHHIIiiII", 40, side, 2 * side, 1, 8, 1, 2, 0, 0, 256, 0)
        line = b"\xfa\0" * (side // 250) + b"\0\0"  # runs of 250 pixels
        inside, bits = header + bytes(1024) + line * side + bytes((side + 16) * side // 8), 8
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, bits, len(inside), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + inside


@pytest.mark.parametrize("kind", ["plain.png", "png.ico", "bmp.ico", "tile.tif"])
def test_a_picture_asks_for_the_memory_of_what_is_decoded_not_of_what_it_says(
    tmp_path, monkeypatch, kind
):
    path = written(tmp_path / f"a.{kind}", large_inside(kind, 2000))
    monkeypatch.setattr(picture, "memory", lambda: 4 * MEGAPIXEL)
    allocated, new = [], Image.core.new
    monkeypatch.setattr(Image.core, "new", lambda *a: allocated.append(a) or new(*a))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)
    with pytest.raises(ValueError, match="its pixels do not fit into memory"):
        shown(path)
    assert not allocated
    monkeypatch.setattr(picture, "memory", lambda: 9 * MEGAPIXEL)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9 * 10**6 // 2)
    assert shown(path).shape == (SIDE, SIDE, 3)
    assert picture._budget.used == 0


@pytest.mark.parametrize("words", ["out of memory when reading image file", "decoder error -9"])
def test_a_decoder_without_memory_does_not_call_the_picture_broken(tmp_path, monkeypatch, words):
    path = written(tmp_path / "a.png", FLAT)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", Mock(side_effect=OSError(words)))
    with pytest.raises(MemoryError, match=words):
        shown(path)


@pytest.mark.parametrize("place", ["PIL.Image.Image.getexif", "PIL.ImageCms.buildTransform"])
def test_without_memory_a_picture_is_not_shown_in_another_way(tmp_path, monkeypatch, place):
    path = written(tmp_path / "a.png", FLAT, icc_profile=icc_profile("Adobe RGB"))
    colour._to_srgb.cache_clear()
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(place, Mock(side_effect=MemoryError))
        shown(path)
    assert (shown(path) != COLOUR).any()


def test_threads_wait_for_memory_that_others_have(monkeypatch):
    monkeypatch.setattr(picture, "memory", lambda: 200 * picture.BYTES_A_PIXEL)
    budget, running, sums = picture._Budget(), [], []

    def work(count: int) -> None:
        with budget.spent(count):
            running.append(count)
            sums.append(sum(running))
            time.sleep(0.01)
            running.remove(count)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, (60, 30, 50, 90, 10, 20)))
    assert len(sums) == 6 and max(sums) <= 100
    assert budget.used == 0
