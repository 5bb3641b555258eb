"""One trial shared by several ranks is the trial of one process."""

from collections.abc import Sequence
from pathlib import Path

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
    Step,
)
from models import NetworkFactory, Outputs, fold_batch_norm
from tests.support.harness import tiny_run
from tests.support.people import People
from tests.support.several_ranks import on_ranks
from tod import config as configuration
from tod import data
from tod.config import InputError
from tod.data import own_images
from tod.data.batches import ImageBatches
from tod.data.dataset import Dataset
from tod.follower import _same_dataset, begin, follow
from tod.pool import Pool
from tod.runs.ranks import Ranks
from tod.runs.signals import Interruption
from tod.training.data_parallel import DataParallel
from tod.training.inference import logits_alone
from tod.training.learner import Learner
from tod.training.one_rank import OneRank
from tod.trial import Experiment, Trial

CPU = torch.device("cpu")


class Own(AuxiliaryLoss):
    """A loss of one's own: of whole batches, with a network, targets and no weight an image."""

    parts = ("own", "spread")
    weight = 0.3
    uses_unlabeled_images = True

    def __init__(self, config: configuration.Config, networks: NetworkFactory) -> None:
        super().__init__(config, networks)
        self.head = nn.Linear(8 * config.model.width, 2).double()

    def modules(self) -> dict[str, nn.Module]:
        return {"head": self.head}

    def targets(self, batches: Sequence[Tensor]) -> Sequence[Tensor]:
        return [images.mean(dim=(1, 2, 3)) for images in batches]

    def predictions(self, outputs: Sequence[Outputs]) -> Sequence[Tensor]:
        return [self.head(features) for _, _, features, _ in outputs]

    def losses(self, step: Step) -> Sequence[Tensor]:
        own = [
            (prediction.norm(dim=0) - target.norm()).square().sum()
            for prediction, target in zip(step.predictions, step.targets, strict=True)
        ]
        return [sum(own), step.outputs[-1][2].var(dim=0).sum()]


LOSSES = (NoAuxiliary, CODLoss, LossPrediction, DetachedLossPrediction, Own)


class WithoutBatchNorm(NetworkFactory):
    """Networks in float64 that compute each image on its own."""

    def backbone(self, role: str) -> nn.Module:
        network = super().backbone(role)
        for module in list(network.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.BatchNorm2d):
                    setattr(module, name, nn.Identity())
        return network.double()

    def lossnet(self) -> nn.Module:
        return super().lossnet().double()


class DoubleImages(ImageBatches):
    """Batches in float64."""

    def augmented(self, views: Tensor) -> Tensor:
        return super().augmented(views).double()


def trained(ranks: OneRank, auxiliary: type[AuxiliaryLoss], num_labeled: int) -> dict[str, Tensor]:
    """The gradients of the last of four steps, weights and losses after them."""
    config = configuration.load(
        "digits",
        [
            "model.width=4",
            "training.batch_size=7",  # the last batch, of two, is one rank's
            "training.epochs=2",
            "training.milestones=[1]",
            "ll4al.detach_epoch=0",
        ],
    )
    dataset = data.load(config, 0)
    images = DoubleImages(dataset.train.stored, dataset.mean, dataset.std, config.augmentation, CPU)
    networks = WithoutBatchNorm(config.model, 10, CPU, seed=0, trial=1)
    backbone = networks.backbone("backbone")
    loss = auxiliary(config, networks)
    learner = Learner(config, 0, 1, backbone, loss, "fp32", ranks=ranks)
    everything = np.arange(40)
    labeled, unlabeled = everything[:num_labeled], everything[num_labeled:]
    learner.train_cycle(images, dataset.train.labels, labeled, unlabeled)
    found = {f"loss {name}": torch.tensor(value) for name, value in learner.epoch_losses.items()}
    for name, network in {"backbone": backbone, **loss.modules()}.items():
        for key, parameter in network.named_parameters():
            found[f"{name} {key}"] = parameter.detach()
            if parameter.grad is not None:
                found[f"gradient of {name} {key}"] = parameter.grad
    return found


def trained_on_rank(rank: int, world_size: int) -> dict[str, dict[str, Tensor]]:
    with DataParallel(rank, world_size) as group:
        return {
            auxiliary.__name__: trained(group, auxiliary, num_labeled=9) for auxiliary in LOSSES
        }


@pytest.mark.parametrize("world_size", [2, 3])
def test_gradients_of_shared_batches_are_those_of_one_process(world_size):
    of_ranks = on_ranks(world_size, trained_on_rank)
    for case, found in of_ranks[0].items():
        auxiliary = next(each for each in LOSSES if each.__name__ == case)
        expected = trained(OneRank(), auxiliary, num_labeled=9)
        assert found.keys() == expected.keys()
        assert any(key.startswith("gradient") for key in found)
        for key, value in expected.items():
            torch.testing.assert_close(
                found[key], value, rtol=1e-10, atol=1e-10, msg=f"{case}: {key}"
            )
        for others in of_ranks[1:]:  # all ranks have the same network, bit for bit
            assert all(torch.equal(others[case][key], value) for key, value in found.items())


def targets_on_rank(rank: int, world_size: int) -> Tensor:
    with DataParallel(rank, world_size) as group:
        own = torch.full((2,), 2**24 + 1 + rank)
        nothing = torch.zeros(2, 1)
        outputs = [(nothing, nothing, nothing, [])]
        _, (targets,), _ = group.of_whole_batches([4], outputs, [own], [])
    return targets


def test_integers_reach_all_ranks_as_they_are():
    expected = 2**24 + 1 + torch.tensor([0, 0, 1, 1])
    for targets in on_ranks(2, targets_on_rank):
        assert torch.equal(targets, expected)


def queried(experiment: Experiment) -> dict[str, object]:
    """What strategies answer on untrained networks, and the test images' logits."""
    trial = Trial(experiment, 1)
    found: dict[str, object] = {"test": trial.test_logits()}
    strategies = {**main_TOD.SAMPLING, **main_LL4AL.SAMPLING}
    for name, strategy in strategies.items():
        query = strategy(trial.pool())
        found[name] = (query.indices, query.scores)
    trial.previous.load_state_dict(trial.backbone.state_dict())
    ties = samplers.query_by_tod(trial.pool())
    found["ties"] = (ties.indices, ties.scores)
    pool = trial.pool()
    (own,) = pool.compute(pool.backbone, logits_alone, lambda: iter([torch.zeros(3, 3, 8, 8)]))
    assert len(own) == 3  # images of a strategy's own, which no other rank has
    return found


def experiment_of(tmp_path: Path, group: OneRank | None) -> tuple[Experiment, Dataset]:
    run = tiny_run(
        tmp_path,
        "main_LL4AL.py",
        "LL4AL",
        "LL4AL",
        "--device=cpu",
        "--set=model.dropout=0.3",
        "--set=scoring.augment=true",
        "--set=active_learning.subset_size=150",
    )
    dataset = data.load(run.config, 0)
    args = (run.config, 0, LossPrediction, dataset, CPU, "fp32", Interruption(""))
    return Experiment(*args, ranks=group), dataset


def queried_on_rank(rank: int, world_size: int, tmp_path: Path) -> dict[str, object] | None:
    with DataParallel(rank, world_size) as group:
        if not group.leads:
            run = tiny_run(
                tmp_path, "main_LL4AL.py", "LL4AL", "LL4AL", "--set=active_learning.subset_size=150"
            )
            ranks = Ranks(rank, rank, world_size)
            follow(run.identity, LossPrediction, ranks, group, "cpu", quiet=True)
            return None
        experiment, dataset = experiment_of(tmp_path, group)
        group.begin(begin(dataset, dataset.fingerprint(), CPU, "fp32"), CPU)
        return queried(experiment)


@pytest.mark.parametrize("world_size", [2, 3])
def test_scores_and_queries_of_shared_passes_are_those_of_one_process(world_size, tmp_path):
    found = on_ranks(world_size, queried_on_rank, tmp_path)[0]
    experiment, _ = experiment_of(tmp_path, None)
    expected = queried(experiment)
    assert torch.equal(found.pop("test"), expected.pop("test"))
    assert len(set(expected["ties"][1].tolist())) == 1
    assert found.keys() == expected.keys()
    for name, (indices, scores) in expected.items():
        np.testing.assert_array_equal(found[name][0], indices, name)
        np.testing.assert_array_equal(found[name][1], scores, name)


def refused_on_rank(rank: int, world_size: int, tmp_path: Path) -> str:
    def compute_locally(pool: Pool) -> None:
        pool.compute(pool.backbone, lambda outputs: outputs[:1])

    with pytest.raises(InputError) as refusal, DataParallel(rank, world_size) as group:
        if group.leads:
            experiment, dataset = experiment_of(tmp_path, group)
            group.begin(begin(dataset, dataset.fingerprint(), CPU, "fp32"), CPU)
            compute_locally(Trial(experiment, 1).pool())
        else:
            run = tiny_run(tmp_path)
            follow(run.identity, CODLoss, Ranks(rank, rank, world_size), group, "cpu", quiet=True)
    return str(refusal.value)


def test_a_function_that_cannot_be_sent_is_refused_in_words(tmp_path):
    refusal, of_follower = on_ranks(2, refused_on_rank, tmp_path)
    assert refusal.startswith("--parallel data: cannot be sent to the other processes")
    assert refusal.endswith("must be defined at the top of a module")
    assert of_follower.startswith("[rank 1] another rank has failed, and says why (")


def refused_device_on_rank(rank: int, world_size: int, tmp_path: Path, name: str) -> str | None:
    with DataParallel(rank, world_size) as group:
        if group.leads:
            with pytest.raises(InputError) as refusal:
                group.begin(None, torch.device(name))
            return str(refusal.value)
        run = tiny_run(tmp_path)
        follow(run.identity, CODLoss, Ranks(rank, rank, world_size), group, "cpu", quiet=True)
    return None


@pytest.mark.parametrize(("name", "line"), [("cuda", "a GPU for each rank"), ("mps", "CUDA dev")])
def test_where_ranks_cannot_share_a_device_the_leader_alone_says_so(
    tmp_path, monkeypatch, name, line
):
    # As on a machine without GPUs, wherever this runs.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    refusal, of_follower = on_ranks(2, refused_device_on_rank, tmp_path, name)
    assert refusal.startswith(f"--parallel data: needs {line}")
    assert of_follower is None


def another_device_on_rank(rank: int, world_size: int, tmp_path: Path) -> str | None:
    with DataParallel(rank, world_size) as group:
        if group.leads:
            dataset = data.load(tiny_run(tmp_path).config, 0)
            order = begin(dataset, dataset.fingerprint(), torch.device("cuda"), "fp32")
            group.begin(order, CPU)
            return None
        ranks = Ranks(rank, rank, world_size)
        with pytest.raises(InputError) as refusal:
            follow(tiny_run(tmp_path).identity, CODLoss, ranks, group, "cpu", quiet=True)
        return str(refusal.value)


def test_a_rank_on_another_kind_of_device_than_the_leader_refuses(tmp_path):
    _, refusal = on_ranks(2, another_device_on_rank, tmp_path)
    assert refusal == (
        "--device cpu: is cpu on this machine, and cuda on rank 0's; name one that all have"
    )


def test_no_share_is_of_a_single_image():
    for world_size in range(1, 6):
        for count in range(2, 24):
            views = torch.arange(count).view(-1, 1)
            shares = [
                DataParallel(rank, world_size).own_share(views, count) for rank in range(world_size)
            ]
            assert torch.equal(torch.cat([views for views, _ in shares]), views)
            sizes = [num_labeled for _, num_labeled in shares]
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
    with pytest.raises(InputError, match="a batch of 2 images cannot be shared by 3 GPUs"):
        group.own_share(views[:2], 2)


def test_a_rank_that_sees_other_images_refuses():
    config = configuration.load("digits")
    dataset = data.load(config, 0)
    order = begin(dataset, dataset.fingerprint(), CPU, "fp32")
    assert len(order.dataset.train.stored) == 0
    assert _same_dataset(config, 0, order).fingerprint() == dataset.fingerprint()
    with pytest.raises(InputError, match="holds other images here than for rank 0"):
        _same_dataset(config, 0, order._replace(fingerprint="other"))


def test_a_rank_that_sees_people_s_images_in_another_order_refuses(tmp_path):
    people = People(tmp_path, count=4)
    config = configuration.load("own_images", ["images.size=8"], str(people.data))
    found = own_images.find(people.data)
    read = own_images.read(found, config.images)
    statistics = torch.zeros(3), torch.ones(3)
    dataset = Dataset(read.images, read.images, found.class_names, *statistics)
    order = begin(dataset, own_images.fingerprint_of_rows(found, read), CPU, "fp32")
    pixels = dataset.train.pixels
    assert torch.equal(_same_dataset(config, 0, order).train.pixels, pixels)
    # The same images: only their places in the order of names differ.
    first = people.data / "unlabeled" / "000.png"
    first.rename(first.with_name("9.png"))
    with pytest.raises(InputError, match="holds other images here than for rank 0"):
        _same_dataset(config, 0, order)


class OwnInLosses(Own):
    """Runs its network where only whole batches are seen."""

    predictions = AuxiliaryLoss.predictions


def test_a_loss_whose_network_would_run_on_whole_batches_is_refused():
    with pytest.raises(InputError, match="--parallel data: OwnInLosses must run its networks in"):
        trained(DataParallel(0, 2), OwnInLosses, 10)


def test_batch_norm_folds_and_converts_for_ranks_on_gpus():
    config = configuration.load("digits", ["model.width=4"])
    network = NetworkFactory(config.model, 10, CPU, 0, 1).backbone("backbone")
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
