"""Decoded pictures are kept beside their files: what is decoded again."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.decoding import STORE, WHITE, decode, kept, load, names, no_locks
from tests.support.pictures import write_classes
from tod.config.schema import Images
from tod.data import picture
from tod.data.of_files import file_key, of_files
from tod.data.store import Store


def test_images_are_decoded_once_and_then_need_no_lock(folder, decoded, caplog):
    first = load(folder)
    assert first.shape == (6, 3, 8, 8)
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert kept(folder) == [STORE]
    no_locks(folder)
    assert torch.equal(first, load(folder))
    assert sorted(decoded) == names(folder)
    assert not caplog.text


CHANGES = {
    "pixels": (WHITE.save, ["3.png"]),
    "time": (lambda path: os.utime(path, ns=(1, 1)), ["3.png"]),
    "name": (lambda path: path.rename(path.with_name("9.png")), ["9.png"]),
    "another file": (lambda path: shutil.copy(path, path.with_name("33.png")), ["33.png"]),
    "one less": (Path.unlink, []),
}


@pytest.mark.parametrize(("change", "again"), CHANGES.values(), ids=CHANGES)
def test_only_what_has_changed_is_decoded_again(folder, decoded, change, again):
    load(folder)
    decoded.clear()
    change(folder / "3.png")
    load(folder)
    assert decoded == again
    assert kept(folder) == [STORE]


def test_what_is_stale_stays_until_it_is_more_than_the_rest(folder, decoded):
    load(folder)
    path = folder / STORE
    inode, size = path.stat().st_ino, path.stat().st_size
    for again in range(2, 4):
        for name in names(folder)[:5]:
            WHITE.save(folder / name)
        load(folder)
        assert len(decoded) == 6 + 5 * (again - 1)
        is_begun_anew = again == 3
        assert (path.stat().st_ino != inode) == is_begun_anew
        assert (path.stat().st_size > size) != is_begun_anew


def test_a_store_keeps_rows_of_any_type(folder):
    asked = []

    def make(path):
        asked.append(path.name)
        return np.float32([len(asked), 0.5]).tobytes(), path.name == "1.png"

    for files in (["0.png", "1.png"], ["2.png", "1.png", "0.png"]):
        keys = [file_key(folder, file, "reader") for file in files]
        store = Store(folder / "f", keys, np.dtype((np.float32, 2)))
        kept, problems, why = store.load(of_files(folder, files, make))
        assert not problems and why is None
    assert sorted(asked) == ["0.png", "1.png", "2.png"] and asked[2] == "2.png"
    assert kept.values[kept.rows][0].tolist() == [3, 0.5]
    assert kept.flagged == [1]


def test_files_of_one_size_and_time_that_change_places_are_decoded_again(tmp_path):
    files = ["a/0.bmp", "b/0.bmp"]
    for name, colour in zip(files, ("red", "blue"), strict=True):
        write_classes(tmp_path, {name: Image.new("RGB", (8, 8), colour)})
        os.utime(tmp_path / name, ns=(1, 1))
    before = load(tmp_path, files).clone()
    for source, target in ("ac", "ba", "cb"):
        (tmp_path / source).rename(tmp_path / target)
    assert torch.equal(load(tmp_path, files), before.flip(0))


def test_other_versions_decode_again_and_other_sizes_are_kept_beside(folder, decoded, monkeypatch):
    before = load(folder)
    monkeypatch.setattr(picture, "VERSION", "another")
    assert torch.equal(load(folder), before)
    smaller = load(folder, config=Images(size=6, resize=12))
    assert torch.equal(smaller, before[:, :, 1:7, 1:7])
    assert kept(folder) == [".decoded_12_6", STORE]
    assert len(decoded) == 18


def test_what_is_mapped_stays_when_the_images_change(folder):
    before = load(folder)
    copy = before.clone()
    for name in names(folder):
        WHITE.save(folder / name)
    assert (load(folder) == 255).all()
    assert torch.equal(before, copy)


def test_what_was_kept_and_is_damaged_is_decoded_again(folder, decoded):
    load(folder)
    whole = (folder / STORE).read_bytes()
    for number, content in enumerate((whole[:-1], b"", bytes(1000)), start=2):
        (folder / STORE).write_bytes(content)
        for _ in range(2):
            load(folder)
            assert len(decoded) == 6 * number


def test_what_an_earlier_version_kept_goes_and_is_not_believed(folder, decoded):
    reader = f"{picture.VERSION}\0{picture.as_shown.__name__}"
    keys = [file_key(folder, name, reader) for name in names(folder)]
    files = [STORE, f"{STORE}.before", f"{STORE}.partial.keys", f"{STORE}_0123456789abcdef.npy"]
    write_classes(folder, dict.fromkeys(files, bytes(6 * 192) + b"\0".join(keys)))
    load(folder)
    assert sorted(decoded) == names(folder)
    assert kept(folder) == [STORE]


def test_all_that_cannot_be_read_is_told_and_what_was_decoded_is_kept(folder, decoded):
    files = names(folder)
    decoded.errors["2.png"] = OSError(errno.EIO, "for a moment")
    assert decode(folder)[1] == {"2.png": "for a moment"}
    decoded.errors.clear()
    load(folder)
    for name in ("1.png", "4.png"):
        (folder / name).write_bytes(b"no image")
    (folder / "3.png").unlink()  # after it was listed
    for _ in range(2):
        decoded.clear()
        _, problems = decode(folder, files)
        assert problems.pop("3.png") == "No such file or directory"
        assert sorted(problems) == ["1.png", "4.png"]
        assert all("no picture of a known kind" in why for why in problems.values())
        assert sorted(decoded) == ["1.png", "3.png", "4.png"]
    decoded.clear()
    WHITE.save(folder / "1.png")
    for _ in range(2):
        assert sorted(decode(folder, files)[1]) == ["3.png", "4.png"]
    assert sorted(decoded) == sorted(["1.png", *2 * ["3.png", "4.png"]])
