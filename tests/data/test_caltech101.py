"""Caltech-101: its classes, its images and the split that a seed draws."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

import tod.data
from tests.support import formats
from tests.support.loading import load, refusal
from tests.support.pictures import icc_profile, plain, write_classes


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("caltech101")
    formats.write_caltech101(root)
    return root


@pytest.fixture(scope="module")
def caltech101(folder) -> tod.data.Dataset:
    return load("caltech101", folder)


def test_caltech101_labels_are_those_of_the_folders_and_its_background_is_no_class(caltech101):
    assert caltech101.class_names == formats.caltech101_classes()
    assert len(caltech101.class_names) == 101
    for images in (caltech101.train, caltech101.test):
        folders = [Path(name).parent.name for name in images.names]
        assert [caltech101.class_names[label] for label in images.labels] == folders


def test_caltech101_images_are_squashed_to_256_and_cropped_to_224(folder, caltech101):
    transform = v2.Compose([v2.Resize((256, 256)), v2.CenterCrop(224), v2.PILToTensor()])
    for images in (caltech101.train, caltech101.test):
        assert images.pixels.shape == (101, 3, 224, 224)
        for index in range(0, 101, 10):
            path = folder / "101_ObjectCategories" / images.names[index]
            expected = transform(Image.open(path).convert("RGB"))
            assert torch.equal(images.pixels[index], expected), path


def test_caltech101_split_depends_on_the_seed_and_on_nothing_else(folder, caltech101):
    again = load("caltech101", folder, "images.resize=8", "images.size=null")
    other = load("caltech101", folder, "images.resize=8", "images.size=null", seed=1)
    assert again.train.names == caltech101.train.names
    assert again.test.names == caltech101.test.names
    assert other.train.names != caltech101.train.names
    assert again.train.pixels.shape[2:] == (8, 8)


@pytest.mark.parametrize(("count", "training"), [(1, 0), (9, 8), (10, 9), (11, 9), (19, 17)])
def test_caltech101_trains_on_nine_tenths_of_each_class_rounded_down(
    tmp_path, warnings, count, training
):
    class_names = formats.write_caltech101(tmp_path, images_per_class=count, num_classes=3)
    # One class more, large enough that there is always something to train on.
    zebra = "101_ObjectCategories/zebra/image_{:04d}.jpg"
    write_classes(tmp_path, {zebra.format(n): image for n, image in enumerate(plain(20, side=8))})
    dataset = load("caltech101", tmp_path, "images.resize=8", "images.size=8")
    assert dataset.class_names == [*class_names, "zebra"]
    assert dataset.train.labels.bincount(minlength=4).tolist() == [training] * 3 + [18]
    assert dataset.test.labels.bincount(minlength=4).tolist() == [count - training] * 3 + [2]
    names = dataset.train.names + dataset.test.names
    assert len(set(names)) == len(names) == 3 * count + 20
    assert f"holds 4 classes and {len(names)} images" in warnings.text
    assert "a reduced copy, not the paper's data" in warnings.text


def test_missing_caltech101_names_its_source_and_the_way_out(tmp_path):
    message = refusal("caltech101", tmp_path)
    assert message.startswith(f"{tmp_path / '101_ObjectCategories'}: is missing")
    assert "https://" in message and "--config digits" in message


def test_more_than_101_classes_are_not_caltech101(tmp_path):
    formats.write_caltech101(tmp_path, images_per_class=0, num_classes=102)
    assert "holds 102 classes" in refusal("caltech101", tmp_path)


def test_caltech101_is_read_as_the_published_code_reads_it(tmp_path):
    formats.write_caltech101(tmp_path, images_per_class=10, num_classes=3)
    name, exif = "Faces/image_0001.jpg", Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "101_ObjectCategories" / name
    sideways = Image.new("RGB", (30, 20), "red")
    sideways.paste("blue", (0, 0, 30, 10))
    sideways.save(path, exif=exif, icc_profile=icc_profile("Adobe RGB"))
    dataset = load("caltech101", tmp_path, "images.resize=8", "images.size=8")
    images = dataset.train if name in dataset.train.names else dataset.test
    found = images.pixels[images.names.index(name)]
    with Image.open(path) as image:
        expected = v2.PILToTensor()(image.convert("RGB").resize((8, 8), Image.Resampling.BILINEAR))
    assert torch.equal(found, expected)
