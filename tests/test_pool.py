"""What a strategy may look at: computed when it is asked for, once, and with no gradients."""

import pytest
import torch
from torch import nn

from models.lossnet import LossNet
from tests.support.pools import pool_of


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
    predicted = pool.predicted_losses
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
