"""The losses, as functions of tensors."""

import torch.nn.functional as F
from torch import Tensor


def task_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each image: logits (N, C), labels (N,) → (N,). The task loss is its mean."""
    return F.cross_entropy(logits, labels, reduction="none")


def cod_loss(logits: Tensor, consistency_logits: Tensor, ema_logits: Tensor) -> Tensor:
    """The COD loss of one batch, without its weight λ (Huang et al., ICCV 2021, section 3.3).

    Each argument is (N, C); both mean squared errors average over all N·C elements. The teacher's
    `ema_logits` are taken as constants.

    Returns:
        A scalar: MSE(logits, consistency logits) + MSE(consistency logits, ema logits).
    """
    return F.mse_loss(logits, consistency_logits) + F.mse_loss(
        consistency_logits, ema_logits.detach()
    )


def ranking_loss(predicted_loss: Tensor, target_loss: Tensor, margin: float = 1.0) -> Tensor:
    """LL4AL's loss for the loss-prediction module (Yoo & Kweon, CVPR 2019, equation 2).

    Image i is paired with image N−1−i; the middle one of an odd batch is left out. A pair costs
    `max(0, ξ − s·(l̂_i − l̂_j))` with s = +1 where l_i > l_j and −1 elsewhere, ties included.

    Args:
        predicted_loss: l̂, (N,).
        target_loss: l, (N,), the true losses, taken as constants.
        margin: ξ.

    Returns:
        A scalar: the mean over the N // 2 pairs; 0 where there is none.

    Raises:
        ValueError: the two shapes differ, or are not (N,).
    """
    if predicted_loss.shape != target_loss.shape or predicted_loss.ndim != 1:
        raise ValueError(
            "predicted and target losses must both be (N,), "
            f"not {tuple(predicted_loss.shape)} and {tuple(target_loss.shape)}"
        )
    pairs = len(predicted_loss) // 2
    if pairs == 0:
        return 0.0 * predicted_loss.sum()

    def difference(values: Tensor) -> Tensor:
        return values[:pairs] - values.flip(0)[:pairs]

    sign = 2.0 * (difference(target_loss.detach()) > 0).to(predicted_loss.dtype) - 1.0
    return F.relu(margin - sign * difference(predicted_loss)).mean()
