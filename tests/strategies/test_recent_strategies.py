"""BALD, NOISE_STABILITY, TYPICLUST, PROBCOVER beside slow, plain transcriptions of their papers."""

import math
from collections.abc import Sequence
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from numpy.random import default_rng as generator

import samplers
from models import with_noise
from models.inference import allow_tf32
from models.resnet import ResNet18
from tests.support.pools import pool_of, positions, slow_farthest_first
from tod.strategies import covering as coverage
from tod.strategies import perturbation, typicality
from tod.strategies.covering import pick_covering, purity_radius
from tod.strategies.diversity import common_offset, squared_distances
from tod.strategies.typicality import pick_typical

TYPICAL_OR_COVERING = [samplers.query_by_typiclust, samplers.query_by_probcover]

# ------------------------------------------------------------------- BALD


def entropy_by_hand(p: list[float]) -> float:
    return -sum(x * math.log(x) for x in p if x > 0)


def test_mutual_information_equals_that_by_hand():
    random = torch.Generator().manual_seed(0)
    draws = [torch.randn(6, 3, generator=random).mul(3).softmax(dim=1) for _ in range(4)]
    # Two images of which each draw is sure: it is the same one, or a contradiction.
    draws = [torch.cat([p, torch.eye(3)[[0, i % 2]]]) for i, p in enumerate(draws)]
    expected = []
    for image in range(8):
        of_image = [p[image].tolist() for p in draws]
        mean = [sum(column) / 4 for column in zip(*of_image, strict=True)]
        expected.append(entropy_by_hand(mean) - sum(map(entropy_by_hand, of_image)) / 4)
    assert expected[6:] == pytest.approx([0, math.log(2)])
    found = samplers.mutual_information(draws)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)


def test_bald_sends_each_images_dropped_features_through_the_task_head():
    features, dropout = torch.randn(30, 8, generator=torch.Generator().manual_seed(1)), 0.3
    pool = pool_of(features=features, query_size=5, dropout=dropout)
    pool.network = ResNet18(3, width=1, dropout=dropout)
    query = samplers.query_by_bald(pool)

    draws = torch.Generator().manual_seed(int(generator(0).integers(2**63)))
    head = pool.network.task_head
    predictions = []
    for _ in range(20):
        kept = torch.where(torch.rand(30, 8, generator=draws) < 0.7, features / 0.7, 0.0)
        predictions.append(head(kept).softmax(dim=1).detach())
    expected = samplers.mutual_information(predictions).numpy()
    np.testing.assert_allclose(query.scores, expected, atol=1e-6)
    assert positions(query) == np.argsort(expected, kind="stable")[-5:].tolist()


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
    norms = {True: [], False: []}
    for (name, old), new in zip(network.named_parameters(), noisy.parameters(), strict=True):
        change = (new - old).detach().norm() / old.detach().norm().clamp_min(1e-9)
        norms[name.endswith("bias")].append(change.item())
    convolutions, batch_norms, heads = 20, 20, 2
    expected = [0.01] * (convolutions + batch_norms + heads)
    assert norms[False] == pytest.approx(expected, rel=1e-3)
    assert not any(norms[True])


def test_noise_stability_equals_a_plain_one(monkeypatch):
    assert perturbation.NOISE_NORM == 0.001
    monkeypatch.setattr(perturbation, "NOISE_NORM", 0.05)
    torch.manual_seed(3)
    network = ResNet18(4, width=2)
    for _ in range(3):
        network.train()(torch.randn(16, 3, 8, 8))
    network.eval()
    images = torch.randn(24, 3, 8, 8)
    pool = pool_of(torch.randn(24, 4), query_size=10)
    pool.network = pool.backbone = network
    pool.batches = lambda: iter(images.split(7))
    query = samplers.query_by_noise_stability(pool)

    draws = torch.Generator().manual_seed(int(generator(0).integers(2**63)))
    with torch.no_grad():
        clean = network(images)[0].softmax(dim=1)
        vectors = []
        for _ in range(perturbation.NOISE_DRAWS):
            noisy = with_noise(network, 0.05, draws)(images)[0].softmax(dim=1)
            vectors.append((noisy - clean) / clean.norm(dim=1, keepdim=True))
    vectors = torch.cat(vectors, dim=1).double().numpy()
    np.testing.assert_allclose(query.scores, np.linalg.norm(vectors, axis=1), rtol=1e-3)
    assert positions(query) == slow_farthest_first(vectors, np.zeros((1, vectors.shape[1])), 10)


# -------------------------------------------------------------- TYPICLUST


def slow_typicality(cluster: np.ndarray) -> Sequence[float]:
    if len(cluster) == 1:
        return [0.0]
    neighbours = min(20, max(len(cluster) // 2, 1))
    distances = np.sort(np.linalg.norm(cluster[:, None] - cluster, axis=2))
    return 1 / (distances[:, 1 : neighbours + 1].mean(axis=1) + 1e-5)


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
    clusters = Mock(side_effect=lambda features, number, _: np.arange(len(features)) % number)
    monkeypatch.setattr(typicality, "clusters", clusters)
    for labeled, query_size in ((3, 4), (300, 400)):
        features = np.zeros((1000, 2), np.float32)
        pick_typical(features, np.arange(1000) < labeled, query_size, generator(0))
    assert [call.args[1] for call in clusters.call_args_list] == [7, 500]


# -------------------------------------------------------------- PROBCOVER


def slow_pick_covering(
    features: np.ndarray, is_labeled: np.ndarray, delta: float, query_size: int
) -> list[int]:
    count = len(features)
    ball = [{j for j in range(count) if math.dist(x, features[j]) < delta} for x in features]
    covered = set().union(*(ball[i] for i in np.flatnonzero(is_labeled)))
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

    distances = np.linalg.norm(points[:, None] - points, axis=2)
    differ = pseudo_labels[:, None] != pseudo_labels

    def pure(radius: float) -> float:
        return np.mean(~(differ & (distances < radius)).any(axis=1))

    assert pure(delta * (1 - 1e-5)) >= 0.95
    assert pure(delta * 1.01) < 0.95


@pytest.mark.parametrize("strategy", [samplers.query_by_core_set, *TYPICAL_OR_COVERING])
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


@pytest.mark.parametrize("strategy", TYPICAL_OR_COVERING)
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
    features = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    labeled = features[:1] + 100
    pairs = torch.cat(list(squared_distances(features, features)))
    for delta in pairs.sqrt()[0, 1:60].tolist():  # each some pair's own distance
        picked, _ = pick_covering(features, labeled, delta, 100, generator(0))
        assert sorted(picked.tolist()) == list(range(100))


def test_noise_stability_computes_in_fp32_whatever_the_precision():
    seen = []
    pool = pool_of(logits=torch.randn(6, 4), query_size=2)
    pool.network = pool.backbone = ResNet18(4, width=1).eval()

    def batches():
        seen.append(torch.backends.cuda.matmul.allow_tf32)
        yield torch.randn(6, 3, 8, 8)

    pool.batches = batches
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    try:
        for allowed in (True, False), (False, True):  # PyTorch's own are of the second kind
            for each, value in zip(flags, allowed, strict=True):
                each.allow_tf32 = value
            samplers.query_by_noise_stability(pool)
            assert tuple(each.allow_tf32 for each in flags) == allowed
    finally:
        allow_tf32(False)
    assert seen == [False] * 62
