"""Two linear heads on frozen features."""

from torch import Tensor, nn


class Linear(nn.Module):
    """The task head and the consistency head, on features that somebody else's network has made.

    Args:
        num_classes: C, the outputs of each head.
        num_features: F.
        dropout: the share of the features that the task head does without in training.
    """

    def __init__(self, num_classes: int, num_features: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.linear = nn.Linear(num_features, num_classes)  # task head
        self.linear1 = nn.Linear(num_features, num_classes)  # consistency head

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Features (N, F) → logits (N, C), consistency logits (N, C), the features, and these as
        the single feature map (N, F, 1, 1)."""
        return self.linear(self.dropout(x)), self.linear1(x), x, [x[:, :, None, None]]

    @property
    def task_head(self) -> nn.Linear:
        """What makes logits (N, C) of features (N, F)."""
        return self.linear
