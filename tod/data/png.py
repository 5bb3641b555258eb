"""PNG files without what keeps Pillow from reading their pixels."""

import zlib
from contextlib import suppress

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
LARGEST_PROFILE = 2**26


def without_metadata(content: bytes) -> tuple[bytes, bytes | None]:
    """A PNG file with its pixels and its orientation alone, and the profile that it had.

    Pillow refuses a picture for large or damaged texts and profiles.

    Args:
        content: what follows the file's signature.
    """
    kept, profile, place = [SIGNATURE], None, 0
    while place < len(content):
        length, kind = (
            int.from_bytes(content[place : place + 4], "big"),
            content[place + 4 : place + 8],
        )
        end = place + 12 + length
        checked, checksum = content[place + 4 : end - 4], content[end - 4 : end]
        is_sound = zlib.crc32(checked) == int.from_bytes(checksum, "big")
        if kind in PIXELS or (kind == b"eXIf" and is_sound):
            kept.append(content[place:end])
        elif kind == b"iCCP" and is_sound:
            _, _, compressed = checked[4:].partition(b"\0")
            with suppress(zlib.error):
                profile = zlib.decompressobj().decompress(compressed[1:], LARGEST_PROFILE)
        place = end
    return b"".join(kept), profile
