"""Images whose prediction flips on the way to a labelled class: ALFA-Mix (CVPR 2022)."""

import torch
from torch import Tensor

from tod.strategies.diversity import squared_distances

EPSILONS = (0.2, 0.4, 0.6, 0.8, 1.0)


@torch.inference_mode()
def number_of_flips(
    logits: Tensor, features: Tensor, weight: Tensor, anchors: Tensor, wanted: int
) -> Tensor:
    """For how many anchors the prediction flips when the features are mixed with the anchor, (M,).

    Parvaneh et al., CVPR 2022. With g the gradient at z of the cross-entropy to the predicted class
    and `α = ε/√F · ‖z* − z‖/‖g‖ · g/(z* − z)`, the mixture `α·z* + (1 − α)·z` is
    `z + ε/√F · ‖z* − z‖/‖g‖ · g`. ε is the smallest of 0.2, 0.4 … 1.0 with which more than `wanted`
    predictions flip, or 1.

    Args:
        logits: of the images, (M, C).
        features: z, the input of the task head, (M, F).
        weight: of the task head, (C, F).
        anchors: z*, the mean features of each class that has labelled images, (A, F).
        wanted: how many images are to be picked.
    """
    predicted = logits.argmax(dim=1)
    surprise = logits.softmax(dim=1) - torch.nn.functional.one_hot(predicted, logits.shape[1])
    gradients = surprise @ weight
    # Where the prediction is certain, there is no direction to go in, and nothing flips.
    lengths = gradients.norm(dim=1).clamp_min(torch.finfo(logits.dtype).tiny)
    along = (gradients / lengths[:, None]) @ weight.T
    (*blocks,) = squared_distances(anchors, features)
    distances = torch.cat(blocks).sqrt()
    for epsilon in EPSILONS:
        steps = epsilon / features.shape[1] ** 0.5 * distances
        flips = sum(
            ((logits + step[:, None] * along).argmax(dim=1) != predicted).long() for step in steps
        )
        if (flips > 0).sum() > wanted:
            break
    return flips


def class_means(features: Tensor, labels: Tensor) -> Tensor:
    """The mean features of each class that has images, (A, F), of features (L, F), classes (L,)."""
    return torch.stack([features[labels == c].mean(dim=0) for c in labels.unique()])
