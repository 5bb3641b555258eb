"""Whole runs through the command line: every dataset, every choice, and real images."""

import csv
import itertools
import re
import subprocess
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import models
from models import imagenet_resnet, lossnet, resnet
from tests.support import formats
from tests.support.harness import PROJECT_DIR, TINY_DIGITS, python_in, run_script
from tod import config as configuration
from tod import data

TINY = [
    "--device=cpu",
    "--set=active_learning.trials=1",
    "--set=active_learning.cycles=2",
    "--set=training.milestones=[]",
]
"""What makes a run of any dataset short; the rest depends on the dataset."""

REAL_IMAGES = PROJECT_DIR.parent / "shared" / "datasets"
CIFAR10_JPEGS = REAL_IMAGES / "cifar10-jpeg.tar.xz"
CALTECH101_SUBSET = REAL_IMAGES / "caltech101-subset.tar"


def where_there_is(archive: Path) -> Callable:
    """Makes a test exist only beside the real images, on which the project does not depend."""
    return lambda test: test if archive.exists() else None


def label_counts(initial: int, query: int, subset: int) -> list[str]:
    return [
        f"--set=active_learning.initial_labels={initial}",
        f"--set=active_learning.query_size={query}",
        f"--set=active_learning.subset_size={subset}",
    ]


class Finished:
    """What a finished run has printed and left behind; `sizes` are those of its labelled sets."""

    def __init__(
        self, process: subprocess.CompletedProcess, output_dir: Path, title: str, sizes: list[int]
    ) -> None:
        assert process.returncode == 0, process.stderr
        assert process.stderr == ""
        config, auxiliary, sampling = re.split(" auxiliary:| sampling:", title)
        self.path = output_dir / f"{config}_auxiliary_{auxiliary}_sampling_{sampling}_seed0"
        self.title = title
        self.sizes = sizes
        self.printed = process.stdout
        self.results = self._table("results.csv")
        self.cycles = range(1, len(sizes) + 1)
        self.queries_of_cycle = [
            self._table(f"queries/trial1_cycle{cycle}.csv") for cycle in self.cycles[:-1]
        ]
        self.queries = list(itertools.chain(*self.queries_of_cycle))
        self.config = yaml.safe_load((self.path / "config.yaml").read_text())

    def _table(self, name: str) -> list[dict[str, str]]:
        with (self.path / name).open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def checkpoint(self, cycle: int) -> dict:
        return torch.load(self.path / "weights" / f"trial1_cycle{cycle}.pth", weights_only=True)

    @property
    def accuracies(self) -> list[float]:
        return [float(row["test_accuracy"]) for row in self.results]

    def check(self, columns: tuple[str, ...], pool_size: int) -> None:
        """What holds for every run."""
        files = {str(p.relative_to(self.path)) for p in self.path.rglob("*") if p.is_file()}
        assert {name for name in files if not name.startswith(".locks/")} == {
            *("config.yaml", "log.txt", "results.csv", "learning_curve.png"),
            "queries/trial1_cycle0.csv",
            *(f"confusion/trial1_cycle{cycle}.csv" for cycle in self.cycles),
            *(f"queries/trial1_cycle{cycle}.csv" for cycle in self.cycles[:-1]),
            *(f"queries/trial1_cycle{cycle}.png" for cycle in self.cycles[:-1]),
            *(f"weights/trial1_cycle{cycle}.pth" for cycle in self.cycles),
        }
        for path in self.path.rglob("*.png"):
            with Image.open(path) as picture:
                picture.load()
        assert list(self.results[0])[:4] == ["trial", "cycle", "num_labeled", "test_accuracy"]
        assert {row["trial"] for row in self.results} == {"1"}
        assert [int(row["cycle"]) for row in self.results] == list(self.cycles)
        assert [int(row["num_labeled"]) for row in self.results] == self.sizes
        lines = [
            f"{self.title} Trial:1/1 || Cycle:{cycle}/{len(self.sizes)} || "
            f"Label set size:{size} ||  Test acc:{accuracy:.2f}"
            for cycle, size, accuracy in zip(self.cycles, self.sizes, self.accuracies, strict=True)
        ]
        assert [line for line in self.printed.splitlines() if "Test acc" in line] == lines
        assert set(lines) <= set((self.path / "log.txt").read_text(encoding="utf-8").splitlines())

        assert all(tuple(row) == columns for row in self.queries)
        for queries, size, next_size in zip(
            self.queries_of_cycle, self.sizes, self.sizes[1:], strict=False
        ):
            assert len(queries) == next_size - size
            scores = [float(row["score"]) for row in queries]
            assert scores == sorted(scores)
        assert self.config["run"]["training_images"] == pool_size
        # No image is queried twice, neither in one cycle nor in two.
        indices = {int(row["index"]) for row in self.queries}
        assert len(indices) == len(self.queries) == self.sizes[-1] - self.sizes[0]
        assert indices <= set(range(pool_size))
        assert [self.checkpoint(cycle)["cycle"] for cycle in self.cycles] == list(self.cycles)


def finish(
    output_dir: Path,
    script: str,
    config: str,
    sampling: str,
    auxiliary: str,
    sizes: list[int],
    *arguments: object,
) -> Finished:
    process = run_script(
        script,
        f"--config={config}",
        f"--sampling={sampling}",
        f"--auxiliary={auxiliary}",
        f"--output-dir={output_dir}",
        *arguments,
    )
    title = f"{Path(config).stem} auxiliary:{auxiliary} sampling:{sampling}"
    return Finished(process, output_dir, title, sizes)


def assert_fits(state_dict: dict, network: torch.nn.Module) -> None:
    """That a checkpoint has a network's keys, all of them, no others, and its shapes."""
    assert list(state_dict) == list(network.state_dict())
    network.load_state_dict(state_dict)
    assert all(value.isfinite().all() for value in state_dict.values())


PLAIN_COLUMNS = ("index", "score", "label", "class")
FILE_COLUMNS = (*PLAIN_COLUMNS, "file")

RESNET_KEYS = {
    *("conv1", "bn1", "linear", "linear1"),
    *(
        f"layer{stage}.{block}.{part}"
        for stage, block, part in itertools.product(
            (1, 2, 3, 4), (0, 1), ("conv1", "bn1", "conv2", "bn2")
        )
    ),
    *(f"layer{stage}.0.shortcut.{part}" for stage, part in itertools.product((2, 3, 4), (0, 1))),
}


def modules_of(state_dict: dict) -> set[str]:
    return {key.rpartition(".")[0] for key in state_dict}


# ------------------------------------------------------- the paper's datasets


def test_cifar10_runs_with_tod_and_is_learned(tmp_path):
    train, _ = formats.write_cifar10(tmp_path / "data", train_size=200, test_size=100)
    run = finish(
        tmp_path / "results",
        *("main_TOD.py", "cifar10", "TOD", "TOD", [80, 120]),
        *(*TINY, *label_counts(80, 40, 100), f"--data-dir={tmp_path / 'data'}"),
        *("--set=model.width=6", "--set=training.batch_size=16", "--set=training.epochs=6"),
    )
    run.check(PLAIN_COLUMNS, pool_size=200)
    assert run.printed.startswith(f"{tmp_path / 'data'}")
    assert "a reduced copy, not the paper's data" in run.printed
    assert [int(row["label"]) for row in run.queries] == [
        train.labels[int(row["index"])] for row in run.queries
    ]
    assert all(row["class"] == formats.CIFAR10_CLASSES[int(row["label"])] for row in run.queries)
    checkpoint = run.checkpoint(2)
    assert set(checkpoint) == {"cycle", "state_dict_backbone"}
    assert modules_of(checkpoint["state_dict_backbone"]) == RESNET_KEYS
    assert_fits(checkpoint["state_dict_backbone"], resnet.ResNet18(10, width=6))
    # A class has a hue of its own; what has learned nothing finds one image in ten.
    assert run.accuracies[1] > 25


def test_cifar100_runs_with_tod_sampling_alone_and_queries_no_image_twice(tmp_path):
    formats.write_cifar100(tmp_path / "data")
    run = finish(
        tmp_path / "results",
        *("main_TOD.py", "cifar100", "TOD", "NONE", [60, 100, 140]),
        *(
            *TINY,
            "--set=active_learning.cycles=3",
            *label_counts(60, 40, 90),
            f"--data-dir={tmp_path / 'data'}",
        ),
        *("--set=model.width=4", "--set=training.batch_size=20", "--set=training.epochs=1"),
    )
    run.check(PLAIN_COLUMNS, pool_size=200)
    checkpoint = run.checkpoint(1)
    assert set(checkpoint) == {"cycle", "state_dict_backbone"}
    assert_fits(checkpoint["state_dict_backbone"], resnet.ResNet18(100, width=4))


def test_svhn_runs_with_ll4al(tmp_path):
    formats.write_svhn(tmp_path / "data")
    run = finish(
        tmp_path / "results",
        *("main_LL4AL.py", "svhn", "LL4AL", "LL4AL", [40, 60]),
        *(*TINY, *label_counts(40, 20, 50), f"--data-dir={tmp_path / 'data'}"),
        *("--set=model.width=4", "--set=training.batch_size=16", "--set=training.epochs=2"),
    )
    run.check(PLAIN_COLUMNS, pool_size=100)
    checkpoint = run.checkpoint(2)
    assert set(checkpoint) == {"cycle", "state_dict_backbone", "state_dict_module"}
    assert modules_of(checkpoint["state_dict_module"]) == {"FC1", "FC2", "FC3", "FC4", "linear"}
    assert_fits(checkpoint["state_dict_backbone"], resnet.ResNet18(10, width=4))
    assert_fits(checkpoint["state_dict_module"], lossnet.LossNet((4, 8, 16, 32)))


def test_caltech101_starts_from_imagenet_weights_but_for_the_last_stage(tmp_path, monkeypatch):
    class_names = formats.write_caltech101(tmp_path / "data", images_per_class=3, num_classes=5)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    formats.write_imagenet_weights(
        tmp_path / "torch" / "hub" / "checkpoints" / models.IMAGENET_FILES[1]
    )
    published = models.imagenet_weights()
    run = finish(
        tmp_path / "results",
        *("main_TOD.py", "caltech101", "RANDOM", "TOD", [4, 6]),
        *(*TINY, *label_counts(4, 2, 5), f"--data-dir={tmp_path / 'data'}"),
        *("--set=training.batch_size=4", "--set=training.epochs=1"),
        # So small a rate leaves the weights where they start.
        "--set=training.lr=1.0e-9",
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


# ------------------------------------------------------------- every choice


@pytest.mark.parametrize(
    ("script", "sampling", "auxiliary"),
    [
        (f"main_{method}.py", sampling, auxiliary)
        for method in ("TOD", "LL4AL")
        for sampling in ("RANDOM", method)
        for auxiliary in ("NONE", method)
    ],
)
def test_every_strategy_runs_with_every_loss(tmp_path, script, sampling, auxiliary):
    run = finish(tmp_path, script, "digits", sampling, auxiliary, [40, 60], *TINY_DIGITS)
    run.check(PLAIN_COLUMNS, pool_size=1437)
    modules = {"state_dict_module"} if script == "main_LL4AL.py" else set()
    checkpoint = run.checkpoint(2)
    assert set(checkpoint) == {"cycle", "state_dict_backbone", *modules}
    assert_fits(checkpoint["state_dict_backbone"], resnet.ResNet18(10, width=4))
    assert run.config["run"]["entry"] == script
    assert run.config["run"]["sampling"] == sampling
    assert run.config["run"]["auxiliary"] == auxiliary


# -------------------------------------------------------------- real images


def extract(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    # Not every Python 3.10 and 3.11 has the safe filter of TarFile.extract.
    path = folder / member.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar.extractfile(member).read())


def test_the_weights_classify_images_as_the_documentation_shows(tmp_path, monkeypatch):
    run = [*TINY_DIGITS, "--set=model.width=16", "--set=active_learning.cycles=7"]
    done = run_script("main_TOD.py", *run, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (code,) = python_in("docs/run_folder.md")
    test = data.load(configuration.load("digits"), 0).test
    room = {"images": test.pixels}
    monkeypatch.chdir(tmp_path)
    exec(code, room)
    accuracy = 100 * (room["logits"].argmax(dim=1) == test.labels).float().mean().item()
    with next(tmp_path.rglob("results.csv")).open(newline="") as file:
        *_, last = csv.DictReader(file)
    assert float(last["test_accuracy"]) == pytest.approx(accuracy, abs=0.3)  # one image of 360


@where_there_is(CIFAR10_JPEGS)
def test_real_cifar10_files_run_as_an_image_folder(tmp_path):
    size = {"train": 30, "test": 10}
    taken: Counter[Path] = Counter()
    with tarfile.open(CIFAR10_JPEGS, "r|xz") as tar:
        for member in tar:
            folder = Path(member.name).parent
            if member.isfile() and taken[folder] < size[folder.parts[0]]:
                taken[folder] += 1
                extract(tar, member, tmp_path / "data")
    run = finish(
        tmp_path / "results",
        *("main_TOD.py", "image_folder", "TOD", "TOD", [60, 100]),
        *(*TINY, *label_counts(60, 40, 150), f"--data-dir={tmp_path / 'data'}"),
        *("--set=model.width=4", "--set=training.batch_size=32", "--set=training.epochs=2"),
    )
    run.check(FILE_COLUMNS, pool_size=300)
    assert "a reduced copy" not in run.printed
    for row in run.queries:
        assert (tmp_path / "data" / "train" / row["file"]).is_file()
        assert row["file"].startswith(f"{row['class']}/")
    assert {row["class"] for row in run.queries} <= set(formats.CIFAR10_CLASSES)


@where_there_is(CALTECH101_SUBSET)
def test_real_caltech101_files_run(tmp_path):
    # Of three images a class, two train and one tests.
    taken: Counter[Path] = Counter()
    with tarfile.open(CALTECH101_SUBSET) as tar:
        for member in tar:
            folder = Path(member.name).parent
            if member.isfile() and taken[folder] < 3:
                taken[folder] += 1
                extract(tar, member, tmp_path / "data")
    run = finish(
        tmp_path / "results",
        *("main_TOD.py", "caltech101", "TOD", "TOD", [100, 140]),
        *(*TINY, *label_counts(100, 40, 80), f"--data-dir={tmp_path / 'data'}"),
        *("--set=model.pretrained=false", "--set=model.width=4", "--set=training.epochs=1"),
        *("--set=images.resize=72", "--set=images.size=64", "--set=training.batch_size=50"),
    )
    run.check(FILE_COLUMNS, pool_size=202)
    assert "holds 101 classes and 303 images" in run.printed
    for row in run.queries:
        assert (tmp_path / "data" / "101_ObjectCategories" / row["file"]).is_file()
        assert Path(row["file"]).parent.name == row["class"] != "BACKGROUND_Google"
    state = run.checkpoint(2)["state_dict_backbone"]
    assert_fits(state, imagenet_resnet.ResNet18(num_classes=101, width=4))
