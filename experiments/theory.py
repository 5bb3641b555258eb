"""The paper's bound, and the norm of the output's gradient on which it rests, on a trained network.

python experiments/theory.py --config digits --images 64 --output theory.png

Trains one trial by random queries and looks at images of the test set after each epoch. f is the
prediction, softmax of the logits, (C,), or with --logits these; L = ½·‖y − f‖² its loss; ‖∇f‖² the
squared norm of the gradients of all C outputs with respect to all weights. The bound of a step of
rate η on the image itself is `‖Δf‖ ≤ η·√(2·L)·‖∇f‖²`, to first order; that of a cycle of T steps is
`‖Δf‖ ≤ √(2·T)·η·max ‖∇f‖²·√(Σ L)` (Huang et al., ICCV 2021), where Σ L is taken at the ends of
epochs. Training has momentum, weight decay, and other images than these; neither bound knows them.
Prints a table with a row for each cycle, draws the norms and the bounds, and writes what was
measured beside the figure, as .npz, with settings, commit and versions as a run's config.yaml has
them under `made_by`; --from such a file gives both anew, without training.
"""

import io
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn.functional import one_hot

from experiments.cells import load_simulated
from losses import NoAuxiliary
from models import imagenet_weights
from tod import data
from tod.analysis import figures, tables
from tod.config import InputError, cli
from tod.config.settings import as_yaml
from tod.engine.device import keep_freed_memory
from tod.engine.experiment import environment
from tod.engine.learner import learning_rate
from tod.engine.trial import Experiment, Trial
from tod.runs.signals import Interruption
from tod.system.files import cannot, refuse_unwritable, write_atomically

AT_ONCE = 4
"""Gradients of so many images are held at a time, each of all outputs."""


class Seen(NamedTuple):
    """What is seen of N images at the end of an epoch: of each the prediction, its loss, ‖∇f‖² and
    how far f moves by a step on the image itself; and that step's rate η, ().
    """

    predictions: Tensor
    losses: Tensor
    norms: Tensor
    moves: Tensor
    rate: Tensor


class Measured(NamedTuple):
    """What is seen over T cycles of E epochs each.

    Attributes:
        steps: of an epoch, (T,).
        changes: of each image's prediction over the cycle, ‖Δf‖, (T, N).
        losses: at the end of each epoch, (T, E, N).
        norms: ‖∇f‖², (T, E, N).
        moves: of f by a step on the image itself, (T, E, N).
        rates: of these steps, (T, E).
    """

    steps: Tensor
    changes: Tensor
    losses: Tensor
    norms: Tensor
    moves: Tensor
    rates: Tensor

    def bounds_of_steps(self) -> Tensor:
        """(T, E, N)."""
        return self.rates[:, :, None] * (2 * self.losses).sqrt() * self.norms

    def bounds_of_cycles(self) -> Tensor:
        """(T, N)."""
        taken = self.steps * self.rates.shape[1]
        factors = (2 * taken).sqrt() * self.rates.amax(dim=1)
        losses = self.steps[:, None] * self.losses.sum(dim=1)
        return factors[:, None] * self.norms.amax(dim=1) * losses.sqrt()


def seen(network: nn.Module, images: Tensor, truths: Tensor, of_logits: bool, rate: float) -> Seen:
    """Looks at images (N, 3, H, W), or their features (N, F), with the network in evaluation mode.

    `truths` (N, C) is 1 for the class of each, and 0 elsewhere.
    """
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

    found = vmap(of_image, chunk_size=AT_ONCE)(images, truths)
    return Seen(*found, torch.tensor(rate))


def measure(trial: Trial, count: int, of_logits: bool) -> Measured:
    """Trains by random queries and looks at `count` test images at the end of each epoch."""
    experiment, learner, active = trial.experiment, trial.learner, trial.config.active_learning
    test = experiment.test_images
    chosen = np.random.default_rng(experiment.seed).permutation(len(experiment.dataset.test))
    images = test.plain(test.to_device(torch.from_numpy(chosen[:count])))
    labels = experiment.dataset.test.labels[chosen[:count]].to(images.device)
    truths = one_hot(labels, len(experiment.dataset.class_names)).to(images.dtype)
    look = partial(seen, trial.backbone, images, truths, of_logits)
    steps, changes, epochs = [], [], []
    cycle: list[Seen] = []

    def after_step() -> None:
        if learner.step == 0:
            cycle.append(look(learning_rate(trial.config, learner.epoch - 1)))
            trial.backbone.train()

    for number in range(1, active.cycles + 1):
        cycle.clear()
        before = look(learning_rate(trial.config, 0)).predictions
        trial.train(after_step)
        steps.append(-(-len(trial.labeled) // trial.config.training.batch_size))
        changes.append((cycle[-1].predictions - before).norm(dim=1))
        epochs.append([torch.stack(each) for each in zip(*cycle, strict=True)][1:])
        if number < active.cycles:
            random = trial.random("sampling", number)
            drawn = random.choice(trial.unlabeled, active.query_size, replace=False)
            trial.labeled = np.concatenate([trial.labeled, drawn])
            trial.start_next_cycle()
    of_epochs = (torch.stack(each) for each in zip(*epochs, strict=True))
    return Measured(torch.tensor(steps), torch.stack(changes), *of_epochs)


def table_of(measured: Measured) -> str:
    """A row for each cycle."""
    rows = [
        [
            *("cycle", "‖∇f‖ at the end: median", "10 %", "90 %", "steps within the bound (%)"),
            *("median of step / bound", "cycles within (%)", "median of cycle / bound"),
            *("ρ of TOD and Σ L", "ρ of TOD and ‖∇f‖"),
        ]
    ]
    moved = measured.moves / measured.bounds_of_steps()
    bounds = measured.bounds_of_cycles()
    for cycle, change in enumerate(measured.changes):
        norms = measured.norms[cycle, -1].sqrt()
        low, middle, high = norms.quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
        losses = measured.losses[cycle].sum(dim=0)
        ranks = (spearmanr(change, other).statistic for other in (losses, norms))
        within = 100 * (change <= bounds[cycle]).float().mean()
        rows.append(
            [
                *(str(cycle + 1), f"{middle:.3g}", f"{low:.3g}", f"{high:.3g}"),
                f"{100 * (moved[cycle] <= 1).float().mean():.0f}",
                *(f"{moved[cycle].nanmedian():.2g}", f"{within:.0f}"),
                *(f"{(change / bounds[cycle]).median():.2g}", *(f"{rank:.2f}" for rank in ranks)),
            ]
        )
    return tables.markdown(rows)


def figure_of(measured: Measured) -> bytes:
    """‖∇f‖ by epoch, and each image's change over a cycle beside its bound."""
    figure = figures.new_figure(10, 4.2, 1, 2)
    norms, bounds = figure.axes
    by_epoch = measured.norms.sqrt().flatten(0, 1)
    ends = by_epoch.quantile(torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]), dim=1)
    epochs = range(1, by_epoch.shape[0] + 1)
    norms.plot(epochs, ends[2], color="C0", label="median")
    norms.fill_between(epochs, ends[1], ends[3], color="C0", alpha=0.35, label="half of the images")
    norms.fill_between(epochs, ends[0], ends[4], color="C0", alpha=0.15, label="80 %")
    norms.set(xlabel="epoch, over all cycles", ylabel="‖∇f‖", yscale="log")
    norms.legend(fontsize="small")
    of_cycles = zip(measured.bounds_of_cycles(), measured.changes, strict=True)
    for number, (bound, change) in enumerate(of_cycles, start=1):
        bounds.scatter(bound, change, s=8, label=f"cycle {number}")
    points = (1e-3, 1e-3), (1, 1)  # a line on logarithmic axes needs two points
    bounds.axline(*points, color="grey", linewidth=0.8, label="change = bound")
    bounds.set(xlabel="bound", ylabel="‖Δf‖ over the cycle", xscale="log", yscale="log")
    bounds.legend(fontsize="small", ncols=2)
    return figures.rendered(figure)


def _read(path: Path) -> Measured:
    try:
        with np.load(path) as file:
            return Measured(*(torch.from_numpy(file[name]) for name in Measured._fields))
    except Exception as error:  # a damaged file can raise anything at all
        advice = "name what a run of this script has written beside its figure"
        why = error if isinstance(error, OSError) else "it holds no such measurements"
        raise cannot(path, "read", why, advice) from None


def _write(path: Path, measured: Measured, made_by: str) -> None:
    content = io.BytesIO()
    arrays = {name: each.numpy() for name, each in measured._asdict().items()}
    np.savez_compressed(content, made_by=made_by, **arrays)
    write_atomically(path, content.getvalue())


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
    trained = "of the training (default: %(default)s); all that is looked at is in fp32"
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help=trained)
    measured_before = "what was measured before, instead of a training"
    parser.add_argument(
        "--from", type=cli.path, metavar="FILE", dest="source", help=measured_before
    )
    figure = {"type": cli.file_type(".png"), "default": Path("theory.png"), "metavar": "FILE"}
    parser.add_argument("--output", **figure)
    arguments = parser.parse_args(argv)
    refuse_unwritable(arguments.output)
    if arguments.source:
        measured = _read(arguments.source)
    else:
        keep_freed_memory()  # the gradients'
        config = load_simulated(arguments.config, arguments.settings, arguments.data_dir)
        if config.needs_features:
            raise InputError(f"{config.needs_features}: needs a file of features; leave it out")
        dataset, device = data.load(config, arguments.seed), torch.device("cpu")
        interruption = Interruption("nothing is kept")
        setting = (config, arguments.seed, NoAuxiliary, dataset, device, arguments.precision)
        weights = imagenet_weights() if config.model.takes_imagenet_weights else None
        experiment = Experiment(*setting, interruption, weights)
        experiment.load_features()
        measured = measure(Trial(experiment, 1), arguments.images, arguments.logits)
        looked = {"seed": arguments.seed, "images": arguments.images, "logits": arguments.logits}
        run = looked | environment(experiment, dataset.fingerprint())
        settings = {**config.as_dict(), "data_dir": "data", "run": run}
        _write(arguments.output.with_suffix(".npz"), measured, as_yaml(settings))
    print(table_of(measured))
    write_atomically(arguments.output, figure_of(measured))
    print(arguments.output)


if __name__ == "__main__":
    with cli.exit_status():
        main()
