"""Image files as pixels: what is read, what is told, and how much memory it takes."""

import shutil
import subprocess
import sys
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image
from tqdm import tqdm

from tests.support.decoding import CONFIG, load, load_folders, names, no_locks
from tests.support.memory import most_private_bytes
from tests.support.pictures import plain, write_classes
from tod.config import PROJECT_DIR
from tod.config.schema import Images
from tod.data import Dataset, decoding, statistics, store


def test_no_file_is_no_image(tmp_path):
    assert load(tmp_path).shape == (0, 3, 8, 8)


def test_pillows_warnings_which_name_no_file_are_not_shown(folder):
    Image.new("P", (9, 9)).save(folder / "a.png", transparency=b"\0\1")
    code = "from tod.data import picture; from pathlib import Path; picture.rgb(Path({!r}), 9, {})"
    command = [sys.executable, "-c", code.format(str(folder / "a.png"), "picture.as_published")]
    assert not subprocess.run(command, check=True, capture_output=True, cwd=PROJECT_DIR).stderr


def test_pictures_that_keep_few_grey_levels_are_told_once_a_run_also_when_they_are_kept(
    tmp_path, caplog
):
    dim = np.arange(256, dtype=np.uint16).reshape(16, 16)
    for name, values in {"a": 257 * dim, "b": dim, "c": 20 * dim, "d": 40 * dim}.items():
        write_classes(tmp_path, {f"{name}/0.png": Image.fromarray(values)})
    words = (
        f"{tmp_path / 'b' / '0.png'}: fewer than 32 of its grey levels are left in 8 bits "
        "(2 such in all); stretch them beforehand, all by one factor"
    )

    def said(*listings: tuple[str, list[str]]) -> list[str]:
        caplog.clear()
        load_folders([(tmp_path / name, files) for name, files in listings])
        return caplog.messages

    for _ in range(2):
        assert said(*[(name, ["0.png"]) for name in "abcd"]) == [words]
    # A longer list takes over what is kept.
    longer = ["0.png", "1.png", "2.png", "3.png"]
    for name in longer[1:]:
        shutil.copy(tmp_path / "a" / "0.png", tmp_path / "b" / name)
    assert said(("b", longer)) == [words.replace("2 such", "1 such")]
    no_locks(tmp_path / "c")  # where all is decoded each time
    (tmp_path / "c" / ".decoded_12_8").unlink()
    assert said(("c", ["0.png"]))[1:] == [words.replace("2 such", "1 such").replace("b/0", "c/0")]
    caplog.clear()
    list(decoding.decoded_once(tmp_path, [f"{name}/0.png" for name in "abcd"], CONFIG, 1))
    assert caplog.messages == [words]


@pytest.mark.parametrize("quiet", [False, True])
def test_decoding_shows_a_bar_unless_quiet(folder, monkeypatch, caplog, quiet):
    bar = Mock(return_value=tqdm(disable=True))
    monkeypatch.setattr(store, "tqdm", bar)
    caplog.set_level("WARNING" if quiet else "INFO", "tod.progress")
    load(folder)
    (shown,) = bar.call_args_list
    assert shown.kwargs["disable"] is (True if quiet else None)


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    images = enumerate(plain(1000, side=8))
    write_classes(tmp_path, {f"{number:03d}.png": image for number, image in images})

    def most_for(count: int) -> int:
        files = names(tmp_path)[:count]
        with most_private_bytes() as most:
            ((images,), _) = load_folders([(tmp_path, files)], Images(size=224))
            statistics(images)
            Dataset(images, images, [], None, None).fingerprint()
        return most[0]

    # 200 images are 30 MB, and 1,000 are 150 MB.
    assert most_for(200) + 60e6 > most_for(1000)
