"""Which images are labelled first, features from elsewhere, and long-tailed pools."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from samplers import query_by_probcover, query_by_typiclust
from tests.support.formats import write_caltech101
from tests.support.harness import run_tod_alone, table
from tests.support.loading import refused
from tests.support.pictures import write_classes
from tests.support.pools import pool_of, positions
from tod import config as configuration
from tod import data
from tod.analysis.results import read_runs
from tod.data.features import load_features, load_features_to_train_on
from tod.strategies import first_labels
from tod.strategies.first_labels import choose_first


def digits(*settings: str, seed: int = 0) -> data.Dataset:
    return data.load(configuration.load("digits", settings), seed)


# ------------------------------------------------------------ first labels


@pytest.mark.parametrize(("count", "expected"), [(9, [3, 3, 3]), (10, [4, 3, 3]), (14, [6, 6, 2])])
def test_balanced_takes_as_many_of_each_class_as_it_has(count, expected):
    labels = np.repeat([0, 1, 2], [50, 40, 2 if count == 14 else 5])
    drawn = []
    for seed in range(20):
        chosen = choose_first("balanced", count, labels, None, np.random.default_rng(seed))
        assert len(set(chosen.tolist())) == count
        sizes = np.bincount(labels[chosen], minlength=3)
        assert sorted(sizes, reverse=True) == expected
        drawn.append(tuple(sizes))
    # The class that has one more is not always the same.
    assert (len(set(drawn)) > 1) == (count == 10)


def test_random_first_labels_are_those_of_earlier_versions():
    chosen = choose_first("random", 10, np.zeros(50), None, np.random.default_rng(3))
    assert np.array_equal(chosen, np.random.default_rng(3).choice(50, 10, replace=False))


def test_typical_first_labels_are_the_densest_points_of_as_many_clusters():
    random = np.random.default_rng(0)
    centers = np.array([[0, 0], [100, 0], [0, 100], [100, 100]])
    # Of each cluster, the first image lies in its middle.
    offsets = random.normal(size=(4, 20, 2))
    offsets[:, 0] = 0
    features = (centers[:, None] + offsets).reshape(80, 2).astype(np.float32)
    chosen = choose_first("typical", 4, np.zeros(80), features, random)
    assert sorted(chosen // 20) == [0, 1, 2, 3]
    distances = np.linalg.norm(offsets.reshape(80, 2)[chosen], axis=1)
    assert distances.max() < 0.8


def test_herding_first_labels_leave_no_cluster_without_one(monkeypatch):
    angles = np.repeat(np.arange(8) * np.pi / 4, 30) + np.random.default_rng(0).normal(0, 0.02, 240)
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    lengths = np.random.default_rng(1).uniform(1, 9, size=(240, 1)).astype(np.float32)
    for most in (35_000, 100):  # among all images, or those that are drawn
        monkeypatch.setattr(first_labels, "MOST_CANDIDATES", most)
        random = np.random.default_rng(0)
        chosen = choose_first("herding", 8, np.zeros(240), features * lengths, random)
        assert sorted(chosen // 30) == [*range(8)]
    assert len(choose_first("herding", 240, np.zeros(240), features, random)) == 240


def test_a_run_begins_with_balanced_labels(tmp_path, no_pictures):
    folder = run_tod_alone(tmp_path, "--sampling=RANDOM", "--set=active_learning.initial=balanced")
    classes = [row["class"] for row in table(folder / "queries/trial1_cycle0.csv")]
    assert sorted(classes) == sorted([str(digit) for digit in range(10)] * 4)


# ---------------------------------------------------------------- features


def digits_features(count: int = 1437) -> np.ndarray:
    """An embedding in which each class is a spot."""
    spots = np.eye(10)[digits().train.labels] * 100
    return (spots + np.random.default_rng(0).normal(size=(1437, 10)))[:count].astype(np.float32)


@pytest.fixture
def features(tmp_path) -> Path:
    path = tmp_path / "features.npy"
    np.save(path, digits_features())
    return path


@pytest.mark.parametrize("strategy", [query_by_typiclust, query_by_probcover])
def test_the_strategies_look_at_given_features_instead_of_the_networks(strategy):
    dense = torch.Tensor(
        [[0, 0], [0.1, 0], [0, 0.1], [0.1, 0.1], [9, 9], [-9, 4], [7, -8], [3, 30]]
    )
    labeled = torch.Tensor([[50, 50], [51, 50], [50, 51]])
    of_network = pool_of(features=dense, labeled_features=labeled)
    given = pool_of(features=dense.flip(0), labeled_features=labeled)
    given = dataclasses.replace(given, given_features=(dense, labeled))
    assert positions(strategy(given)) == positions(strategy(of_network))
    np.testing.assert_array_equal(strategy(given).scores, strategy(of_network).scores)


def test_given_features_choose_the_first_labels_and_the_queries(tmp_path, features, no_pictures):
    out = tmp_path / "out"
    typical = ("--set=active_learning.initial=typical", f"--features={features}")
    folder = run_tod_alone(out, "--sampling=TYPICLUST", *typical)
    classes = [row["class"] for row in table(folder / "queries/trial1_cycle0.csv")]
    assert {*classes} == {str(digit) for digit in range(10)}
    run = yaml.safe_load((folder / "config.yaml").read_text())["run"]
    (curve,) = read_runs([folder])
    assert curve.method == f"TYPICLUST sampling on features {run['features'][:6]}"
    # The same command is the same run; other features are another one, and none are.
    run_tod_alone(out, "--sampling=TYPICLUST", *typical)
    np.save(features, digits_features() + 1)
    line = refused(run_tod_alone, out, "--sampling=TYPICLUST", *typical)
    assert "holds a run with another run.features" in line


def test_features_of_no_use_to_a_strategy_make_no_other_run_of_it(
    tmp_path, features, capsys, no_pictures
):
    folder = run_tod_alone(tmp_path / "out", "--sampling=RANDOM", f"--features={features}")
    assert f"--features {features}: RANDOM has no use for it" in capsys.readouterr().out
    assert yaml.safe_load((folder / "config.yaml").read_text())["run"]["features"] is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda: b"", "cannot be read"),
        (lambda: b"no array", "(it is no .npy file of numbers); write it by numpy.save"),
        (lambda: np.array([{}], dtype=object), "cannot be read"),
        (lambda: digits_features(1436), "it needs a row for each"),
        (lambda: digits_features()[:, :0], "it needs a row for each"),
        (lambda: digits_features()[:, 0], "shape (1437,)"),
        (lambda: digits_features().astype(int), "holds int64"),
        (lambda: np.insert(digits_features(1436), 7, np.inf, axis=0), "row 7 is not"),
        (lambda: np.full((1437, 2), 1e300), "row 0 is not finite"),
        (lambda: np.full((1437, 2), 1e30), "row 0 has the length inf, so no direction"),
        (lambda: np.insert(digits_features(1436), 7, 0, axis=0), "row 7 has the length 0, so"),
    ],
)
def test_features_that_do_not_fit_are_refused_and_nothing_is_written(tmp_path, content, says):
    path, found = tmp_path / "features.npy", content()
    if isinstance(found, bytes):
        path.write_bytes(found)
    else:
        np.save(path, found, allow_pickle=True)
    line = refused(run_tod_alone, tmp_path / "out", "--sampling=TYPICLUST", f"--features={path}")
    assert line.startswith(f"--features {path}: ") and says in line
    assert not (tmp_path / "out").exists()


# -------------------------------------------------------------- long tails


def test_class_sizes_of_a_long_tail_fall_exponentially():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 500))
    kept = data.in_long_tail(labels, 100.0, seed=0)
    expected = [round(500 * 100 ** (-c / 9)) for c in range(10)]
    assert np.bincount(labels[kept]).tolist() == expected
    assert expected[0] == 500 and expected[-1] == 5
    assert np.array_equal(kept, data.in_long_tail(labels, 100.0, seed=0))
    other = data.in_long_tail(labels, 100.0, seed=1)
    assert np.bincount(labels[other]).tolist() == expected and (other != kept).any()


def test_the_most_frequent_class_stays_whole_and_none_vanishes():
    labels = np.repeat([0, 1, 2, 3], [10, 40, 3, 20])
    kept = data.in_long_tail(labels, 1000.0, seed=0)
    # In order of size: 40, 40/10, 40/100 (at least one), 40/1000 (likewise).
    assert np.bincount(labels[kept]).tolist() == [1, 40, 1, 4]
    assert data.in_long_tail(labels, 1.0, seed=0).all()


def test_a_long_tailed_run_leaves_the_test_set_and_is_another_pool_for_each_seed(
    tmp_path, no_pictures
):
    tail = "active_learning.imbalance=20"
    whole, *thinned = digits(), digits(tail), digits(tail, seed=1)
    assert all(torch.equal(t.test.pixels, whole.test.pixels) for t in thinned)
    assert torch.equal(thinned[0].train.pixels, whole.train.pixels[thinned[0].draw.places])
    sizes = [np.bincount(t.train.labels.numpy()).tolist() for t in thinned]
    assert sizes[0] == sizes[1]
    assert not torch.equal(*(t.train.pixels for t in thinned))
    # Those of two seeds are one curve.
    folders = [
        run_tod_alone(tmp_path / str(seed), f"--set={tail}", f"--seed={seed}") for seed in (0, 1)
    ]
    (curve,) = read_runs(folders)
    assert curve.training_images == sum(sizes[0])
    assert len(curve.trials) == 2


def test_features_of_one_seed_alone_do_not_serve_a_long_tail(features):
    dataset = digits("active_learning.imbalance=20")
    np.save(features, load_features(features, dataset))
    assert "1,437 images that the seed draws from" in refused(load_features, features, dataset)


@pytest.mark.parametrize("tail", [[], ["active_learning.imbalance=3"]])
@pytest.mark.parametrize("name", ["image_folder", "caltech101"])
def test_one_file_of_features_serves_all_seeds_of_a_split(tmp_path, name, tail):
    if name == "caltech101":
        root = tmp_path / "101_ObjectCategories"
        write_caltech101(tmp_path, images_per_class=10, num_classes=3)
    else:
        root = tmp_path / "train"
        places = [f"{color}/{i}.png" for color in ("red", "green", "blue") for i in range(10)]
        images = (Image.new("RGB", (8, 8), (8 * i, 0, 0)) for i in range(30))
        write_classes(root, dict(zip(places, images, strict=True)))
        tail = [*tail, "images.test_share=0.2"]
    small = ["images.size=8", "active_learning.initial_labels=2", "active_learning.query_size=1"]
    config = configuration.load(name, [*small, *tail], str(tmp_path))
    files = sorted(str(path.relative_to(root)) for path in root.glob("[!B]*/*"))
    np.save(tmp_path / "f.npy", np.arange(1.0, len(files) + 1)[:, None])
    trained = set()
    for seed in range(3):
        dataset = data.load(config, seed)
        found = load_features(tmp_path / "f.npy", dataset)
        assert [files[int(row) - 1] for row in found[:, 0]] == list(dataset.train.names)
        parts = load_features_to_train_on(tmp_path / "f.npy", dataset)
        for part, images in zip(parts, (dataset.train, dataset.test), strict=True):
            assert [files[int(row) - 1] for row in part.numpy()[:, 0]] == list(images.names)
        trained.add(tuple(dataset.train.names))
    assert len(trained) > 1


def test_more_labels_than_a_long_tail_has_are_refused():
    line = refused(digits, "active_learning.imbalance=100")
    assert "400 labels, but there are 361 training images" in line
