"""MAXHERDING, UHERDING, BAIT, DROPQUERY, ALFAMIX beside slow, plain transcriptions."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import samplers
from tests.support.pools import pool_of, positions
from tod.strategies import clusters, herding
from tod.strategies.calibration import held_out_temperature
from tod.strategies.clusters import pick_central
from tod.strategies.fisher import PICKS_BETWEEN_SUMS, pick_informative
from tod.strategies.herding import pick_herding, smallest_distance, unit_length
from tod.strategies.interpolation import number_of_flips
from tod.strategies.pool import Pool


def drawn(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def unit(features: Tensor) -> np.ndarray:
    return (features / features.norm(dim=1, keepdim=True)).double().numpy()


# ------------------------------------------------------ MAXHERDING, UHERDING


def slow_herding(
    features: np.ndarray, labeled: np.ndarray, count: int, weights: np.ndarray, width: float = 1.0
) -> tuple[list[int], list[float]]:
    """Picks and first gains by the whole matrix of kernels, labelled images included."""
    everything = np.concatenate([labeled, features])
    weights = np.concatenate([np.zeros(len(labeled)), weights])
    kernel = np.exp(-((everything[:, None] - features[None]) ** 2).sum(axis=2) / width**2)
    of_labeled = np.exp(-((everything[:, None] - labeled[None]) ** 2).sum(axis=2) / width**2)
    nearest = of_labeled.max(axis=1, initial=0.0)
    picked, first = [], None
    for _ in range(count):
        gains = (weights[:, None] * (kernel - nearest[:, None]).clip(0)).mean(axis=0)
        first = gains if first is None else first
        best = [i for i in range(len(features)) if i not in picked]
        picked.append(max(best, key=lambda i: (round(gains[i], 9), first[i])))
        nearest = np.maximum(nearest, kernel[:, picked[-1]])
    return picked, first


@pytest.mark.parametrize("num_labeled", [0, 1, 20])
@pytest.mark.parametrize("pairs", [0, 100, herding.PAIRS])
def test_maxherding_equals_a_plain_one_however_many_pairs_it_keeps(monkeypatch, num_labeled, pairs):
    monkeypatch.setattr(herding, "PAIRS", pairs)
    monkeypatch.setattr(herding, "ROWS", 16)
    features, labeled = drawn(60, 4), drawn(num_labeled, 4, seed=1)
    expected, gains = slow_herding(unit(features), unit(labeled), 30, np.ones(60))
    pool = pool_of(features=features, labeled_features=labeled, query_size=30)
    found = samplers.query_by_maxherding(pool)
    assert positions(found) == expected
    np.testing.assert_allclose(found.scores, gains, rtol=1e-5)


def test_weights_and_the_width_of_the_kernel_decide_what_is_picked():
    features, labeled, weights = drawn(60, 4), drawn(9, 4, seed=1), drawn(60, seed=2).abs()
    for width in (0.05, 0.5):
        expected, gains = slow_herding(
            unit(features), unit(labeled), 20, weights.double().numpy(), width
        )
        rows = unit_length(features), unit_length(labeled)
        picked, scores = pick_herding(*rows, 20, weights, width)
        assert picked.tolist() == expected
        np.testing.assert_allclose(scores, gains, rtol=1e-4)


@pytest.mark.parametrize("pairs", [0, herding.PAIRS])
def test_herding_picks_no_image_twice_where_none_adds_anything_any_more(monkeypatch, pairs):
    monkeypatch.setattr(herding, "PAIRS", pairs)
    for seed in range(4):
        features, labeled = unit_length(drawn(20, 8, seed=seed)), unit_length(drawn(9, 8, seed=9))
        twins, certain = torch.cat([features] * 3), torch.zeros(60)
        certain[20:30] = 0.5
        for picked, _ in (
            pick_herding(torch.cat([labeled, labeled]), labeled, 18),
            pick_herding(twins, labeled, 60),
            pick_herding(unit_length(drawn(60, 8, seed=seed)), labeled, 60, certain),
        ):
            assert sorted(picked.tolist()) == list(range(len(picked)))


def test_uherding_weighs_by_the_margin_at_the_calibrated_temperature():
    features, labeled = drawn(50, 4), drawn(40, 4, seed=1)
    logits = 3 * drawn(50, 3, seed=2)
    pool = pool_of(logits, features, labeled_features=labeled, query_size=15)
    found = samplers.query_by_uherding(pool)
    decay, random = pool.config.training.weight_decay, np.random.default_rng(0)
    temperature = held_out_temperature(labeled, pool.known_labels, decay, random)
    weights = samplers.margin(logits / temperature).double().numpy()
    rows = unit(labeled)
    width = min(np.linalg.norm(a - b) for i, a in enumerate(rows) for b in rows[:i])
    expected, gains = slow_herding(unit(features), rows, 15, weights, width)
    assert positions(found) == expected
    np.testing.assert_allclose(found.scores, gains, rtol=1e-3)


def test_the_kernel_is_as_wide_as_the_smallest_distance_but_that_of_twins():
    near = [[1.0, 0.0], [1.0, 1e-4], [0.0, 1.0]]
    assert smallest_distance(torch.tensor([near[0], *near, near[2]])) == pytest.approx(1e-4)
    assert smallest_distance(torch.tensor([near[0], near[0]])) == 1.0
    assert smallest_distance(torch.empty(0, 2)) == 1.0


# --------------------------------------------------------------------- BAIT


def slow_bait(
    pool: list[np.ndarray], labeled: list[np.ndarray], count: int, ridge: float
) -> tuple[list[int], list[float]]:
    """Picks by the trace of the inverse, computed anew for each image; V have two rows (2, F)."""
    n, b = len(labeled), count
    fisher = sum(v.T @ v for v in pool) / len(pool)
    m = ridge * np.eye(len(fisher)) + sum(v.T @ v for v in labeled) / n * n / (n + b)
    pool = [v * np.sqrt(b / (n + b)) for v in pool]

    def trace(picked: list[int]) -> float:
        return np.trace(np.linalg.inv(m + sum(pool[i].T @ pool[i] for i in picked)) @ fisher)

    everything = range(len(pool))
    lowers = [trace([]) - trace([i]) for i in everything]
    picked: list[int] = []
    for _ in range(min(2 * b, len(pool))):
        left = [i for i in everything if i not in picked]
        picked.append(min(left, key=lambda i: trace([*picked, i])))
    while len(picked) > b:
        without = min(picked, key=lambda i: trace([j for j in picked if j != i]))
        picked.remove(without)
    return picked, lowers


@pytest.mark.parametrize("query_size", [1, 6, 20])
def test_bait_equals_a_plain_one_with_two_rows_for_each_image(query_size):
    logits, features, labeled = drawn(24, 3), drawn(24, 4, seed=1), drawn(7, 4, seed=2)
    pool = pool_of(logits, features, labeled_features=labeled, query_size=query_size)

    def rows(logits: Tensor, features: Tensor) -> list[np.ndarray]:
        found = []
        for h, p in zip(features.double(), logits.double().softmax(dim=1).amax(dim=1), strict=True):
            factors = p**0.5 * (1 - p), -((1 - p) ** 0.5) * p
            found.append(np.stack([float(factor) * h.numpy() for factor in factors]))
        return found

    scale = float(features.square().mean().sqrt())
    of_pool, of_labeled = rows(logits, features / scale), rows(torch.zeros(7, 3), labeled / scale)
    expected, lowers = slow_bait(of_pool, of_labeled, query_size, samplers.RIDGE)
    found = samplers.query_by_bait(pool)
    assert positions(found) == expected
    np.testing.assert_allclose(found.scores, lowers, rtol=1e-4)


def test_bait_picks_the_same_however_often_it_sums_anew(monkeypatch):
    assert PICKS_BETWEEN_SUMS > 60
    pool, labeled = drawn(60, 8), drawn(10, 8, seed=1)
    usual, _ = pick_informative(pool, labeled, 30, 0.1)
    monkeypatch.setattr("tod.strategies.fisher.PICKS_BETWEEN_SUMS", 1)
    assert np.array_equal(pick_informative(pool, labeled, 30, 0.1)[0], usual)


def test_bait_picks_in_float32_what_it_picks_in_float64_where_features_outnumber_images():
    for seed in range(3):
        pool, labeled = drawn(200, 640, seed=seed).abs(), drawn(10, 640, seed=9).abs()
        picked, _ = pick_informative(pool, labeled, 10, 0.01)
        exact, _ = pick_informative(pool.double(), labeled.double(), 10, 0.01)
        assert np.array_equal(picked, exact)


# ------------------------------------------------------- DROPQUERY, ALFAMIX


def with_head(features: Tensor, labeled: Tensor, query_size: int) -> Pool:
    """A pool of three classes whose logits are those of its task head."""
    head = nn.Linear(features.shape[1], 3)
    with torch.no_grad():
        head.weight.copy_(drawn(3, features.shape[1], seed=5))
        pool = pool_of(head(features), features, None, labeled, query_size)
    pool.network.task_head = head
    return pool


def slow_most_central(features: np.ndarray, candidates: list[int], of_each: list[int]) -> list[int]:
    """Of each cluster's candidates, the one nearest the mean of these."""
    picked = []
    for cluster in sorted({*of_each}):
        members = [i for i, c in zip(candidates, of_each, strict=True) if c == cluster]
        center = features[members].mean(axis=0)
        picked.append(min(members, key=lambda i: np.linalg.norm(features[i] - center)))
    return picked


@pytest.fixture
def clusters_by_turns(monkeypatch) -> None:
    """Puts each candidate into the next cluster, which a plain transcription can do too."""
    by_turns = lambda rows, count, _: np.arange(len(rows)) % count  # noqa: E731
    monkeypatch.setattr(clusters, "clusters", by_turns)


@pytest.mark.parametrize(("query_size", "least"), [(1, 1), (4, 0)])
def test_dropquery_picks_among_what_dropout_changes(clusters_by_turns, query_size, least):
    features = drawn(80, 6)
    pool = with_head(features, drawn(5, 6, seed=1), query_size)
    found = samplers.query_by_dropquery(pool)
    generator = torch.Generator().manual_seed(int(np.random.default_rng(0).integers(2**63)))
    head, changes = pool.network.task_head, np.zeros(80, dtype=int)
    for _ in range(3):
        for i, kept in enumerate(torch.rand(80, 6, generator=generator) < 0.25):
            changes[i] += int(head(features[i] * kept / 0.25).argmax() != pool.logits[i].argmax())
    assert ((changes > 1).sum() >= 25 * query_size) == (least == 1)
    candidates = np.flatnonzero(changes > least).tolist()
    by_turns = [i % query_size for i in range(len(candidates))]
    assert positions(found) == slow_most_central(unit(features), candidates, by_turns)
    assert found.scores.tolist() == changes.tolist()


@pytest.mark.parametrize("query_size", [3, 30])
def test_alfamix_picks_among_what_flips_towards_a_class(clusters_by_turns, query_size):
    features, labeled = drawn(60, 6), drawn(9, 6, seed=1)
    pool = with_head(features, labeled, query_size)
    head, known = pool.network.task_head, pool.known_labels
    anchors = [labeled[known == c].mean(dim=0) for c in range(3)]
    for epsilon in (0.2, 0.4, 0.6, 0.8, 1.0):
        flips = [0] * 60
        for i, z in enumerate(features):
            z = z.clone().requires_grad_()
            predicted = head(z).argmax()
            (g,) = torch.autograd.grad(cross_entropy(head(z), predicted), z)
            for anchor in anchors:
                away = anchor - z
                alpha = epsilon / 6**0.5 * away.norm() / g.norm() * g / away
                flips[i] += int(head(alpha * anchor + (1 - alpha) * z).argmax() != predicted)
        candidates = [i for i in range(60) if flips[i]]
        if len(candidates) > query_size:
            break
    found = samplers.query_by_alfamix(pool)
    assert found.scores.tolist() == flips
    if len(candidates) > query_size:
        by_turns = [i % query_size for i in range(len(candidates))]
        assert positions(found) == slow_most_central(unit(features), candidates, by_turns)
    else:  # the rest at random
        assert {*candidates} <= {*positions(found)}


def test_where_predictions_are_certain_nothing_flips():
    logits = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]])
    flips = number_of_flips(logits, drawn(2, 3), drawn(2, 3, seed=1), drawn(2, 3, seed=2), wanted=1)
    assert flips.tolist() == [0, 0]


def test_what_clusters_leave_open_other_candidates_fill_and_then_all_others():
    features = np.repeat(np.eye(3), 4, axis=0)  # three places, four images at each
    random = np.random.default_rng(0)
    assert {*pick_central(features, np.arange(8), 6, random)} <= {*range(8)}
    picked = pick_central(features, np.array([1, 5]), 4, random).tolist()
    assert {1, 5} < {*picked} and len({*picked}) == 4
