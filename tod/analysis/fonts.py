"""Fonts that have the letters of a name: matplotlib's, or one of the system."""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger("tod")


def own_font() -> str:
    """The file of matplotlib's font, which unlike Pillow's has more than English letters."""
    import matplotlib

    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))


@functools.cache
def font_for(text: str) -> str | None:
    """The file of a font that has all letters of a text; None if there is none."""
    letters = {ord(letter) for letter in text if letter.isprintable() and not letter.isspace()}
    if letters <= _letters(own_font()):
        return own_font()
    return next((path for path in system_fonts() if letters <= _letters(path)), None)


@functools.cache
def system_fonts() -> Sequence[str]:
    """The files of the system's fonts."""
    from matplotlib import font_manager

    return sorted(font_manager.findSystemFonts())


@functools.cache
def _letters(path: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    # A system may have fonts in formats that FreeType cannot read.
    except Exception:
        return frozenset()


def families(texts: Sequence[str]) -> list[str]:
    """Matplotlib's names of the fonts for these texts; it looks for each letter in all of them."""
    return [*map(_family, dict.fromkeys([own_font(), *filter(None, map(font_for, texts))]))]


@functools.cache
def _family(path: str) -> str:
    from matplotlib import font_manager

    font_manager.fontManager.addfont(path)
    return font_manager.FontProperties(fname=path).get_name()


def drawable(names: Sequence[str], called: str) -> list[str]:
    """The names, with a number in place of each name that no font can show; warns once of these.

    `called` says what is named: a class, or a run.
    """
    if missing := [name for name in names if font_for(name) is None]:
        _say(missing[0], len(missing), called)
    return [name if font_for(name) else f"{called} {i}" for i, name in enumerate(names)]


@functools.cache
def _say(first: str, count: int, called: str) -> None:
    log.warning(
        f"no font of this system has the letters of {first} ({count} such in all): "
        f"pictures show the number of the {called} instead"
    )
