"""Files that another program holds, as a spreadsheet on Windows or a network disk does."""

import time
from pathlib import Path

import pytest

from tod.config import InputError
from tod.files import atomic_folder, write_atomically


@pytest.fixture
def hold(monkeypatch):
    """Makes the file, or the folder, of this name refuse to be replaced for so many seconds."""

    def held(name: str, seconds: float) -> None:
        replace, until = Path.replace, time.monotonic() + seconds

        def replace_what_is_free(source: Path, target: Path) -> Path:
            if Path(target).name == name and time.monotonic() < until:
                raise PermissionError(13, "Permission denied")
            return replace(source, target)

        monkeypatch.setattr(Path, "replace", replace_what_is_free)

    return held


def test_a_file_held_for_a_second_is_waited_for(tmp_path, hold):
    path = tmp_path / "results.csv"
    path.write_text("old")
    hold("results.csv", 1.0)
    write_atomically(path, "new")
    assert path.read_text() == "new"


def test_a_folder_held_for_a_moment_is_waited_for(tmp_path, hold):
    hold("batch0", 0.2)
    with atomic_folder(tmp_path / "batch0") as folder:
        (folder / "batch.csv").write_text("new")
    assert (tmp_path / "batch0" / "batch.csv").read_text() == "new"


def test_a_file_held_for_longer_is_refused_and_stays_as_it_was(tmp_path, hold):
    path = tmp_path / "results.csv"
    path.write_text("old")
    hold("results.csv", 600)
    began = time.monotonic()
    with pytest.raises(InputError, match=r"results\.csv: cannot be written \(Permission denied\)"):
        write_atomically(path, "new")
    assert 1.5 < time.monotonic() - began < 20
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]
