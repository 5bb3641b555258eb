"""What is fast computes what the plain PyTorch of the paper's formulas does, on every device."""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses import (
    AuxiliaryLoss,
    CODLoss,
    DetachedLossPrediction,
    LossPrediction,
    NoAuxiliary,
    Step,
)
from models import NetworkFactory, build_backbone, fastest_memory_format, fold_batch_norm
from models.inference import allow_tf32
from samplers import query_by_tod
from tests.support.pools import pool_of, positions
from tod import config as configuration
from tod.config.schema import Augmentation
from tod.data.batches import ImageBatches
from tod.engine.cuda_graph import WARM_UP_STEPS, GraphedGradients
from tod.engine.learner import Learner
from tod.strategies.diversity import (
    DRAWS,
    k_center_greedy,
    k_means_plus_plus,
    nearest_squared_distances,
)

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
WIDTH = 16
STEPS = [(16, 16), (16, 16), (7, 16), (16, 16), (7, 16), (16, 0)]
"""Labelled and unlabelled images of each step; on a GPU, each pair has a graph of its own. A loss
that looks at no unlabelled images is never given any."""


@pytest.fixture(autouse=True)
def full_precision() -> None:
    allow_tf32(False)
    torch.backends.cudnn.benchmark = False


def learner_on(
    device: str,
    auxiliary: type[AuxiliaryLoss],
    precision: str,
    dtype: torch.dtype = torch.float32,
    model: str = "resnet",
) -> Learner:
    settings = [f"model.width={WIDTH}", "training.lr=0.1", "ll4al.detach_epoch=0"]
    config = configuration.load("digits", [*settings, f"model.name={model}"])
    networks = NetworkFactory(config.model, 10, torch.device(device), seed=0, trial=1)
    backbone = networks.backbone("backbone").train()
    loss = auxiliary(config, networks)
    for network in (backbone, *loss.networks()):
        network.to(dtype)
    return Learner(config, 0, 1, backbone, loss, precision)


def steps_of(kind: type[AuxiliaryLoss]) -> list[tuple[int, int]]:
    return [(labeled, unlabeled * kind.uses_unlabeled_images) for labeled, unlabeled in STEPS]


def batch(device: str, sizes: tuple[int, int], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    images = [torch.randn(size, 3, 32, 32, generator=random) for size in sizes]
    labels = torch.randint(10, (sizes[0],), generator=random)
    memory_format = fastest_memory_format(torch.device(device), WIDTH)
    labeled, unlabeled = (each.to(device, memory_format=memory_format) for each in images)
    return labeled, labels.to(device), unlabeled


def step(learner: Learner, images: Tensor, labels: Tensor, unlabeled: Tensor) -> Tensor:
    indices = torch.arange(len(images) + len(unlabeled), device=learner.device)
    return learner._step(images, labels, unlabeled, indices)


def all_networks(learner: Learner) -> list[nn.Module]:
    return [learner.backbone, *learner.auxiliary.networks()]


def plain_copies(networks: list[nn.Module]) -> list[nn.Module]:
    return [copy.deepcopy(n).to(memory_format=torch.contiguous_format) for n in networks]


def plain_step(
    kind: type[AuxiliaryLoss],
    networks: list[nn.Module],
    momenta: list[dict[str, Tensor]],
    step: int,
    epoch: int,
    batch: Sequence[Tensor],
) -> Tensor:
    """The method's step as one would write it down; changes networks and momenta, gives the loss.

    Learning rate 0.1, momentum 0.9, weight decay 5e-4, λ 0.02, EMA decay 0.999, ξ 1.
    """
    images, labels, unlabeled = (each.contiguous() for each in batch)
    backbone = networks[0]
    for network in networks:
        network.zero_grad()
    logits, consistency, _, maps = backbone(images)
    losses = F.cross_entropy(logits, labels, reduction="none")
    loss = losses.mean()
    if kind is CODLoss:
        batches = [(images, logits, consistency)]
        if len(unlabeled) > 0:
            batches.append((unlabeled, *backbone(unlabeled)[:2]))
        for inputs, f, f1 in batches:
            ema = networks[1](inputs)[0].detach()
            loss = loss + COD_WEIGHT * (((f - f1) ** 2).mean() + ((f1 - ema) ** 2).mean())
    elif kind is not NoAuxiliary:
        detached = kind is DetachedLossPrediction or epoch > 0
        predicted = networks[1]([m.detach() if detached else m for m in maps])
        pairs = [(i, len(losses) - 1 - i) for i in range(len(losses) // 2)]
        for i, j in pairs:
            sign = 1.0 if losses[i] > losses[j] else -1.0
            rank = (1.0 - sign * (predicted[i] - predicted[j])).clamp_min(0)
            loss = loss + rank / len(pairs)
    loss.backward()
    trained = networks[:1] if kind is CODLoss else networks
    with torch.no_grad():
        for network, momentum in zip(trained, momenta, strict=False):
            for name, parameter in network.named_parameters():
                if parameter.grad is None:
                    continue
                gradient = parameter.grad + 5e-4 * parameter
                momentum[name] = momentum[name] * 0.9 + gradient if name in momentum else gradient
                parameter -= 0.1 * momentum[name]
        if kind is CODLoss:
            alpha = min(1 - 1 / (step + 1), 0.999)
            for ema, parameter in zip(networks[1].parameters(), backbone.parameters(), strict=True):
                ema.copy_(alpha * ema + (1 - alpha) * parameter)
    return loss.detach()


COD_WEIGHT = 0.02


def assert_equal(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    error = (found.double() - expected.double()).norm()
    assert error <= tolerance * expected.double().norm() + 1e-12, f"{what}: {error}"


KINDS = (NoAuxiliary, CODLoss, LossPrediction, DetachedLossPrediction)
NETWORKS = [
    *(("resnet", kind, torch.float32, 1e-5) for kind in KINDS),
    *(("resnet", kind, torch.float64, 1e-9) for kind in KINDS),
    *(("imagenet_resnet", kind, torch.float64, 1e-9) for kind in KINDS[:2]),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("model", "kind", "dtype", "tolerance"), NETWORKS)
def test_step_is_the_plain_one(device, model, kind, dtype, tolerance):
    learner = learner_on(device, kind, "fp32", dtype, model)
    momenta = [{}, {}]
    graphs = set()
    for number, sizes in enumerate(steps_of(kind)):
        learner.epoch = int(number >= 3)
        graphs.add((sizes, learner.auxiliary.trains_backbone(learner.epoch)))
        images, labels, unlabeled = batch(device, sizes, number)
        inputs = (images.to(dtype), labels, unlabeled.to(dtype))
        # From the same point each time: what is compared is one step, not how errors grow.
        expected = plain_copies(all_networks(learner))
        expected_loss = plain_step(kind, expected, momenta, number + 1, learner.epoch, inputs)
        loss = step(learner, *inputs)[0]
        assert_equal(loss, expected_loss, tolerance, f"loss of step {number}")
        for network, plain in zip(all_networks(learner), expected, strict=True):
            # In float32, rounding can flip a ReLU, which moves all gradients but the heads'.
            flips = 5e-2 if dtype == torch.float32 else tolerance
            heads = ("linear.", "linear1.") if network is learner.backbone else ()
            found = dict(network.named_parameters())
            for name, parameter in plain.named_parameters():
                bound = tolerance if name.startswith(heads) else flips
                if parameter.grad is not None:
                    assert_equal(found[name].grad, parameter.grad, bound, f"gradient of {name}")
                assert_equal(found[name], parameter, bound, f"{name} after step {number}")
            for name, buffer in plain.named_buffers():
                assert_equal(network.state_dict()[name], buffer, tolerance, f"{name}, {number}")
    if learner.graphs is not None:
        assert learner.graphs.works
        assert len(learner.graphs.captured) == len(graphs)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", [NoAuxiliary, CODLoss, LossPrediction])
def test_step_in_bf16_is_the_plain_one_up_to_its_rounding(device, kind):
    learner = learner_on(device, kind, "bf16")
    momenta = [{}, {}]
    for number, sizes in enumerate(steps_of(kind)):
        inputs = batch(device, sizes, number)
        expected = plain_copies(all_networks(learner))
        before = copy.deepcopy(learner.backbone.state_dict())
        # In the same precision: rounding may turn a pair of the ranking loss round.
        with torch.autocast(device, torch.bfloat16):
            expected_loss = plain_step(kind, expected, momenta, number + 1, 0, inputs)
        loss = step(learner, *inputs)[0]
        assert loss.dtype == torch.float32
        assert_equal(loss, expected_loss, 3e-2, f"loss of step {number}")
        moved, should_move = (
            torch.cat([(p - before[name]).flatten() for name, p in network.named_parameters()])
            for network in (learner.backbone, expected[0])
        )
        assert F.cosine_similarity(moved, should_move, dim=0) > 0.9


@pytest.mark.parametrize("device", DEVICES)
def test_scores_and_queries_are_the_plain_ones(device):
    model = configuration.load("digits", [f"model.width={WIDTH}"]).model
    memory_format = fastest_memory_format(torch.device(device), WIDTH)
    torch.manual_seed(0)
    networks = [build_backbone(model, 10).to(device).train() for _ in range(2)]
    for network in networks * 5:
        network(torch.randn(32, 3, 32, 32, device=device))
    images = torch.randn(60, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        p, q = (network.eval()(images)[0].softmax(dim=1) for network in networks)
    expected = 0.5 * ((p - q) ** 2).sum(dim=1)
    backbone, previous = (
        fold_batch_norm(copy.deepcopy(n).to(memory_format=memory_format)) for n in networks
    )
    pool = replace(
        pool_of(torch.zeros(60, 10), query_size=20),
        batches=lambda: iter(images.to(memory_format=memory_format).split(25)),
        backbone=backbone,
        previous=previous,
        network=backbone,
    )
    query = query_by_tod(pool)
    assert_equal(torch.from_numpy(query.scores), expected.cpu(), 1e-5, "scores")
    assert positions(query) == expected.argsort(stable=True)[-20:].tolist()


def images_on(device: str) -> ImageBatches:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 3, 16, 16), dtype=np.uint8)
    statistics = torch.full((3,), 0.5), torch.full((3,), 0.25)
    augmentation = Augmentation(flip=True, crop_padding=2)
    return ImageBatches(torch.from_numpy(pixels), *statistics, augmentation, torch.device(device))


@pytest.mark.parametrize("device", DEVICES)
def test_batches_are_the_same_where_images_do_not_fit_in_device_memory(device, monkeypatch):
    random = np.random.default_rng(1)
    on_device = images_on(device)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 0))
    on_host = images_on(device)
    assert (on_host.copy_stream is None) == (device == "cpu")
    views = on_device.random_views(random.permutation(50), random)
    placed = [images.to_device(views).split(16) for images in (on_device, on_host)]
    for a, b in zip(*placed, strict=True):
        torch.testing.assert_close(on_device.augmented(a), on_host.augmented(b), rtol=0, atol=0)
        torch.testing.assert_close(on_device.plain(a[:, 0]), on_host.plain(b[:, 0]), rtol=0, atol=0)


def test_steps_are_launched_singly_where_a_graph_cannot_be_captured(caplog, monkeypatch):
    # A CPU can capture none; nor can a GPU, where the host waits for it.
    device = DEVICES[-1]
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    learner, plain = (learner_on(device, CODLoss, "fp32") for _ in range(2))
    learner.graphs, plain.graphs = GraphedGradients(all_networks(learner)), None
    backward = learner._backward

    def waiting(*inputs: Tensor) -> Tensor:
        losses = backward(*inputs)
        losses[0].item()
        return losses

    monkeypatch.setattr(learner, "_backward", waiting)
    caplog.set_level("WARNING", logger="tod")
    for number, sizes in enumerate(STEPS[:3]):
        inputs = batch(device, sizes, number)
        losses = [step(each, *inputs) for each in (learner, plain)]
        assert torch.equal(*losses)
    assert not learner.graphs.works
    assert caplog.text.count("CUDA graphs do not work here") == 1
    for network, expected in zip(all_networks(learner), all_networks(plain), strict=True):
        for name, tensor in expected.state_dict().items():
            assert torch.equal(network.state_dict()[name], tensor), name


def backward(loss: Tensor) -> Tensor:
    loss.backward()
    return loss.detach()[None]


@pytest.fixture
def stand_in_graphs(monkeypatch):
    """CUDA graphs as they are seen from outside, so that a CPU can test what is around them."""

    own, current, set_streams = Mock(), Mock(), []
    for name, stand_in in {
        "CUDAGraph": Mock,  # on a CPU, what was captured has been computed
        "graph": lambda graph, **kind: nullcontext(),
        "graph_pool_handle": lambda: (0, len(set_streams)),
        "Stream": lambda: own,
        "stream": lambda stream: nullcontext(),
        "current_stream": lambda *device: current,
        "set_stream": set_streams.append,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return own, current, set_streams


@pytest.mark.parametrize("wrong", [None, "diverged", "loss", "gradients", "stops", "stream"])
def test_a_graph_is_used_only_where_it_gives_the_same(stand_in_graphs, caplog, wrong, monkeypatch):
    own, current, set_streams = stand_in_graphs
    ended = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    end_of_capture = "_cuda_endAllocateToPool"
    monkeypatch.setattr(torch._C, end_of_capture, lambda *of: ended.append(of), raising=False)
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    graphs = GraphedGradients([network])
    calls = []

    def compute(inputs: Tensor) -> Tensor:
        calls.append(1)
        captures = len(calls) == 4  # after three steps to warm up
        if captures and wrong == "stream":
            own.synchronize.side_effect = RuntimeError("the stream is lost")
        if captures and wrong in ("stops", "stream"):
            raise RuntimeError("the capture is invalid")
        loss = backward((network(inputs) - inputs[:, :2]).square().mean())
        if captures and wrong == "gradients":
            network[0].weight.grad *= 2
        return loss * (2 if captures and wrong == "loss" else 1)

    if wrong == "diverged":  # which the learner reports, with the loss
        nn.init.constant_(network[0].weight, torch.nan)
    caplog.set_level("WARNING", logger="tod")
    graphs(compute, "key", torch.randn(4, 3))
    works = wrong in (None, "diverged")
    # The batch norm has seen the batch once, not the warm-up's times too.
    assert int(network[1].num_batches_tracked) == (not works)
    assert graphs.works == bool(graphs.captured) == works
    # What PyTorch's own end of an invalid capture leaves open in the allocator.
    assert ended == ([] if works else [(0, (0, 0))])
    assert set_streams == [current]  # the one that was current, whatever has happened
    assert caplog.text.count("CUDA graphs do not work here") == (not works)
    if wrong == "gradients":
        assert "other gradients than without a graph" in caplog.text


def test_a_network_without_buffers_has_graphs_too(stand_in_graphs):
    network = nn.Linear(3, 2)
    graphs = GraphedGradients([network])
    graphs(lambda x: backward(network(x).square().mean()), "key", torch.randn(4, 3))
    assert graphs.works
    graphs.forget()
    assert not graphs.captured
    assert network.weight.grad is None  # it lies in the memory of the graph


def test_a_cycle_forgets_the_graphs_of_the_one_before_it_and_their_memory(stand_in_graphs):
    learner = learner_on("cpu", NoAuxiliary, "fp32")
    learner.graphs = GraphedGradients(all_networks(learner))
    step(learner, *batch("cpu", (16, 0), 0))
    assert len(learner.graphs.captured) == 1
    before = learner.graphs._pool
    learner.start_cycle(2)
    assert not learner.graphs.captured
    assert learner.graphs._pool != before


def test_a_replay_sees_its_own_epoch_and_images(stand_in_graphs):
    seen = []

    class Ramp(AuxiliaryLoss):
        parts = ("ramp",)

        def losses(self, step: Step) -> list[Tensor]:
            seen.append(step)
            return [step.epoch * step.outputs[0][1].square().mean()]

    learner = learner_on("cpu", Ramp, "fp32")
    learner.graphs = GraphedGradients(all_networks(learner))
    images, labels, none = batch("cpu", (16, 0), 0)
    for epoch, first in ((0, 0), (5, 100)):
        learner.epoch = epoch
        learner._step(images, labels, none, torch.arange(first, first + 16))
    assert len(seen) == WARM_UP_STEPS + 1  # the second step was a replay
    assert seen[-1].epoch == 5
    assert seen[-1].indices[0].tolist() == [*range(100, 116)]


@pytest.mark.parametrize("device", DEVICES)
def test_views_and_picks_are_those_of_a_cpu(device):
    random = np.random.default_rng(1)
    there, here = map(images_on, (device, "cpu"))
    views = here.random_views(random.permutation(50), random)
    found = there.augmented(there.to_device(views)).cpu()
    torch.testing.assert_close(found, here.augmented(views), rtol=1e-6, atol=1e-6)

    # Whole numbers, which no order of adding them up changes.
    features = torch.randint(0, 8, (60, 5), generator=torch.Generator().manual_seed(0)).float()
    gradients = features[:, :3].contiguous()
    draws = torch.randint(DRAWS, (10,), generator=torch.Generator().manual_seed(1))
    nearest = nearest_squared_distances(features, features[:2])
    center, spread = (features, nearest), (gradients, features, draws)
    found = k_center_greedy(*(each.to(device) for each in center), 10).cpu()
    assert torch.equal(found, k_center_greedy(*center, 10))
    found = k_means_plus_plus(*(each.to(device) for each in spread)).cpu()
    assert torch.equal(found, k_means_plus_plus(*spread))


@pytest.mark.parametrize("device", DEVICES)
def test_a_momentum_that_another_device_has_laid_out_otherwise_is_taken_over(device):
    def stepped(learner: Learner, seeds: range) -> Learner:
        for seed in seeds:
            step(learner, *batch(device, (16, 0), seed))
        return learner

    state = copy.deepcopy(stepped(learner_on(device, NoAuxiliary, "fp32"), range(2)).state_dict())
    elsewhere = copy.deepcopy(state)
    momenta = [*elsewhere["optimizer"]["state"].values()]
    assert not all(each["momentum_buffer"].is_contiguous() for each in momenta)
    for each in momenta:
        each["momentum_buffer"] = each["momentum_buffer"].contiguous()
    weights = []
    for saved in (state, elsewhere):
        learner = learner_on(device, NoAuxiliary, "fp32")
        learner.load_state_dict(saved)
        weights.append([*stepped(learner, range(2, 4)).backbone.parameters()])
    assert all(map(torch.equal, *weights))
