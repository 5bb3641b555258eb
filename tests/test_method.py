"""What the published implementation does and the paper does not spell out, and the loop's order."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from losses import (
    AuxiliaryLoss,
    CODLoss,
    DetachedLossPrediction,
    LossPrediction,
    NoAuxiliary,
)
from models import fold_batch_norm
from samplers import query_at_random, query_by_tod
from tests.support.harness import (
    Run,
    same_weights,
    table,
    tiny_run,
    weights_of,
    without_pictures,
)
from tod import config as configuration
from tod.pool import Pool, Query
from tod.training.inference import logits_alone, outputs_of
from tod.training.learner import learning_rate, split_into_batches
from tod.trial import Trial

pytestmark = pytest.mark.usefixtures("no_pictures")
THREE_CYCLES = ("--set=active_learning.cycles=3",)


@contextmanager
def trial_of(
    run: Run, auxiliary: type[AuxiliaryLoss] = CODLoss, number: int = 1
) -> Iterator[Trial]:
    """A trial before its first cycle."""
    with run.loop(query_by_tod, auxiliary, number) as loop:
        yield loop.trial


class Spy:
    """A strategy that remembers what each query saw and chose."""

    def __init__(self, strategy: Callable[[Pool], Query] = query_by_tod) -> None:
        self.strategy = strategy
        self.pools: list[Pool] = []
        self.queries: list[Query] = []
        self.previous: list[dict[str, torch.Tensor]] = []

    def __call__(self, pool: Pool) -> Query:
        query = self.strategy(pool)
        self.pools.append(pool)
        self.queries.append(query)
        self.previous.append(weights_of(pool.previous))
        return query


def test_1_backbone_goes_on_and_optimizer_starts_anew_in_each_cycle(tmp_path):
    with trial_of(tiny_run(tmp_path)) as trial:
        trial.train()
        trained = weights_of(trial.backbone)
        assert trial.learner.optimizer.state
        assert trial.learner.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
        trial.label(query_by_tod(trial.pool()))
        assert same_weights(trained, weights_of(trial.backbone))
        assert not trial.learner.optimizer.state
        assert trial.learner.optimizer.param_groups[0]["lr"] == 0.1
        assert trial.learner.epoch == 0


@pytest.fixture(scope="module")
def spied(tmp_path_factory) -> tuple[Run, Spy]:
    """A finished run of three cycles, and what its queries saw."""
    spy = Spy()
    run = tiny_run(tmp_path_factory.mktemp("spied"), "main_TOD.py", "TOD", "TOD", *THREE_CYCLES)
    with without_pictures():
        run.start(spy, CODLoss)
    return run, spy


def test_2_first_cycle_queries_the_lowest_scores_and_later_ones_the_highest(spied):
    _, spy = spied
    first, second = zip(spy.pools, spy.queries, strict=True)  # none after the last cycle
    for (pool, query), sign in ((first, -1), (second, 1)):
        queried = np.isin(pool.subset, query.indices)
        scores = sign * query.scores
        assert scores[queried].min() >= scores[~queried].max()


def test_2_first_cycle_queries_the_highest_scores_where_configured(spied):
    pool = spied[1].pools[0]
    settings = ["scoring.lowest_in_first_cycle=false", "active_learning.query_size=20"]
    query = query_by_tod(replace(pool, config=configuration.load("digits", settings)))
    queried = np.isin(pool.subset, query.indices)
    assert len(query.indices) == 20
    assert query.scores[queried].min() >= query.scores[~queried].max()


def test_2_first_cycle_is_scored_against_an_untrained_network_and_later_ones_against_the_last(
    tmp_path, spied
):
    run, spy = spied
    with trial_of(tiny_run(tmp_path / "other")) as untouched:
        assert same_weights(spy.previous[0], weights_of(fold_batch_norm(untouched.previous)))
        assert not same_weights(spy.previous[0], weights_of(fold_batch_norm(untouched.backbone)))
        weights = torch.load(run.folder / "weights" / "trial1_cycle1.pth", weights_only=True)
        untouched.backbone.load_state_dict(weights["state_dict_backbone"])
        assert same_weights(spy.previous[1], weights_of(fold_batch_norm(untouched.backbone)))


def test_3_what_is_not_chosen_goes_back_and_the_subset_is_drawn_afresh(tmp_path):
    spy = Spy()
    run = tiny_run(tmp_path, "main_TOD.py", "TOD", "NONE", "--set=active_learning.subset_size=1300")
    with trial_of(run, NoAuxiliary) as trial:
        trial.train()
        first_pool = trial.unlabeled
        query = spy(trial.pool())
        trial.label(query)
        assert set(trial.unlabeled) == set(first_pool) - set(query.indices)
        spy(trial.pool())
    first, second = (pool.subset for pool in spy.pools)
    # All but 97 and 77 of the pool are drawn, so what was scored before is mostly drawn again.
    assert len(set(first) & set(second)) > 1100
    assert first.tolist() != second.tolist()
    assert not set(second) & set(query.indices)


def test_4_teacher_and_its_step_counter_go_on_across_cycles(tmp_path):
    with trial_of(tiny_run(tmp_path)) as trial:
        teacher = trial.auxiliary.teacher
        assert not same_weights(weights_of(teacher), weights_of(trial.backbone))
        trial.train()
        assert trial.auxiliary.steps_taken == 2 * 3  # two epochs of 40 images in batches of 16
        before = weights_of(teacher)
        trial.label(query_by_tod(trial.pool()))
        assert same_weights(before, weights_of(teacher))
        trial.train()
        assert trial.auxiliary.steps_taken == 2 * 3 + 2 * 4


def test_5_reported_accuracy_is_that_of_the_last_epoch(tmp_path, spied):
    run, _ = spied
    with trial_of(tiny_run(tmp_path)) as trial:
        images, labels = trial.experiment.test_images, trial.experiment.dataset.test.labels
        everything = images.plain(images.to_device(torch.arange(len(labels))))
        for row in table(run.folder / "results.csv"):
            path = run.folder / "weights" / f"trial1_cycle{row['cycle']}.pth"
            weights = torch.load(path, weights_only=True)
            trial.backbone.load_state_dict(weights["state_dict_backbone"])
            [(logits,)] = outputs_of(trial.backbone.eval(), logits_alone, [everything])
            value = 100 * (logits.argmax(dim=1).cpu() == labels).double().mean().item()
            assert float(row["test_accuracy"]) == pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "augment"),
    [("cifar10", False), ("cifar100", False), ("svhn", True), ("caltech101", True)],
)
def test_6_pools_are_scored_under_the_view_of_the_published_code(name, augment):
    assert configuration.load(name).scoring.augment is augment


@pytest.mark.parametrize("augment", ["true", "false"])
def test_6_scoring_view_follows_the_configuration(tmp_path, augment):
    spy = Spy(query_at_random)
    run = tiny_run(tmp_path, "main_TOD.py", "RANDOM", "NONE", f"--set=scoring.augment={augment}")
    with trial_of(run, NoAuxiliary) as trial:
        spy(trial.pool())
        pool = spy.pools[0]
        scored = torch.cat(list(pool.batches()))
        images = trial.experiment.train_images
        plain = images.plain(images.to_device(torch.from_numpy(pool.subset)))
        # One crop in nine is the image itself.
        changed = (scored != plain).flatten(1).any(dim=1).float().mean().item()
        assert torch.equal(scored, torch.cat(list(pool.batches())))
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
    run = tiny_run(tmp_path, "main_LL4AL.py", "LL4AL", "LL4AL")
    with trial_of(run, LossPrediction) as trial:
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


def test_ranking_loss_reaches_the_backbone_up_to_the_detach_epoch(tmp_path):
    run = tiny_run(tmp_path, "main_LL4AL.py", "LL4AL", "LL4AL", "--set=ll4al.detach_epoch=1")
    with trial_of(run, LossPrediction) as trial:
        assert [gradient_through_ranking_loss(trial, e) for e in range(4)] == [
            True,
            True,
            False,
            False,
        ]


def test_ranking_loss_never_reaches_the_backbone_without_the_auxiliary_loss(tmp_path):
    run = tiny_run(tmp_path, "main_LL4AL.py", "LL4AL", "NONE")
    with trial_of(run, DetachedLossPrediction) as trial:
        assert not gradient_through_ranking_loss(trial, epoch=0)


def rows_of(run: Run) -> list[tuple]:
    columns = ("trial", "cycle", "num_labeled", "test_accuracy")
    rows = table(run.folder / "results.csv")
    return [tuple(row[column] for column in columns) for row in rows]


def test_detached_loss_prediction_leaves_the_backbones_training_alone(tmp_path):
    plain = tiny_run(tmp_path / "plain", "main_TOD.py", "RANDOM", "NONE")
    plain.start(query_at_random, NoAuxiliary)
    detached = tiny_run(tmp_path / "detached", "main_LL4AL.py", "RANDOM", "NONE")
    detached.start(query_at_random, DetachedLossPrediction)
    assert rows_of(plain) == rows_of(detached)
    for cycle in (1, 2):
        name = Path("weights") / f"trial1_cycle{cycle}.pth"
        a, b = (torch.load(r.folder / name, weights_only=True) for r in (plain, detached))
        assert same_weights(a["state_dict_backbone"], b["state_dict_backbone"])


def test_strategies_start_from_the_same_labels_and_trials_from_different_ones(tmp_path):
    chosen = {}
    for script, auxiliary in (("main_TOD.py", CODLoss), ("main_LL4AL.py", LossPrediction)):
        method = script.removeprefix("main_").removesuffix(".py")
        for number in (1, 2):
            run = tiny_run(tmp_path, script, method, method, "--set=active_learning.trials=2")
            with trial_of(run, auxiliary, number) as trial:
                chosen[method, number] = trial.labeled.tolist()
    assert chosen["TOD", 1] == chosen["LL4AL", 1]
    assert chosen["TOD", 2] == chosen["LL4AL", 2]
    assert chosen["TOD", 1] != chosen["TOD", 2]


def test_labeled_and_unlabeled_images_are_disjoint_and_complete_in_every_cycle(tmp_path):
    run = tiny_run(tmp_path, "main_TOD.py", "TOD", "NONE", *THREE_CYCLES)
    with trial_of(run, NoAuxiliary) as trial:
        counts = []
        for _ in range(3):
            labeled, unlabeled = set(trial.labeled.tolist()), set(trial.unlabeled.tolist())
            assert not labeled & unlabeled
            assert labeled | unlabeled == set(range(1437))
            counts.append(len(labeled))
            trial.train()
            trial.label(query_by_tod(trial.pool()))
    assert counts == [40, 60, 80]


def test_a_pool_smaller_than_the_subset_is_scored_whole_and_may_be_emptied(tmp_path):
    spy = Spy()
    run = tiny_run(
        tmp_path,
        "main_TOD.py",
        "TOD",
        "TOD",
        "--set=active_learning.cycles=3",
        "--set=active_learning.initial_labels=1397",
        "--set=training.epochs=1",
        "--set=training.batch_size=256",
        "--set=active_learning.subset_size=1000",
    )
    run.start(spy, CODLoss)
    assert [len(pool.subset) for pool in spy.pools] == [40, 20]
    assert rows_of(run)[-1][2] == "1437"


def test_a_class_without_initial_labels_is_no_obstacle(tmp_path):
    run = tiny_run(tmp_path, "main_TOD.py", "TOD", "TOD", "--set=active_learning.initial_labels=2")
    run.start(query_by_tod, CODLoss)
    assert [row[2] for row in rows_of(run)] == ["2", "22"]


def test_query_files_list_the_queries_in_order_with_their_scores(spied):
    run, spy = spied
    for cycle, (pool, query) in enumerate(zip(spy.pools, spy.queries, strict=True), start=1):
        rows = table(run.folder / "queries" / f"trial1_cycle{cycle}.csv")
        assert [int(row["index"]) for row in rows] == query.indices.tolist()
        score_of = dict(zip(pool.subset, query.scores, strict=True))
        for row in rows:
            assert float(row["score"]) == pytest.approx(float(score_of[int(row["index"])]))
