"""The strategies of --sampling, each on cases whose answer is known, and how to add one.

What all of them keep to: `test_contract.py`.
"""

import re

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import main_TOD
import samplers
from tests.support.harness import TINY_DIGITS, python_in, run_tod_alone, table
from tests.support.pools import logits_of, pool_of, positions, slow_farthest_first
from tod.config import entry_script
from tod.strategies import diversity
from tod.strategies.diversity import DRAWS

# ------------------------------------------------------------- uncertainty


@pytest.mark.parametrize(
    ("score", "strategy", "expected", "queried"),
    [
        (samplers.margin, samplers.query_by_margin, [0.75, 0.0, 1.0], 0),
        (samplers.least_confidence, samplers.query_by_least_confidence, [0.5, 0.0, 2 / 3], 1),
        (samplers.entropy, samplers.query_by_entropy, [1.5 * np.log(2), 0.0, np.log(3)], 2),
    ],
)
def test_uncertainty_scores_equal_those_by_hand_and_their_strategies_query_by_them(
    score, strategy, expected, queried
):
    logits = torch.cat([logits_of([0.5, 0.25, 0.25]), torch.tensor([[1e4, -1e4, 0.0], [7.0] * 3])])
    torch.testing.assert_close(score(logits), torch.Tensor(expected))
    logits = logits_of([0.5, 0.5, 0, 0], [0.38, 0.33, 0.29, 0], [0.4, 0.2, 0.2, 0.2], [1, 0, 0, 0])
    assert positions(strategy(pool_of(logits.clamp_min(-1e4)))) == [queried]


# ----------------------------------------------------------------- CORESET


def test_core_set_queries_the_farthest_image_time_and_again():
    features, labeled = torch.Tensor([[1], [9], [10], [5]]), torch.Tensor([[0], [-30]])
    pool = pool_of(features=features, labeled_features=labeled, query_size=4)
    query = samplers.query_by_core_set(pool)
    # 10 is farthest from 0; then 5 from 0 and 10; then 1 and 9 are equally near.
    assert positions(query) == [2, 3, 0, 1]
    assert query.scores.tolist() == [1.0, 9.0, 10.0, 5.0]


def test_core_set_equals_a_slow_one(monkeypatch):
    monkeypatch.setattr(diversity, "CENTERS_AT_ONCE", 3)
    random = np.random.default_rng(1)
    features, labeled = random.normal(size=(50, 6)) + 3, random.normal(size=(7, 6)) + 3
    known = {"features": torch.Tensor(features), "labeled_features": torch.Tensor(labeled)}
    query = samplers.query_by_core_set(pool_of(**known, query_size=30))
    assert positions(query) == slow_farthest_first(features, labeled, 30)
    nearest = np.linalg.norm(features[:, None] - labeled, axis=2).min(axis=1)
    np.testing.assert_allclose(query.scores, nearest, rtol=1e-5)


# ------------------------------------------------------------------- BADGE


def slow_k_means_plus_plus(embeddings: np.ndarray, draws: np.ndarray) -> list[int]:
    picked: list[int] = []
    for draw in draws:
        distances = [
            min((np.sum((g - embeddings[c]) ** 2) for c in picked), default=1.0) for g in embeddings
        ]
        probabilities = np.array(distances) / np.sum(distances)
        picked.append(int(np.searchsorted(probabilities.cumsum(), draw / DRAWS, side="right")))
    return picked


def test_badge_equals_a_slow_one_with_the_same_draws_and_scores_by_squared_norms():
    random = np.random.default_rng(2)
    logits, features = random.normal(size=(40, 5)), random.normal(size=(40, 6)) + 1
    query = samplers.query_by_badge(pool_of(*map(torch.Tensor, (logits, features)), query_size=25))
    # Of each image, the cross-entropy's gradient by the last layer's weights.
    gradients = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    gradients[np.arange(40), logits.argmax(axis=1)] -= 1
    embeddings = gradients[:, :, None] * features[:, None]
    draws = np.random.default_rng(0).integers(DRAWS, size=25)
    assert positions(query) == slow_k_means_plus_plus(embeddings, draws)
    np.testing.assert_allclose(query.scores, np.square(embeddings).sum(axis=(1, 2)), rtol=1e-5)


def draws_of(*shares: float) -> Tensor:
    return torch.tensor([int(share * DRAWS) for share in shares])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.999])
def test_k_means_plus_plus_passes_over_the_twin_of_what_it_picked(share):
    gradients = torch.tensor([[2.0, -2.0], [2.0, -2.0], [2.0, -1.0]])
    features = torch.tensor([[1.0, 3.0], [1.0, 3.0], [1.0, 3.0]])
    # All but one draw in 10⁹, the very first, fall on the third image.
    draws = draws_of(0.0, share + 1e-6)
    assert diversity.k_means_plus_plus(gradients, features, draws).tolist() == [0, 2]


class LargestTensor(TorchDispatchMode):
    """Remembers how many numbers the largest result of an operation holds."""

    size = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor):
                self.size = max(self.size, tensor.numel())
        return result


def test_core_set_and_badge_need_no_table_of_pairs_and_no_embeddings():
    images, labeled, classes = 3000, 2000, 50
    features, gradients = torch.rand(images, 16), torch.rand(images, classes)
    with LargestTensor() as largest:
        nearest = diversity.nearest_squared_distances(features, torch.rand(labeled, 16))
        diversity.k_center_greedy(features, nearest, 5)
        diversity.k_means_plus_plus(gradients, features, draws_of(0.1, 0.5, 0.9))
    # Far from 3000 × 3000, 3000 × 2000 and 3000 × 50 × 16.
    assert images * classes < largest.size <= images * diversity.CENTERS_AT_ONCE


# -------------------------------------------------------------------- LOSS


def test_true_loss_queries_by_cross_entropy():
    logits = logits_of([0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.5, 0.3, 0.2])
    query = samplers.query_by_true_loss(pool_of(logits, labels=[0, 2, 0, 1], query_size=3))
    np.testing.assert_allclose(query.scores, -np.log([0.7, 0.1, 0.1, 0.3]), rtol=1e-6)
    assert positions(query)[0] == 3
    assert sorted(positions(query)[1:]) == [1, 2]


# --------------------------------------------------------------- whole runs


def test_full_trains_on_all_labels_in_one_cycle_whatever_is_configured(tmp_path, no_pictures):
    main_TOD.main([*TINY_DIGITS, f"--output-dir={tmp_path}", "--sampling=FULL"])
    (folder,) = tmp_path.iterdir()  # which has no pool to leave to the COD loss
    (row,) = table(folder / "results.csv")
    assert (row["cycle"], row["num_labeled"]) == ("1", "1437")
    assert float(row["test_accuracy"]) > 20  # the tiny network has 10 with 40 labels
    labeled = table(folder / "queries" / "trial1_cycle0.csv")
    assert sorted(int(row["index"]) for row in labeled) == list(range(1437))
    # Its own configuration runs it again, whatever the strategy.
    again = entry_script.parse(main_TOD.SCRIPT, [f"--config={folder / 'config.yaml'}"]).identity
    assert (again.sampling, again.auxiliary) == ("TOD", "TOD")
    assert again.config.active_learning.labels_of_cycles(1437) == [1437]


def test_the_oracle_queries_larger_losses_than_chance(tmp_path, no_pictures):
    oracle, chance = (
        table(run_tod_alone(tmp_path / name, f"--sampling={name}") / "results.csv")[0]
        for name in ("LOSS", "RANDOM")
    )
    assert float(oracle["queried_mean_loss"]) > float(chance["queried_mean_loss"])
    assert float(oracle["score_loss_spearman"]) == 1.0
    # A wrong prediction costs more than a right one, as a rule.
    assert float(oracle["score_error_auroc"]) > 0.5


def test_a_strategy_is_added_by_the_function_and_the_line_of_the_documentation(
    monkeypatch, tmp_path, no_pictures
):
    function, line, *_ = python_in("docs/adding_a_strategy.md")
    room = dict(vars(samplers))
    exec(function, room)
    (function_name,) = re.findall(r"^def (\w+)\(pool: Pool\) -> Query:", function, re.MULTILINE)
    strategy = room[function_name]
    monkeypatch.setattr(samplers, function_name, strategy, raising=False)
    ((name, listed),) = eval(f"{{{line.strip()}}}", {"samplers": samplers}).items()
    assert listed is strategy
    monkeypatch.setitem(main_TOD.SAMPLING, name, listed)

    folder = run_tod_alone(tmp_path, f"--sampling={name}")
    assert [row["num_labeled"] for row in table(folder / "results.csv")] == ["40", "60"]
    queries = table(folder / "queries" / "trial1_cycle1.csv")
    assert len({row["index"] for row in queries}) == 20
    pool = pool_of(logits_of([0.9, 0.1], [0.5, 0.5], [0.8, 0.2]))
    other = pool.logits + torch.tensor([[0, 0], [0, 3], [0, 0]])
    monkeypatch.setattr(type(pool), "consistency_logits", other)
    assert positions(strategy(pool)) == [1]
