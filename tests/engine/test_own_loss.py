"""An auxiliary loss of one's own: it trains, is shown and goes on like those that come along."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

import losses
import main_TOD
from losses import AuxiliaryLoss, Step
from models import NetworkFactory, Outputs
from tests.support.harness import checkpoint, python_in, same_weights, table, tiny_run, weights_of
from tests.support.soak import differences, results
from tod.config import Config


class Penalty(AuxiliaryLoss):
    """The consistency logits are to be small; it keeps what their head saw and gave at last."""

    parts = ("penalty",)
    weight = 0.5

    def losses(self, step: Step) -> Sequence[Tensor]:
        _, self.given, self.seen, _ = step.outputs[0]
        return [self.given.square().mean()]


class Distillation(AuxiliaryLoss):
    """A head of its own learns, from the features, what an untrained network says of an image."""

    parts = ("labeled", "unlabeled")
    uses_unlabeled_images = True

    def __init__(self, config: Config, networks: NetworkFactory) -> None:
        super().__init__(config, networks)
        self.untrained = networks.backbone("teacher").eval()
        self.head = networks.module("head", lambda c: nn.Linear(c[-1], networks.num_classes))

    def targets(self, batches: Sequence[Tensor]) -> Sequence[Tensor]:
        return [self.untrained(images)[0] for images in batches]

    def predictions(self, outputs: Sequence[Outputs]) -> Sequence[Tensor]:
        return [self.head(features) for _, _, features, _ in outputs]

    def losses(self, step: Step) -> Sequence[Tensor]:
        return list(map(nn.functional.mse_loss, step.predictions, step.targets))

    def modules(self) -> dict[str, nn.Module]:
        return {"head": self.head}

    def networks(self) -> Sequence[nn.Module]:
        return [self.head, self.untrained]


class Remembering(AuxiliaryLoss):
    """Logits are to stay as they were when the image was seen last; more so with each epoch."""

    parts = ("remembered",)

    def __init__(self, config: Config, networks: NetworkFactory) -> None:
        super().__init__(config, networks)
        shape = networks.num_images, networks.num_classes
        logits = torch.ones(shape, device=networks.device, dtype=torch.float64)
        self.memory.register_buffer("logits", logits)

    def losses(self, step: Step) -> Sequence[Tensor]:
        logits, indices = step.outputs[0][0].double(), step.indices[0]
        before = self.memory.logits[indices]
        self.memory.logits[indices] = logits.detach()
        return [(1 + step.epoch) * nn.functional.mse_loss(logits, before)]


pytestmark = pytest.mark.usefixtures("no_pictures")
OWN = [Penalty, Distillation, Remembering]


@pytest.fixture(autouse=True)
def listed(monkeypatch) -> None:
    for loss in OWN:
        monkeypatch.setitem(main_TOD.AUXILIARY, loss.__name__, loss)


def own_run(output_dir: Path, loss: type[AuxiliaryLoss], *arguments: str):
    return tiny_run(output_dir, "main_TOD.py", "TOD", loss.__name__, *arguments)


@pytest.mark.parametrize("loss", OWN)
def test_its_parts_make_up_the_loss_and_are_shown_by_their_names(tmp_path, loss):
    run = own_run(tmp_path, loss, "--tensorboard")
    run.start()
    assert run.folder.name == f"digits_auxiliary_{loss.__name__}_sampling_TOD_seed0"
    events = EventAccumulator(str(run.folder / "tensorboard" / "trial1"))
    events.Reload()
    shown = {tag for tag in events.Tags()["scalars"] if tag.startswith("loss/")}
    assert shown == {"loss/loss", "loss/task", *(f"loss/{part}" for part in loss.parts)}
    values = {tag: np.array([event.value for event in events.Scalars(tag)]) for tag in shown}
    parts = sum(values[f"loss/{part}"] for part in loss.parts)
    assert all(parts > 0)
    np.testing.assert_allclose(
        values["loss/loss"], values["loss/task"] + loss.weight * parts, rtol=1e-4
    )


def after_one_step(output_dir: Path, name: str) -> tuple[AuxiliaryLoss, dict[str, Tensor | None]]:
    """The loss, and the backbone's gradients, by name."""
    one_step = (
        *("--set=active_learning.initial_labels=16", "--set=active_learning.subset_size=20"),
        *("--set=training.epochs=1", "--set=training.milestones=[]"),
    )
    run = tiny_run(output_dir, "main_TOD.py", "TOD", name, *one_step)
    with run.loop() as loop:
        loop.trial.train()
        loss, named = loop.trial.auxiliary, loop.trial.backbone.named_parameters()
        assert list(loop.trial.learner.epoch_losses) == ["loss", "task", *loss.parts]
        return loss, {name: parameter.grad for name, parameter in named}


def test_it_trains_the_backbone(tmp_path):
    loss, with_it = after_one_step(tmp_path, "Penalty")
    _, without = after_one_step(tmp_path / "without", "NONE")
    of_logits = loss.weight * 2 * loss.given / loss.given.numel()
    torch.testing.assert_close(with_it["linear1.weight"], (of_logits.T @ loss.seen).detach())
    assert without["linear1.weight"] is None
    torch.testing.assert_close(with_it["linear.weight"], without["linear.weight"])
    assert not torch.allclose(with_it["conv1.weight"], without["conv1.weight"], rtol=1e-3)


def test_its_networks_are_trained_with_an_optimizer_of_their_own(tmp_path):
    with own_run(tmp_path, Distillation).loop() as loop:
        trial, modes = loop.trial, []
        untrained, head = trial.auxiliary.untrained, trial.auxiliary.head
        before, former_head = weights_of(untrained), weights_of(head)
        trial.train()
        assert list(trial.learner.epoch_losses) == ["loss", "task", *Distillation.parts]
        (optimizer,) = trial.learner.module_optimizers
        # The backbone's learning rate has decayed.
        assert optimizer.param_groups[0]["lr"] == trial.config.training.lr
        assert same_weights(before, weights_of(untrained))
        assert not torch.equal(head.weight, former_head["weight"])
        trial.label(loop.sampling(trial.pool()))
        assert not head.training
        trial.train(lambda: modes.append((head.training, untrained.training)))
        assert set(modes) == {(True, False)}


@pytest.mark.parametrize("loss", OWN)
def test_a_run_with_it_and_dropout_goes_on_bit_for_bit(tmp_path, loss):
    whole, stopped = (
        own_run(tmp_path / name, loss, "--set=model.dropout=0.5") for name in ("whole", "stopped")
    )
    whole.start()
    for steps in (2, 6):  # in the first cycle and, after that, in the second
        stopped.stop_after(steps)
    stopped.start()
    published = checkpoint(whole.folder, 2)
    networks = ["state_dict_backbone", *["state_dict_head"] * (loss is Distillation)]
    assert list(published) == ["cycle", *networks]
    assert not differences(results(whole.folder), results(stopped.folder))


def test_the_loss_of_the_documentation_trains_and_is_recorded(tmp_path, monkeypatch):
    *_, code = python_in("docs/adding_a_strategy.md")
    room = dict(vars(losses))
    exec(code, room)
    (name,) = re.findall(r"^class (\w+)\(AuxiliaryLoss\):", code, re.MULTILINE)
    monkeypatch.setitem(main_TOD.AUXILIARY, name, room[name])
    run = tiny_run(tmp_path, "main_TOD.py", "TOD", name)
    run.start()
    assert len(table(run.folder / "results.csv")) == 2
