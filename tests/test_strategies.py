"""The strategies of --sampling, each on cases whose answer is known, and how to add one."""

import ast
import csv
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from harness import PROJECT_DIR, TINY_DIGITS, tiny_run
from test_method import trial_of
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import command_line
import configuration
import main_TOD
import samplers
from samplers import (
    DRAWS,
    Pool,
    entropy,
    k_center_greedy,
    k_means_plus_plus,
    least_confidence,
    margin,
    nearest_squared_distances,
    query_by_badge,
    query_by_core_set,
    query_by_entropy,
    query_by_least_confidence,
    query_by_margin,
    query_by_true_loss,
)

FIRST_INDEX = 1000
"""The pool index of the subset's first image, so that indices cannot pass for positions."""


class Table(nn.Module):
    """A backbone whose answers stand in a table; an image is the number of its row."""

    def __init__(self, logits: Tensor, features: Tensor) -> None:
        super().__init__()
        self.answers = logits, features
        self.seen: list[int] = []

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        assert not self.training
        rows = images[:, 0, 0, 0].long()
        self.seen += rows.tolist()
        logits, features = (answer[rows] for answer in self.answers)
        return logits, logits, features, [features[:, :, None, None]] * 4


def pool_of(
    logits: Tensor | None = None,
    features: Tensor | None = None,
    labels: list[int] | None = None,
    labeled_features: Tensor | None = None,
    query_size: int = 1,
) -> Pool:
    """A pool of which some answers matter and the others are random."""
    size = len(features if logits is None else logits)
    random = torch.Generator().manual_seed(size)
    logits = torch.randn(size, 3, generator=random) if logits is None else logits
    features = torch.randn(size, 2, generator=random) if features is None else features
    if labeled_features is None:
        labeled_features = torch.randn(4, features.shape[1], generator=random)
    number_labeled = len(labeled_features)
    backbone = Table(
        torch.cat([logits, torch.zeros(number_labeled, logits.shape[1])]),
        torch.cat([features, labeled_features]),
    )

    def batches_of_rows(*ends: int) -> Callable:
        images = torch.arange(*ends).view(-1, 1, 1, 1).expand(-1, 3, 1, 1)
        return lambda: iter(images.split(2))

    return Pool(
        config=configuration.load("digits", [f"active_learning.query_size={query_size}"]),
        cycle=2,
        subset=FIRST_INDEX + np.arange(size),
        labels=torch.tensor([0] * size if labels is None else labels),
        batches=batches_of_rows(0, size),
        labeled_batches=batches_of_rows(size, size + number_labeled),
        backbone=backbone,
        previous=nn.Sequential(Table(logits.flip(0), features)),
        modules={},
        random=np.random.default_rng(0),
    )


def logits_of(*probabilities: list[float]) -> Tensor:
    return torch.tensor(probabilities).log()


def positions(query: samplers.Query) -> list[int]:
    return (query.indices - FIRST_INDEX).tolist()


# ------------------------------------------------------------- uncertainty


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (entropy, [1.5 * np.log(2), 0.0, np.log(3)]),
        (margin, [0.75, 0.0, 1.0]),
        (least_confidence, [0.5, 0.0, 2 / 3]),
    ],
)
def test_uncertainty_scores_equal_those_by_hand(score, expected):
    logits = torch.cat([logits_of([0.5, 0.25, 0.25]), torch.tensor([[1e4, -1e4, 0.0], [7.0] * 3])])
    torch.testing.assert_close(score(logits), torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize(
    ("strategy", "queried"),
    [(query_by_margin, 0), (query_by_least_confidence, 1), (query_by_entropy, 2)],
)
def test_each_uncertainty_strategy_queries_what_it_is_named_after(strategy, queried):
    logits = logits_of([0.5, 0.5, 0, 0], [0.38, 0.33, 0.29, 0], [0.4, 0.2, 0.2, 0.2], [1, 0, 0, 0])
    assert positions(strategy(pool_of(logits.clamp_min(-1e4)))) == [queried]


# ----------------------------------------------------------------- CORESET


def test_core_set_queries_the_farthest_image_time_and_again():
    pool = pool_of(
        features=torch.tensor([[1.0], [9.0], [10.0], [5.0]]),
        labeled_features=torch.tensor([[0.0], [-30.0]]),
        query_size=4,
    )
    query = query_by_core_set(pool)
    # 10 is farthest from 0; then 5 from 0 and 10; then 1 and 9 are equally near.
    assert positions(query) == [2, 3, 0, 1]
    assert query.scores.tolist() == [1.0, 9.0, 10.0, 5.0]


def slow_core_set(features: np.ndarray, labeled: np.ndarray, query_size: int) -> list[int]:
    picked: list[int] = []
    for _ in range(query_size):
        centers = [*labeled, *features[picked]]
        distances = [min(np.linalg.norm(x - c) for c in centers) for x in features]
        picked.append(int(np.argmax(distances)))
    return picked


def test_core_set_equals_a_slow_one(monkeypatch):
    monkeypatch.setattr(samplers, "CENTERS_AT_ONCE", 3)
    random = np.random.default_rng(1)
    features, labeled = random.normal(size=(50, 6)) + 3, random.normal(size=(7, 6)) + 3
    pool = pool_of(
        features=torch.tensor(features, dtype=torch.float32),
        labeled_features=torch.tensor(labeled, dtype=torch.float32),
        query_size=30,
    )
    query = query_by_core_set(pool)
    assert positions(query) == slow_core_set(features, labeled, 30)
    nearest = np.linalg.norm(features[:, None] - labeled, axis=2).min(axis=1)
    np.testing.assert_allclose(query.scores, nearest, rtol=1e-5)


def test_core_set_queries_no_image_twice_where_all_are_the_same():
    pool = pool_of(features=torch.ones(5, 2), labeled_features=torch.ones(1, 2), query_size=4)
    assert positions(query_by_core_set(pool)) == [0, 1, 2, 3]


# ------------------------------------------------------------------- BADGE


def draws_of(*shares: float) -> Tensor:
    return torch.tensor([int(share * DRAWS) for share in shares])


@pytest.mark.parametrize(("share", "picked"), [(0.0, 1), (0.09, 1), (0.11, 2), (0.999999, 2)])
def test_k_means_plus_plus_picks_in_proportion_to_squared_distances(share, picked):
    # From image 0, images 1 and 2 are 1 and 3 away: the probabilities are 1/10 and 9/10.
    features = torch.tensor([[1.0], [2.0], [4.0]])
    order = k_means_plus_plus(torch.ones(3, 1), features, draws_of(0.0, share))
    assert order.tolist() == [0, picked]


def test_k_means_plus_plus_picks_the_first_image_uniformly():
    gradients, features = torch.rand(4, 3), torch.rand(4, 2) * 100
    for share, picked in [(0.0, 0), (0.24, 0), (0.26, 1), (0.51, 2), (0.999999, 3)]:
        assert k_means_plus_plus(gradients, features, draws_of(share)).tolist() == [picked]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.999])
def test_k_means_plus_plus_passes_over_the_twin_of_what_it_picked(share):
    gradients = torch.tensor([[2.0, -2.0], [2.0, -2.0], [2.0, -1.0]])
    features = torch.tensor([[1.0, 3.0], [1.0, 3.0], [1.0, 3.0]])
    # All but one draw in 10⁹, the very first, fall on the third image.
    draws = draws_of(0.0, share + 1e-6)
    assert k_means_plus_plus(gradients, features, draws).tolist() == [0, 2]


def test_k_means_plus_plus_picks_no_image_twice_where_all_are_the_same():
    for value in (0.0, 2.0):
        gradients, features = torch.full((6, 3), value), torch.ones(6, 2)
        order = k_means_plus_plus(gradients, features, draws_of(0.9, 0.9, 0.5, 0.0, 0.7, 0.999))
        assert sorted(order.tolist()) == [0, 1, 2, 3, 4, 5]
        assert order[0] == 5


def test_k_means_plus_plus_picks_no_image_twice_where_rounding_sets_twins_apart():
    for seed in range(20):
        torch.manual_seed(seed)
        gradients, features = torch.randn(1, 7).expand(30, -1), torch.randn(1, 33).expand(30, -1)
        draws = torch.randint(DRAWS, (30,))
        assert len(k_means_plus_plus(gradients, features, draws).unique()) == 30


def slow_k_means_plus_plus(
    gradients: np.ndarray, features: np.ndarray, draws: np.ndarray
) -> list[int]:
    embeddings = [np.outer(a, h) for a, h in zip(gradients, features, strict=True)]
    picked: list[int] = []
    for draw in draws:
        distances = [
            min((np.sum((g - embeddings[c]) ** 2) for c in picked), default=1.0) for g in embeddings
        ]
        probabilities = np.array(distances) / np.sum(distances)
        picked.append(int(np.searchsorted(probabilities.cumsum(), draw / DRAWS, side="right")))
    return picked


def test_badge_equals_a_slow_one_with_the_same_draws():
    random = np.random.default_rng(2)
    logits, features = random.normal(size=(40, 5)), random.normal(size=(40, 6)) + 1
    pool = pool_of(
        torch.tensor(logits, dtype=torch.float32),
        torch.tensor(features, dtype=torch.float32),
        query_size=25,
    )
    gradients = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    gradients[np.arange(40), logits.argmax(axis=1)] -= 1
    draws = np.random.default_rng(0).integers(DRAWS, size=25)
    assert positions(query_by_badge(pool)) == slow_k_means_plus_plus(gradients, features, draws)


def test_badge_scores_are_the_squared_norms_of_the_last_layers_gradients():
    torch.manual_seed(0)
    head, features = nn.Linear(4, 3), torch.randn(6, 4)
    logits = head(features)
    norms = []
    for row in logits:
        loss = nn.functional.cross_entropy(row, row.argmax())
        (gradient,) = torch.autograd.grad(loss, head.weight, retain_graph=True)
        norms.append(gradient.square().sum())
    scores = query_by_badge(pool_of(logits.detach(), features)).scores
    torch.testing.assert_close(torch.from_numpy(scores), torch.stack(norms))


def test_badge_depends_on_the_pools_random_numbers_alone():
    first, again, other = (pool_of(features=torch.rand(30, 3), query_size=9) for _ in range(3))
    again.backbone = other.backbone = first.backbone
    other.random = np.random.default_rng(1)
    torch.manual_seed(5)
    chosen = [positions(query_by_badge(pool)) for pool in (first, again, other)]
    assert chosen[0] == chosen[1] != chosen[2]


# -------------------------------------------------------------------- LOSS


def test_true_loss_queries_by_cross_entropy():
    logits = logits_of([0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.5, 0.3, 0.2])
    query = query_by_true_loss(pool_of(logits, labels=[0, 2, 0, 1], query_size=3))
    np.testing.assert_allclose(query.scores, -np.log([0.7, 0.1, 0.1, 0.3]), rtol=1e-6)
    assert positions(query)[0] == 3
    assert sorted(positions(query)[1:]) == [1, 2]


# ------------------------------------------------------- what holds for all


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
        nearest = nearest_squared_distances(features, torch.rand(labeled, 16))
        k_center_greedy(features, nearest, 5)
        k_means_plus_plus(gradients, features, draws_of(0.1, 0.5, 0.9))
    # Far from 3000 × 3000, 3000 × 2000 and 3000 × 50 × 16.
    assert images * classes < largest.size <= images * samplers.CENTERS_AT_ONCE


def strategy_called(name: str) -> Callable:
    return getattr(samplers, main_TOD.SAMPLING[name])


@pytest.mark.parametrize("name", main_TOD.SAMPLING)
def test_strategy_queries_different_images_of_the_subset_and_scores_each(name):
    pool = pool_of(torch.randn(20, 3), query_size=7)
    query = strategy_called(name)(pool)
    assert len(set(query.indices)) == 7
    assert set(query.indices) <= set(pool.subset)
    assert query.scores.shape == pool.subset.shape


@pytest.mark.parametrize("name", main_TOD.SAMPLING)
def test_backbone_sees_each_image_once_for_a_query_and_its_diagnostics(name):
    pool = pool_of(torch.randn(9, 3))
    strategy_called(name)(pool)
    logits = pool.logits()
    torch.testing.assert_close(logits, pool.backbone.answers[0][:9])
    pool.true_losses()
    labeled = list(range(9, 13)) if name == "CORESET" else []
    assert pool.backbone.seen == list(range(9)) + labeled


@pytest.mark.parametrize("name", [name for name in main_TOD.SAMPLING if name != "RANDOM"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_a_divergence(name, value):
    pool = pool_of(torch.full((4, 3), value), torch.full((4, 2), value))
    with pytest.raises(FloatingPointError):
        strategy_called(name)(pool)


# --------------------------------------------------------------- whole runs


def run_main(monkeypatch, output_dir: Path, sampling: str, *arguments: str) -> Path:
    """Runs main_TOD.py on the tiny digits, without the COD loss, and returns the run's folder."""
    argv = ["main_TOD.py", *TINY_DIGITS, f"--output-dir={output_dir}", *arguments]
    monkeypatch.setattr(sys, "argv", [*argv, f"--sampling={sampling}", "--auxiliary=NONE"])
    main_TOD.main()
    return output_dir / f"digits_auxiliary_NONE_sampling_{sampling}_seed0"


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open()))


@pytest.mark.parametrize("name", main_TOD.SAMPLING)
@pytest.mark.parametrize("augment", ["false", "true"])
def test_strategy_runs_and_its_query_is_labeled(monkeypatch, tmp_path, name, augment):
    folder = run_main(monkeypatch, tmp_path, name, f"--set=scoring.augment={augment}")
    rows = table(folder / "results.csv")
    assert [row["num_labeled"] for row in rows] == ["40", "60"]
    queries = table(folder / "queries" / "trial1_cycle1.csv")
    assert len({row["index"] for row in queries}) == len(queries) == 20
    scores = [float(row["score"]) for row in queries]
    assert len(set(scores)) > 1
    # These two pick one by one.
    assert (scores == sorted(scores)) == (name not in ("CORESET", "BADGE"))


def test_the_oracle_queries_larger_losses_than_chance(monkeypatch, tmp_path):
    oracle, chance = (
        table(run_main(monkeypatch, tmp_path, name) / "results.csv")[0]
        for name in ("LOSS", "RANDOM")
    )
    assert float(oracle["queried_mean_loss"]) > float(chance["queried_mean_loss"])
    assert float(oracle["score_loss_spearman"]) == 1.0
    # A wrong prediction costs more than a right one, as a rule.
    assert float(oracle["score_error_auroc"]) > 0.5


@pytest.mark.parametrize("augment", ["false", "true"])
def test_a_trials_pool_shows_labeled_images_in_the_view_of_the_subset(tmp_path, augment):
    run = tiny_run(tmp_path, "main_TOD.py", "TOD", "TOD", f"--set=scoring.augment={augment}")
    with trial_of(run) as trial:
        pool = trial._pool()
        shown, again = (torch.cat(list(pool.labeled_batches())) for _ in range(2))
        images = trial.experiment.train_images
        plain = images.plain(images.placed(torch.from_numpy(trial.labeled)))
        labels = trial.experiment.dataset.train.labels[torch.from_numpy(pool.subset)]
    assert torch.equal(shown, again)
    assert torch.equal(shown, plain) == (augment == "false")
    assert shown.shape == plain.shape
    assert torch.equal(pool.labels.cpu(), labels)


def test_tod_is_the_default():
    run = command_line.parse_arguments("", main_TOD.SAMPLING, main_TOD.AUXILIARY, [])
    assert (run.sampling, run.auxiliary) == ("TOD", "TOD")


def readme_section(title: str) -> str:
    readme = (PROJECT_DIR / "README.md").read_text(encoding="utf-8")
    return re.search(rf"^## {title}\n(.*?)^## ", readme, re.MULTILINE | re.DOTALL)[1]


def test_a_strategy_is_added_by_the_function_and_the_line_of_the_readme(monkeypatch, tmp_path):
    function, line = re.findall(
        r"```python\n(.*?)```", readme_section("Adding a strategy"), re.DOTALL
    )
    ((name, function_name),) = ast.literal_eval(f"{{{line.strip()}}}").items()
    room = dict(vars(samplers))
    exec(function, room)
    monkeypatch.setattr(samplers, function_name, room[function_name], raising=False)
    monkeypatch.setattr(main_TOD, "SAMPLING", {name: function_name, **main_TOD.SAMPLING})

    folder = run_main(monkeypatch, tmp_path, name)
    assert [row["num_labeled"] for row in table(folder / "results.csv")] == ["40", "60"]
    queries = table(folder / "queries" / "trial1_cycle1.csv")
    assert len({row["index"] for row in queries}) == 20
    logits = logits_of([0.9, 0.1], [0.5, 0.5], [0.8, 0.2])
    pool = pool_of(logits)
    consistency = torch.stack([logits[0], logits[1] + torch.tensor([0.0, 3.0]), logits[2]])
    pool.backbone.register_forward_hook(
        lambda _, images, outputs: (
            outputs[0],
            consistency[images[0][:, 0, 0, 0].long()],
            *outputs[2:],
        )
    )
    assert positions(room[function_name](pool)) == [1]


def test_readme_names_every_strategy():
    readme = (PROJECT_DIR / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in readme for name in main_TOD.SAMPLING)
