"""Why the discrepancy tells the loss: the paper's one-step identity and T-step bound, in numbers.

The loss is ½·(y − f)², f a small network of one output in float64, trained on one image by SGD.
"""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = (nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))
    return nn.Sequential(*layers).double()


def sgd_steps(f: nn.Module, x: Tensor, y: float, rate: float, steps: int) -> tuple[Tensor, Tensor]:
    """Takes the steps; gives the loss and ‖∇_w f(x; w)‖² before each of them, (steps,) each."""
    losses, squared_norms = [], []
    for _ in range(steps):
        output = f(x).squeeze()
        gradients = torch.autograd.grad(output, list(f.parameters()))
        losses.append(0.5 * (y - output.item()) ** 2)
        squared_norms.append(sum(g.square().sum().item() for g in gradients))
        with torch.no_grad():
            for parameter, gradient in zip(f.parameters(), gradients, strict=True):
                parameter -= rate * (output.item() - y) * gradient
    return tuple(torch.tensor(v, dtype=torch.float64) for v in (losses, squared_norms))


def image_and_target(seed: int) -> tuple[Tensor, float]:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(6, generator=random, dtype=torch.float64)
    return x, 3.0 * torch.randn((), generator=random, dtype=torch.float64).item()


def discrepancy_of_one_step(seed: int, rate: float) -> tuple[float, float]:
    """|f(x; w_{t+1}) − f(x; w_t)|, and what the identity says: η·√(2·L_t)·‖∇_w f‖²."""
    f, (x, y) = network(seed), image_and_target(seed)
    before = f(x).item()
    losses, squared_norms = sgd_steps(f, x, y, rate, 1)
    return abs(f(x).item() - before), rate * math.sqrt(2 * losses[0]) * squared_norms[0].item()


@pytest.mark.parametrize("seed", range(10))
def test_one_step_moves_the_output_by_the_root_of_the_loss_to_first_order(seed):
    errors = []
    for rate in (1e-4, 1e-5, 1e-6):
        found, expected = discrepancy_of_one_step(seed, rate)
        errors.append(abs(found - expected) / expected)
    assert errors[0] < 1e-2
    # What is left is of the order of η: a tenth of the rate leaves a tenth of it.
    for larger, smaller in itertools.pairwise(errors):
        assert smaller == pytest.approx(larger / 10, rel=0.1)


@pytest.mark.parametrize("steps", [1, 10, 100])
@pytest.mark.parametrize("seed", range(10))
def test_discrepancy_of_many_steps_bounds_the_accumulated_loss_from_below(seed, steps):
    rate = 1e-4
    f, (x, y) = network(seed), image_and_target(seed)
    before = f(x).item()
    losses, squared_norms = sgd_steps(f, x, y, rate, steps)
    discrepancy = abs(f(x).item() - before)
    bound = math.sqrt(2 * steps) * rate * squared_norms.max() * losses.sum().sqrt()
    first_order = 1e-2
    assert discrepancy <= bound * (1 + first_order)
    # So few steps leave gradient and loss much as they were: the bound is nearly reached.
    assert discrepancy > 0.5 * bound
