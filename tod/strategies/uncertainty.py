"""How unsure a prediction is, or the predictions of several networks are."""

from collections.abc import Sequence

import torch
from torch import Tensor


def entropy(logits: Tensor) -> Tensor:
    """The entropy of the prediction, as in Joshi et al., CVPR 2009.

    Logits f(x; w), (N, C) → `−Σ_i p_i · ln p_i` of each image in nats, (N,), where p = softmax(f);
    from 0 to ln C.
    """
    return _entropy_of(logits.softmax(dim=1))


def _entropy_of(probabilities: Tensor) -> Tensor:
    return -probabilities.xlogy(probabilities).sum(dim=1)


def mutual_information(probabilities: Sequence[Tensor]) -> Tensor:
    """What the prediction and the weights tell of each other (BALD; Houlsby et al., 2011).

    The predictions p_t, (N, C), with each of T draws of the weights → of each image in nats, (N,),
    `H[mean_t p_t] − mean_t H[p_t]`; from 0 to ln C.
    """
    of_mean = _entropy_of(torch.stack([*probabilities]).mean(dim=0))
    return of_mean - torch.stack([_entropy_of(p) for p in probabilities]).mean(dim=0)


def margin(logits: Tensor) -> Tensor:
    """How close the two likeliest classes are (Scheffer et al., IDA 2001).

    Logits f(x; w), (N, C), of at least two classes → `1 − (p_1 − p_2)` of each image, (N,), where
    p_1 and p_2 are the largest two of softmax(f); from 0 to 1: the smallest margin scores highest.
    """
    largest, second = logits.softmax(dim=1).topk(2, dim=1).values.unbind(1)
    return 1.0 - (largest - second)


def least_confidence(logits: Tensor) -> Tensor:
    """How unlikely the likeliest class is (Lewis & Gale, SIGIR 1994).

    Logits f(x; w), (N, C) → `1 − max_i p_i` of each image, (N,), where p = softmax(f); from 0 to
    1 − 1/C.
    """
    return 1.0 - logits.softmax(dim=1).amax(dim=1)
