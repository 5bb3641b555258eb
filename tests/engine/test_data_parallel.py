"""One trial shared by several ranks is the trial of one process."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import main_LL4AL
import main_TOD
import samplers
from losses import (
    AuxiliaryLoss,
    CODLoss,
    DetachedLossPrediction,
    LossPrediction,
    NoAuxiliary,
    TrainingDynamics,
)
from models import NetworkFactory, fold_batch_norm
from models.inference import logits_alone
from tests.engine.test_own_loss import Distillation, Penalty, Remembering
from tests.support.harness import tiny_run
from tests.support.loading import refused
from tests.support.people import People
from tests.support.several_ranks import RankPool
from tod import config as configuration
from tod import data
from tod.config import InputError
from tod.config.schema import Images
from tod.data import own_images
from tod.data.batches import ImageBatches
from tod.engine.learner import Learner
from tod.engine.ranks import DataParallel
from tod.engine.trial import Experiment, Trial
from tod.runs.signals import Interruption

CPU, IMAGES = torch.device("cpu"), Images(size=8)


@pytest.fixture(scope="module")
def ranks() -> Iterator[RankPool]:
    pool = RankPool(3)
    yield pool
    pool.close()


LOSSES = (
    *(NoAuxiliary, CODLoss, LossPrediction, DetachedLossPrediction, TrainingDynamics),
    *(Distillation, Penalty, Remembering),
)


class WithoutBatchNorm(NetworkFactory):
    """Networks in float64 that compute each image on its own."""

    def backbone(self, role: str) -> nn.Module:
        network = super().backbone(role)
        for module in list(network.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.BatchNorm2d):
                    setattr(module, name, nn.Identity())
        return network.double()

    def module(self, *arguments: Any) -> nn.Module:
        return super().module(*arguments).double()


class DoubleImages(ImageBatches):
    def augmented(self, views: Tensor) -> Tensor:
        return super().augmented(views).double()


def trained(
    group: DataParallel,
    rank: int = 0,
    *,
    auxiliary: type[AuxiliaryLoss],
    overrides: Sequence[str] = (),
    factory: type[NetworkFactory] = WithoutBatchNorm,
    batches: type[ImageBatches] = DoubleImages,
    precision: str = "fp32",
) -> dict[str, Tensor]:
    """The gradients of the last of four steps, weights and losses after them."""
    settings = ["model.width=4", "training.epochs=2", "training.milestones=[1]"]
    # The last batch, of two, is one rank's.
    settings += ["training.batch_size=7", "ll4al.detach_epoch=0", *overrides]
    config = configuration.load("digits", settings)
    dataset = data.load(config, 0)
    images = batches(dataset.train.stored, dataset.mean, dataset.std, config.augmentation, CPU)
    networks = factory(config.model, 10, CPU, seed=0, trial=1, num_images=len(dataset.train))
    backbone = networks.backbone("backbone")
    loss = auxiliary(config, networks)
    learner = Learner(config, 0, 1, backbone, loss, precision, ranks=group)
    learner.train_cycle(images, dataset.train.labels, np.arange(9), np.arange(9, 40))
    found = {f"loss {name}": torch.tensor(value) for name, value in learner.epoch_losses.items()}
    for name, network in {"backbone": backbone, **loss.modules()}.items():
        for key, parameter in network.named_parameters():
            found[f"{name} {key}"] = parameter.detach()
            if parameter.grad is not None:
                found[f"gradient of {name} {key}"] = parameter.grad
    return found


def on_rank(rank: int, world_size: int, find: Callable[[DataParallel, int], Any]) -> Any:
    with DataParallel(rank, world_size) as group:
        return find(group, rank)


@pytest.mark.parametrize("auxiliary", LOSSES)
@pytest.mark.parametrize("world_size", [2, 3])
def test_gradients_of_shared_batches_are_those_of_one_process(ranks, world_size, auxiliary):
    train = partial(trained, auxiliary=auxiliary)
    found, *others = ranks.ask(world_size, on_rank, train)
    assert any(key.startswith("gradient") for key in found)
    torch.testing.assert_close(found, train(DataParallel()), rtol=1e-10, atol=1e-10)
    for other in others:  # all ranks have the same network, bit for bit
        torch.testing.assert_close(other, found, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["resnet", "imagenet_resnet"])
@pytest.mark.parametrize(("width", "precision"), [(4, "fp32"), (16, "bf16")])
def test_a_rank_without_a_share_of_the_last_batch_trains_on(ranks, name, width, precision):
    settings = (f"model.name={name}", f"model.width={width}", "training.lr=1.0e-4")
    usual = {"factory": NetworkFactory, "batches": ImageBatches, "precision": precision}
    train = partial(trained, auxiliary=CODLoss, overrides=settings, **usual)
    one, other = ranks.ask(2, on_rank, train)
    assert all(value.isfinite().all() for value in one.values())
    torch.testing.assert_close(other, one, rtol=0, atol=0)


def targets_of(group: DataParallel, rank: int) -> list[int]:
    return group.whole(torch.full((2,), 2**24 + 1 + rank), 4).tolist()


def test_integers_reach_all_ranks_as_they_are(ranks):
    whole = [2**24 + 1, 2**24 + 1, 2**24 + 2, 2**24 + 2]
    assert ranks.ask(2, on_rank, targets_of) == [whole, whole]


def query(group: DataParallel, rank: int, place: Path) -> dict[str, object]:
    """What strategies answer on untrained networks, and the test images' logits."""
    settings = ("model.dropout=0.3", "scoring.augment=true", "active_learning.subset_size=150")
    overrides = [f"--set={setting}" for setting in settings]
    config = tiny_run(place, "main_LL4AL.py", "LL4AL", "LL4AL", *overrides).config
    dataset, interruption = data.load(config, 0), Interruption("")
    experiment = Experiment(
        config, 0, LossPrediction, dataset, CPU, "fp32", interruption, ranks=group
    )
    trial = Trial(experiment, 1)
    logits = trial.test_logits().numpy()
    strategies = {**main_TOD.SAMPLING, **main_LL4AL.SAMPLING}
    del strategies["TIDAL"]  # which asks another module
    queries = {name: strategy(trial.pool()) for name, strategy in strategies.items()}
    trial.previous.load_state_dict(trial.backbone.state_dict())
    pool = trial.pool()
    queries["ties"] = samplers.query_by_tod(pool)
    (own,) = pool.compute(pool.backbone, logits_alone, lambda: iter([torch.zeros(3, 3, 8, 8)]))
    (local,) = pool.compute(pool.backbone, lambda outputs: outputs[:1])
    assert (len(own), len(local)) == (3, 150)
    found = {name: (query.indices, query.scores) for name, query in queries.items()}
    return {"test": (logits.argmax(axis=1), logits), **found}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, object]:
    return query(DataParallel(), 0, tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize("world_size", [2, 3])
def test_scores_and_queries_of_shared_passes_are_those_of_one(ranks, world_size, tmp_path, alone):
    assert len(set(alone["ties"][1].tolist())) == 1
    for found in ranks.ask(world_size, on_rank, partial(query, place=tmp_path)):
        assert found.keys() == alone.keys()
        for name, expected in alone.items():
            for each, of_one in zip(found[name], expected, strict=True):
                np.testing.assert_array_equal(each, of_one, name)


def ended(group: DataParallel, rank: int, *, then: Callable[[DataParallel, int], object]) -> str:
    """How a rank ends, as on machines without a GPU: its exit status or its line."""
    try:
        with patch.object(torch.cuda, "device_count", return_value=0):
            then(group, rank)
    except (SystemExit, InputError) as error:
        return str(error)
    return "goes on"


def use(group: DataParallel, rank: int, *, devices: Sequence[str]) -> None:
    group.use(torch.device(devices[rank]))


def fail_on_main(group: DataParallel, rank: int) -> None:
    def fail() -> None:
        raise InputError("what rank 0 says")

    group.from_main(fail)


def fail_on(group: DataParallel, rank: int, *, ranks: Sequence[int]) -> None:
    def find() -> None:
        if rank in ranks:
            raise InputError(f"what rank {rank} finds")

    group.each(find)


@pytest.mark.parametrize(
    ("then", "lines"),
    [
        (partial(use, devices=("cuda", "cuda")), ("--parallel data: needs a GPU for each", "2$")),
        (partial(use, devices=("mps", "mps")), ("--parallel data: needs CUDA devices", "2$")),
        (partial(use, devices=("cpu", "cuda")), ("goes on$", "--device: is cuda on this machine")),
        (fail_on_main, ("what rank 0 says$", "2$")),
        (partial(fail_on, ranks=[0, 1]), ("what rank 0 finds$", "2$")),
        (partial(fail_on, ranks=[0]), ("what rank 0 finds$", "2$")),
        (partial(fail_on, ranks=[1]), ("goes on$", "what rank 1 finds$")),
    ],
)
def test_what_ranks_cannot_share_ends_them_with_one_line(ranks, then, lines):
    for answer, line in zip(ranks.ask(2, on_rank, partial(ended, then=then)), lines, strict=True):
        assert re.match(line, answer), answer


def test_no_share_is_of_a_single_image():
    for world_size in range(1, 6):
        for count in range(2, 24):
            views = torch.arange(count).view(-1, 1)
            groups = [DataParallel(rank, world_size) for rank in range(world_size)]
            shares, sizes = zip(*(group.own_share(views, count) for group in groups), strict=True)
            assert torch.equal(torch.cat(shares), views)
            given = [size for size in sizes if size]
            assert 1 not in sizes
            assert max(given) - min(given) <= 1
            assert len(given) == world_size or min(given) < 4


def test_gpus_have_shares_of_single_images_but_not_of_none():
    group = DataParallel(1, 3)
    group.device = torch.device("cuda")
    views = torch.arange(4).view(-1, 1)
    own, num_labeled = group.own_share(views, 4)
    assert (own.tolist(), num_labeled) == ([[2]], 1)
    line = refused(group.own_share, views[:2], 2)
    assert "a batch of 2 images cannot be shared by 3 GPUs" in line


def test_a_loss_whose_network_would_run_on_whole_batches_is_refused():
    loss = type("InLosses", (Distillation,), {"predictions": AuxiliaryLoss.predictions})
    line = refused(trained, DataParallel(0, 2), auxiliary=loss)
    assert "--parallel data: InLosses must run its networks in" in line


def test_batch_norm_folds_and_converts_for_ranks_on_gpus():
    model = configuration.load("digits", ["model.width=4"]).model
    network = NetworkFactory(model, 10, CPU, 0, 1).backbone("backbone")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
    images = torch.randn(4, 3, 8, 8)
    expected = network.eval()(images)[0]
    group = DataParallel(0, 2)
    group.device = torch.device("cuda")
    group.share_statistics([network])
    kinds = {type(module) for module in network.modules()}
    assert nn.SyncBatchNorm in kinds and nn.BatchNorm2d not in kinds
    folded = fold_batch_norm(network)
    assert nn.SyncBatchNorm not in {type(module) for module in folded.modules()}
    torch.testing.assert_close(folded(images)[0], expected)


def test_a_rank_that_sees_other_images_than_rank_0_refuses(tmp_path, monkeypatch):
    people = People(tmp_path, count=4)

    def seen() -> str:
        read = own_images.read(own_images.find(people.data), IMAGES)
        return own_images.fingerprint_of_order(own_images.find(people.data), read)

    of_rank_0 = seen()
    # The same images: only their places in the order of names differ.
    first = people.data / "unlabeled" / "000.png"
    first.rename(first.with_name("9.png"))
    assert seen() != of_rank_0
    answers = {seen(): of_rank_0}

    def from_main(group: DataParallel, find: Callable[[], Any]) -> Any:
        found = find()
        return answers.get(found, found) if isinstance(found, str) else found

    monkeypatch.setattr(DataParallel, "from_main", from_main)
    assert "holds other images here than for rank 0" in refused(people.round)
