"""The paper's bound, and the norm of the output's gradient on which it rests, on a trained network.

python experiments/theory.py --config digits --images 64 --output theory.png

Trains one trial by random queries and looks at images of the test set after each epoch. f is the
prediction, softmax of the logits, (C,), or with --logits these; L = ½·‖y − f‖² its loss; ‖∇f‖² the
squared norm of the gradients of all C outputs with respect to all weights. The bound of a step of
rate η on the image itself is `‖Δf‖ ≤ η·√(2·L)·‖∇f‖²`, to first order; that of a cycle of T steps is
`‖Δf‖ ≤ √(2·T)·η·max ‖∇f‖²·√(Σ L)` (Huang et al., ICCV 2021), where Σ L is taken at the ends of
epochs. Training has momentum, weight decay, and other images than these; neither bound knows them.
Prints a table with a row for each cycle and draws the norms and the bounds.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn.functional import one_hot

from losses import NoAuxiliary
from tod import data
from tod.analysis import figures, tables
from tod.config import cli, load
from tod.engine.learner import learning_rate
from tod.engine.trial import Experiment, Trial
from tod.runs.signals import Interruption
from tod.system.files import write_atomically

AT_ONCE = 4
"""Gradients of so many images are held at a time, each of all outputs."""


@dataclass
class Measured:
    """What is seen of N images at the end of an epoch: `losses`, `norms` ‖∇f‖² and the change of f
    by a step on the image itself, each (N,); `rate` is that step's, η.
    """

    predictions: Tensor
    losses: Tensor
    norms: Tensor
    steps: Tensor
    rate: float

    @property
    def bounds(self) -> Tensor:
        """Of the steps, (N,)."""
        return self.rate * (2 * self.losses).sqrt() * self.norms


def measured(
    network: nn.Module, images: Tensor, labels: Tensor, of_logits: bool, rate: float
) -> Measured:
    """Measures a network in evaluation mode, on images (N, 3, H, W) of these classes (N,)."""
    network.eval()
    parameters = {name: each.detach() for name, each in network.named_parameters()}

    def prediction(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        logits = functional_call(network, weights, (image[None],))[0][0]
        return logits if of_logits else logits.softmax(dim=0)

    def of_image(image: Tensor, truth: Tensor) -> tuple[Tensor, ...]:
        jacobian = jacrev(prediction)(parameters, image)
        f = prediction(parameters, image)
        norm = sum(each.square().sum() for each in jacobian.values())
        stepped = {
            name: weight - rate * torch.tensordot(f - truth, jacobian[name], dims=1)
            for name, weight in parameters.items()
        }
        moved = (prediction(stepped, image) - f).norm()
        return f, 0.5 * (truth - f).square().sum(), norm, moved

    truths = one_hot(labels).to(images.dtype)
    return Measured(*vmap(of_image, chunk_size=AT_ONCE)(images, truths), rate)


def measured_cycles(trial: Trial, count: int, of_logits: bool) -> list[list[Measured]]:
    """Measures at the end of each epoch of each cycle; the networks are trained by random queries.

    The first of a cycle is that of the network with which it began.
    """
    experiment, learner = trial.experiment, trial.learner
    chosen = np.random.default_rng(experiment.seed).permutation(len(experiment.dataset.test))[
        :count
    ]
    images = experiment.test_images.plain(
        experiment.test_images.to_device(torch.from_numpy(chosen))
    )
    labels = experiment.dataset.test.labels[chosen].to(images.device)
    look = partial(measured, trial.backbone, images, labels, of_logits)
    cycles: list[list[Measured]] = []

    def after_step() -> None:
        if learner.step == 0:
            cycles[-1].append(look(learning_rate(trial.config, learner.epoch - 1)))
            trial.backbone.train()

    for cycle in range(1, trial.config.active_learning.cycles + 1):
        cycles.append([look(learning_rate(trial.config, 0))])
        trial.train(after_step)
        if cycle < trial.config.active_learning.cycles:
            pool = trial.unlabeled
            drawn = trial.random("sampling", cycle).choice(
                pool, trial.config.active_learning.query_size, replace=False
            )
            trial.labeled = np.concatenate([trial.labeled, drawn])
            trial.start_next_cycle()
    return cycles


def cycle_bound(cycle: Sequence[Measured], steps_an_epoch: int) -> tuple[Tensor, Tensor]:
    """The change of f over a cycle, and its bound, of each image, (N,)."""
    epochs = cycle[1:]
    losses = steps_an_epoch * sum(each.losses for each in epochs)
    largest = torch.stack([each.norms for each in epochs]).amax(dim=0)
    steps, rate = steps_an_epoch * len(epochs), max(each.rate for each in epochs)
    change = (epochs[-1].predictions - cycle[0].predictions).norm(dim=1)
    return change, (2 * steps) ** 0.5 * rate * largest * losses.sqrt()


def table_of(cycles: Sequence[Sequence[Measured]], trial: Trial) -> str:
    """A row for each cycle."""
    active, size = trial.config.active_learning, trial.config.training.batch_size
    rows = [
        [
            *("cycle", "‖∇f‖ at the end: median", "10 %", "90 %", "steps within the bound (%)"),
            *("median of step / bound", "cycles within (%)", "median of cycle / bound"),
            *("ρ of TOD and Σ L", "ρ of TOD and ‖∇f‖"),
        ]
    ]
    for number, cycle in enumerate(cycles, start=1):
        labeled = active.labels_of_cycles(0)[number - 1]
        norms = cycle[-1].norms.sqrt()
        low, middle, high = norms.quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
        ratios = torch.cat([each.steps / each.bounds for each in cycle[1:]])
        change, bound = cycle_bound(cycle, -(-labeled // size))
        losses = sum(each.losses for each in cycle[1:])
        ranks = (spearmanr(change, other).statistic for other in (losses, norms))
        rows.append(
            [
                *(str(number), f"{middle:.3g}", f"{low:.3g}", f"{high:.3g}"),
                *(f"{100 * (ratios <= 1).float().mean():.0f}", f"{ratios.nanmedian():.2g}"),
                *(f"{100 * (change <= bound).float().mean():.0f}",),
                *(f"{(change / bound).median():.2g}", *(f"{rank:.2f}" for rank in ranks)),
            ]
        )
    return tables.markdown(rows)


def figure_of(cycles: Sequence[Sequence[Measured]], steps: Sequence[int]) -> bytes:
    """‖∇f‖ by epoch, and each image's change over a cycle beside its bound."""
    figure = figures.new_figure(10, 4.2, 1, 2)
    norms, bounds = figure.axes
    by_epoch = torch.stack([each.norms.sqrt() for cycle in cycles for each in cycle[1:]])
    ends = by_epoch.quantile(torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]), dim=1)
    epochs = range(1, by_epoch.shape[0] + 1)
    norms.plot(epochs, ends[2], color="C0", label="median")
    norms.fill_between(epochs, ends[1], ends[3], color="C0", alpha=0.35, label="half of the images")
    norms.fill_between(epochs, ends[0], ends[4], color="C0", alpha=0.15, label="80 %")
    norms.set(xlabel="epoch, over all cycles", ylabel="‖∇f‖", yscale="log")
    norms.legend(fontsize="small")
    for number, (cycle, count) in enumerate(zip(cycles, steps, strict=True), start=1):
        change, bound = cycle_bound(cycle, count)
        bounds.scatter(bound, change, s=8, label=f"cycle {number}")
    line = torch.tensor([1e-3, 2.0])
    bounds.plot(line, line, color="grey", linewidth=0.8)
    bounds.set(xlabel="bound", ylabel="‖Δf‖ over the cycle", xscale="log", yscale="log")
    bounds.legend(fontsize="small", ncols=2)
    return figures.rendered(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line, trains and measures, prints the table and draws."""
    parser = cli.Parser(description=__doc__)
    parser.add_argument("--config", default="digits", metavar="NAME|FILE")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--data-dir", metavar="DIR")
    parser.add_argument("--seed", type=cli.seed, default=0)
    least = partial(cli.whole_number, minimum=2, maximum=10**5)
    parser.add_argument("--images", type=least, default=64, help="default: %(default)s")
    parser.add_argument("--logits", action="store_true", help="f is the logits")
    parser.add_argument("--output", type=cli.path, default=Path("theory.png"), metavar="FILE")
    arguments = parser.parse_args(argv)
    config = load(arguments.config, arguments.settings, arguments.data_dir)
    dataset, device = data.load(config, arguments.seed), torch.device("cpu")
    interruption = Interruption("nothing is kept")
    setting = (config, arguments.seed, NoAuxiliary, dataset, device, "fp32", interruption)
    trial = Trial(Experiment(*setting), 1)
    cycles = measured_cycles(trial, arguments.images, arguments.logits)
    print(table_of(cycles, trial))
    size = config.training.batch_size
    steps = [-(-n // size) for n in config.active_learning.labels_of_cycles(0)]
    write_atomically(arguments.output, figure_of(cycles, steps))
    print(arguments.output)


if __name__ == "__main__":
    with cli.exit_status():
        main()
