"""The losses, scores, EMA and query rule against the published implementation's numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from losses import cod_loss, ranking_loss
from samplers import select_queries, temporal_output_discrepancy
from utils import update_ema

VECTORS = dict(np.load(Path(__file__).parent / "vectors.npz"))
TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}


def vector(key: str) -> torch.Tensor:
    return torch.from_numpy(VECTORS[key])


@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_ranking_loss_and_its_gradient_equal_the_reference(case):
    predicted_loss = vector(f"ranking_{case}_predicted_loss").requires_grad_()
    margin = float(VECTORS[f"ranking_{case}_margin"])
    loss = ranking_loss(predicted_loss, vector(f"ranking_{case}_target_loss"), margin)
    loss.backward()
    torch.testing.assert_close(loss, vector(f"ranking_{case}_value"), **TOLERANCE)
    torch.testing.assert_close(predicted_loss.grad, vector(f"ranking_{case}_grad"), **TOLERANCE)


@pytest.mark.parametrize("case", ["a", "b"])
def test_cod_loss_of_a_labeled_and_an_unlabeled_batch_equals_the_reference(case):
    total = sum(
        cod_loss(
            vector(f"cod_{case}_{batch}logits"),
            vector(f"cod_{case}_{batch}consistency_logits"),
            vector(f"cod_{case}_{batch}ema_logits"),
        )
        for batch in ("", "unlabeled_")
    )
    torch.testing.assert_close(total, vector(f"cod_{case}_value"), **TOLERANCE)


def test_tod_scores_equal_the_reference():
    scores = temporal_output_discrepancy(vector("tod_logits"), vector("tod_previous_logits"))
    torch.testing.assert_close(scores, vector("tod_scores"), **TOLERANCE)


def test_ema_steps_equal_the_reference():
    start, weights = vector("ema_start_weight"), vector("ema_model_weights")
    teacher, model = nn.Linear(4, 3, bias=False), nn.Linear(4, 3, bias=False)
    teacher.weight.data.copy_(start)
    for step, weight in enumerate(weights, start=1):
        model.weight.data.copy_(weight)
        update_ema(teacher, model, step)
        expected = vector("ema_weights_after")[step - 1]
        torch.testing.assert_close(teacher.weight.data, expected, **TOLERANCE)


def test_queries_equal_the_reference_in_order():
    subset, scores = VECTORS["query_subset"], VECTORS["query_scores"]
    for cycle, lowest in (("first", True), ("later", False)):
        found = select_queries(subset, scores, int(VECTORS["query_size"]), lowest)
        assert found.tolist() == VECTORS[f"query_{cycle}_cycle_selected"].tolist()


def test_ema_decay_grows_to_its_limit():
    teacher, model = nn.Linear(1, 1), nn.Linear(1, 1)
    for step, alpha in [(1, 0.5), (2, 2 / 3), (998, 998 / 999), (999, 0.999), (10**6, 0.999)]:
        teacher.weight.data.fill_(1.0)
        model.weight.data.fill_(0.0)
        update_ema(teacher, model, step)
        assert teacher.weight.item() == pytest.approx(alpha, abs=1e-6)


def test_ema_leaves_the_teachers_batch_norm_statistics_alone():
    teacher, model = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    model.running_mean.fill_(5.0)
    update_ema(teacher, model, step=1)
    assert teacher.running_mean.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("predicted", "target", "expected", "gradient"),
    [
        ([3.0, 1.0], [2.0, 2.0], 3.0, [1.0, -1.0]),  # a tie counts as −1: 1 + (3 − 1)
        ([0.0, 100.0, 0.5], [1.0, 50.0, 0.0], 1.5, [-1.0, 0.0, 1.0]),  # one has no partner
        ([1.0], [2.0], 0.0, [0.0]),
    ],
)
def test_ranking_loss_of_ties_of_an_unpaired_image_and_of_one(
    predicted, target, expected, gradient
):
    predicted = torch.tensor(predicted, requires_grad=True)
    loss = ranking_loss(predicted, torch.tensor(target))
    loss.backward()
    assert (loss.item(), predicted.grad.tolist()) == (expected, gradient)


def test_ranking_loss_refuses_losses_that_do_not_match():
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        ranking_loss(torch.zeros(2), torch.zeros(3))


def test_cod_loss_moves_the_backbone_and_never_the_teacher():
    logits, consistency, ema = (torch.randn(4, 3, requires_grad=True) for _ in range(3))
    cod_loss(logits, consistency, ema).backward()
    assert [tensor.grad is None for tensor in (logits, consistency, ema)] == [False, False, True]


@pytest.mark.parametrize(
    ("subset", "scores", "size"),
    [([1, 2], [0.1], 1), ([1, 2], [0.1, 0.2], 3), ([1, 2], [0.1, float("nan")], 1)],
)
def test_queries_that_cannot_be_chosen_are_refused(subset, scores, size):
    with pytest.raises(ValueError):
        select_queries(subset, scores, size)
