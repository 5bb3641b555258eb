"""Every dataset in its published format: what is read, and what is refused in one line."""

import logging
import os
import pickle
import shutil
from pathlib import Path

import formats
import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.transforms import v2

import configuration
import datasets
import models
from configuration import InputError
from models import imagenet_resnet

FEW_LABELS = (
    "active_learning.initial_labels=4",
    "active_learning.query_size=4",
    "active_learning.cycles=2",
)
UNREACHABLE = "http://127.0.0.1:9/x"


def load(name: str, data_dir: Path, *overrides: str, seed: int = 0) -> datasets.Dataset:
    config = configuration.load(name, (*FEW_LABELS, *overrides), str(data_dir))
    return datasets.load(config, seed)


def refusal(name: str, data_dir: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load(name, data_dir, *overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def assert_holds(images: datasets.Images, written: formats.Written) -> None:
    assert images.pixels.dtype == torch.uint8
    assert images.labels.dtype == torch.int64
    np.testing.assert_array_equal(images.pixels, written.pixels.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(images.labels, written.labels)
    assert images.names is None


@pytest.fixture
def warnings(caplog) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, "tod")
    return caplog


@pytest.fixture
def no_server(monkeypatch) -> None:
    """Downloads end at a closed port of this machine."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for published in (torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR100):
        monkeypatch.setattr(published, "url", UNREACHABLE)
    split_list = torchvision.datasets.SVHN.split_list
    closed = {split: [UNREACHABLE, *rest] for split, (_, *rest) in split_list.items()}
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", closed)


# ---------------------------------------------------------------- what is read


def test_cifar10_is_read_pixel_by_pixel(tmp_path):
    train, test = formats.write_cifar10(tmp_path)
    dataset = load("cifar10", tmp_path)
    assert_holds(dataset.train, train)
    assert_holds(dataset.test, test)
    assert tuple(dataset.class_names) == formats.CIFAR10_CLASSES


def test_cifar100_has_the_hundred_fine_labels(tmp_path):
    train, test = formats.write_cifar100(tmp_path)
    dataset = load("cifar100", tmp_path)
    assert_holds(dataset.train, train)
    assert_holds(dataset.test, test)
    assert dataset.class_names == [f"fine_{c:02d}" for c in range(100)]


def test_cifar_files_written_by_todays_python_and_numpy_are_read_too(tmp_path):
    train, test = formats.write_cifar10(tmp_path)
    for path in (tmp_path / "cifar-10-batches-py").iterdir():
        content = pickle.loads(path.read_bytes(), encoding="latin1")
        path.write_bytes(pickle.dumps(content))
    dataset = load("cifar10", tmp_path)
    assert_holds(dataset.train, train)
    assert_holds(dataset.test, test)


def test_svhn_images_are_transposed_and_label_10_is_the_digit_0(tmp_path):
    train, test = formats.write_svhn(tmp_path)
    assert {0, 9} <= set(train.labels)
    dataset = load("svhn", tmp_path)
    assert_holds(dataset.train, train)
    assert_holds(dataset.test, test)
    assert dataset.class_names == list("0123456789")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn"])
def test_the_papers_datasets_are_normalised_as_configured(tmp_path, name):
    getattr(formats, f"write_{name}")(tmp_path)
    dataset = load(name, tmp_path)
    images = configuration.load(name).images
    assert dataset.mean.tolist() == pytest.approx(images.mean)
    assert dataset.std.tolist() == pytest.approx(images.std)


def test_digits_split_is_stratified_and_the_same_for_every_seed(tmp_path):
    dataset, other = load("digits", tmp_path), load("digits", tmp_path, seed=1)
    assert (len(dataset.train), len(dataset.test)) == (1437, 360)
    assert dataset.train.pixels.shape == (1437, 3, 8, 8)
    assert torch.equal(dataset.train.pixels, other.train.pixels)
    assert torch.equal(dataset.test.labels, other.test.labels)
    counts = np.bincount(load_digits().target)
    np.testing.assert_allclose(dataset.test.labels.bincount(), counts / 5, atol=1)


def test_digits_are_scikit_learns_in_grey(tmp_path):
    dataset = load("digits", tmp_path)
    digits = load_digits()

    def lines(values: np.ndarray, labels: np.ndarray) -> list[tuple]:
        return sorted((*v, y) for v, y in zip(values.reshape(-1, 64).tolist(), labels, strict=True))

    pixels = torch.cat([dataset.train.pixels, dataset.test.pixels]).numpy()
    labels = torch.cat([dataset.train.labels, dataset.test.labels]).tolist()
    expected = lines(digits.images, digits.target)
    for channel in range(3):
        assert lines(np.rint(pixels[:, channel] * (16 / 255)), labels) == expected
    assert (pixels.min(), pixels.max()) == (0, 255)


@pytest.mark.parametrize("name", ["digits", "image_folder"])
def test_statistics_are_those_of_the_training_pixels(tmp_path, name):
    formats.write_image_folder(tmp_path)
    dataset = load(name, tmp_path)
    pixels = dataset.train.pixels.numpy() / 255
    np.testing.assert_allclose(dataset.mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(dataset.std, pixels.std(axis=(0, 2, 3)), rtol=1e-6)


def test_a_channel_without_contrast_keeps_its_scale(tmp_path):
    for place in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / place).mkdir(parents=True)
        for number in range(4):
            image = Image.new("RGB", (32, 32), (number * 50, 7, 9))
            image.save(tmp_path / place / f"{number}.png")
    dataset = load("image_folder", tmp_path)
    assert dataset.std[0] < 1
    assert dataset.std[1:].tolist() == [1, 1]


@pytest.fixture(scope="module")
def caltech101_folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("caltech101")
    formats.write_caltech101(root)
    return root


@pytest.fixture(scope="module")
def caltech101(caltech101_folder) -> datasets.Dataset:
    return load("caltech101", caltech101_folder)


def test_caltech101_background_is_no_class(caltech101):
    assert caltech101.class_names == formats.caltech101_classes()
    assert len(caltech101.class_names) == 101
    assert not any("BACKGROUND" in name for name in caltech101.train.names + caltech101.test.names)


def test_caltech101_images_are_squashed_to_256_and_cropped_to_224(caltech101_folder, caltech101):
    transform = v2.Compose([v2.Resize((256, 256)), v2.CenterCrop(224), v2.PILToTensor()])
    for images in (caltech101.train, caltech101.test):
        assert images.pixels.shape == (101, 3, 224, 224)
        for index in range(0, 101, 10):
            path = caltech101_folder / "101_ObjectCategories" / images.names[index]
            expected = transform(Image.open(path).convert("RGB"))
            assert torch.equal(images.pixels[index], expected), path


def test_caltech101_labels_are_those_of_the_folders(caltech101):
    for images in (caltech101.train, caltech101.test):
        folders = [Path(name).parent.name for name in images.names]
        assert [caltech101.class_names[label] for label in images.labels] == folders


def test_caltech101_split_depends_on_the_seed_and_on_nothing_else(caltech101_folder, caltech101):
    again = load("caltech101", caltech101_folder, "images.resize=8", "images.size=null")
    other = load("caltech101", caltech101_folder, "images.resize=8", "images.size=null", seed=1)
    assert again.train.names == caltech101.train.names
    assert again.test.names == caltech101.test.names
    assert other.train.names != caltech101.train.names
    assert again.train.pixels.shape[2:] == (8, 8)


@pytest.mark.parametrize(("count", "training"), [(1, 0), (9, 8), (10, 9), (11, 9), (19, 17)])
def test_caltech101_trains_on_nine_tenths_of_each_class_rounded_down(tmp_path, count, training):
    class_names = formats.write_caltech101(tmp_path, images_per_class=count, num_classes=3)
    # One class more, large enough that there is always something to train on.
    (tmp_path / "101_ObjectCategories" / "zebra").mkdir()
    for number in range(20):
        image = Image.new("RGB", (8, 8), (number, 0, 0))
        image.save(tmp_path / "101_ObjectCategories" / "zebra" / f"image_{number:04d}.jpg")
    dataset = load("caltech101", tmp_path, "images.resize=8", "images.size=8")
    assert dataset.class_names == [*class_names, "zebra"]
    assert dataset.train.labels.bincount(minlength=4).tolist() == [training] * 3 + [18]
    assert dataset.test.labels.bincount(minlength=4).tolist() == [count - training] * 3 + [2]
    names = dataset.train.names + dataset.test.names
    assert len(set(names)) == len(names) == 3 * count + 20


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


@pytest.mark.parametrize("legacy", [False, True])
def test_imagenet_weights_are_read_in_both_published_forms(tmp_path, legacy):
    name = models.IMAGENET_FILES[0 if legacy else 1]
    published = formats.write_imagenet_weights(tmp_path / name, legacy)
    network = imagenet_resnet.ResNet18(num_classes=3)
    fresh = {k: v.clone() for k, v in network.state_dict().items()}
    network.load_imagenet_weights(models.imagenet_weights(tmp_path))
    for key, value in network.state_dict().items():
        if key.startswith(("layer4_caltech", "fc_caltech", "added_fc")) or key not in published:
            assert torch.equal(value, fresh[key]), key
        else:
            assert torch.equal(value, published[key]), key


# ------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("cifar10", "cifar-10-batches-py"),
        ("cifar100", "cifar-100-python"),
        ("svhn", "svhn/train_32x32.mat"),
    ],
)
def test_a_failed_download_names_the_place_the_source_and_the_way_out(
    tmp_path, no_server, name, place
):
    message = refusal(name, tmp_path)
    assert message.startswith(f"{tmp_path / place}: is missing and could not be downloaded")
    assert UNREACHABLE in message
    assert "--data-dir" in message
    assert "--config digits" in message


def test_missing_caltech101_names_its_source_and_the_way_out(tmp_path):
    message = refusal("caltech101", tmp_path)
    assert message.startswith(f"{tmp_path / '101_ObjectCategories'}: is missing")
    assert "https://" in message
    assert "--config digits" in message


@pytest.mark.parametrize("missing", ["train", "test"])
def test_a_missing_image_folder_is_named(tmp_path, missing):
    formats.write_image_folder(tmp_path)
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    assert refusal("image_folder", tmp_path).startswith(f"{tmp_path / missing}: is missing")


@pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_missing_cifar_file_is_named(tmp_path, file):
    formats.write_cifar10(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / file
    path.unlink()
    assert refusal("cifar10", tmp_path).startswith(f"{path}: is missing")


@pytest.mark.parametrize("file", ["data_batch_2", "test_batch", "batches.meta"])
@pytest.mark.parametrize("kept", [0, 0.5])
def test_a_truncated_pickle_is_named(tmp_path, file, kept):
    formats.write_cifar10(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / file
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    assert refusal("cifar10", tmp_path).startswith(f"{path}: cannot be read")


class Malicious:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple:
        return os.system, (f"touch '{self.witness}'",)


@pytest.mark.parametrize("file", ["data_batch_1", "test_batch", "batches.meta"])
def test_code_in_a_pickle_is_never_executed(tmp_path, file):
    formats.write_cifar10(tmp_path)
    path, witness = tmp_path / "cifar-10-batches-py" / file, tmp_path / "executed"
    content = pickle.loads(path.read_bytes(), encoding="latin1")
    path.write_bytes(pickle.dumps({**content, "extra": Malicious(witness)}))
    message = refusal("cifar10", tmp_path)
    assert message.startswith(f"{path}: cannot be read")
    assert "system" in message
    assert not witness.exists()
    pickle.loads(path.read_bytes())
    assert witness.exists(), "the pickle holds no code: this test proves nothing"


def test_a_full_sized_cifar_file_with_another_checksum_is_damaged(tmp_path):
    formats.write_cifar10(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_4"
    content = {"labels": [0] * 10_000, "data": np.zeros((10_000, 3072), dtype=np.uint8)}
    formats.write_python2_pickle(path, content)
    message = refusal("cifar10", tmp_path)
    assert message.startswith(f"{path}: its checksum is not that of the published file")


@pytest.mark.parametrize(
    "damage",
    [
        {"labels": [10] * 20},
        {"labels": [-1] * 20},
        {"labels": [0] * 19},
        {"labels": None},
        {"data": np.zeros((20, 3071), dtype=np.uint8)},
        {"data": [1, 2, 3]},
    ],
    ids=["label 10", "label -1", "too few labels", "no labels", "short rows", "no array"],
)
def test_a_cifar_file_that_contradicts_itself_is_refused(tmp_path, damage):
    formats.write_cifar10(tmp_path)
    folder = tmp_path / "cifar-10-batches-py"
    path = folder / "data_batch_5"
    content = pickle.loads(path.read_bytes(), encoding="latin1")
    path.write_bytes(pickle.dumps({**content, **damage}))
    assert refusal("cifar10", tmp_path).startswith(str(folder))


def test_a_cifar100_label_beyond_its_classes_is_refused(tmp_path):
    formats.write_cifar100(tmp_path)
    path = tmp_path / "cifar-100-python" / "test"
    content = pickle.loads(path.read_bytes(), encoding="latin1")
    content["fine_labels"][3] = 100
    path.write_bytes(pickle.dumps(content))
    assert "labels outside its 100 classes" in refusal("cifar100", tmp_path)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("kept", [0, 0.5])
def test_a_truncated_mat_file_is_named(tmp_path, split, kept):
    formats.write_svhn(tmp_path)
    path = tmp_path / "svhn" / f"{split}_32x32.mat"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    assert refusal("svhn", tmp_path).startswith(f"{path}: cannot be read")


def test_a_mat_file_with_labels_beyond_the_ten_digits_is_refused(tmp_path):
    formats.write_svhn(tmp_path)
    path = tmp_path / "svhn" / "train_32x32.mat"
    content = scipy.io.loadmat(path)
    content["y"][5] = 11
    scipy.io.savemat(path, {"X": content["X"], "y": content["y"]})
    message = refusal("svhn", tmp_path)
    assert message.startswith(f"{path}: holds labels outside its 10 classes")


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_an_unreadable_image_is_named(tmp_path, content):
    formats.write_image_folder(tmp_path)
    path = tmp_path / "test" / "Banane" / "broken.png"
    path.write_bytes(content)
    assert refusal("image_folder", tmp_path).startswith(f"{path}: cannot be read as an image")


def test_a_truncated_jpeg_is_named(tmp_path):
    formats.write_caltech101(tmp_path, images_per_class=3, num_classes=3)
    path = tmp_path / "101_ObjectCategories" / "Leopards" / "image_0002.jpg"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert refusal("caltech101", tmp_path).startswith(f"{path}: cannot be read as an image")


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


def test_more_than_101_classes_are_not_caltech101(tmp_path):
    formats.write_caltech101(tmp_path, images_per_class=0, num_classes=102)
    assert "holds 102 classes" in refusal("caltech101", tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "svhn", "image_folder"])
def test_too_few_images_for_the_configured_labels_are_refused(tmp_path, name):
    getattr(formats, f"write_{name}")(tmp_path)
    count = len(load(name, tmp_path).train)
    load(name, tmp_path, f"active_learning.initial_labels={count - 4}")
    message = refusal(name, tmp_path, f"active_learning.initial_labels={count - 3}")
    assert f"there are {count} training images" in message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cifar10", "data_batch_1: holds 20 images, the published file 10,000"),
        ("cifar100", "train: holds 200 images, the published file 50,000"),
        ("svhn", "test_32x32.mat: holds 40 images, the published file 26,032"),
        ("caltech101", "holds 101 classes and 202 images"),
    ],
)
def test_a_reduced_copy_is_accepted_with_a_warning(tmp_path, warnings, name, words):
    getattr(formats, f"write_{name}")(tmp_path)
    small = ("images.resize=8", "images.size=8") if name == "caltech101" else ()
    load(name, tmp_path, *small)
    assert words in warnings.text
    assert "a reduced copy, not the paper's data" in warnings.text
