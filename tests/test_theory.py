"""Why the discrepancy tells the loss: the paper's one-step identity and T-step bound, in numbers.

The loss is ½·(y − f)², f a small network of one output in float64, trained on one image by SGD.
"""

import itertools
import math

import pytest
import torch
from torch import nn


def discrepancy_and_bound(seed: int, rate: float, steps: int) -> tuple[float, float]:
    """|f(x; w_T) − f(x; w_0)|, and √(2T)·η·max‖∇_w f‖²·√ΣL, which equals it to first order."""
    torch.manual_seed(seed)
    layers = (nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))
    f = nn.Sequential(*layers).double()
    random = {"generator": torch.Generator().manual_seed(seed), "dtype": torch.float64}
    x, y = torch.randn(6, **random), 3.0 * torch.randn((), **random).item()
    before, losses, squared_norms = f(x).item(), [], []
    for _ in range(steps):
        output = f(x).squeeze()
        gradients = torch.autograd.grad(output, list(f.parameters()))
        losses.append(0.5 * (y - output.item()) ** 2)
        squared_norms.append(sum(g.square().sum().item() for g in gradients))
        with torch.no_grad():
            for parameter, gradient in zip(f.parameters(), gradients, strict=True):
                parameter -= rate * (output.item() - y) * gradient
    bound = math.sqrt(2 * steps * sum(losses)) * rate * max(squared_norms)
    return abs(f(x).item() - before), bound


@pytest.mark.parametrize("seed", range(10))
def test_one_step_moves_the_output_by_the_root_of_the_loss_to_first_order(seed):
    pairs = [discrepancy_and_bound(seed, rate, steps=1) for rate in (1e-4, 1e-5, 1e-6)]
    errors = [abs(found - expected) / expected for found, expected in pairs]
    assert errors[0] < 1e-2
    # What is left is of the order of η: a tenth of the rate leaves a tenth of it.
    for larger, smaller in itertools.pairwise(errors):
        assert smaller == pytest.approx(larger / 10, rel=0.1)


@pytest.mark.parametrize("steps", [1, 10, 100])
@pytest.mark.parametrize("seed", range(10))
def test_discrepancy_of_many_steps_bounds_the_accumulated_loss_from_below(seed, steps):
    discrepancy, bound = discrepancy_and_bound(seed, 1e-4, steps)
    # So few steps leave gradient and loss much as they were: the bound is nearly reached.
    assert 0.5 * bound < discrepancy <= bound * (1 + 1e-2)
