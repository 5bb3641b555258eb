"""Picture files as people have them, made from nothing: colour profiles, metadata, odd depths."""

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

# The primaries of each space as XYZ columns under D50, as its published profile has them.
TO_XYZ = {
    "sRGB": [[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]],
    "Adobe RGB": [[0.6097, 0.2053, 0.1492], [0.3111, 0.6257, 0.0632], [0.0195, 0.0609, 0.7446]],
    "Display P3": [[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]],
}
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
"""ICC's parametric curve 3: (a·x + b)^g from d on, c·x below."""
ADOBE_CURVE = (2.19921875, 1.0, 0.0, 1.0, 0.0)


def icc_profile(space: str) -> bytes:
    """An ICC profile of three primaries and a curve, as cameras and phones embed it."""

    def fixed(*values: float) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))

    curve = ADOBE_CURVE if space == "Adobe RGB" else SRGB_CURVE
    curves = b"para\0\0\0\0" + struct.pack(">HH", 3, 0) + fixed(*curve)
    name = struct.pack(">I", len(space) + 1) + space.encode()
    tags = {
        b"desc": b"desc\0\0\0\0" + name + bytes(79),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1.0, 0.8249),
    }
    for channel, primary in zip((b"r", b"g", b"b"), np.array(TO_XYZ[space]).T, strict=True):
        tags[channel + b"XYZ"] = b"XYZ \0\0\0\0" + fixed(*primary)
        tags[channel + b"TRC"] = curves
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for tag, content in tags.items():
        table += tag + struct.pack(">II", start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    kind = (b"lcms", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    header = struct.pack(">I4sI4s4s4s", start + len(data), *kind)
    header += bytes(12) + b"acsp" + bytes(28) + fixed(0.9642, 1.0, 0.8249) + bytes(48)
    return header + table + data


def expressed_in(space: str, colour: Sequence[int]) -> tuple[int, ...]:
    """What an sRGB colour is in another space, in 8 bits a channel."""

    def decoded(x: np.ndarray, curve: Sequence[float]) -> np.ndarray:
        g, a, b, c, d = curve
        return np.where(x >= d, np.maximum(a * x + b, 0) ** g, c * x)

    linear = np.array(TO_XYZ["sRGB"]) @ decoded(np.array(colour) / 255, SRGB_CURVE)
    wanted = np.linalg.solve(np.array(TO_XYZ[space]), linear)
    curve = ADOBE_CURVE if space == "Adobe RGB" else SRGB_CURVE
    levels = decoded(np.arange(256) / 255, curve)
    return tuple(int(np.abs(levels - value).argmin()) for value in wanted)


def png_chunk(kind: bytes, content: bytes, crc: int | None = None) -> bytes:
    """A chunk of a PNG file; with a checksum of one's own, a damaged one."""
    crc = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def png(image: Image.Image, *before_pixels: bytes) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    whole = content.getvalue()
    place = whole.index(b"IDAT") - 4
    return whole[:place] + b"".join(before_pixels) + whole[place:]


def raw_png(pixels: np.ndarray, bits: int, transparent: Sequence[int] = ()) -> bytes:
    """Pixels of 1, 2, 4, 8 or 16 bits a channel as a PNG file, with a transparent value or colour.

    Grey ones are (H, W), coloured ones (H, W, 3), of no fewer than 8 bits.
    """
    height, width = pixels.shape[:2]
    if bits >= 8:
        lines = [line.astype(f">u{bits // 8}").tobytes() for line in pixels]
    else:
        of_a_pixel = (pixels[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        lines = [line.tobytes() for line in np.packbits(of_a_pixel.reshape(height, -1), axis=1)]
    key = png_chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
    header = struct.pack(">IIBBBBB", width, height, bits, 0 if pixels.ndim == 2 else 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + line for line in lines))
    chunks = [png_chunk(b"IHDR", header), *([key] if len(transparent) else [])]
    chunks += [png_chunk(b"IDAT", data), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def unsigned_tiff(pixels: np.ndarray) -> bytes:
    """Grey pixels (H, W) uint32 as a TIFF file; Pillow would write them as signed."""
    height, width = pixels.shape
    tags = {256: width, 257: height, 258: 32, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    tags |= {279: 4 * pixels.size, 339: 1}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    header = b"II*\0" + struct.pack("<I", 8 + 4 * pixels.size)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return header + pixels.astype("<u4").tobytes() + directory


def odd_exif(orientation: int) -> bytes:
    """EXIF with this orientation, and an exposure bias of −1/0, as some cameras write it."""
    entries = struct.pack("<HHII", 0x0112, 3, 1, orientation)
    entries += struct.pack("<HHII", 0x9204, 10, 1, 8 + 2 + 24 + 4)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<Iii", 0, -1, 0)


def disc(side: int, hidden: Sequence[int], inside: Sequence[int] = (0, 0, 0)) -> Image.Image:
    """A disc on nothing: RGBA, with a colour hidden under the transparent pixels."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    is_inside = (x**2 + y**2 < (side / 3) ** 2)[..., None]
    pixels = np.where(is_inside, (*inside, 255), (*hidden, 0)).astype(np.uint8)
    return Image.fromarray(pixels)


SAVED = {
    ".jpg": {"quality": 100, "subsampling": 0},
    ".webp": {"lossless": True},
    ".ico": {"sizes": [(16, 16)]},
}
"""How formats keep what they are given."""


def written(path: Path, content: bytes | Image.Image, **options: object) -> Path:
    """A file of this content, or of an image without loss."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content.save(path, **{**SAVED.get(path.suffix, {}), **options})
    return path


def write_classes(root: Path, files: dict[str, bytes | Image.Image]) -> None:
    """Files by their path below `root`: contents, or images to be saved as their ending says."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        written(root / name, content)


def plain(count: int, seed: int = 0, side: int = 16) -> Iterator[Image.Image]:
    random = np.random.default_rng(seed)
    for _ in range(count):
        yield Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8))


def photographs(count: int, side: int = 80, seed: int = 0) -> list[Image.Image]:
    """Squares of two real photographs, by turns, which scikit-learn brings."""
    random, whole = np.random.default_rng(seed), load_sample_images().images
    cut = []
    for number in range(count):
        pixels = whole[number % len(whole)]
        top, left = (random.integers(0, end - side) for end in pixels.shape[:2])
        cut.append(Image.fromarray(pixels[top : top + side, left : left + side]))
    return cut
