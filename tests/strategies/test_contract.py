"""What a strategy may look at, and what each that an entry script lists keeps to, a new one too.

Ranks that share a trial query as one process does: `tests/engine/test_data_parallel.py`.
"""

import os
import signal
from contextlib import suppress
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import main_LL4AL
import main_TOD
from models.lossnet import DynamicsNet, LossNet
from samplers import select_queries
from tests.support.finished import PLAIN_COLUMNS, Finished
from tests.support.harness import PROJECT_DIR, TINY_DIGITS, run_script, write_undrawn
from tests.support.pools import FIRST_INDEX, Table, pool_of, positions
from tests.support.soak import differences, results
from tod.analysis import records
from tod.config.entry_script import Strategy
from tod.engine.trial import Trial
from tod.strategies.pool import Pool

SCRIPTS = {entry.SCRIPT.name: entry.SCRIPT for entry in (main_TOD, main_LL4AL)}
STRATEGIES = {name: entry.strategy(name) for entry in SCRIPTS.values() for name in entry.sampling}
every_strategy = pytest.mark.parametrize("name", STRATEGIES)


def queries_nothing(strategy: Strategy) -> bool:
    """Whether it means a single cycle, as FULL does."""
    return "active_learning.cycles=1" in strategy.always_with


def whole_pool(name: str, logits: Tensor, features: Tensor, query_size: int, seed: int = 0) -> Pool:
    """A pool with all that any strategy may look at."""
    torch.manual_seed(seed)
    pool = pool_of(logits, features, query_size=query_size, dropout=0.5)
    pool.modules["module"] = module_of(name, features.shape[1])
    pool.random = Mock(wraps=np.random.default_rng(seed))
    return pool


def module_of(name: str, width: int) -> nn.Module:
    """What the loss trains that a strategy may ask."""
    channels = (width,) * 4
    if STRATEGIES[name].needs_auxiliary == "TIDAL":
        return DynamicsNet(channels, num_classes=3)
    return LossNet(channels)


def drawn(size: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(size, width, generator=torch.Generator().manual_seed(seed))


def query(name: str, pool: Pool) -> list[int]:
    """The positions that a strategy picks, which are as many as asked for, and different ones."""
    found = STRATEGIES[name](pool)
    expected = 0 if queries_nothing(STRATEGIES[name]) else pool.query_size
    assert len({*found.indices.tolist()}) == len(found.indices) == expected
    assert {*found.indices} <= {*pool.subset}
    assert found.scores.shape == pool.subset.shape
    assert np.isfinite(found.scores).all()
    # What picks by score shows its picks in ascending order, and says which end matters most.
    if 0 < expected < len(pool.subset) and len({*found.scores.tolist()}) == len(found.scores):
        for lowest in (False, True):
            by_score = select_queries(pool.subset, found.scores, expected, lowest)
            if {*by_score} == {*found.indices}:
                assert found.indices.tolist() == by_score.tolist()
                assert found.best_last != lowest
    return positions(found)


def test_each_answer_takes_one_pass_over_its_images_when_it_is_first_asked_for():
    logits, features, labeled = torch.randn(5, 3), torch.randn(5, 2), torch.randn(3, 2)
    pool = pool_of(logits, features, [0, 1, 2, 0, 1], labeled)
    losses = nn.functional.cross_entropy(logits, pool.labels, reduction="none")
    subset = list(range(5))
    seen = pool.backbone.seen, pool.previous[0].seen
    assert (pool.query_size, *seen) == (1, [], [])
    for name, expected, seen_then in (
        ("previous_logits", logits.flip(0), ([], subset)),
        ("logits", logits, (subset, subset)),
        ("consistency_logits", logits, (subset, subset)),
        ("features", features, (subset, subset)),
        ("true_losses", losses, (subset, subset)),
        ("labeled_features", labeled, ([*subset, 5, 6, 7], subset)),
    ):
        for _ in range(2):
            assert torch.equal(getattr(pool, name), expected), name
        assert seen == seen_then, name


def test_predicted_losses_are_those_of_the_module_in_evaluation_mode():
    features = torch.randn(5, 2)
    pool = pool_of(features=features)
    pool.modules["module"] = LossNet((2, 2, 2, 2)).train()
    predicted = pool.predictions
    assert not pool.modules["module"].training
    with torch.no_grad():
        expected = pool.modules["module"]([features[:, :, None, None]] * 4)
    torch.testing.assert_close(predicted, expected)
    assert torch.equal(pool.features, features)
    assert pool.backbone.seen == list(range(5))


@pytest.mark.parametrize("name", ["logits", "features", "previous_logits", "labeled_features"])
def test_a_network_of_ones_own_loss_is_in_the_way_of_nothing(name):
    pool = pool_of(torch.randn(5, 3))
    pool.modules["head"] = nn.Linear(2, 3)
    assert len(getattr(pool, name)) == (4 if name == "labeled_features" else 5)


def test_a_pass_of_ones_own_gives_tensors_of_the_whole_subset_without_gradients():
    logits, features = torch.randn(5, 3, requires_grad=True), torch.randn(5, 2)
    pool = pool_of(logits, features)
    sums, seen = pool.compute(
        pool.backbone.train(), lambda outputs: (outputs[0].sum(dim=1), outputs[2])
    )
    assert torch.equal(sums, logits.sum(dim=1))
    assert torch.equal(seen, features)
    assert not sums.requires_grad
    assert not pool.backbone.training


@every_strategy
@pytest.mark.parametrize(("size", "classes", "asked"), [(20, 3, 7), (3, 10, 3), (120, 3, 120)])
def test_it_picks_different_images_and_scores_each_even_if_it_is_asked_for_all(
    name, size, classes, asked
):
    query(name, whole_pool(name, drawn(size, classes), drawn(size, 5, 1), asked))


@every_strategy
@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.parametrize("kinds", [1, 3])
def test_it_picks_none_twice_among_twins_and_where_all_scores_are_equal(name, kinds):
    for seed in range(10):
        logits, features = drawn(kinds, 7, seed), drawn(kinds, 33, seed + 1)
        for size in (12, 30):
            query(
                name, whole_pool(name, logits.repeat(30, 1)[:30], features.repeat(30, 1)[:30], size)
            )


@every_strategy
def test_its_picks_depend_on_the_pools_own_random_numbers_and_not_on_the_order_of_the_images(name):
    logits, previous, features = drawn(40, 4), drawn(40, 4, 1), drawn(40, 3, 2)

    def asked(order: Tensor) -> tuple[Pool, list[int], np.ndarray]:
        pool = whole_pool(name, logits[order], features[order], 12)
        pool.subset = FIRST_INDEX + order.numpy()
        pool.previous = nn.Sequential(Table(previous[order], features[order]))
        torch.manual_seed(int(order[0]))  # which is nothing to it
        np.random.seed(int(order[0]))
        found = STRATEGIES[name](pool)
        return pool, found.indices.tolist(), found.scores[np.argsort(order.numpy())]

    in_order = torch.arange(40)
    pool, indices, scores = asked(in_order)
    draws = bool(pool.random.method_calls)
    _, again, other_scores = asked(in_order if draws else in_order.flip(0))
    assert again == indices
    np.testing.assert_allclose(other_scores, scores, rtol=0 if draws else 1e-5)


@every_strategy
def test_the_backbone_sees_each_image_once_for_a_query_and_its_diagnostics(name):
    pool = pool_of(torch.randn(9, 3))
    pool.modules["module"] = module_of(name, 2)
    STRATEGIES[name](pool)
    torch.testing.assert_close(pool.logits, pool.backbone.answers[0][:9])
    assert pool.true_losses.shape == (9,)
    # What is compared with noisy networks passes through the clean one in fp32.
    passes = 2 if name == "NOISE_STABILITY" else 1
    subset, labeled = list(range(9)) * passes, list(range(9, 13))
    assert pool.backbone.seen in (subset, subset + labeled)


@every_strategy
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("rows", [slice(None), slice(2, 3)])
def test_scores_that_are_not_finite_are_a_divergence(name, value, rows):
    logits, features = drawn(10, 3), drawn(10, 2, 1)
    logits[rows] = features[rows] = value
    pool = whole_pool(name, logits, features, 2)
    with suppress(FloatingPointError):
        query(name, pool)
        assert pool.backbone.seen == pool.previous[0].seen == []  # it has not looked


def die_when_queried() -> None:
    """Ends the process, as kill -9 does, between a query's record and the state saved after it."""
    records._write_picture = write_undrawn
    Trial.label = lambda *_: os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("script", "name"),
    [
        (script, name)
        for script, entry in SCRIPTS.items()
        for name in entry.sampling
        if not queries_nothing(STRATEGIES[name])
    ],
)
def test_a_run_killed_in_its_query_goes_on_to_the_same_bytes(
    tmp_path, call_script, no_pictures, script, name
):
    method = STRATEGIES[name].needs_auxiliary or SCRIPTS[script].default
    arguments = [*TINY_DIGITS, "--set=model.dropout=0.5", "--set=scoring.augment=true"]
    arguments += [f"--sampling={name}", f"--auxiliary={method}"]

    def run(place: str) -> Finished:
        output_dir = tmp_path / place
        done = call_script(script, *arguments, f"--output-dir={output_dir}")
        return Finished(done, output_dir, f"digits auxiliary:{method} sampling:{name}", [40, 60])

    whole = run("whole")
    whole.check(PLAIN_COLUMNS, pool_size=1437, by_score=False)
    recorded = {"entry": script, "sampling": name, "auxiliary": method}
    assert whole.config["run"].items() >= recorded.items()
    assert len({row["score"] for row in whole.queries}) > 1
    arguments.append(f"--output-dir={tmp_path / 'killed'}")
    killed = run_script(script, *arguments, first=die_when_queried)
    assert killed.returncode == -signal.SIGKILL
    gone_on = run("killed")
    assert "continuing with trial 1, cycle 1, after its training" in gone_on.printed
    assert not differences(results(whole.path), results(gone_on.path))


def test_the_readme_names_every_strategy():
    readme = (PROJECT_DIR / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in readme for name in main_TOD.SAMPLING)
