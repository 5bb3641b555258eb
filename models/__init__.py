"""The networks: two ResNet-18s and two linear heads, and modules beside them."""

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models import linear, resnet
from tod import config
from tod.config.schema import Model
from tod.system.files import reason
from utils import seed_torch

IMAGENET_FILES = ("resnet18-5c106cde.pth", "resnet18-f37072fd.pth")
"""The two names under which torchvision has published the same ImageNet weights."""

BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)

Outputs = tuple[Tensor, Tensor, Tensor, list[Tensor]]
"""What a backbone gives for N images: logits (N, C), consistency logits (N, C), features (N, F),
and the four stages' feature maps, or one of frozen features."""


def build_backbone(model: Model, num_classes: int, num_features: int = 0) -> nn.Module:
    """The backbone that the configuration names, with random weights; F where it has features."""
    if model.is_linear:
        return linear.Linear(num_classes, num_features, model.dropout)
    if model.name == "resnet":
        return resnet.ResNet18(num_classes, model.width, model.dropout)
    from models import imagenet_resnet  # torchvision takes seconds to import

    return imagenet_resnet.ResNet18(num_classes, model.width, model.dropout)


def stage_channels(model: Model, num_features: int = 0) -> list[int]:
    """The channels of the backbone's feature maps."""
    if model.is_linear:
        return [num_features]
    return [model.width * factor for factor in (1, 2, 4, 8)]


def multiply_adds(model: Model, side: int) -> int:
    """Of the convolutions in a forward pass of one image of this side; linear heads have none.

    Those of the four stages do 132 · width² for each pixel of the first stage's maps: most of them
    9 · width² each, since a later stage has twice the channels on a quarter of the pixels.
    """
    if model.is_linear:
        return 0
    kernel, stem, maps = (3, side, side) if model.name == "resnet" else (7, side / 2, side / 4)
    return round(3 * kernel**2 * model.width * stem**2 + 132 * model.width**2 * maps**2)


@dataclass(frozen=True)
class NetworkFactory:
    """Makes the networks of one trial, with random weights.

    These depend on seed, role and trial; and on the cycle, where networks start anew in each.
    `num_images` is the size of the training set, for what a loss remembers of each image;
    `num_features` are those of an image, where features are given.
    """

    model: Model
    num_classes: int
    device: torch.device
    seed: int
    trial: int
    cycle: int = 1
    num_images: int = 0
    num_features: int = 0

    def backbone(self, role: str) -> nn.Module:
        """A backbone for one role: backbone, teacher or previous."""
        seed_torch(self.seed, role, *self._place)
        memory_format = fastest_memory_format(self.device, self.model.width)
        network = build_backbone(self.model, self.num_classes, self.num_features)
        return network.to(self.device, memory_format=memory_format)

    def module(self, role: str, kind: Callable[[Sequence[int]], nn.Module]) -> nn.Module:
        """A network beside the backbone, which `kind` makes for feature maps of these channels."""
        seed_torch(self.seed, role, *self._place)
        return kind(stage_channels(self.model, self.num_features)).to(self.device)

    @property
    def _place(self) -> tuple[int, ...]:
        return (self.trial,) if self.cycle == 1 else (self.trial, self.cycle)


def fastest_memory_format(device: torch.device, width: int) -> torch.memory_format:
    """Channels-last where it is faster and safe, for images and for networks of this width.

    On a CPU, the backward pass of a narrow channels-last 1×1 convolution of stride 2 corrupts the
    heap (oneDNN in PyTorch 2.15, 4 and 8 channels at 64×64; 12 and more are sound).
    """
    if device.type == "cuda" or (device.type == "cpu" and width >= 16):
        return torch.channels_last
    return torch.contiguous_format


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose convolutions do their batch norm's work: same outputs."""
    network = copy.deepcopy(network).eval()
    for module in list(network.modules()):
        for (name, layer), (next_name, next_layer) in itertools.pairwise(module.named_children()):
            if isinstance(layer, nn.Conv2d) and isinstance(next_layer, BATCH_NORMS):
                setattr(module, name, fuse_conv_bn_eval(layer, next_layer))
                setattr(module, next_name, nn.Identity())
    return network


def with_noise(network: nn.Module, norm: float, generator: torch.Generator) -> nn.Module:
    """A copy of a network, to each of whose weight tensors, but no biases, Gaussian noise is added.

    The noise's `norm` is a share of the tensor's own. A generator on the CPU lets all devices draw
    the same.
    """
    noisy = copy.deepcopy(network)
    with torch.no_grad():
        for name, weight in noisy.named_parameters():
            if name.endswith("weight"):
                noise = torch.randn(weight.shape, generator=generator).to(weight)
                weight += norm * weight.norm() / noise.norm() * noise
    return noisy


def imagenet_weights(folder: Path = config.PROJECT_DIR) -> dict[str, Tensor]:
    """The state dict of torchvision's ResNet-18, from `folder`, torch.hub's cache or a download."""
    cache = Path(torch.hub.get_dir(), "checkpoints")
    for path in (place / name for place in (folder, cache) for name in IMAGENET_FILES):
        if path.exists():
            try:
                return dict(torch.load(path, map_location="cpu", weights_only=True))
            # A damaged file can raise anything at all.
            except Exception:
                raise config.InputError(
                    f"{path}: is no readable checkpoint; remove it and get it again"
                ) from None
    from torchvision.models import ResNet18_Weights  # takes seconds to import

    published = ResNet18_Weights.IMAGENET1K_V1
    try:
        weights = published.get_state_dict(
            progress=True, check_hash=True, map_location="cpu", weights_only=True
        )
        return dict(weights)
    # A failed download can raise anything at all.
    except Exception as error:
        raise config.InputError(
            f"{folder / IMAGENET_FILES[1]}: is missing, and {published.url} could not be had "
            f"through {cache} ({reason(error)}); put it there, "
            "or start from random weights with --set model.pretrained=false"
        ) from None
