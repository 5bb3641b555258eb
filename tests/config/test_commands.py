"""Whole runs through the command line: every dataset, every choice, and real images."""

import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from PIL import Image

import main_TOD
import models
from models import imagenet_resnet, lossnet, resnet
from tests.support import formats
from tests.support.finished import FILE_COLUMNS, PLAIN_COLUMNS, Finished
from tests.support.harness import PROJECT_DIR, TINY_DIGITS, python_in, run_script, table
from tests.support.pictures import write_classes
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


@pytest.fixture
def finish(tmp_path, call_script) -> Callable[..., Finished]:
    """Ends a short run on `tmp_path / "data"`; its first two sizes are those of its settings."""

    def call(
        script: str,
        config: str,
        sampling: str,
        auxiliary: str,
        sizes: list[int],
        *settings: str,
        run: Callable[..., CompletedProcess] = call_script,
    ) -> Finished:
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
            *(f"--set={each}" for each in settings),
        )
        title = f"{config} auxiliary:{auxiliary} sampling:{sampling}"
        return Finished(process, tmp_path / "results", title, sizes)

    return call


def assert_fits(state_dict: dict, network: torch.nn.Module) -> None:
    """That a checkpoint has a network's keys, all of them, no others, and its shapes."""
    assert list(state_dict) == list(network.state_dict())
    network.load_state_dict(state_dict)
    assert all(value.isfinite().all() for value in state_dict.values())


def assert_queries_are_files(run: Finished, root: Path) -> None:
    """That each lies below `root`, in the folder of its class."""
    for row in run.queries:
        assert (root / row["file"]).is_file()
        assert str(Path(row["file"]).parent) == row["class"]


# ------------------------------------------------------- the paper's datasets


def test_cifar10_runs_with_tod_and_is_learned(tmp_path, finish):
    train, _ = formats.write_cifar10(tmp_path / "data", train_size=200, test_size=100)
    run = finish(
        *("main_TOD.py", "cifar10", "TOD", "TOD", [80, 120], "active_learning.subset_size=100"),
        *("model.width=6", "training.batch_size=16", "training.epochs=6"),
        run=run_script,
    )
    run.check(PLAIN_COLUMNS, pool_size=200)
    for path in run.path.rglob("*.png"):
        with Image.open(path) as picture:
            picture.load()
    assert run.printed.startswith(f"{tmp_path / 'data'}")
    assert "a reduced copy, not the paper's data" in run.printed
    for row in run.queries:
        label = train.labels[int(row["index"])]
        assert (row["label"], row["class"]) == (str(label), formats.CIFAR10_CLASSES[label])
    checkpoint = run.checkpoint(2)
    assert set(checkpoint) == {"cycle", "state_dict_backbone"}
    assert_fits(checkpoint["state_dict_backbone"], resnet.ResNet18(10, width=6))
    # A class has a hue of its own; what has learned nothing finds one image in ten.
    assert run.accuracies[1] > 25


@pytest.mark.parametrize(
    ("config", "method", "auxiliary", "sizes", "networks"),
    [
        ("cifar100", "TOD", "NONE", [60, 100, 140], {"backbone"}),
        ("svhn", "LL4AL", "NONE", [40, 60], {"backbone", "module"}),
        ("svhn", "LL4AL", "LL4AL", [40, 60], {"backbone", "module"}),
    ],
)
def test_cifar100_and_svhn_run_and_publish_the_networks_of_the_method(
    tmp_path, finish, no_pictures, config, method, auxiliary, sizes, networks
):
    {"cifar100": formats.write_cifar100, "svhn": formats.write_svhn}[config](tmp_path / "data")
    run = finish(
        *(f"main_{method}.py", config, method, auxiliary, sizes, "active_learning.subset_size=50"),
        *("model.width=4", "training.batch_size=16", "training.epochs=1"),
    )
    run.check(PLAIN_COLUMNS, pool_size={"cifar100": 200, "svhn": 100}[config])
    checkpoint = run.checkpoint(2)
    assert set(checkpoint) == {"cycle", *(f"state_dict_{name}" for name in networks)}
    num_classes = {"cifar100": 100, "svhn": 10}[config]
    assert_fits(checkpoint["state_dict_backbone"], resnet.ResNet18(num_classes, width=4))
    if "module" in networks:
        assert_fits(checkpoint["state_dict_module"], lossnet.LossNet((4, 8, 16, 32)))


def test_caltech101_starts_from_imagenet_weights_but_for_the_last_stage(
    tmp_path, monkeypatch, finish, no_pictures
):
    class_names = formats.write_caltech101(tmp_path / "data", images_per_class=3, num_classes=5)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    formats.write_imagenet_weights(tmp_path / "torch/hub/checkpoints" / models.IMAGENET_FILES[1])
    published = models.imagenet_weights()
    run = finish(
        *("main_TOD.py", "caltech101", "RANDOM", "TOD", [4, 6], "active_learning.subset_size=5"),
        *("images.resize=72", "images.size=64", "training.batch_size=4", "training.epochs=1"),
        "training.lr=1.0e-9",  # so small a rate leaves the weights where they start
    )
    run.check(FILE_COLUMNS, pool_size=10)
    assert {row["class"] for row in run.queries} <= {*class_names}
    assert_queries_are_files(run, tmp_path / "data" / "101_ObjectCategories")

    backbone = run.checkpoint(1)["state_dict_backbone"]
    assert_fits(backbone, imagenet_resnet.ResNet18(num_classes=5))
    for key, _ in imagenet_resnet.ResNet18(5).named_parameters():
        if not key.startswith(("layer4_caltech", "fc_caltech", "added_fc")):
            torch.testing.assert_close(backbone[key], published[key], msg=key)
        elif key.endswith("conv1.weight"):
            theirs = published[key.replace("layer4_caltech", "layer4")]
            assert not torch.allclose(backbone[key], theirs, atol=1e-3), key


def test_the_weights_classify_images_as_the_documentation_shows(tmp_path, monkeypatch, no_pictures):
    monkeypatch.chdir(tmp_path)
    main_TOD.main([*TINY_DIGITS, "--set=model.width=16", "--set=active_learning.cycles=7"])
    (code,) = python_in("docs/run_folder.md")
    test = data.load(configuration.load("digits"), 0).test
    room = {"images": test.pixels}
    exec(code, room)
    accuracy = 100 * (room["logits"].argmax(dim=1) == test.labels).float().mean().item()
    recorded = float(table(next(tmp_path.rglob("results.csv")))[-1]["test_accuracy"])
    assert recorded == pytest.approx(accuracy, abs=0.3)  # one image of 360


# -------------------------------------------------------------- real images


def where_there_is(archive: Path) -> Callable:
    """Makes a test exist only beside the real images, on which the project does not depend."""
    return lambda test: test if archive.exists() else None


def extract_some(archive: Path, root: Path, count: Callable[[Path], int]) -> None:
    """Of each folder, the first so many files."""
    taken: Counter[Path] = Counter()
    with tarfile.open(archive, "r|*") as tar:
        for member in tar:
            folder = Path(member.name).parent
            if member.isfile() and taken[folder] < count(folder):
                taken[folder] += 1
                # Not every Python 3.10 and 3.11 has the safe filter of TarFile.extract.
                write_classes(root, {member.name: tar.extractfile(member).read()})


@where_there_is(CIFAR10_JPEGS)
def test_real_cifar10_files_run_as_an_image_folder(tmp_path, finish, no_pictures):
    counts = {"train": 30, "test": 10}
    extract_some(CIFAR10_JPEGS, tmp_path / "data", lambda folder: counts[folder.parts[0]])
    run = finish(
        *("main_TOD.py", "image_folder", "TOD", "TOD", [60, 100]),
        *("active_learning.subset_size=150", "model.width=4"),
        *("training.batch_size=32", "training.epochs=2"),
    )
    run.check(FILE_COLUMNS, pool_size=300)
    assert "a reduced copy" not in run.printed
    assert_queries_are_files(run, tmp_path / "data" / "train")
    assert {row["class"] for row in run.queries} <= set(formats.CIFAR10_CLASSES)


@where_there_is(CALTECH101_SUBSET)
def test_real_caltech101_files_run(tmp_path, finish, no_pictures):
    extract_some(CALTECH101_SUBSET, tmp_path / "data", lambda _: 3)  # two train and one tests
    run = finish(
        *("main_TOD.py", "caltech101", "TOD", "TOD", [100, 140], "active_learning.subset_size=80"),
        *("model.pretrained=false", "model.width=4", "training.epochs=1"),
        *("images.resize=72", "images.size=64", "training.batch_size=50"),
    )
    run.check(FILE_COLUMNS, pool_size=202)
    assert "holds 101 classes and 303 images" in run.printed
    assert_queries_are_files(run, tmp_path / "data" / "101_ObjectCategories")
    assert "BACKGROUND_Google" not in {row["class"] for row in run.queries}
    state = run.checkpoint(2)["state_dict_backbone"]
    assert_fits(state, imagenet_resnet.ResNet18(num_classes=101, width=4))
