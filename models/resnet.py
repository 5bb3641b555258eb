"""The ResNet-18 for 32×32 images (He et al., CVPR 2016, in its CIFAR form), with two heads.

The attribute names are those of the published TOD checkpoints, so that these load.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class StridedConv2d(nn.Conv2d):
    """A convolution that ignores its stride where a map has one pixel: same outputs.

    There the weight gradient of a stride of 2 in bf16 is computed from memory that nothing has
    written (oneDNN in PyTorch 2.14 on AVX512-BF16), and may be anything, or not finite.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """(N, in_channels, H, W) → (N, out_channels, H / stride, W / stride)."""
        stride = 1 if maps.shape[-2:] == (1, 1) else self.stride
        return F.conv2d(maps, self.weight, self.bias, stride, self.padding)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut that is a 1×1 convolution where the shape changes."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = StridedConv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) → (N, channels, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out, inplace=True)


class ResNet18(nn.Module):
    """ResNet-18 with a 3×3 stem of stride 1 and no max-pool.

    Args:
        num_classes: C, the outputs of each head.
        width: channels of the first stage; the four stages have width × (1, 2, 4, 8).
        dropout: the share of the features that the task head does without in training.
    """

    def __init__(self, num_classes: int, width: int = 64, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._stage(width, width, stride=1)
        self.layer2 = self._stage(width, 2 * width, stride=2)
        self.layer3 = self._stage(2 * width, 4 * width, stride=2)
        self.layer4 = self._stage(4 * width, 8 * width, stride=2)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.linear = nn.Linear(8 * width, num_classes)  # task head
        self.linear1 = nn.Linear(8 * width, num_classes)  # consistency head

    @staticmethod
    def _stage(in_channels: int, channels: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            BasicBlock(in_channels, channels, stride), BasicBlock(channels, channels, stride=1)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Images (N, 3, H, W) → logits (N, C), consistency logits (N, C), features (N, 8·width),
        and the four stages' feature maps (N, channels, height, width)."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        feature_maps = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            out = stage(out)
            feature_maps.append(out)
        features = F.adaptive_avg_pool2d(out, 1).flatten(1)
        logits = self.linear(self.dropout(features))
        return logits, self.linear1(features), features, feature_maps

    @property
    def task_head(self) -> nn.Linear:
        """What makes logits (N, C) of features (N, 8·width)."""
        return self.linear
