"""Folders of people's images that are refused: all that is wrong is named, in as few words."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.support.formats import write_small_folder
from tests.support.loading import load, refusal
from tests.support.pictures import write_classes

SKIP = "images.unreadable=skip"


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
NO_PICTURE = "it is no picture"


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", ""), (b"no image", NO_PICTURE), (b"\x89PNG\r\n\x1a\n", ""), (POSTSCRIPT, NO_PICTURE)],
)
def test_an_unreadable_image_is_named(root, content, why):
    write_classes(root, {"test/Banane/broken.png": content})
    message = refusal("image_folder", root)
    place = root / "test" / "Banane" / "broken.png"
    assert message.startswith(f"{place}: cannot be read as an image ({why}")
    assert message.endswith("; mend or remove it, or go on without it by images.unreadable=skip")


def test_all_unreadable_images_of_both_sets_are_told_at_once_and_the_first_ten_named(root):
    files = [f"train/Banane/broken{number:02d}.png" for number in range(11)]
    write_classes(root, dict.fromkeys([*files, "test/größe/broken.png"], b"no image"))
    *named, last = refusal("image_folder", root, lines=11).splitlines()
    assert [line.split(": ")[0] for line in named] == [f"{root}/{file}" for file in files[:10]]
    assert last == "12 problems in all"


def test_unreadable_images_are_left_out_where_that_is_asked_for(root, warnings):
    whole = load("image_folder", root)
    files = ["train/Banane/broken.png", "test/größe/broken.jpg"]
    write_classes(root, dict.fromkeys(files, b"no image"))
    dataset = load("image_folder", root, SKIP)
    assert dataset.fingerprint() == whole.fingerprint()
    assert dataset.train.names == whole.train.names
    assert [file for file, _ in dataset.unreadable] == files
    assert all("it is no picture" in why for _, why in dataset.unreadable)
    assert "the run goes on without it (2 such in all)" in warnings.text
    assert not whole.unreadable


REFUSED = {
    "train: is missing": lambda root: (root / "train").rename(root / "elsewhere"),
    "test: is missing": lambda root: (root / "test").rename(root / "elsewhere"),
    "train/kiwi: holds no image": lambda root: (root / "train/kiwi").mkdir(),
    "train/lime: holds no image": lambda root: write_classes(root, {"train/lime/0.png": b"none"}),
    "test/kiwi: is no class of train; add it there": lambda root: (root / "test/kiwi").mkdir(),
    ": the test set holds no image": lambda root: [path.unlink() for path in root.glob("test/*/*")],
    "train: names 1 classes": lambda root: [*map(shutil.rmtree, root.glob("*/[!B]*"))],
}


@pytest.mark.parametrize(("words", "change"), REFUSED.items(), ids=REFUSED)
def test_a_folder_that_is_no_classification_is_refused(root, words, change):
    change(root)
    message = refusal("image_folder", root, SKIP)
    assert message.startswith(f"{root}{words}" if words.startswith(":") else f"{root}/{words}")
    assert ("--set images.test_share=0.2" in message) == ("is missing" in words)


def test_all_that_is_wrong_is_told_at_once(root):
    lost = ["train/kiwi", "train/Banane/0.gif", "test/Banane/0.png"]
    for name in lost:
        (root / name).symlink_to(root / "nowhere")
    empty = ["train/lime", "train/plum", "test/pear"]
    for name in empty:
        (root / name).mkdir()
    broken = "test/größe/broken.png"
    write_classes(root, {broken: b"no image"})
    *lines, last = refusal("image_folder", root, lines=8).splitlines()
    wrong = {f"{root / name}" for name in [*lost, *empty, broken]}
    assert {line.split(": ")[0] for line in lines} == wrong
    assert f"{root / lost[0]}: is a link to nothing; mend or remove it" in lines
    assert last == "7 problems in all"


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("nowhere"), Path.touch])
@pytest.mark.parametrize("former", ["elsewhere", "val"])
@pytest.mark.parametrize("options", [[], ["images.test_share=0.3"]])
def test_a_test_folder_that_is_none_is_refused_by_name(root, make, former, options):
    (root / "test").rename(root / former)
    make(root / "test")
    message = refusal("image_folder", root, *options)
    assert message.startswith(f"{root / 'test'}: is no folder; mend or remove it")


@pytest.mark.parametrize("mode", [0o000, 0o444])
@pytest.mark.parametrize("place", ["train", "train/Banane", "test/Banane"])
def test_a_folder_that_cannot_be_entered_is_refused_by_name(place, mode):
    with tempfile.TemporaryDirectory() as name:  # which others than root can enter, too
        root = Path(name)
        root.chmod(0o755)
        write_small_folder(root)
        (root / place).chmod(mode)
        user = os.geteuid()
        try:
            if user == 0:  # whom nothing stops
                os.seteuid(65534)
            message = refusal("image_folder", root, lines=0)
        finally:
            os.seteuid(user)
            (root / place).chmod(0o755)
    assert f"{root / place}: cannot be entered (Permission denied)" in message
