"""The ResNet-18 for 224×224 images (He et al., CVPR 2016), with two heads and ImageNet weights.

The attribute names are torchvision's but for the parts that never take ImageNet weights:
`layer4_caltech`, `fc_caltech` (task head) and `added_fc` (consistency head), as in the published
TOD checkpoints.
"""

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from models.resnet import StridedConv2d
from tod.config import InputError

FRESH_PARTS = ("layer4", "fc", "added_fc")
"""The parts that never take ImageNet weights begin so, here and in an ImageNet checkpoint."""


class ResNet18(nn.Module):
    """ResNet-18 with a 7×7 stem of stride 2 and a max-pool.

    Args:
        num_classes: C, the outputs of each head.
        width: channels of the first stage; the four stages have width × (1, 2, 4, 8).
        dropout: the share of the features that the task head does without in training.
    """

    def __init__(self, num_classes: int, width: int = 64, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = StridedConv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = self._stage(width, width, stride=1)
        self.layer2 = self._stage(width, 2 * width, stride=2)
        self.layer3 = self._stage(2 * width, 4 * width, stride=2)
        self.layer4_caltech = self._stage(4 * width, 8 * width, stride=2)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.fc_caltech = nn.Linear(8 * width, num_classes)  # task head
        self.added_fc = nn.Linear(8 * width, num_classes)  # consistency head
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(in_channels: int, channels: int, stride: int) -> nn.Sequential:
        downsample = None
        if stride != 1 or in_channels != channels:
            downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(channels),
            )
        first = BasicBlock(in_channels, channels, stride, downsample)
        # Without random numbers: the weights are drawn when all layers are there.
        first.conv1 = nn.utils.skip_init(
            StridedConv2d, in_channels, channels, 3, stride, padding=1, bias=False
        )
        return nn.Sequential(first, BasicBlock(channels, channels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Images (N, 3, H, W) → logits (N, C), consistency logits (N, C), features (N, 8·width),
        and the four stages' feature maps (N, channels, height, width)."""
        out = self.maxpool(F.relu(self.bn1(self.conv1(x)), inplace=True))
        feature_maps = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4_caltech):
            out = stage(out)
            feature_maps.append(out)
        features = F.adaptive_avg_pool2d(out, 1).flatten(1)
        logits = self.fc_caltech(self.dropout(features))
        return logits, self.added_fc(features), features, feature_maps

    @property
    def task_head(self) -> nn.Linear:
        """What makes logits (N, C) of features (N, 8·width)."""
        return self.fc_caltech

    def load_imagenet_weights(self, state_dict: dict[str, Tensor]) -> None:
        """Takes all but the fourth stage and the classifier from torchvision's `state_dict`."""
        kept, own = (
            {k: v for k, v in each.items() if not k.startswith(FRESH_PARTS)}
            for each in (state_dict, self.state_dict())
        )
        # Checkpoints of 2018 and before have no batch counters; nothing here reads these.
        shapes, own_shapes = (
            {(k, v.shape) for k, v in each.items() if not k.endswith("num_batches_tracked")}
            for each in (kept, own)
        )
        if odd := shapes ^ own_shapes:
            key, _ = min(odd)
            raise InputError(
                f"the ImageNet weights are not a ResNet-18's ({key} does not match); "
                "remove the file resnet18-*.pth from which they come and get it again"
            )
        self.load_state_dict(kept, strict=False)
