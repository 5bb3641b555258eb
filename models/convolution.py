"""A convolution that is sound on maps of one pixel too."""

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
