"""People's own images, in a folder for each class: what is read, left out and refused."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from tests.support import formats
from tests.support.loading import load, refusal


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
                assert torch.equal(pixels, transform(image.convert("RGB"))), name


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


def test_a_class_without_test_images_is_used_with_a_warning(tmp_path, warnings):
    formats.write_image_folder(tmp_path)
    shutil.rmtree(tmp_path / "test" / "Banane")
    assert set(load("image_folder", tmp_path).test.labels.tolist()) == {1, 2}
    assert f"{tmp_path / 'test' / 'Banane'}: is not there" in warnings.text


@pytest.mark.parametrize("missing", ["train", "test"])
def test_a_missing_image_folder_is_named(tmp_path, missing):
    formats.write_image_folder(tmp_path)
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    assert refusal("image_folder", tmp_path).startswith(f"{tmp_path / missing}: is missing")


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_an_unreadable_image_is_named(tmp_path, content):
    formats.write_image_folder(tmp_path)
    path = tmp_path / "test" / "Banane" / "broken.png"
    path.write_bytes(content)
    assert refusal("image_folder", tmp_path).startswith(f"{path}: cannot be read as an image")


def test_a_16_bit_image_is_refused_rather_than_clipped_to_white(tmp_path):
    formats.write_image_folder(tmp_path)
    path = tmp_path / "train" / "Banane" / "deep.png"
    Image.fromarray(np.full((32, 32), 40_000, dtype=np.uint16)).save(path)
    message = refusal("image_folder", tmp_path)
    assert message.startswith(f"{path}: cannot be read as an image")
    assert "8 bits" in message


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
    assert message.startswith(f"{tmp_path / 'train'}: holds 1 class folders")
