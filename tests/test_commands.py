"""Whole runs through the command line: every dataset, every choice, and real images."""

import csv
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from PIL import Image

import models
from models import imagenet_resnet, lossnet, resnet
from tests.support import formats
from tests.support.finished import FILE_COLUMNS, PLAIN_COLUMNS, Finished
from tests.support.harness import PROJECT_DIR, TINY_DIGITS, python_in, run_script
from tod import config as configuration
from tod import data

TINY = (
    "--device=cpu",
    "--precision=fp32",
    "--set=active_learning.trials=1",
    "--set=training.milestones=[]",
)
"""What makes a run of any dataset short; the rest depends on the dataset."""

REAL_IMAGES = PROJECT_DIR.parent / "shared" / "datasets"
CIFAR10_JPEGS = REAL_IMAGES / "cifar10-jpeg.tar.xz"
CALTECH101_SUBSET = REAL_IMAGES / "caltech101-subset.tar"


def where_there_is(archive: Path) -> Callable:
    """Makes a test exist only beside the real images, on which the project does not depend."""
    return lambda test: test if archive.exists() else None


def finish(
    tmp_path: Path,
    script: str,
    config: str,
    sampling: str,
    auxiliary: str,
    sizes: list[int],
    *arguments: object,
    run: Callable[..., CompletedProcess] = run_script,
) -> Finished:
    """A short run on `tmp_path / "data"`; the first two sizes are those of the first two cycles."""
    process = run(
        script,
        *TINY,
        f"--set=active_learning.cycles={len(sizes)}",
        f"--set=active_learning.initial_labels={sizes[0]}",
        f"--set=active_learning.query_size={sizes[1] - sizes[0]}",
        f"--config={config}",
        f"--sampling={sampling}",
        f"--auxiliary={auxiliary}",
        f"--data-dir={tmp_path / 'data'}",
        f"--output-dir={tmp_path / 'results'}",
        *(f"--set={each}" for each in arguments),
    )
    title = f"{config} auxiliary:{auxiliary} sampling:{sampling}"
    return Finished(process, tmp_path / "results", title, sizes)


def assert_fits(state_dict: dict, network: torch.nn.Module) -> None:
    """That a checkpoint has a network's keys, all of them, no others, and its shapes."""
    assert list(state_dict) == list(network.state_dict())
    network.load_state_dict(state_dict)
    assert all(value.isfinite().all() for value in state_dict.values())


# ------------------------------------------------------- the paper's datasets


def test_cifar10_runs_with_tod_and_is_learned(tmp_path):
    train, _ = formats.write_cifar10(tmp_path / "data", train_size=200, test_size=100)
    run = finish(
        tmp_path,
        *("main_TOD.py", "cifar10", "TOD", "TOD", [80, 120], "active_learning.subset_size=100"),
        *("model.width=6", "training.batch_size=16", "training.epochs=6"),
    )
    run.check(PLAIN_COLUMNS, pool_size=200)
    pictures = sorted(str(path.relative_to(run.path)) for path in run.path.rglob("*.png"))
    assert pictures == ["learning_curve.png", "queries/trial1_cycle1.png"]
    for name in pictures:
        with Image.open(run.path / name) as picture:
            picture.load()
    assert run.printed.startswith(f"{tmp_path / 'data'}")
    assert "a reduced copy, not the paper's data" in run.printed
    assert [int(row["label"]) for row in run.queries] == [
        train.labels[int(row["index"])] for row in run.queries
    ]
    assert all(row["class"] == formats.CIFAR10_CLASSES[int(row["label"])] for row in run.queries)
    checkpoint = run.checkpoint(2)
    assert set(checkpoint) == {"cycle", "state_dict_backbone"}
    assert_fits(checkpoint["state_dict_backbone"], resnet.ResNet18(10, width=6))
    # A class has a hue of its own; what has learned nothing finds one image in ten.
    assert run.accuracies[1] > 25


def test_cifar100_runs_with_tod_sampling_alone_and_queries_no_image_twice(
    tmp_path, call_script, no_pictures
):
    formats.write_cifar100(tmp_path / "data")
    run = finish(
        tmp_path,
        *("main_TOD.py", "cifar100", "TOD", "NONE", [60, 100, 140]),
        *("active_learning.subset_size=90", "model.width=4"),
        *("training.batch_size=20", "training.epochs=1"),
        run=call_script,
    )
    run.check(PLAIN_COLUMNS, pool_size=200)
    checkpoint = run.checkpoint(1)
    assert set(checkpoint) == {"cycle", "state_dict_backbone"}
    assert_fits(checkpoint["state_dict_backbone"], resnet.ResNet18(100, width=4))


@pytest.mark.parametrize("auxiliary", ["NONE", "LL4AL"])
def test_svhn_runs_with_ll4al(tmp_path, call_script, no_pictures, auxiliary):
    formats.write_svhn(tmp_path / "data")
    run = finish(
        tmp_path,
        *("main_LL4AL.py", "svhn", "LL4AL", auxiliary, [40, 60], "active_learning.subset_size=50"),
        *("model.width=4", "training.batch_size=16", "training.epochs=2"),
        run=call_script,
    )
    run.check(PLAIN_COLUMNS, pool_size=100)
    checkpoint = run.checkpoint(2)
    assert set(checkpoint) == {"cycle", "state_dict_backbone", "state_dict_module"}
    assert_fits(checkpoint["state_dict_backbone"], resnet.ResNet18(10, width=4))
    assert_fits(checkpoint["state_dict_module"], lossnet.LossNet((4, 8, 16, 32)))


def test_caltech101_starts_from_imagenet_weights_but_for_the_last_stage(
    tmp_path, monkeypatch, call_script, no_pictures
):
    class_names = formats.write_caltech101(tmp_path / "data", images_per_class=3, num_classes=5)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    formats.write_imagenet_weights(
        tmp_path / "torch" / "hub" / "checkpoints" / models.IMAGENET_FILES[1]
    )
    published = models.imagenet_weights()
    run = finish(
        tmp_path,
        *("main_TOD.py", "caltech101", "RANDOM", "TOD", [4, 6], "active_learning.subset_size=5"),
        *("images.resize=72", "images.size=64", "training.batch_size=4", "training.epochs=1"),
        "training.lr=1.0e-9",  # so small a rate leaves the weights where they start
        run=call_script,
    )
    run.check(FILE_COLUMNS, pool_size=10)
    assert all(row["class"] in class_names for row in run.queries)
    for row in run.queries:
        assert (tmp_path / "data" / "101_ObjectCategories" / row["file"]).is_file()
        assert Path(row["file"]).parent.name == row["class"]

    backbone = run.checkpoint(1)["state_dict_backbone"]
    assert_fits(backbone, imagenet_resnet.ResNet18(num_classes=5))
    fresh = {
        key for key in backbone if key.startswith(("layer4_caltech", "fc_caltech", "added_fc"))
    }
    taken = {key for key in published if not key.startswith(("layer4", "fc"))}
    assert set(backbone) == fresh | taken
    parameters = {key for key, _ in imagenet_resnet.ResNet18(5).named_parameters()}
    for key in taken & parameters:
        torch.testing.assert_close(backbone[key], published[key], msg=key)
    for key in fresh & parameters:
        if key.endswith("conv1.weight"):
            theirs = published[key.replace("layer4_caltech", "layer4")]
            assert not torch.allclose(backbone[key], theirs, atol=1e-3), key


def test_the_weights_classify_images_as_the_documentation_shows(
    tmp_path, monkeypatch, call_script, no_pictures
):
    monkeypatch.chdir(tmp_path)
    run = [*TINY_DIGITS, "--set=model.width=16", "--set=active_learning.cycles=7"]
    done = call_script("main_TOD.py", *run)
    assert done.returncode == 0, done.stderr
    (code,) = python_in("docs/run_folder.md")
    test = data.load(configuration.load("digits"), 0).test
    room = {"images": test.pixels}
    exec(code, room)
    accuracy = 100 * (room["logits"].argmax(dim=1) == test.labels).float().mean().item()
    with next(tmp_path.rglob("results.csv")).open(newline="", encoding="utf-8") as file:
        *_, last = csv.DictReader(file)
    assert float(last["test_accuracy"]) == pytest.approx(accuracy, abs=0.3)  # one image of 360


# -------------------------------------------------------------- real images


def extract_some(tar: tarfile.TarFile, root: Path, count: Callable[[Path], int]) -> None:
    """Of each folder, the first so many files."""
    taken: Counter[Path] = Counter()
    for member in tar:
        folder = Path(member.name).parent
        if member.isfile() and taken[folder] < count(folder):
            taken[folder] += 1
            # Not every Python 3.10 and 3.11 has the safe filter of TarFile.extract.
            path = root / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tar.extractfile(member).read())


@where_there_is(CIFAR10_JPEGS)
def test_real_cifar10_files_run_as_an_image_folder(tmp_path, call_script, no_pictures):
    with tarfile.open(CIFAR10_JPEGS, "r|xz") as tar:
        extract_some(
            tar, tmp_path / "data", lambda folder: {"train": 30, "test": 10}[folder.parts[0]]
        )
    run = finish(
        tmp_path,
        *("main_TOD.py", "image_folder", "TOD", "TOD", [60, 100]),
        *("active_learning.subset_size=150", "model.width=4"),
        *("training.batch_size=32", "training.epochs=2"),
        run=call_script,
    )
    run.check(FILE_COLUMNS, pool_size=300)
    assert "a reduced copy" not in run.printed
    for row in run.queries:
        assert (tmp_path / "data" / "train" / row["file"]).is_file()
        assert row["file"].startswith(f"{row['class']}/")
    assert {row["class"] for row in run.queries} <= set(formats.CIFAR10_CLASSES)


@where_there_is(CALTECH101_SUBSET)
def test_real_caltech101_files_run(tmp_path, call_script, no_pictures):
    with tarfile.open(CALTECH101_SUBSET) as tar:
        extract_some(tar, tmp_path / "data", lambda _: 3)  # two train and one tests
    run = finish(
        tmp_path,
        *("main_TOD.py", "caltech101", "TOD", "TOD", [100, 140], "active_learning.subset_size=80"),
        *("model.pretrained=false", "model.width=4", "training.epochs=1"),
        *("images.resize=72", "images.size=64", "training.batch_size=50"),
        run=call_script,
    )
    run.check(FILE_COLUMNS, pool_size=202)
    assert "holds 101 classes and 303 images" in run.printed
    for row in run.queries:
        assert (tmp_path / "data" / "101_ObjectCategories" / row["file"]).is_file()
        assert Path(row["file"]).parent.name == row["class"] != "BACKGROUND_Google"
    state = run.checkpoint(2)["state_dict_backbone"]
    assert_fits(state, imagenet_resnet.ResNet18(num_classes=101, width=4))
