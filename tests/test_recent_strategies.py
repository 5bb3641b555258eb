"""BALD, NOISE_STABILITY, TYPICLUST, PROBCOVER beside slow, plain transcriptions of their papers."""

import math

import numpy as np
import pytest
import torch

import samplers
from losses import CODLoss
from models import with_noise
from models.resnet import ResNet18
from samplers import (
    NOISE_DRAWS,
    NOISE_NORM,
    mutual_information,
    query_by_bald,
    query_by_core_set,
    query_by_noise_stability,
    query_by_probcover,
    query_by_typiclust,
)
from tests.support.harness import tiny_run
from tests.support.pools import pool_of, positions, slow_farthest_first
from tests.support.soak import differences, results
from tod import coverage, typicality
from tod.coverage import pick_covering, purity_radius
from tod.diversity import common_offset, squared_distances
from tod.training.device import allow_tf32
from tod.typicality import pick_typical


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


# ------------------------------------------------------------------- BALD


def entropy_by_hand(p: list[float]) -> float:
    return -sum(x * math.log(x) for x in p if x > 0)


def test_mutual_information_equals_that_by_hand():
    random = torch.Generator().manual_seed(0)
    draws = [torch.randn(6, 3, generator=random).mul(3).softmax(dim=1) for _ in range(4)]
    draws = [torch.cat([p, torch.eye(3)[:1]]) for p in draws]
    expected = []
    for image in range(7):
        of_image = [p[image].tolist() for p in draws]
        mean = [sum(column) / 4 for column in zip(*of_image, strict=True)]
        expected.append(entropy_by_hand(mean) - sum(map(entropy_by_hand, of_image)) / 4)
    torch.testing.assert_close(mutual_information(draws), torch.tensor(expected), atol=1e-6, rtol=0)


def test_weights_that_agree_tell_nothing_and_those_that_contradict_tell_all():
    sure, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    unsure = torch.tensor([[0.5, 0.5]])
    assert mutual_information([sure, sure]).item() == 0
    assert mutual_information([unsure, unsure]).item() == pytest.approx(0, abs=1e-6)
    assert mutual_information([sure, other]).item() == pytest.approx(math.log(2))


def test_bald_sends_each_images_dropped_features_through_the_task_head():
    features, dropout = torch.randn(30, 8, generator=torch.Generator().manual_seed(1)), 0.3
    pool = pool_of(features=features, query_size=5)
    model = pool.config.model.model_copy(update={"dropout": dropout})
    pool.config = pool.config.model_copy(update={"model": model})
    pool.network = ResNet18(3, width=1, dropout=dropout)
    query = query_by_bald(pool)

    draws = torch.Generator().manual_seed(int(generator(0).integers(2**63)))
    head = pool.network.task_head
    predictions = []
    for _ in range(20):
        random = torch.rand(30, 8, generator=draws)
        rows = []
        for h, u in zip(features, random, strict=True):
            kept = torch.tensor([x / 0.7 if r < 0.7 else 0.0 for x, r in zip(h, u, strict=True)])
            rows.append((head.weight @ kept + head.bias).softmax(dim=0))
        predictions.append(torch.stack(rows).detach())
    expected = mutual_information(predictions).numpy()
    np.testing.assert_allclose(query.scores, expected, atol=1e-6)
    assert positions(query) == np.argsort(expected, kind="stable")[-5:].tolist()


def test_a_run_with_dropout_goes_on_as_if_it_had_not_been_stopped(tmp_path, no_pictures):
    whole, stopped = (
        tiny_run(tmp_path / name, "main_TOD.py", "TOD", "TOD", "--set=model.dropout=0.5")
        for name in ("whole", "stopped")
    )
    whole.start(query_by_bald, CODLoss)
    stopped.stop_after(4, query_by_bald, CODLoss)
    stopped.start(query_by_bald, CODLoss)
    assert not differences(results(whole.folder), results(stopped.folder))


def test_dropout_spares_the_consistency_head_and_evaluation():
    torch.manual_seed(0)
    network = ResNet18(3, width=2, dropout=0.5)
    images = torch.randn(16, 3, 8, 8)
    seen = [network.train()(images) for _ in range(2)]
    assert not torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[0][1], seen[1][1])
    logits, _, features, _ = network.eval()(images)
    assert torch.equal(logits, network.task_head(features))
    assert network.state_dict().keys() == ResNet18(3, width=2).state_dict().keys()


# -------------------------------------------------------- NOISE_STABILITY


def test_noise_has_the_wanted_norm_and_spares_biases():
    network = ResNet18(3, width=2)
    noisy = with_noise(network, 0.01, torch.Generator().manual_seed(0))
    changed = 0
    for (name, old), new in zip(network.named_parameters(), noisy.parameters(), strict=True):
        if name.endswith("bias"):
            assert torch.equal(old, new)
        else:
            changed += 1
            assert float((new - old).detach().norm() / old.detach().norm()) == pytest.approx(
                0.01, rel=1e-3
            )
    assert changed == 20 + 20 + 2  # convolutions, batch norms, heads


def test_noise_stability_equals_a_plain_one(monkeypatch):
    monkeypatch.setattr(samplers, "NOISE_NORM", 0.05)
    torch.manual_seed(3)
    network = ResNet18(4, width=2)
    for _ in range(3):
        network.train()(torch.randn(16, 3, 8, 8))
    network.eval()
    images = torch.randn(24, 3, 8, 8)
    pool = pool_of(torch.randn(24, 4), query_size=10)
    pool.network = pool.backbone = network
    pool.batches = lambda: iter(images.split(7))
    query = query_by_noise_stability(pool)

    draws = torch.Generator().manual_seed(int(generator(0).integers(2**63)))
    with torch.no_grad():
        clean = network(images)[0].softmax(dim=1)
        vectors = []
        for _ in range(NOISE_DRAWS):
            noisy = with_noise(network, 0.05, draws)(images)[0].softmax(dim=1)
            vectors.append(
                torch.stack([(q - p) / p.norm() for p, q in zip(clean, noisy, strict=True)])
            )
    vectors = torch.cat(vectors, dim=1).double().numpy()
    np.testing.assert_allclose(query.scores, np.linalg.norm(vectors, axis=1), rtol=1e-3)
    assert positions(query) == slow_farthest_first(vectors, np.zeros((1, vectors.shape[1])), 10)
    assert NOISE_NORM == 0.001


# -------------------------------------------------------------- TYPICLUST


def slow_typicality(cluster: np.ndarray) -> list[float]:
    if len(cluster) == 1:
        return [0.0]
    k = min(20, max(len(cluster) // 2, 1))
    found = []
    for i, x in enumerate(cluster):
        distances = sorted(math.dist(x, y) for j, y in enumerate(cluster) if j != i)
        found.append(1 / (sum(distances[:k]) / k + 1e-5))
    return found


def slow_pick_typical(
    features: np.ndarray, is_labeled: np.ndarray, cluster_of: np.ndarray, query_size: int
) -> list[int]:
    members = {c: np.flatnonzero(cluster_of == c) for c in set(cluster_of.tolist())}
    order = sorted(
        (c for c in members if len(members[c]) > 5),
        key=lambda c: (is_labeled[members[c]].sum(), -len(members[c])),
    )
    picked: list[int] = []
    i = 0
    while len(picked) < query_size:
        left = [m for m in members[order[i % len(order)]] if not is_labeled[m] and m not in picked]
        if left:
            picked.append(int(left[int(np.argmax(slow_typicality(features[left])))]))
        i += 1
    return picked


@pytest.mark.parametrize("query_size", [4, 25, 60])
def test_typiclust_equals_a_plain_one_with_the_same_clusters(monkeypatch, query_size):
    random = generator(4)
    features = random.normal(size=(110, 5)).astype(np.float32)
    is_labeled = np.arange(110) < 10
    # Of uneven sizes, and none that ties with another in labelled members and size.
    cluster_of = random.permutation(np.repeat(np.arange(6), [40, 30, 20, 11, 6, 3]))
    monkeypatch.setattr(typicality, "clusters", lambda *arguments: cluster_of)
    picked, scores = pick_typical(features, is_labeled, query_size, random)
    assert picked.tolist() == slow_pick_typical(features, is_labeled, cluster_of, query_size)
    assert (scores[is_labeled] == 0).all() and (scores[~is_labeled] > 0).all()


def test_typiclust_makes_as_many_clusters_as_there_will_be_labels(monkeypatch):
    wanted = []
    monkeypatch.setattr(
        typicality, "clusters", lambda f, n, r: wanted.append(n) or np.arange(len(f)) % n
    )
    for labeled, query_size in ((3, 4), (300, 400)):
        features = np.zeros((1000, 2), np.float32)
        pick_typical(features, np.arange(1000) < labeled, query_size, generator(0))
    assert wanted == [7, 500]


# -------------------------------------------------------------- PROBCOVER


def slow_pick_covering(
    features: np.ndarray, is_labeled: np.ndarray, delta: float, query_size: int
) -> list[int]:
    count = len(features)
    ball = [
        {j for j in range(count) if math.dist(features[i], features[j]) < delta}
        for i in range(count)
    ]
    covered = set().union(*(ball[i] for i in range(count) if is_labeled[i]))
    picked: list[int] = []
    while len(picked) < query_size:
        free = [i for i in range(count) if not is_labeled[i] and i not in picked]
        best = max(free, key=lambda i: (len(ball[i] - covered), -i))
        if not ball[best] - covered:
            break
        picked.append(best)
        covered |= ball[best]
    return picked


@pytest.mark.parametrize("delta", [0.4, 0.8, 1.5])
def test_probcover_equals_a_plain_one(monkeypatch, delta):
    monkeypatch.setattr(coverage, "ROWS", 16)
    features = generator(6).normal(size=(90, 2))
    is_labeled = np.arange(90) < 8
    expected = slow_pick_covering(features, is_labeled, delta, 60)
    tensor = torch.tensor(features, dtype=torch.float32)
    picked, scores = pick_covering(tensor[8:], tensor[:8], delta, 60, generator(0))
    assert (picked[: len(expected)] + 8).tolist() == expected
    # Where all is covered, the rest is drawn at random from what is left.
    assert len({*picked.tolist()}) == 60
    assert scores[expected[0] - 8] == scores.max()


def test_the_radius_is_the_largest_at_which_95_of_100_balls_are_pure():
    random = torch.Generator().manual_seed(7)
    features = torch.cat([torch.randn(100, 3, generator=random) + 4 * i for i in range(3)])
    delta = purity_radius(features, 3, generator(1))
    pseudo_labels = typicality.clusters(features.numpy(), 3, generator(1))
    points = features.double().numpy()

    def pure(radius: float) -> float:
        return np.mean(
            [
                all(
                    pseudo_labels[j] == pseudo_labels[i]
                    for j in range(300)
                    if math.dist(points[i], points[j]) < radius
                )
                for i in range(300)
            ]
        )

    assert pure(delta * (1 - 1e-5)) >= 0.95
    assert pure(delta * 1.01) < 0.95


@pytest.mark.parametrize(
    "strategy",
    [query_by_core_set, query_by_probcover, query_by_typiclust],
    ids=lambda s: s.__name__,
)
def test_what_all_features_have_in_common_changes_no_pick(strategy):
    # Sixteenths, to which 2¹⁴ is added without rounding.
    random = torch.Generator().manual_seed(3)
    features = (torch.randn(300, 32, generator=random) * 16).round() / 16
    labeled = features[:20] + 0.5
    near, far = (
        strategy(pool_of(features=features + o, labeled_features=labeled + o, query_size=60))
        for o in (0, 2**14)
    )
    assert positions(far) == positions(near)
    np.testing.assert_allclose(far.scores, near.scores, rtol=1e-5)


@pytest.mark.parametrize("strategy", [query_by_typiclust, query_by_probcover])
def test_the_heaps_that_have_no_label_come_first(strategy):
    random = torch.Generator().manual_seed(5)
    heaps = [torch.randn(40, 3, generator=random) + 50 * torch.eye(3)[i] for i in range(3)]
    pool = pool_of(features=torch.cat(heaps), labeled_features=heaps[0][:1], query_size=2)
    assert sorted(position // 40 for position in positions(strategy(pool))) == [1, 2]


def test_features_around_0_stay_as_they_are_to_the_last_bit():
    features = torch.rand(300, 32, generator=torch.Generator().manual_seed(3))
    assert not common_offset(features).any()
    assert common_offset(features + 100).any()


def test_probcover_picks_as_many_as_asked_for_at_any_radius():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(100, 8, generator=generator)
    labeled = features[:1] + 100
    pairs = torch.cat(list(squared_distances(features, features)))
    for delta in pairs.sqrt()[0, 1:60].tolist():  # each some pair's own distance
        random = np.random.default_rng(0)
        picked, _ = pick_covering(features, labeled, delta, 100, random)
        assert sorted(picked.tolist()) == list(range(100))


def test_noise_stability_computes_in_fp32_whatever_the_precision(monkeypatch):
    seen = []
    torch.manual_seed(0)
    network = ResNet18(4, width=1).eval()
    pool = pool_of(logits=torch.randn(6, 4), query_size=2)
    pool.network = pool.backbone = network
    pool.batches = lambda: iter([torch.randn(6, 3, 8, 8)])
    compute = pool.compute

    def recorded(*arguments):
        seen.append(torch.backends.cuda.matmul.allow_tf32)
        return compute(*arguments)

    monkeypatch.setattr(pool, "compute", recorded)
    allow_tf32(True)
    try:
        query_by_noise_stability(pool)
        assert seen == [False] * 31
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        allow_tf32(False)
