"""People's own images, in a folder for each class: what is read, left out and refused."""

import errno
import os
import shutil
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from tests.support import formats
from tests.support.loading import load, refusal
from tests.support.pictures import plain, write_classes
from tod.config import InputError
from tod.data import listing, picture

ONE_CYCLE = ("active_learning.cycles=1", "active_learning.initial_labels=2")
"""For fewer images than the default of these tests labels."""


def test_an_image_folder_takes_every_format_mode_and_size(tmp_path):
    formats.write_image_folder(tmp_path)
    dataset = load("image_folder", tmp_path)
    class_names = sorted(formats.FOLDER_CLASSES)
    assert dataset.class_names == class_names
    kinds = sorted(formats.IMAGE_KINDS)
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


def test_an_image_of_the_right_size_keeps_every_pixel(tmp_path):
    formats.write_image_folder(tmp_path)
    written = formats.coloured(np.zeros(1, dtype=int), 3)
    Image.fromarray(written.pixels[0]).save(tmp_path / "train" / "Banane" / "0.png")
    train = load("image_folder", tmp_path).train
    index = train.names.index("Banane/0.png")
    np.testing.assert_array_equal(train.pixels[index], written.pixels[0].transpose(2, 0, 1))


def test_a_photo_taken_sideways_is_turned_upright(tmp_path):
    formats.write_image_folder(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((32, 32, 3), dtype=np.uint8)
    pixels[:16] = 255
    Image.fromarray(pixels).save(tmp_path / "train" / "Banane" / "0.png", exif=exif)
    train = load("image_folder", tmp_path).train
    upright = train.pixels[train.names.index("Banane/0.png")]
    # Orientation 6: what was stored at the top belongs to the right.
    assert upright[:, :, 16:].min() == 255
    assert upright[:, :, :16].max() == 0


def test_other_files_and_hidden_ones_are_left_out_with_a_warning(tmp_path, warnings):
    formats.write_image_folder(tmp_path)
    count = len(load("image_folder", tmp_path).train)
    (tmp_path / "train" / "Banane" / "notes.txt").write_text("none")
    (tmp_path / "train" / "Banane" / ".hidden.png").write_text("none")
    (tmp_path / "train" / ".cache").mkdir()
    assert len(load("image_folder", tmp_path).train) == count
    assert "Banane/notes.txt is left out (1 such in all)" in warnings.text


def test_images_outside_of_a_class_and_below_it_are_left_out_with_a_warning(tmp_path, warnings):
    formats.write_image_folder(tmp_path)
    count = len(load("image_folder", tmp_path).train)
    train = tmp_path / "train"
    image = (train / "Banane" / "rgb.png").read_bytes()
    (train / "Banane" / "more").mkdir()
    for place in (train / "loose.png", train / "Banane" / "more" / "deep.png"):
        place.write_bytes(image)
    assert len(load("image_folder", tmp_path).train) == count
    assert "loose.png is left out (2 such in all)" in warnings.text


@pytest.mark.parametrize("empty", [False, True])
def test_a_class_without_test_images_is_used_with_a_warning(tmp_path, warnings, empty):
    formats.write_image_folder(tmp_path)
    shutil.rmtree(tmp_path / "test" / "Banane")
    if empty:
        (tmp_path / "test" / "Banane").mkdir()
    assert set(load("image_folder", tmp_path).test.labels.tolist()) == {1, 2}
    assert f"{tmp_path / 'test' / 'Banane'}: holds no image (1 such in all)" in warnings.text


def test_a_test_set_of_one_class_is_used_with_a_warning(tmp_path, warnings):
    formats.write_image_folder(tmp_path)
    for name in ("Banane", "größe"):
        shutil.rmtree(tmp_path / "test" / name)
    assert set(load("image_folder", tmp_path).test.labels.tolist()) == {1}
    assert f"{tmp_path / 'test'}: all images are of one class" in warnings.text


@pytest.mark.parametrize("missing", ["train", "test"])
def test_a_missing_image_folder_is_named(tmp_path, missing):
    formats.write_image_folder(tmp_path)
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    assert refusal("image_folder", tmp_path).startswith(f"{tmp_path / missing}: is missing")


def test_photographs_of_a_format_that_is_not_read_are_named_with_what_to_do(tmp_path, warnings):
    formats.write_image_folder(tmp_path)
    for name in ("IMG_1.HEIC", "IMG_2.heif"):
        (tmp_path / "train" / "Banane" / name).write_bytes(b"no picture")
    load("image_folder", tmp_path)
    words = "IMG_1.HEIC is left out (2 such in all): this format is not read; convert them to JPEG"
    assert words in warnings.text


def test_what_the_machine_lacks_leaves_no_picture_out(tmp_path, monkeypatch):
    formats.write_image_folder(tmp_path)
    decode = picture.decode

    def too_many(path: Path, **options: object) -> picture.Pixels:
        if path.name == "rgb.png":
            raise OSError(errno.EMFILE, "Too many open files")
        return decode(path, **options)

    monkeypatch.setattr(picture, "decode", too_many)
    message = refusal("image_folder", tmp_path, "images.unreadable=skip")
    assert message.startswith(f"{tmp_path / 'train' / 'Banane' / 'rgb.png'}: cannot be read now")
    assert "remove" not in message


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_an_unreadable_image_is_named(tmp_path, content):
    formats.write_image_folder(tmp_path)
    path = tmp_path / "test" / "Banane" / "broken.png"
    path.write_bytes(content)
    message = refusal("image_folder", tmp_path)
    assert message.startswith(f"{path}: cannot be read as an image (")
    assert message.endswith("; mend or remove it, or go on without it by images.unreadable=skip")


def test_all_unreadable_images_of_both_sets_are_told_at_once(tmp_path):
    formats.write_image_folder(tmp_path)
    for number in range(11):
        (tmp_path / "train" / "Banane" / f"broken{number:02d}.png").write_bytes(b"no image")
    (tmp_path / "test" / "größe" / "broken.png").write_bytes(b"no image")
    with pytest.raises(InputError) as caught:
        load("image_folder", tmp_path)
    *named, last = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in named] == [
        str(tmp_path / "train" / "Banane" / f"broken{number:02d}.png") for number in range(10)
    ]
    assert last == "12 problems in all"


def test_unreadable_images_are_left_out_where_that_is_asked_for(tmp_path, warnings):
    formats.write_image_folder(tmp_path)
    whole = load("image_folder", tmp_path)
    for place in ("train/Banane/broken.png", "test/größe/broken.jpg"):
        (tmp_path / place).write_bytes(b"no image")
    dataset = load("image_folder", tmp_path, "images.unreadable=skip")
    assert dataset.fingerprint() == whole.fingerprint()
    assert dataset.train.names == whole.train.names
    assert [file for file, _ in dataset.unreadable] == [
        "train/Banane/broken.png",
        "test/größe/broken.jpg",
    ]
    assert all("it is no picture" in why for _, why in dataset.unreadable)
    assert "the run goes on without it (2 such in all)" in warnings.text
    assert not whole.unreadable


def test_a_class_of_unreadable_images_alone_is_refused(tmp_path):
    formats.write_image_folder(tmp_path)
    write_classes(tmp_path, {"train/kiwi/0.png": b"no image"})
    message = refusal("image_folder", tmp_path, "images.unreadable=skip")
    assert message.startswith(f"{tmp_path / 'train' / 'kiwi'}: holds no image")


def test_a_test_class_without_training_images_is_named(tmp_path):
    formats.write_image_folder(tmp_path)
    (tmp_path / "test" / "kiwi").mkdir()
    message = refusal("image_folder", tmp_path)
    assert message.startswith(f"{tmp_path / 'test' / 'kiwi'}: is a class without training images")


def test_an_empty_training_class_is_named(tmp_path):
    formats.write_image_folder(tmp_path)
    (tmp_path / "train" / "kiwi").mkdir()
    message = refusal("image_folder", tmp_path)
    assert message.startswith(f"{tmp_path / 'train' / 'kiwi'}: holds no image")


def test_a_test_set_without_images_is_refused(tmp_path):
    formats.write_image_folder(tmp_path, test_kinds=0)
    assert "the test set holds no image" in refusal("image_folder", tmp_path)


def test_a_single_class_is_no_classification(tmp_path):
    (tmp_path / "train" / "only").mkdir(parents=True)
    (tmp_path / "test" / "only").mkdir(parents=True)
    message = refusal("image_folder", tmp_path)
    assert message.startswith(f"{tmp_path / 'train'}: names 1 classes")


# ------------------------------------------------- nothing is lost in silence


def test_all_that_is_wrong_is_told_at_once(tmp_path):
    formats.write_image_folder(tmp_path)
    lost = [tmp_path / "train" / "kiwi", tmp_path / "train" / "Banane" / "0.png"]
    lost.append(tmp_path / "test" / "Banane" / "0.png")
    for path in lost:
        path.symlink_to(tmp_path / "nowhere")
    for name in ("lime", "plum"):
        (tmp_path / "train" / name).mkdir()
    (tmp_path / "test" / "pear").mkdir()
    write_classes(tmp_path, {"test/größe/broken.png": b"no image"})
    with pytest.raises(InputError) as caught:
        load("image_folder", tmp_path)
    *lines, last = str(caught.value).splitlines()
    assert {line.split(": ")[0] for line in lines} == {
        *map(str, lost),
        *(str(tmp_path / "train" / name) for name in ("lime", "plum")),
        str(tmp_path / "test" / "pear"),
        str(tmp_path / "test" / "größe" / "broken.png"),
    }
    assert f"{lost[0]}: is a link to nothing; mend or remove it" in lines
    assert last == "7 problems in all"


def test_of_many_problems_the_first_ten_are_named(tmp_path):
    formats.write_image_folder(tmp_path)
    for number in range(30):
        (tmp_path / "train" / "Banane" / f"lost{number:02d}").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError) as caught:
        load("image_folder", tmp_path)
    assert len(str(caught.value).splitlines()) == 11
    assert str(caught.value).endswith("\n30 problems in all")


@pytest.mark.parametrize("kind", ["link", "file"])
@pytest.mark.parametrize("way_out", [[], ["images.test_share=0.3"], "val"])
def test_a_test_folder_that_is_none_is_refused_by_name(tmp_path, kind, way_out):
    formats.write_image_folder(tmp_path)
    (tmp_path / "test").rename(tmp_path / "val" if way_out == "val" else tmp_path / "elsewhere")
    if kind == "link":
        (tmp_path / "test").symlink_to(tmp_path / "nowhere")
    else:
        (tmp_path / "test").touch()
    overrides = [] if way_out == "val" else way_out
    message = refusal("image_folder", tmp_path, *overrides)
    assert message.startswith(f"{tmp_path / 'test'}: is no folder; mend or remove it")


def test_what_is_neither_a_file_nor_a_folder_is_left_out(tmp_path, warnings):
    formats.write_image_folder(tmp_path)
    count = len(load("image_folder", tmp_path).train)
    os.mkfifo(tmp_path / "train" / "Banane" / "pipe.png")
    assert len(load("image_folder", tmp_path).train) == count
    assert "pipe.png is left out (1 such in all)" in warnings.text


def test_links_to_folders_and_images_are_followed(tmp_path):
    formats.write_image_folder(tmp_path)
    expected = load("image_folder", tmp_path).fingerprint()
    shutil.move(tmp_path / "train" / "Banane", tmp_path / "elsewhere")
    (tmp_path / "train" / "Banane").symlink_to(tmp_path / "elsewhere")
    image = tmp_path / "test" / "größe" / "grey.png"
    shutil.move(image, tmp_path / "moved")
    image.symlink_to(tmp_path / "moved")
    assert load("image_folder", tmp_path).fingerprint() == expected


@pytest.mark.parametrize("mode", [0o000, 0o444])
@pytest.mark.parametrize("place", ["train", "train/Banane", "test/Banane"])
def test_a_folder_that_cannot_be_entered_is_refused_by_name(place, mode):
    with tempfile.TemporaryDirectory() as name:  # which others than root can enter, too
        root = Path(name)
        root.chmod(0o755)
        formats.write_image_folder(root)
        (root / place).chmod(mode)
        is_root = os.geteuid() == 0
        try:
            if is_root:  # whom nothing stops
                os.seteuid(65534)
            with pytest.raises(InputError) as caught:
                load("image_folder", root)
        finally:
            if is_root:
                os.seteuid(0)
            (root / place).chmod(0o755)
    assert f"{root / place}: cannot be entered (Permission denied)" in str(caught.value)


# ----------------------------------------------------------------- names


def test_folders_whose_names_look_the_same_are_one_class(tmp_path):
    nfc, nfd = (unicodedata.normalize(form, "größe") for form in ("NFC", "NFD"))
    assert nfc != nfd
    formats.write_image_folder(tmp_path)
    whole = load("image_folder", tmp_path)
    (tmp_path / "test" / nfc).rename(tmp_path / "test" / nfd)
    (tmp_path / "train" / nfd).mkdir()
    (tmp_path / "train" / nfc / "rgb.png").rename(tmp_path / "train" / nfd / "rgb.png")
    dataset = load("image_folder", tmp_path)
    assert dataset.class_names == whole.class_names
    assert len(dataset.train) == len(whole.train)
    assert f"{nfd}/rgb.png" in dataset.train.names
    assert dataset.train.labels.tolist() == whole.train.labels.tolist()
    assert dataset.test.labels.tolist() == whole.test.labels.tolist()


def test_classes_that_look_alike_are_told(tmp_path, warnings):
    names = ["apple", "apple ", "Apple", "pear", "ｐear", "plum"]
    images = plain(2 * len(names))
    write_classes(
        tmp_path, {f"{split}/{n}/0.png": next(images) for split in ("train", "test") for n in names}
    )
    assert len(load("image_folder", tmp_path, *ONE_CYCLE).class_names) == len(names)
    (message,) = warnings.messages
    assert "'Apple' and 'apple' and 'apple ' look alike, but are 3 classes (2 such" in message


def test_folders_of_the_system_are_no_classes(tmp_path, warnings):
    formats.write_image_folder(tmp_path)
    for name in ("__MACOSX", "@eaDir", "lost+found", "System Volume Information", ".cache"):
        for split in ("train", "test"):
            write_classes(tmp_path, {f"{split}/{name}/0.png": Image.new("RGB", (8, 8))})
    assert load("image_folder", tmp_path).class_names == sorted(formats.FOLDER_CLASSES)


def test_classes_that_are_numbers_are_in_the_order_of_numbers(tmp_path):
    names = ["0", "1", "2", "9", "10", "11", "100"]
    images = plain(2 * len(names))
    write_classes(
        tmp_path, {f"{split}/{n}/0.png": next(images) for split in ("train", "test") for n in names}
    )
    assert load("image_folder", tmp_path, *ONE_CYCLE).class_names == names
    assert listing.in_order(["10", "9", "x"]) == ["10", "9", "x"]


def test_names_that_are_no_text_are_read(tmp_path):
    formats.write_image_folder(tmp_path)
    odd = os.fsdecode(b"caf\xe9")
    (tmp_path / "train" / "Banane" / "rgb.png").rename(tmp_path / "train" / "Banane" / f"{odd}.png")
    for split in ("train", "test"):
        (tmp_path / split / "größe").rename(tmp_path / split / odd)
    dataset = load("image_folder", tmp_path)
    assert odd in dataset.class_names
    assert f"Banane/{odd}.png" in dataset.train.names


# ---------------------------------------------------- only pictures, and copies


def test_what_is_no_picture_is_left_out_whatever_pillow_knows(tmp_path, warnings):
    formats.write_image_folder(tmp_path)
    count = len(load("image_folder", tmp_path).train)
    for name in ("labels.h5", "clip.mpg", "drawing.eps", "report.pdf"):
        (tmp_path / "train" / "Banane" / name).write_bytes(b"no picture")
    assert len(load("image_folder", tmp_path).train) == count
    assert "is left out (4 such in all)" in warnings.text


def test_postscript_that_claims_to_be_a_picture_is_refused(tmp_path):
    formats.write_image_folder(tmp_path)
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    write_classes(tmp_path, {"train/Banane/photo.png": content})
    assert "photo.png: cannot be read as an image (it is no picture" in refusal(
        "image_folder", tmp_path
    )


def test_test_images_that_are_training_images_are_told(tmp_path, warnings):
    images = list(plain(6))
    write_classes(
        tmp_path,
        {f"train/{c}/{n}.png": images[2 * n + (c == "b")] for n in (0, 1, 2) for c in "ab"},
    )
    write_classes(tmp_path, {"test/a/x.bmp": images[0], "test/a/y.bmp": images[2]})
    write_classes(tmp_path, {"test/b/z.png": next(plain(1, seed=1))})
    load("image_folder", tmp_path, *ONE_CYCLE)
    words = "2 test images are training images too, as test/a/x.bmp is train/a/0.png"
    assert words in warnings.text
    assert "two classes" not in warnings.text


def test_a_picture_under_two_classes_is_told(tmp_path, warnings):
    first, second, third, fourth = plain(4)
    write_classes(
        tmp_path, {"train/a/0.png": first, "train/b/0.png": first, "train/b/1.png": second}
    )
    write_classes(tmp_path, {"test/a/0.png": third, "test/b/0.png": fourth})
    load("image_folder", tmp_path, *ONE_CYCLE)
    assert (
        "1 pictures are there under two classes, as train/a/0.png and train/b/0.png"
        in warnings.text
    )
    assert "too" not in warnings.text


def test_pictures_that_share_a_line_are_no_copies(tmp_path, warnings):
    first, second = (np.zeros((16, 16, 3), dtype=np.uint8) for _ in range(2))
    second[0, 0] = 255
    write_classes(
        tmp_path,
        {"train/a/0.png": Image.fromarray(first), "train/b/0.png": Image.fromarray(second)},
    )
    write_classes(tmp_path, {f"test/{c}/0.png": i for c, i in zip("ab", plain(2), strict=True)})
    load("image_folder", tmp_path, "images.size=16", *ONE_CYCLE)
    assert not warnings.text


# ------------------------------------------------------- without a test folder


@pytest.mark.parametrize("name", ["val", "valid"])
def test_a_validation_folder_stands_in_for_the_test_folder(tmp_path, caplog, name):
    caplog.set_level("INFO", "tod")
    formats.write_image_folder(tmp_path)
    whole = load("image_folder", tmp_path).fingerprint()
    (tmp_path / "test").rename(tmp_path / name)
    assert load("image_folder", tmp_path).fingerprint() == whole
    assert f"{tmp_path / name}: stands in for the folder test" in caplog.text


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_share_of_each_class_is_held_out_by_seed(tmp_path, share):
    formats.write_image_folder(tmp_path)
    shutil.rmtree(tmp_path / "test")
    override = f"images.test_share={share}"
    dataset = load("image_folder", tmp_path, *ONE_CYCLE, override)
    of_a_class = len(formats.IMAGE_KINDS)
    held_out = round(share * of_a_class)
    assert dataset.test.labels.bincount().tolist() == [held_out] * 3
    assert dataset.train.labels.bincount().tolist() == [of_a_class - held_out] * 3
    names = [*dataset.train.names, *dataset.test.names]
    assert len(set(names)) == len(names) == 3 * of_a_class
    for images in (dataset.train, dataset.test):
        for name, pixels, label in zip(images.names, images.pixels, images.labels, strict=True):
            assert dataset.class_names[label] == Path(name).parent.name
            path = tmp_path / "train" / name
            content, _ = picture.decode(path, 32, 32, picture.as_shown)
            assert pixels.permute(1, 2, 0).contiguous().numpy().tobytes() == content
    again = load("image_folder", tmp_path, *ONE_CYCLE, override)
    other = load("image_folder", tmp_path, *ONE_CYCLE, override, seed=1)
    assert again.fingerprint() == dataset.fingerprint()
    assert other.test.names != dataset.test.names


def test_no_class_loses_all_its_images_to_the_test_set(tmp_path, warnings):
    images = plain(4)
    write_classes(tmp_path, {f"train/a/{n}.png": next(images) for n in range(3)})
    write_classes(tmp_path, {"train/b/0.png": next(images)})
    dataset = load(
        "image_folder",
        tmp_path,
        "images.test_share=0.9",
        *ONE_CYCLE,
    )
    assert dataset.train.labels.tolist() == [0, 1]
    assert dataset.test.labels.tolist() == [0, 0]


def test_without_a_test_folder_the_message_names_the_share(tmp_path):
    formats.write_image_folder(tmp_path)
    shutil.rmtree(tmp_path / "test")
    assert "--set images.test_share=0.2" in refusal("image_folder", tmp_path)


def test_a_share_that_is_not_used_is_told(tmp_path, warnings):
    formats.write_image_folder(tmp_path)
    whole = load("image_folder", tmp_path).fingerprint()
    assert load("image_folder", tmp_path, "images.test_share=0.5").fingerprint() == whole
    assert f"{tmp_path / 'test'}: is the test set; images.test_share is not used" in warnings.text
