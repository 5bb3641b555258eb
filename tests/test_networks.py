"""The networks: shapes, names, initialisation and the weights they start from."""

import copy
import math
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torchvision
from packaging.requirements import Requirement
from torch import nn

import models
from models import build_backbone, fold_batch_norm, imagenet_resnet, resnet, stage_channels
from models.lossnet import LossNet
from tests.support.loading import refused
from tod.config import PROJECT_DIR
from tod.config.schema import Model

NETWORKS = [resnet.ResNet18, imagenet_resnet.ResNet18]
BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
STEM = {"conv1.weight", *(f"bn1.{part}" for part in BATCH_NORM)}
BLOCK = STEM | {key.replace("1", "2") for key in STEM}


def block_keys(stages: tuple[str, ...], shortcut: str) -> set[str]:
    keys = {f"{stage}.{block}.{key}" for stage in stages for block in (0, 1) for key in BLOCK}
    projection = {f"{shortcut}.0.weight", *(f"{shortcut}.1.{part}" for part in BATCH_NORM)}
    return keys | {f"{stage}.0.{key}" for stage in stages[1:] for key in projection}


def heads(*names: str) -> set[str]:
    return {f"{name}.{part}" for name in names for part in ("weight", "bias")}


@pytest.mark.parametrize(
    ("network", "last_stage", "shortcut", "names"),
    [
        (NETWORKS[0], "layer4", "shortcut", ("linear", "linear1")),
        (NETWORKS[1], "layer4_caltech", "downsample", ("fc_caltech", "added_fc")),
    ],
)
def test_networks_have_the_published_keys(network, last_stage, shortcut, names):
    stages = ("layer1", "layer2", "layer3", last_stage)
    assert set(network(10).state_dict()) == STEM | block_keys(stages, shortcut) | heads(*names)


def test_loss_prediction_has_the_published_keys_and_shapes():
    state = LossNet().state_dict()
    assert set(state) == heads("FC1", "FC2", "FC3", "FC4", "linear")
    shapes = [tuple(state[f"FC{n}.weight"].shape) for n in (1, 2, 3, 4)]
    assert shapes == [(128, channels) for channels in (64, 128, 256, 512)]
    assert tuple(state["linear.weight"].shape) == (1, 512)


def test_networks_have_the_size_of_resnet18():
    # With one head it has 11,173,962 for 32×32, and 11,228,325 for ImageNet; the other adds these.
    sizes = {resnet.ResNet18(10): 11_173_962 + 5_130}
    sizes[imagenet_resnet.ResNet18(101)] = 11_228_325 + 513 * 101
    assert [sum(p.numel() for p in network.parameters()) for network in sizes] == [*sizes.values()]


@pytest.mark.parametrize(("network", "reduction"), [*zip(NETWORKS, (1, 4), strict=True)])
@pytest.mark.parametrize(("size", "width"), [(32, 64), (8, 16), (40, 8), (224, 4), (33, 4)])
def test_networks_take_any_image_size_and_width(network, reduction, size, width):
    net = network(7, width=width).eval()
    logits, consistency_logits, features, feature_maps = net(torch.randn(2, 3, size, size))
    assert logits.shape == consistency_logits.shape == (2, 7)
    assert features.shape == (2, 8 * width)
    # The small network halves the map three times, and the ImageNet network five times.
    expected = [(2**i * width, math.ceil(size / reduction / 2**i)) for i in range(4)]
    assert [m.shape[1:3] for m in feature_maps] == expected
    predicted = LossNet(stage_channels(Model(name="resnet", width=width)))(feature_maps)
    assert predicted.shape == (2,)


def test_linear_heads_answer_on_features_as_other_networks_on_images():
    model, x = Model(name="linear", dropout=0.5), torch.randn(400, 6)
    network = build_backbone(model, 7, num_features=6)
    assert set(network.state_dict()) == heads("linear", "linear1")
    (w, b), (w1, b1) = ((each.weight, each.bias) for each in (network.task_head, network.linear1))
    for is_training in (False, True):
        logits, consistency_logits, features, feature_maps = network.train(is_training)(x)
        torch.testing.assert_close(consistency_logits, x @ w1.T + b1)
        assert features is x
        # The task head alone does without some of the features, in training.
        assert torch.allclose(logits, x @ w.T + b, atol=1e-6) != is_training
        torch.testing.assert_close(logits.mean(0), (x @ w.T + b).mean(0), rtol=0, atol=0.3)
    (feature_map,) = feature_maps
    assert torch.equal(feature_map[:, :, 0, 0], x)
    assert LossNet(stage_channels(model, 6))(feature_maps).shape == (400,)
    for a, b in zip(fold_batch_norm(network)(x)[:3], network.eval()(x)[:3], strict=True):
        torch.testing.assert_close(a, b)


def test_loss_prediction_sees_the_whole_map():
    lossnet = LossNet((2, 2, 2, 2)).eval()
    maps, corner = ([torch.zeros(1, 2, 8, 8) for _ in range(4)] for _ in range(2))
    corner[0][..., 7, 7] = 100.0
    assert lossnet(maps).item() != lossnet(corner).item()


def test_imagenet_network_computes_what_torchvisions_does():
    reference = torchvision.models.resnet18(num_classes=5).eval()
    network = imagenet_resnet.ResNet18(5).eval()
    renamed = {
        key.replace("layer4", "layer4_caltech").replace("fc.", "fc_caltech."): value
        for key, value in reference.state_dict().items()
    }
    network.load_state_dict(renamed, strict=False)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(network(images)[0], reference(images))


def test_imagenet_convolutions_are_initialised_kaiming_normal_over_fan_out():
    convolution = imagenet_resnet.ResNet18(2).layer3[1].conv2
    assert convolution.weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_damaged_imagenet_weights_are_named(tmp_path, content):
    (tmp_path / "resnet18-f37072fd.pth").write_bytes(content)
    assert "resnet18-f37072fd.pth: is no readable" in refused(models.imagenet_weights, tmp_path)


def test_weights_of_another_network_are_refused():
    state = torchvision.models.resnet34(weights=None).state_dict()
    assert "layer1.2" in refused(imagenet_resnet.ResNet18(2).load_imagenet_weights, state)


class Intruder(NamedTuple):
    """Runs code when unpickled."""

    path: Path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("place", ["beside the scripts", "in torch.hub's cache"])
def test_code_in_imagenet_weights_is_not_executed(tmp_path, monkeypatch, place):
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = (tmp_path if place == "beside the scripts" else cache) / "resnet18-f37072fd.pth"
    torch.save({"conv1.weight": Intruder(tmp_path / "executed")}, path)
    assert "resnet18-f37072fd" in refused(models.imagenet_weights, tmp_path)
    assert not (tmp_path / "executed").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "executed").exists()


def test_no_pytorch_will_do_whose_weights_only_is_known_to_execute_code():
    lines = (PROJECT_DIR / "requirements.txt").read_text().splitlines()
    asked = {each.name: each.specifier for each in map(Requirement, lines)}
    # Those with CVE-2025-32434 and CVE-2026-24747, and the torchvision of PyTorch 2.9.
    assert not [*asked["torch"].filter(["2.4.0", "2.5.1", "2.6.0", "2.9.1"])]
    assert not [*asked["torchvision"].filter(["0.24.1"])]
    assert torch.__version__.partition("+")[0] in asked["torch"]


@pytest.mark.parametrize("architecture, size", [(resnet, 32), (imagenet_resnet, 64)])
def test_folding_batch_norm_changes_no_output_and_not_the_network_itself(architecture, size):
    torch.manual_seed(0)
    network = architecture.ResNet18(10, width=16).train()
    for _ in range(20):
        network(torch.randn(8, 3, size, size) * 2 + 1)
    for name, parameter in network.named_parameters():
        if "bn" in name or "shortcut.1" in name or "downsample.1" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
    folded = fold_batch_norm(network)
    assert network.training
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    images = torch.randn(4, 3, size, size)
    with torch.no_grad():
        *expected, expected_maps = network.eval()(images)
        *found, found_maps = folded(images)
    for a, b in zip([*found, *found_maps], [*expected, *expected_maps], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * b.abs().max().item())


def weight_gradient(layer: nn.Conv2d, maps: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    layer = copy.deepcopy(layer).to(dtype)
    outputs = layer(maps.to(dtype))
    for size in range(8, 20):  # what is computed from memory that was not written shows
        torch.full((2**size,), torch.nan)
    outputs.backward(torch.linspace(-1, 1, outputs.numel()).reshape(outputs.shape).to(dtype))
    return layer.weight.grad.float()


@pytest.mark.parametrize("name", ["resnet", "imagenet_resnet"])
def test_on_maps_of_one_pixel_gradients_in_bf16_are_those_in_fp32(name):
    torch.manual_seed(0)
    network = build_backbone(Model(name=name, width=16), 10).to(memory_format=torch.channels_last)
    strided = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
    assert len(strided) == (6 if name == "resnet" else 7)
    for layer in strided:
        for count in (2, 16):
            maps = torch.randn(count, layer.in_channels, 1, 1)
            expected = weight_gradient(layer, maps, torch.float32)
            for _ in range(5):
                found = weight_gradient(layer, maps, torch.bfloat16)
                assert (found - expected).norm() < 0.02 * expected.norm()
