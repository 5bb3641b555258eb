"""The temperature that makes a network's confidence as high as its accuracy, for UHERDING."""

from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tod.analysis.suspects import out_of_sample
from tod.strategies import calibration
from tod.strategies.calibration import best_temperature, held_out_temperature
from tod.strategies.clusters import clusters


def drawn(*size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(0))


def test_the_temperature_makes_confidence_as_high_as_accuracy():
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (4000,), generator=random)
    honest = torch.eye(3)[labels] * 1.5 + torch.randn(4000, 3, generator=random)
    # Gaussians around the classes have these log-odds exactly.
    for factor, expected in ((1.5 * 4, 4.0), (1.5, 1.0)):
        assert best_temperature(honest * factor, labels) == pytest.approx(expected, abs=0.4)


def test_the_temperature_is_that_of_a_classifier_on_images_it_has_not_seen():
    # Labels that features say nothing of: trained freely, it is sure and wrong where held out.
    features, labels = drawn(200, 100), torch.arange(200) % 2

    def found(weight_decay: float) -> float:
        return held_out_temperature(features, labels, weight_decay, np.random.default_rng(0))

    assert found(1e-6) > 5 > found(1.0)
    # Of one class alone nothing can be learnt.
    assert held_out_temperature(features, 0 * labels, 0.1, np.random.default_rng(0)) == 1.0


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_classifier_has_the_least_loss_with_weight_decay(monkeypatch, num_classes):
    features, labels, decay = drawn(100, 5), torch.arange(100) % num_classes, 0.1
    features[:, 0] += labels
    seen = Mock(wraps=best_temperature)
    monkeypatch.setattr(calibration, "best_temperature", seen)
    held_out_temperature(features, labels, decay, np.random.default_rng(0))
    order = np.random.default_rng(0).permutation(100)
    head = nn.Linear(5, num_classes)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        task = cross_entropy(head(features[order[30:]]), labels[order[30:]])
        found = task + decay / 2 * head.weight.square().sum()
        found.backward()
        return found

    optimizer.step(loss)
    expected = head(features[order[:30]]).softmax(dim=1).detach()
    torch.testing.assert_close(
        seen.call_args.args[0].softmax(dim=1).float(), expected, atol=1e-3, rtol=0
    )


def test_a_fit_says_nothing_of_few_labels_twins_or_its_convergence(recwarn):
    random = np.random.default_rng(0)
    features, labels = drawn(430, 20) * torch.logspace(0, 4, 20), torch.arange(430) % 3
    held_out_temperature(features, labels, 5e-4, random)
    held_out_temperature(features, torch.arange(430) % 400, 5e-4, random)
    clusters(np.ones((60, 4), np.float32), 30, random)
    out_of_sample(drawn(30, 4).numpy(), np.arange(30) // 2)
    assert not recwarn.list
