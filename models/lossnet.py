"""What looks at feature maps: the modules of LL4AL (CVPR 2019) and of TiDAL (ICCV 2023)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LossNet(nn.Module):
    """Predicts an image's loss from the feature maps of the backbone's stages.

    The maps are averaged over their whole area, whatever its size, as the LL4AL paper describes.

    Args:
        num_channels: channels of the feature maps.
        hidden: outputs of the linear layer behind each map.
    """

    def __init__(
        self, num_channels: Sequence[int] = (64, 128, 256, 512), hidden: int = 128
    ) -> None:
        super().__init__()
        for stage, channels in enumerate(num_channels, start=1):
            self.add_module(f"FC{stage}", nn.Linear(channels, hidden))
        self.linear = nn.Linear(len(num_channels) * hidden, 1)

    def forward(self, feature_maps: Sequence[Tensor]) -> Tensor:
        """Feature maps (N, channels, height, width) → predicted losses (N,)."""
        return self.linear(self.hidden(feature_maps)).squeeze(1)

    def hidden(self, feature_maps: Sequence[Tensor]) -> Tensor:
        """What the last layer sees, (N, stages · hidden)."""
        hidden = [
            F.relu(getattr(self, f"FC{stage}")(F.adaptive_avg_pool2d(feature_map, 1).flatten(1)))
            for stage, feature_map in enumerate(feature_maps, start=1)
        ]
        return torch.cat(hidden, dim=1)


class DynamicsNet(LossNet):
    """TiDAL's module: predicts what the network says of an image on the mean of a training."""

    def __init__(self, num_channels: Sequence[int], num_classes: int, hidden: int = 128) -> None:
        super().__init__(num_channels, hidden)
        self.linear = nn.Linear(len(num_channels) * hidden, num_classes)

    def forward(self, feature_maps: Sequence[Tensor]) -> Tensor:
        """Feature maps (N, channels, height, width) → logits (N, C)."""
        return self.linear(self.hidden(feature_maps))
