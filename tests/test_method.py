"""What the published implementation does and the paper does not spell out, and the loop's order."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from models import fold_batch_norm
from models.inference import logits_alone, outputs_of
from samplers import query_by_tod
from tests.support.finished import PLAIN_COLUMNS
from tests.support.harness import (
    Run,
    checkpoint,
    same_weights,
    table,
    tiny_run,
    weights_of,
    without_pictures,
)
from tod import config as configuration
from tod.engine.learner import learning_rate, split_into_batches
from tod.engine.trial import Trial
from tod.strategies.pool import Pool, Query

pytestmark = pytest.mark.usefixtures("no_pictures")
THREE_CYCLES = ("--set=active_learning.cycles=3",)


@contextmanager
def trial_of(run: Run, number: int = 1) -> Iterator[Trial]:
    """A trial before its first cycle."""
    with run.loop(number=number) as loop:
        yield loop.trial


class Spy:
    """A strategy that remembers what each query by TOD saw and chose."""

    def __init__(self) -> None:
        self.pools: list[Pool] = []
        self.queries: list[Query] = []
        self.previous: list[dict[str, torch.Tensor]] = []

    def __call__(self, pool: Pool) -> Query:
        query = query_by_tod(pool)
        self.pools.append(pool)
        self.queries.append(query)
        self.previous.append(weights_of(pool.previous))
        return query


def test_1_and_4_backbone_and_teacher_go_on_and_optimizer_starts_anew_in_each_cycle(tmp_path):
    with trial_of(tiny_run(tmp_path)) as trial:
        networks = trial.backbone, trial.auxiliary.teacher
        assert not same_weights(*map(weights_of, networks))
        trial.train()
        assert trial.auxiliary.steps_taken == 2 * 3  # two epochs of 40 images in batches of 16
        trained = [weights_of(network) for network in networks]
        assert trial.learner.optimizer.state
        assert trial.learner.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
        trial.label(query_by_tod(trial.pool()))
        assert all(map(same_weights, trained, map(weights_of, networks)))
        assert networks == (trial.backbone, trial.auxiliary.teacher)
        assert not trial.learner.optimizer.state
        assert trial.learner.optimizer.param_groups[0]["lr"] == 0.1
        assert trial.learner.epoch == 0
        trial.train()
        assert trial.auxiliary.steps_taken == 2 * 3 + 2 * 4


@pytest.fixture(scope="module")
def spied(tmp_path_factory) -> tuple[Run, Spy]:
    """A finished run of three cycles, and what its queries saw."""
    spy = Spy()
    run = tiny_run(tmp_path_factory.mktemp("spied"), "main_TOD.py", "TOD", "TOD", *THREE_CYCLES)
    with without_pictures():
        run.start(spy)
    return run, spy


def test_2_first_cycle_queries_the_lowest_scores_unless_configured_and_later_ones_the_highest(
    spied,
):
    _, spy = spied
    first, second = spy.pools  # none after the last cycle
    settings = ["scoring.lowest_in_first_cycle=false", "active_learning.query_size=20"]
    configured = query_by_tod(replace(first, config=configuration.load("digits", settings)))
    pools, queries = (first, second, first), (*spy.queries, configured)
    for pool, query, sign in zip(pools, queries, (-1, 1, 1), strict=True):
        queried, scores = np.isin(pool.subset, query.indices), sign * query.scores
        assert len(query.indices) == 20
        assert scores[queried].min() >= scores[~queried].max()


def test_2_first_cycle_is_scored_against_an_untrained_network_and_later_ones_against_the_last(
    tmp_path, spied
):
    run, spy = spied
    with trial_of(tiny_run(tmp_path / "other")) as untouched:
        assert same_weights(spy.previous[0], weights_of(fold_batch_norm(untouched.previous)))
        assert not same_weights(spy.previous[0], weights_of(fold_batch_norm(untouched.backbone)))
        untouched.backbone.load_state_dict(checkpoint(run.folder, 1)["state_dict_backbone"])
        assert same_weights(spy.previous[1], weights_of(fold_batch_norm(untouched.backbone)))


def test_3_what_is_not_chosen_goes_back_and_the_subset_is_drawn_afresh(tmp_path):
    settings = (*THREE_CYCLES, "--set=active_learning.subset_size=1300")
    with trial_of(tiny_run(tmp_path, "main_TOD.py", "TOD", "NONE", *settings)) as trial:
        labeled, subsets = set(trial.labeled), []
        for count in (40, 60, 80):
            assert len(trial.labeled) == len(labeled) == count
            assert sorted(trial.labeled) == sorted(labeled)
            assert sorted([*trial.labeled, *trial.unlabeled]) == list(range(1437))
            trial.train()
            pool = trial.pool()
            query = query_by_tod(pool)
            subsets.append(pool.subset.tolist())
            assert not labeled & set(pool.subset)
            labeled |= set(query.indices)
            trial.label(query)
    first, second, _ = subsets
    # All but 97 and 77 of the pool are drawn, so what was scored before is mostly drawn again.
    assert len(set(first) & set(second)) > 1100
    assert first != second


def test_5_reported_accuracy_is_that_of_the_last_epoch(tmp_path, spied):
    run, _ = spied
    with trial_of(tiny_run(tmp_path)) as trial:
        images, labels = trial.experiment.test_images, trial.experiment.dataset.test.labels
        everything = images.plain(images.to_device(torch.arange(len(labels))))
        for row in table(run.folder / "results.csv"):
            weights = checkpoint(run.folder, row["cycle"])["state_dict_backbone"]
            trial.backbone.load_state_dict(weights)
            [(logits,)] = outputs_of(trial.backbone.eval(), logits_alone, [everything])
            value = 100 * (logits.argmax(dim=1).cpu() == labels).double().mean().item()
            assert float(row["test_accuracy"]) == pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize("augment", ["true", "false"])
def test_6_labeled_images_and_the_subset_are_seen_in_the_view_of_the_configuration(
    tmp_path, augment
):
    run = tiny_run(tmp_path, "main_TOD.py", "RANDOM", "NONE", f"--set=scoring.augment={augment}")
    with trial_of(run) as trial:
        pool, images = trial.pool(), trial.experiment.train_images
        labels = trial.experiment.dataset.train.labels[torch.from_numpy(pool.subset)]
        assert torch.equal(pool.labels.cpu(), labels)
        shown = ((pool.batches, pool.subset), (pool.labeled_batches, trial.labeled))
        for batches, indices in shown:
            scored, again = (torch.cat(list(batches())) for _ in range(2))
            plain = images.plain(images.to_device(torch.from_numpy(indices)))
            assert torch.equal(scored, again)
            # One crop in nine is the image itself.
            changed = (scored != plain).flatten(1).any(dim=1).float().mean().item()
            assert (0.7 < changed < 1.0) if augment == "true" else changed == 0.0


def batches_of(trial: Trial, cycle: int) -> list:
    """The views of one epoch's batches, labelled and unlabelled."""
    trial.learner.cycle = cycle
    batches = trial.learner._batches(trial.experiment.train_images, trial.labeled, trial.unlabeled)
    return [(views[:num_labeled], views[num_labeled:]) for views, num_labeled in batches]


@pytest.mark.parametrize("fixed", [True, False])
def test_7_first_cycle_repeats_one_unlabeled_batch_and_later_ones_draw_at_random(tmp_path, fixed):
    setting = f"--set=cod.fixed_batch_in_first_cycle={str(fixed).lower()}"
    with trial_of(tiny_run(tmp_path, "main_TOD.py", "TOD", "TOD", setting)) as trial:
        epochs = []
        for epoch in range(2):
            trial.learner.epoch = epoch
            epochs += [unlabeled for _, unlabeled in batches_of(trial, cycle=1)]
        later = [unlabeled[:, 0].tolist() for _, unlabeled in batches_of(trial, cycle=2)]
    assert len({tuple(views[:, 0].tolist()) for views in epochs}) == (1 if fixed else len(epochs))
    assert len({tuple(views[:, 2].tolist()) for views in epochs}) == len(epochs)
    assert len({tuple(indices) for indices in later}) == len(later)
    for indices in [*later, epochs[0][:, 0].tolist()]:
        assert len(set(indices)) == 16
        assert not set(indices) & set(trial.labeled)


def test_8_loss_prediction_keeps_its_learning_rate_where_the_backbones_decays(tmp_path):
    with trial_of(tiny_run(tmp_path, "main_LL4AL.py", "LL4AL", "LL4AL")) as trial:
        trial.train()
        assert trial.learner.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
        (optimizer,) = trial.learner.module_optimizers
        assert optimizer.param_groups[0]["lr"] == 0.1


def test_9_last_smaller_batch_is_used_and_every_labeled_image_once_an_epoch(tmp_path):
    with trial_of(tiny_run(tmp_path)) as trial:
        batches = [labeled for labeled, _ in batches_of(trial, cycle=1)]
        assert [len(batch) for batch in batches] == [16, 16, 8]
        assert sorted(torch.cat(batches)[:, 0].tolist()) == sorted(trial.labeled)


def test_a_lone_last_image_joins_the_batch_before_it():
    sizes = {n: [len(b) for b in split_into_batches(torch.arange(n), 4)] for n in (1, 4, 5, 6, 9)}
    assert sizes == {1: [1], 4: [4], 5: [5], 6: [4, 2], 9: [4, 5]}


@pytest.mark.parametrize("name", ["cifar10", "caltech101"])
def test_learning_rate_is_a_tenth_after_the_milestone(name):
    config = configuration.load(name)
    milestone = config.training.milestones[0]
    assert learning_rate(config, milestone - 1) == config.training.lr
    assert learning_rate(config, milestone) == pytest.approx(config.training.lr / 10)


def gradient_through_ranking_loss(trial: Trial, epoch: int) -> bool:
    learner = trial.learner
    images = torch.randn(4, 3, 8, 8, device=learner.device)
    indices = torch.arange(4, device=learner.device)
    trial.backbone.zero_grad()
    learner.epoch = epoch
    _, _, ranking = learner._losses(images, indices, images[:0], indices, torch.tensor(epoch))
    ranking.backward()
    reached = trial.backbone.conv1.weight.grad is not None
    assert trial.auxiliary.trains_backbone(epoch) == reached
    return reached


@pytest.mark.parametrize(("auxiliary", "epochs"), [("LL4AL", [0, 1]), ("NONE", [])])
def test_ranking_loss_reaches_the_backbone_up_to_the_detach_epoch(tmp_path, auxiliary, epochs):
    run = tiny_run(tmp_path, "main_LL4AL.py", "LL4AL", auxiliary, "--set=ll4al.detach_epoch=1")
    with trial_of(run) as trial:
        assert [e for e in range(4) if gradient_through_ranking_loss(trial, e)] == epochs


def rows_of(run: Run) -> list[tuple]:
    columns = ("trial", "cycle", "num_labeled", "test_accuracy")
    rows = table(run.folder / "results.csv")
    return [tuple(row[column] for column in columns) for row in rows]


def test_detached_loss_prediction_leaves_the_backbones_training_alone(tmp_path):
    scripts = ("main_TOD.py", "main_LL4AL.py")
    plain, detached = (tiny_run(tmp_path / each, each, "RANDOM", "NONE") for each in scripts)
    plain.start()
    detached.start()
    assert rows_of(plain) == rows_of(detached)
    for cycle in (1, 2):
        both = (checkpoint(run.folder, cycle) for run in (plain, detached))
        assert same_weights(*(weights["state_dict_backbone"] for weights in both))


def test_strategies_start_from_the_same_labels_and_trials_from_different_ones(tmp_path):
    chosen = {"TOD": [], "LL4AL": []}
    for method, of_trials in chosen.items():
        two_trials = (f"main_{method}.py", method, method, "--set=active_learning.trials=2")
        for number in (1, 2):
            with trial_of(tiny_run(tmp_path, *two_trials), number) as trial:
                of_trials.append(trial.labeled.tolist())
    assert chosen["TOD"] == chosen["LL4AL"]
    assert chosen["TOD"][0] != chosen["TOD"][1]


def test_a_pool_smaller_than_the_subset_is_scored_whole_and_may_be_emptied(tmp_path):
    spy = Spy()
    all_but_40 = (
        *("--set=active_learning.initial_labels=1397", "--set=active_learning.subset_size=1000"),
        *("--set=training.epochs=1", "--set=training.batch_size=256"),
    )
    run = tiny_run(tmp_path, "main_TOD.py", "TOD", "TOD", *THREE_CYCLES, *all_but_40)
    run.start(spy)
    assert [len(pool.subset) for pool in spy.pools] == [40, 20]
    assert rows_of(run)[-1][2] == "1437"


def test_a_class_without_initial_labels_is_no_obstacle(tmp_path):
    run = tiny_run(tmp_path, "main_TOD.py", "TOD", "TOD", "--set=active_learning.initial_labels=2")
    run.start()
    assert [row[2] for row in rows_of(run)] == ["2", "22"]


def test_query_files_list_the_first_labels_and_the_queries_in_order_with_their_scores(
    tmp_path, spied
):
    run, spy = spied
    first, *later = (table(run.folder / f"queries/trial1_cycle{c}.csv") for c in range(3))
    with trial_of(tiny_run(tmp_path)) as trial:
        labels = trial.experiment.dataset.train.labels[trial.labeled].tolist()
        expected = [
            {"index": str(index), "label": str(label), "class": str(label)}
            for index, label in zip(trial.labeled, labels, strict=True)
        ]
        assert [{**row} for row in first] == expected
    for rows, pool, query in zip(later, spy.pools, spy.queries, strict=True):
        assert tuple(rows[0]) == PLAIN_COLUMNS
        assert [int(row["index"]) for row in rows] == query.indices.tolist()
        score_of = dict(zip(pool.subset, query.scores, strict=True))
        expected = [float(score_of[index]) for index in query.indices]
        assert [float(row["score"]) for row in rows] == pytest.approx(expected)
