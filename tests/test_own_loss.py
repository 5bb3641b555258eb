"""An auxiliary loss of one's own: it trains, is shown and goes on like those that come along."""

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

import losses
import main_TOD
from losses import AuxiliaryLoss, NoAuxiliary, Step
from models import NetworkFactory
from samplers import query_by_tod
from tests.support.harness import TINY_DIGITS, Run, python_in, tiny_run
from tests.support.soak import differences, results
from tod import config as configuration
from tod.config import Config


class Penalty(AuxiliaryLoss):
    """The consistency logits are to be small."""

    parts = ("penalty",)
    weight = 0.5

    def losses(self, step: Step) -> Sequence[Tensor]:
        _, consistency_logits, *_ = step.outputs[0]
        return [consistency_logits.square().mean()]


class Distillation(AuxiliaryLoss):
    """A head of its own learns, from the features, what an untrained network says of an image."""

    parts = ("labeled", "unlabeled")
    uses_unlabeled_images = True

    def __init__(self, config: Config, networks: NetworkFactory) -> None:
        super().__init__(config, networks)
        self.untrained = networks.backbone("teacher").eval()
        self.head = nn.Linear(8 * config.model.width, networks.num_classes).to(networks.device)

    def targets(self, batches: Sequence[Tensor]) -> Sequence[Tensor]:
        return [self.untrained(images)[0] for images in batches]

    def losses(self, step: Step) -> Sequence[Tensor]:
        pairs = zip(step.outputs, step.targets, strict=True)
        return [
            nn.functional.mse_loss(self.head(features), targets)
            for (_, _, features, _), targets in pairs
        ]

    def modules(self) -> dict[str, nn.Module]:
        return {"head": self.head}

    def networks(self) -> Sequence[nn.Module]:
        return [self.head, self.untrained]


class Remembering(AuxiliaryLoss):
    """Logits are to stay as they were when the image was seen last; more so with each epoch."""

    parts = ("remembered",)

    def __init__(self, config: Config, networks: NetworkFactory) -> None:
        super().__init__(config, networks)
        logits = torch.ones(1500, networks.num_classes, device=networks.device, dtype=torch.float64)
        self.memory = nn.Module()
        self.memory.register_buffer("logits", logits)

    def losses(self, step: Step) -> Sequence[Tensor]:
        logits, indices = step.outputs[0][0].double(), step.indices[0]
        before = self.memory.logits[indices]
        self.memory.logits[indices] = logits.detach()
        return [(1 + step.epoch) * nn.functional.mse_loss(logits, before)]

    def networks(self) -> Sequence[nn.Module]:
        return [self.memory]

    def state_dict(self) -> dict[str, Any]:
        return {"memory": self.memory.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.memory.load_state_dict(state["memory"])


pytestmark = pytest.mark.usefixtures("no_pictures")
OWN = [Penalty, Distillation, Remembering]


@pytest.fixture(autouse=True)
def listed(monkeypatch) -> None:
    for loss in OWN:
        monkeypatch.setitem(main_TOD.AUXILIARY, loss.__name__, loss)


def own_run(output_dir: Path, loss: type[AuxiliaryLoss], *arguments: str) -> Run:
    return tiny_run(output_dir, "main_TOD.py", "TOD", loss.__name__, *arguments)


@pytest.mark.parametrize("loss", OWN)
def test_its_parts_make_up_the_loss_and_are_shown_by_their_names(tmp_path, loss):
    run = own_run(tmp_path, loss, "--tensorboard")
    run.start(query_by_tod, loss)
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


@pytest.mark.parametrize("loss", OWN)
def test_an_epochs_mean_losses_bear_the_names_of_its_parts(tmp_path, loss):
    with own_run(tmp_path, loss).loop(query_by_tod, loss) as loop:
        loop.trial.train()
        assert list(loop.trial.learner.epoch_losses) == ["loss", "task", *loss.parts]


class Recorded(Penalty):
    """Keeps what the last step's consistency head saw and gave."""

    def losses(self, step: Step) -> Sequence[Tensor]:
        _, self.given, self.seen, _ = step.outputs[0]
        return super().losses(step)


def after_one_step(
    output_dir: Path, name: str, loss: type[AuxiliaryLoss]
) -> tuple[AuxiliaryLoss, dict[str, Tensor | None]]:
    """The loss, and the backbone's gradients, by name."""
    one_step = ("initial_labels=16", "subset_size=20")
    settings = [f"--set=active_learning.{each}" for each in one_step]
    settings += ["--set=training.epochs=1", "--set=training.milestones=[]"]
    with tiny_run(output_dir, "main_TOD.py", "TOD", name, *settings).loop(
        query_by_tod, loss
    ) as loop:
        loop.trial.train()
        named = loop.trial.backbone.named_parameters()
        return loop.trial.auxiliary, {name: parameter.grad for name, parameter in named}


def test_it_trains_the_backbone(tmp_path):
    loss, with_it = after_one_step(tmp_path, "Penalty", Recorded)
    _, without = after_one_step(tmp_path / "without", "NONE", NoAuxiliary)
    of_logits = loss.weight * 2 * loss.given / loss.given.numel()
    torch.testing.assert_close(with_it["linear1.weight"], (of_logits.T @ loss.seen).detach())
    assert without["linear1.weight"] is None
    torch.testing.assert_close(with_it["linear.weight"], without["linear.weight"])
    assert not torch.allclose(with_it["conv1.weight"], without["conv1.weight"], rtol=1e-3)


def test_its_networks_are_trained_with_an_optimizer_of_their_own_and_published(tmp_path):
    run = own_run(tmp_path, Distillation)
    with run.loop(query_by_tod, Distillation) as loop:
        trial = loop.trial
        untrained, head = trial.auxiliary.untrained, trial.auxiliary.head
        before = copy.deepcopy([untrained.state_dict(), head.state_dict()])
        trial.train()
        (optimizer,) = trial.learner.module_optimizers
        # The backbone's learning rate has decayed.
        assert optimizer.param_groups[0]["lr"] == trial.config.training.lr
        for name, value in untrained.state_dict().items():
            assert torch.equal(value, before[0][name]), name
        assert not torch.equal(head.weight, before[1]["weight"])
    run.start(query_by_tod, Distillation)
    published = torch.load(run.folder / "weights" / "trial1_cycle2.pth", weights_only=True)
    assert set(published) == {"cycle", "state_dict_backbone", "state_dict_head"}
    assert set(published["state_dict_head"]) == {"weight", "bias"}


@pytest.mark.parametrize("loss", OWN)
def test_a_run_with_it_goes_on_bit_for_bit(tmp_path, loss):
    whole, stopped = (own_run(tmp_path / name, loss) for name in ("whole", "stopped"))
    whole.start(query_by_tod, loss)
    for steps in (2, 6):  # in the first cycle and, after that, in the second
        stopped.stop_after(steps, query_by_tod, loss)
    stopped.start(query_by_tod, loss)
    assert not differences(results(whole.folder), results(stopped.folder))


def test_a_loss_has_to_say_what_it_is():
    config = configuration.load("digits")
    networks = NetworkFactory(config.model, 10, torch.device("cpu"), seed=0, trial=1)
    with pytest.raises(TypeError, match="losses"):
        AuxiliaryLoss(config, networks)
    loss = Penalty(config, networks)
    assert loss.targets([torch.zeros(2, 3, 8, 8)]) == []
    assert loss.trains_backbone(0)
    assert (loss.modules(), loss.state_dict()) == ({}, {})
    assert list(loss.networks()) == []


def test_the_loss_of_the_documentation_trains_and_is_recorded(tmp_path, monkeypatch):
    *_, code = python_in("docs/adding_a_strategy.md")
    room = dict(vars(losses))
    exec(code, room)
    (name,) = re.findall(r"^class (\w+)\(AuxiliaryLoss\):", code, re.MULTILINE)
    monkeypatch.setitem(main_TOD.AUXILIARY, name, room[name])
    main_TOD.main([*TINY_DIGITS, f"--output-dir={tmp_path}", f"--auxiliary={name}"])
    folder = tmp_path / f"digits_auxiliary_{name}_sampling_TOD_seed0"
    assert len((folder / "results.csv").read_text().splitlines()) == 1 + 2


def test_what_it_trains_is_in_training_mode_again_after_a_query(tmp_path):
    with own_run(tmp_path, Distillation).loop(query_by_tod, Distillation) as loop:
        trial, modes = loop.trial, []
        head = trial.auxiliary.head
        trial.train()
        trial.label(loop.sampling(trial.pool()))
        assert not head.training
        trial.train(lambda: modes.append((head.training, trial.auxiliary.untrained.training)))
        assert set(modes) == {(True, False)}
