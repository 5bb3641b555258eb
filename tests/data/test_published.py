"""CIFAR and SVHN in their published formats: what is read, and what is refused."""

import hashlib
import http.server
import os
import pickle
import tarfile
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

import models
import tod.config
from models import imagenet_resnet
from tests.support import formats
from tests.support.loading import load, refusal
from tod.data import Dataset

UNREACHABLE = "http://127.0.0.1:9/x"
CIFAR10, CIFAR100, SVHN = "cifar-10-batches-py", "cifar-100-python", "svhn"


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def assert_read(dataset: Dataset, written: Sequence[formats.Written]) -> None:
    for images, expected in zip((dataset.train, dataset.test), written, strict=True):
        assert (images.pixels.dtype, images.labels.dtype) == (torch.uint8, torch.int64)
        np.testing.assert_array_equal(images.pixels, expected.pixels.transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(images.labels, expected.labels)
        assert images.names is None


def change_pickle(path: Path, **changes: object) -> None:
    """Writes it again as today's Python and numpy do, with other contents."""
    content = pickle.loads(path.read_bytes(), encoding="latin1")
    path.write_bytes(pickle.dumps({**content, **changes}))


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server(tmp_path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which this machine serves it."""
    folder = tmp_path / "server"
    folder.mkdir()
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture
def no_server(monkeypatch) -> None:
    """Downloads end at a closed port of this machine."""
    for published in (torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR100):
        monkeypatch.setattr(published, "url", UNREACHABLE)
    split_list = torchvision.datasets.SVHN.split_list
    closed = {split: [UNREACHABLE, *rest] for split, (_, *rest) in split_list.items()}
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", closed)


@pytest.mark.parametrize(
    ("name", "class_names", "words"),
    [
        ("cifar10", [*formats.CIFAR10_CLASSES], "data_batch_1: holds 20 images, the published"),
        ("cifar100", [f"fine_{c:02d}" for c in range(100)], "train: holds 200 images, the publish"),
        ("svhn", [*"0123456789"], "test_32x32.mat: holds 40 images, the published file 26,032"),
    ],
)
def test_a_reduced_copy_is_read_pixel_by_pixel_with_a_warning(
    tmp_path, warnings, name, class_names, words
):
    written = getattr(formats, f"write_{name}")(tmp_path)
    assert {*range(len(class_names))} == {*written[0].labels}
    dataset = load(name, tmp_path)
    assert_read(dataset, written)
    assert dataset.class_names == class_names
    assert words in warnings.text
    assert "a reduced copy, not the paper's data" in warnings.text
    images = tod.config.load(name).images
    assert dataset.mean.tolist() == pytest.approx(images.mean)
    assert dataset.std.tolist() == pytest.approx(images.std)


def test_files_of_todays_python_with_the_published_checksum_are_read_without_a_warning(
    tmp_path, warnings, monkeypatch
):
    written = formats.write_cifar10(tmp_path)
    folder, published = tmp_path / CIFAR10, torchvision.datasets.CIFAR10
    for path in folder.iterdir():
        change_pickle(path)
    for file_list in ("train_list", "test_list"):
        names = [name for name, _ in getattr(published, file_list)]
        monkeypatch.setattr(published, file_list, [[n, md5(folder / n)] for n in names])
    assert_read(load("cifar10", tmp_path), written)
    assert not warnings.text


def test_what_is_absent_is_downloaded_and_unpacked(tmp_path, server, monkeypatch):
    folder, url = server
    written = formats.write_cifar10(folder)
    archive = folder / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder / CIFAR10, CIFAR10)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", f"{url}/{archive.name}")
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", md5(archive))
    assert_read(load("cifar10", tmp_path / "data"), written)

    written = formats.write_svhn(folder)
    served = {}
    for split in ("train", "test"):
        name = f"{split}_32x32.mat"
        served[split] = [f"{url}/{SVHN}/{name}", name, md5(folder / SVHN / name)]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", served)
    assert_read(load("svhn", tmp_path / "data"), written)


@pytest.mark.parametrize("legacy", [False, True])
def test_imagenet_weights_are_read_in_both_published_forms(tmp_path, legacy):
    name = models.IMAGENET_FILES[0 if legacy else 1]
    published = formats.write_imagenet_weights(tmp_path / name, legacy)
    network = imagenet_resnet.ResNet18(num_classes=3)
    fresh = {k: v.clone() for k, v in network.state_dict().items()}
    network.load_imagenet_weights(models.imagenet_weights(tmp_path))
    for key, value in network.state_dict().items():
        is_new = key.startswith(("layer4_caltech", "fc_caltech", "added_fc"))
        expected = fresh if is_new or key not in published else published
        assert torch.equal(value, expected[key]), key


@pytest.mark.parametrize(
    ("name", "place"),
    [("cifar10", CIFAR10), ("cifar100", CIFAR100), ("svhn", f"{SVHN}/train_32x32.mat")],
)
def test_a_failed_download_names_the_place_the_source_and_the_way_out(
    tmp_path, no_server, name, place
):
    message = refusal(name, tmp_path)
    assert message.startswith(f"{tmp_path / place}: is missing and could not be downloaded")
    assert all(words in message for words in (UNREACHABLE, "--data-dir", "--config digits"))


OF_CIFAR10 = [f"{CIFAR10}/{name}" for name in ("data_batch_2", "test_batch", "batches.meta")]
OF_SVHN = [f"{SVHN}/{split}_32x32.mat" for split in ("train", "test")]


@pytest.mark.parametrize(
    ("name", "file"),
    [*(("cifar10", file) for file in OF_CIFAR10), *(("svhn", file) for file in OF_SVHN)],
)
@pytest.mark.parametrize("kept", [0, 0.5])
def test_a_truncated_file_is_named(tmp_path, name, file, kept):
    getattr(formats, f"write_{name}")(tmp_path)
    path = tmp_path / file
    os.truncate(path, int(path.stat().st_size * kept))
    message = refusal(name, tmp_path)
    assert message.startswith(f"{path}: cannot be read")
    assert f"remove {path.parent} and it is downloaded again" in message
    if name == "cifar10":  # of which the folder is there
        path.unlink()
        assert refusal(name, tmp_path).startswith(f"{path}: cannot be read (No such file")


@pytest.mark.parametrize("file", OF_CIFAR10)
def test_code_in_a_pickle_is_never_executed(tmp_path, file):
    class Malicious:
        def __reduce__(self) -> tuple:
            return os.system, (f"touch '{witness}'",)

    formats.write_cifar10(tmp_path)
    path, witness = tmp_path / file, tmp_path / "executed"
    change_pickle(path, extra=Malicious())
    message = refusal("cifar10", tmp_path)
    assert message.startswith(f"{path}: cannot be read") and "system" in message
    assert not witness.exists()
    pickle.loads(path.read_bytes())
    assert witness.exists(), "the pickle holds no code: this test proves nothing"


def test_a_full_sized_cifar_file_with_another_checksum_is_damaged(tmp_path):
    formats.write_cifar10(tmp_path)
    path = tmp_path / CIFAR10 / "data_batch_4"
    content = {"labels": [0] * 10_000, "data": np.zeros((10_000, 3072), dtype=np.uint8)}
    formats.write_python2_pickle(path, content)
    begins = f"{path}: cannot be read (its checksum is not that of the published"
    assert refusal("cifar10", tmp_path).startswith(begins)


@pytest.mark.parametrize(
    ("part", "value", "why"),
    [
        ("labels", [10] * 20, "holds labels outside its 10 classes"),
        ("labels", [-1] * 20, "holds labels outside its 10 classes"),
        ("labels", [0] * 19, "holds no 3×32×32 images"),
        ("labels", None, ""),
        ("data", np.zeros((20, 3071), dtype=np.uint8), ""),  # short rows
        ("data", [1, 2, 3], ""),
    ],
)
def test_a_cifar_file_that_contradicts_itself_is_refused(tmp_path, part, value, why):
    formats.write_cifar10(tmp_path)
    path = tmp_path / CIFAR10 / "data_batch_5"
    change_pickle(path, **{part: value})
    assert refusal("cifar10", tmp_path).startswith(f"{path}: cannot be read ({why}")
