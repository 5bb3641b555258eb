"""Names in letters that matplotlib's font does not have."""

import io
from pathlib import Path

import numpy as np
import pytest
from fontTools.ttLib import TTFont
from PIL import Image

from tests.support.harness import write_run
from tod.analysis import contact_sheet, figures, fonts
from tod.analysis.results import read_runs

CAT = "猫"


def write_font(path: Path, letter: str) -> None:
    """A font that has this letter alone, as a full block."""
    font = TTFont(fonts.own_font())
    block = font.getBestCmap()[ord("█")]
    font["cmap"].tables = [table for table in font["cmap"].tables if table.isUnicode()]
    for table in font["cmap"].tables:
        table.cmap = {ord(letter): block}
    for record in font["name"].names:
        record.string = "Blocks"
    font.save(path)


@pytest.fixture(params=[True, False])
def has_font(request, tmp_path, monkeypatch) -> bool:
    """Whether the system has a font with the letter."""
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    files = ["broken.ttf"]
    if request.param:
        write_font(tmp_path / "blocks.ttf", CAT)
        files.append("blocks.ttf")
    monkeypatch.setattr(fonts, "system_fonts", lambda: [str(tmp_path / file) for file in files])
    for cached in (fonts.font_for, fonts._say, contact_sheet.font):
        cached.cache_clear()
    yield request.param
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
    tile = np.asarray(contact_sheet.tile(Image.new("RGB", (8, 8), "white"), CAT, "0.5"))
    name = tile[contact_sheet.TILE : contact_sheet.TILE + contact_sheet.LINE, :12]
    # Its block is black all over.
    assert (name == 0).mean() > 0.25


def test_a_figure_draws_each_name_with_a_font_that_has_it(has_font, tmp_path, recwarn):
    run = write_run(tmp_path, [[1, 2, 3]]).rename(tmp_path / CAT)
    figure = figures.learning_curves(read_runs([run]))
    with Image.open(io.BytesIO(figures.rendered(figure))) as picture:
        picture.load()
    (text,) = figure.axes[0].get_legend().get_texts()
    assert text.get_text() == (CAT if has_font else "run 0")
    assert not [warning for warning in recwarn if "missing from" in str(warning.message)]
