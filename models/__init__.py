"""The networks: two ResNet-18s with two heads, and LL4AL's loss-prediction module."""

import copy
import itertools
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import ResNet18_Weights

import configuration
from models import imagenet_resnet, lossnet, resnet

IMAGENET_FILES = ("resnet18-5c106cde.pth", "resnet18-f37072fd.pth")
"""The two names under which torchvision has published the same ImageNet weights."""

PROJECT_DIR = Path(__file__).resolve().parent.parent

Outputs = tuple[Tensor, Tensor, Tensor, list[Tensor]]
"""What a backbone gives for N images: logits (N, C), consistency logits (N, C), features (N, F),
and the four stages' feature maps."""


def build_backbone(config: configuration.Model, num_classes: int) -> nn.Module:
    """The backbone that the configuration names, with random weights."""
    architecture = {"resnet": resnet.ResNet18, "imagenet_resnet": imagenet_resnet.ResNet18}
    return architecture[config.name](num_classes, width=config.width)


def build_lossnet(config: configuration.Model) -> lossnet.LossNet:
    """The loss-prediction module that fits the configured backbone."""
    return lossnet.LossNet([config.width * factor for factor in (1, 2, 4, 8)])


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose convolutions do their batch norm's work: same outputs."""
    network = copy.deepcopy(network).eval()
    for module in list(network.modules()):
        for (name, layer), (next_name, next_layer) in itertools.pairwise(module.named_children()):
            if isinstance(layer, nn.Conv2d) and isinstance(next_layer, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(layer, next_layer))
                setattr(module, next_name, nn.Identity())
    return network


def imagenet_weights(folder: Path = PROJECT_DIR) -> dict[str, torch.Tensor]:
    """The state dict of torchvision's ResNet-18, from a file in `folder` or else downloaded.

    Raises:
        configuration.InputError: the file is damaged, or there is none and the download failed.
    """
    for path in (folder / name for name in IMAGENET_FILES):
        if path.exists():
            try:
                return dict(torch.load(path, map_location="cpu", weights_only=True))
            # A damaged file can raise anything at all.
            except Exception:
                raise configuration.InputError(
                    f"{path}: is no readable checkpoint; remove it and get it again"
                ) from None
    try:
        weights = ResNet18_Weights.IMAGENET1K_V1.get_state_dict(
            progress=True, check_hash=True, map_location="cpu", weights_only=True
        )
        return dict(weights)
    # A failed download and a damaged file in torch.hub's cache can raise anything at all.
    except Exception as error:
        reason = configuration.shortened(" ".join(str(error).split()), 200)
        raise configuration.InputError(
            f"{folder / IMAGENET_FILES[1]}: is missing, and {ResNet18_Weights.IMAGENET1K_V1.url} "
            f"could not be had through {torch.hub.get_dir()}/checkpoints ({reason}); put it there, "
            "or start from random weights with --set model.pretrained=false"
        ) from None
