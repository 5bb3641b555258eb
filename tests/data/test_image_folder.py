"""People's own images, in a folder for each class: what is read, left out and refused."""

import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from tests.support import formats
from tests.support.decoding import shown
from tests.support.loading import load
from tests.support.pictures import plain, png, write_classes

ONE_CYCLE = ("active_learning.cycles=1", "active_learning.initial_labels=2")
"""For fewer images than the default of these tests labels."""
PNG = png(Image.new("RGB", (16, 16), "red"))


def fingerprint(root: Path, *overrides: str) -> str:
    return load("image_folder", root, *overrides).fingerprint()


def test_an_image_folder_takes_every_format_mode_and_size(tmp_path):
    formats.write_image_folder(tmp_path)
    exact = next(plain(1, side=32))
    write_classes(tmp_path, {f"train/{c}/exact.png": exact for c in formats.FOLDER_CLASSES})
    dataset = load("image_folder", tmp_path)
    class_names = sorted(formats.FOLDER_CLASSES)
    assert dataset.class_names == class_names
    kinds = sorted([*formats.IMAGE_KINDS, "exact.png"])
    assert dataset.train.names == [f"{c}/{kind}" for c in class_names for kind in kinds]
    assert dataset.train.labels.tolist() == sorted(list(range(3)) * len(kinds))
    assert len(dataset.test) == 12
    transform = v2.Compose([v2.Resize((32, 32)), v2.PILToTensor()])
    for split, images in (("train", dataset.train), ("test", dataset.test)):
        for name, pixels in zip(images.names, images.pixels, strict=True):
            with Image.open(tmp_path / split / name) as image:
                shown = image.convert("RGB")
                if "transparent" in name:
                    white = Image.new("RGBA", image.size, "white")
                    shown = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
                assert torch.equal(pixels, transform(shown)), name


HIDDEN = ("train/Banane/.hidden.png", "train/.cache/0.png")
SYSTEM = ("__MACOSX", "@eaDir", "lost+found", "System Volume Information", ".cache")
LEFT_OUT = {
    "Banane/notes.txt is left out (1 such in all)": ("train/Banane/notes.txt", *HIDDEN),
    "loose.png is left out (2 such in all)": ("train/loose.png", "train/Banane/more/deep.png"),
    "IMG_1.HEIC is left out (2 such in all): this format is not read; convert them to JPEG": [
        f"train/Banane/{name}" for name in ("IMG_1.HEIC", "IMG_2.heif")
    ],
    "is left out (4 such in all)": [  # which Pillow knows
        f"train/Banane/{name}" for name in ("labels.h5", "clip.mpg", "drawing.eps", "report.pdf")
    ],
    "": [f"{split}/{name}/0.png" for name in SYSTEM for split in ("train", "test")],
}


@pytest.mark.parametrize(("words", "files"), LEFT_OUT.items())
def test_what_is_no_picture_of_a_class_is_left_out_with_a_warning(root, warnings, words, files):
    whole = load("image_folder", root)
    write_classes(root, dict.fromkeys(files, PNG))
    dataset = load("image_folder", root)
    assert dataset.fingerprint() == whole.fingerprint()
    assert dataset.class_names == whole.class_names
    assert words in warnings.text
    assert bool(warnings.text) == bool(words)


def test_what_is_neither_a_file_nor_a_folder_is_left_out(root, warnings):
    os.mkfifo(root / "train" / "Banane" / "pipe.png")
    assert len(load("image_folder", root).train) == 12
    assert "pipe.png is left out (1 such in all)" in warnings.text


@pytest.mark.parametrize(
    ("without", "labels", "words"),
    [
        (["Banane"], [1, 2], "test/Banane: holds no image (1 such in all)"),
        (["Banane", "größe"], [1], "test: all images are of one class"),
    ],
)
@pytest.mark.parametrize("empty", [False, True])
def test_a_test_set_that_lacks_classes_is_used_with_a_warning(
    root, warnings, without, labels, words, empty
):
    for name in without:
        shutil.rmtree(root / "test" / name)
        if empty:
            (root / "test" / name).mkdir()
    assert load("image_folder", root).test.labels.tolist() == labels
    assert f"{root}/{words}" in warnings.text


def test_links_to_folders_and_images_are_followed(root):
    expected = fingerprint(root)
    for place in ("train/Banane", "test/größe/4.png"):
        moved = root / Path(place).name
        shutil.move(root / place, moved)
        (root / place).symlink_to(moved)
    assert fingerprint(root) == expected


def test_folders_whose_names_look_the_same_are_one_class(root):
    nfc, nfd = (unicodedata.normalize(form, "größe") for form in ("NFC", "NFD"))
    assert nfc != nfd
    whole = load("image_folder", root)
    (root / "test" / nfc).rename(root / "test" / nfd)
    (root / "train" / nfd).mkdir()
    (root / "train" / nfc / "1.png").rename(root / "train" / nfd / "1.png")
    dataset = load("image_folder", root)
    assert dataset.class_names == whole.class_names
    assert f"{nfd}/1.png" in dataset.train.names
    for found, expected in ((dataset.train, whole.train), (dataset.test, whole.test)):
        assert torch.equal(found.labels, expected.labels)


ALIKE = ["Apple", "apple", "apple ", "pear", "plum", "ｐear"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (ALIKE, "'Apple' and 'apple' and 'apple ' look alike, but are 3 classes (2 such"),
        (["0", "1", "2", "9", "10", "11", "100"], ""),  # in the order of numbers
        (["10", "9", "x"], ""),
        (["a", os.fsdecode(b"caf\xe9")], ""),
    ],
)
def test_classes_have_their_order_and_those_that_look_alike_are_told(
    tmp_path, warnings, names, words
):
    places = [f"{split}/{name}/{name}.png" for split in ("train", "test") for name in names]
    write_classes(tmp_path, dict(zip(places, plain(len(places)), strict=True)))
    dataset = load("image_folder", tmp_path, *ONE_CYCLE)
    assert dataset.class_names == names
    assert dataset.train.names == [f"{name}/{name}.png" for name in names]
    assert [words in message for message in warnings.messages] == [True] * bool(words)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            [
                *("train/a/0.png", "train/a/c0.png", "train/a/2.png", "train/b/1.png"),
                *("test/a/x0.bmp", "test/a/y2.bmp"),
            ],
            ["2 test images are training images too, as test/a/x0.bmp is train/a/0.png"],
        ),
        (
            ["train/a/0.png", "train/b/0.png", "train/b/1.png", "test/a/2.png"],
            ["1 pictures are there under two classes, as train/a/0.png and train/b/0.png"],
        ),
        (["train/a/0.png", "train/b/1.png", "test/a/2.png"], []),
    ],
)
def test_pictures_that_are_there_twice_are_told(tmp_path, warnings, files, said):
    images = [*plain(4)]
    # Number 0 and 1 have all but one pixel in common.
    images[1] = images[0].copy()
    images[1].putpixel((0, 0), (0, 0, 0))
    write_classes(tmp_path, {file: images[int(file[-5])] for file in [*files, "test/b/3.png"]})
    load("image_folder", tmp_path, "images.size=16", *ONE_CYCLE)
    assert [message.partition(": ")[2] or message for message in warnings.messages] == said


@pytest.mark.parametrize("name", ["val", "valid"])
def test_a_validation_folder_stands_in_for_the_test_folder(root, caplog, name):
    caplog.set_level("INFO", "tod")
    whole = fingerprint(root)
    (root / "test").rename(root / name)
    assert fingerprint(root) == whole
    assert f"{root / name}: stands in for the folder test" in caplog.text


@pytest.mark.parametrize(("share", "held_out"), [(0.2, 1), (0.6, 2), (0.7, 3), (0.9, 3)])
def test_a_share_of_each_class_is_held_out_by_seed(root, share, held_out):
    shutil.rmtree(root / "test")
    override = f"images.test_share={share}"
    dataset = load("image_folder", root, *ONE_CYCLE, override)
    for images, count in ((dataset.train, 4 - held_out), (dataset.test, held_out)):
        assert images.labels.bincount().tolist() == [count] * 3
        for name, pixels, label in zip(images.names, images.pixels, images.labels, strict=True):
            assert dataset.class_names[label] == Path(name).parent.name
            content = shown(root / "train" / name, 32)
            np.testing.assert_array_equal(pixels.permute(1, 2, 0), content)
    assert len({*dataset.train.names, *dataset.test.names}) == 12
    others = [load("image_folder", root, *ONE_CYCLE, override, seed=seed) for seed in range(5)]
    assert others[0].fingerprint() == dataset.fingerprint()
    assert {dataset.fingerprint()} < {other.fingerprint() for other in others}


def test_a_share_that_is_not_used_is_told(root, warnings):
    whole = fingerprint(root)
    assert fingerprint(root, "images.test_share=0.5") == whole
    assert f"{root / 'test'}: is the test set; images.test_share is not used" in warnings.text
