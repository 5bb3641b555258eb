"""The strategies of --sampling, each on cases whose answer is known, and how to add one.

What all of them keep to: `test_contract.py`.
"""

import re

import numpy as np
import pytest
import torch
from torch import nn

import main_TOD
import samplers
from losses import CODLoss
from samplers import (
    entropy,
    least_confidence,
    margin,
    query_by_badge,
    query_by_core_set,
    query_by_entropy,
    query_by_least_confidence,
    query_by_margin,
    query_by_tod,
    query_by_true_loss,
)
from tests.support.harness import TINY_DIGITS, python_in, run_tod_alone, table, tiny_run
from tests.support.pools import logits_of, pool_of, positions, slow_farthest_first
from tod import diversity, entry_script
from tod.diversity import DRAWS

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


def test_core_set_equals_a_slow_one(monkeypatch):
    monkeypatch.setattr(diversity, "CENTERS_AT_ONCE", 3)
    random = np.random.default_rng(1)
    features, labeled = random.normal(size=(50, 6)) + 3, random.normal(size=(7, 6)) + 3
    pool = pool_of(
        features=torch.tensor(features, dtype=torch.float32),
        labeled_features=torch.tensor(labeled, dtype=torch.float32),
        query_size=30,
    )
    query = query_by_core_set(pool)
    assert positions(query) == slow_farthest_first(features, labeled, 30)
    nearest = np.linalg.norm(features[:, None] - labeled, axis=2).min(axis=1)
    np.testing.assert_allclose(query.scores, nearest, rtol=1e-5)


# ------------------------------------------------------------------- BADGE


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


# -------------------------------------------------------------------- LOSS


def test_true_loss_queries_by_cross_entropy():
    logits = logits_of([0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.5, 0.3, 0.2])
    query = query_by_true_loss(pool_of(logits, labels=[0, 2, 0, 1], query_size=3))
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
    again = entry_script.parse(main_TOD.SCRIPT, [f"--config={folder / 'config.yaml'}"])["identity"]
    assert again.sampling == "TOD"
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


@pytest.mark.parametrize("augment", ["false", "true"])
def test_a_trials_pool_shows_labeled_images_in_the_view_of_the_subset(tmp_path, augment):
    run = tiny_run(tmp_path, "main_TOD.py", "TOD", "TOD", f"--set=scoring.augment={augment}")
    with run.loop(query_by_tod, CODLoss) as loop:
        trial = loop.trial
        pool = trial.pool()
        shown, again = (torch.cat(list(pool.labeled_batches())) for _ in range(2))
        images = trial.experiment.train_images
        plain = images.plain(images.to_device(torch.from_numpy(trial.labeled)))
        labels = trial.experiment.dataset.train.labels[torch.from_numpy(pool.subset)]
    assert torch.equal(shown, again)
    assert torch.equal(shown, plain) == (augment == "false")
    assert shown.shape == plain.shape
    assert torch.equal(pool.labels.cpu(), labels)


def test_tod_is_the_default():
    identity = entry_script.parse(main_TOD.SCRIPT, [])["identity"]
    assert (identity.sampling, identity.auxiliary) == ("TOD", "TOD")


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
    assert positions(strategy(pool)) == [1]
