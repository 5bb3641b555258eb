"""People's own images: which are asked for, and what is said of the folder."""

import errno
import os
from pathlib import Path
from unittest.mock import Mock

import pytest
from PIL import Image, PngImagePlugin

from tests.support.loading import refused
from tests.support.people import People
from tests.support.pictures import plain, write_classes
from tod.config.schema import Images
from tod.data import of_files, own_images

CONFIG = Images(size=8)


@pytest.fixture
def root(tmp_path) -> Path:
    files = [f"unlabeled/{number}.png" for number in range(4)]
    files += ["train/cat/4.png", "train/dog/5.png", "test/cat/6.png", "test/dog/7.png"]
    write_classes(tmp_path, dict(zip(files, plain(8), strict=True)))
    return tmp_path


def copy_with_a_comment(root: Path, source: str, name: str) -> None:
    """The same pixels in another file."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "a copy")
    with Image.open(root / source) as image:
        image.save(root / name, pnginfo=text)


def test_a_copy_of_a_test_picture_with_other_metadata_is_neither_asked_for_nor_trained_on(
    root, warnings
):
    before = own_images.read(own_images.find(root), CONFIG)
    assert not warnings.messages
    copy_with_a_comment(root, "test/cat/6.png", "unlabeled/a.png")
    copy_with_a_comment(root, "test/dog/7.png", "train/dog/b.png")
    found = own_images.find(root)
    read = own_images.read(found, CONFIG)
    assert read.digests == before.digests
    assert sorted(read.images.names) == sorted(before.images.names)
    copies = {found.files[digest] for digest in found.files.keys() - {*read.digests}}
    assert copies == {"unlabeled/a.png", "train/dog/b.png"}
    assert read.test.names == before.test.names
    (message,) = warnings.messages
    assert "pixel for pixel" in message and "(2 in all)" in message


def test_classes_in_a_file_that_look_alike_are_told(root, warnings):
    (root / "classes.txt").write_text("cat\ndog\nCat\n")
    own_images.find(root)
    words = "'cat' and 'Cat' look alike, but are 2 classes (1 such in all)"
    assert [words in message for message in warnings.messages] == [True]


def test_photographs_of_an_iphone_are_named_with_what_to_do(root, warnings):
    for name in ("IMG_1.HEIC", "notes.txt"):
        (root / "unlabeled" / name).write_bytes(b"no picture")
    own_images.find(root)
    begins = f"{root / 'unlabeled'}: {{}} is left out (1 such in all): {{}}"
    convert = "this format is not read; convert them to JPEG or PNG"
    told = [("IMG_1.HEIC", convert), ("notes.txt", "they have no image's ending")]
    assert warnings.messages == [begins.format(*each) for each in told]


@pytest.mark.parametrize(("where", "reads"), [(of_files, "sha256"), (os, "scandir")])
def test_too_many_open_files_are_no_fault_of_the_folders(root, monkeypatch, where, reads):
    too_many = OSError(errno.EMFILE, "Too many open files")
    monkeypatch.setattr(where, reads, Mock(side_effect=too_many))
    line = refused(own_images.find, root)
    assert "cannot be read now (Too many open files)" in line
    assert "remove" not in line


def test_people_are_not_asked_for_a_copy_of_a_test_picture(tmp_path, capsys):
    people = People(tmp_path, count=9)
    people.add("test/cat/0.png", "test/dog/1.png")
    copy_with_a_comment(people.data, "test/cat/0.png", "unlabeled/a.png")
    copy_with_a_comment(people.data, "test/dog/1.png", "train/dog/b.png")
    people.round()
    asked = {row["file"] for row in people.batch(0)}
    assert asked == {f"unlabeled/{number:03d}.png" for number in range(9)}
    said = capsys.readouterr().out
    assert "neither asked for nor trained on (2 in all)" in said
    assert "cannot be read" not in said
