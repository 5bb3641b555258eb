"""People's own images: which are asked for, and what is said of the folder."""

import errno
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from tests.support.people import People
from tests.support.pictures import plain, write_classes
from tod.config import InputError
from tod.data import own_images
from tod.schema import Images

CONFIG = Images(size=8)


@pytest.fixture
def root(tmp_path) -> Path:
    images = plain(8)
    files = [f"unlabeled/{number}.png" for number in range(4)]
    files += ["train/cat/4.png", "train/dog/5.png", "test/cat/6.png", "test/dog/7.png"]
    write_classes(tmp_path, {file: next(images) for file in files})
    return tmp_path


def with_a_comment(source: Path, path: Path) -> None:
    """The same pixels in another file."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "a copy")
    with Image.open(source) as image:
        image.save(path, pnginfo=text)


def test_a_copy_of_a_test_picture_with_other_metadata_is_neither_asked_for_nor_trained_on(
    root, warnings
):
    before = own_images.read(own_images.find(root), CONFIG)
    assert not warnings.messages
    with_a_comment(root / "test" / "cat" / "6.png", root / "unlabeled" / "a.png")
    with_a_comment(root / "test" / "dog" / "7.png", root / "train" / "dog" / "b.png")
    found = own_images.find(root)
    read = own_images.read(found, CONFIG)
    assert read.digests == before.digests
    assert sorted(read.images.names) == sorted(before.images.names)
    assert {found.files[digest] for digest in read.tested} == {
        "unlabeled/a.png",
        "train/dog/b.png",
    }
    assert read.test.names == before.test.names
    (message,) = warnings.messages
    assert "pixel for pixel" in message
    assert "(2 in all)" in message


def test_ranks_that_see_an_image_more_see_other_rows(root):
    found = own_images.find(root)
    alone = own_images.fingerprint_of_rows(found, own_images.read(found, CONFIG))
    with_a_comment(root / "test" / "cat" / "6.png", root / "train" / "cat" / "0.png")
    found = own_images.find(root)
    assert own_images.fingerprint_of_rows(found, own_images.read(found, CONFIG)) != alone


def test_classes_in_a_file_that_look_alike_are_told(root, warnings):
    (root / "classes.txt").write_text("cat\ndog\nCat\n")
    own_images.find(root)
    words = "'cat' and 'Cat' look alike, but are 2 classes (1 such in all)"
    assert [words in message for message in warnings.messages] == [True]


def test_photographs_of_an_iphone_are_named_with_what_to_do(root, warnings):
    for name in ("IMG_1.HEIC", "IMG_2.heif", "notes.txt"):
        (root / "unlabeled" / name).write_bytes(b"no picture")
    own_images.find(root)
    assert warnings.messages == [
        f"{root / 'unlabeled'}: IMG_1.HEIC is left out (2 such in all): this format is not read; "
        "convert them to JPEG or PNG",
        f"{root / 'unlabeled'}: notes.txt is left out (1 such in all): they have no image's ending",
    ]


@pytest.mark.parametrize("place", ["an image", "a folder"])
def test_too_many_open_files_are_no_fault_of_the_folders(root, monkeypatch, place):
    def too_many(*arguments: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    if place == "an image":
        monkeypatch.setattr(own_images, "sha256", too_many)
    else:
        monkeypatch.setattr(Path, "iterdir", too_many)
    with pytest.raises(InputError) as caught:
        own_images.find(root)
    assert "cannot be read now (Too many open files)" in str(caught.value)
    assert "remove" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_people_are_not_asked_for_a_copy_of_a_test_picture(tmp_path, capsys):
    people = People(tmp_path, count=9)
    people.add("test/cat/0.png", "test/dog/1.png")
    with_a_comment(people.data / "test" / "cat" / "0.png", people.data / "unlabeled" / "a.png")
    with_a_comment(people.data / "test" / "dog" / "1.png", people.data / "train" / "dog" / "b.png")
    people.round()
    asked = {row["file"] for row in people.batch(0)}
    assert asked == {f"unlabeled/{number:03d}.png" for number in range(9)}
    said = capsys.readouterr().out
    assert "neither asked for nor trained on (2 in all)" in said
    assert "cannot be read" not in said
