"""Names in letters that matplotlib's font does not have."""

import io
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image

from tests.support.harness import write_run
from tod.analysis import contact_sheet, figures, fonts
from tod.analysis.results import read_runs

CAT = "猫"


def write_font(path: Path, letters: str) -> None:
    """A font whose every letter is a full square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    square = pen.glyph()
    names = {ord(letter): f"uni{ord(letter):04X}" for letter in letters}
    glyphs = [".notdef", *names.values()]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(glyphs)
    builder.setupCharacterMap(names)
    builder.setupGlyf(dict.fromkeys(glyphs, square))
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)


@pytest.fixture(params=["a font", "no font"])
def has_font(request, tmp_path, monkeypatch) -> bool:
    """Whether the system has a font with the letter."""
    found = []
    if request.param == "a font":
        found = [str(tmp_path / "squares.ttf")]
        write_font(Path(found[0]), CAT)
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    monkeypatch.setattr(fonts, "system_fonts", lambda: [str(broken), *found])
    for cached in (fonts.font_for, fonts._say, contact_sheet.font):
        cached.cache_clear()
    yield bool(found)
    for cached in (fonts.font_for, fonts._say, contact_sheet.font):
        cached.cache_clear()


def test_a_class_is_called_by_its_name_or_else_by_its_number(has_font, caplog):
    for _ in range(2):
        shown = fonts.drawable(["dog", CAT, "größe"], "class")
        assert shown == ["dog", CAT if has_font else "class 1", "größe"]
    assert caplog.text.count(f"no font of this system has the letters of {CAT}") == (not has_font)


def test_a_contact_sheet_shows_the_letter_itself(has_font):
    if not has_font:
        assert fonts.font_for(CAT) is None
        return
    tile = np.asarray(contact_sheet.tile(np.full((3, 8, 8), 255, np.uint8), CAT, 0.5))
    name = tile[contact_sheet.TILE : contact_sheet.TILE + contact_sheet.LINE, :12]
    # Its square is black all over.
    assert (name == 0).mean() > 0.25


def test_a_figure_draws_each_name_with_a_font_that_has_it(has_font, tmp_path, recwarn):
    run = write_run(tmp_path, [[1, 2, 3]]).rename(tmp_path / CAT)
    figure = figures.learning_curves(read_runs([run]))
    with Image.open(io.BytesIO(figures.rendered(figure))) as picture:
        picture.load()
    (text,) = figure.axes[0].get_legend().get_texts()
    assert text.get_text() == (CAT if has_font else "run 0")
    assert not [warning for warning in recwarn if "missing from" in str(warning.message)]
