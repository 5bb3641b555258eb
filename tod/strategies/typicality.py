"""Picking typical images from many clusters: TypiClust (Hacohen et al., ICML 2022)."""

import numpy as np
import torch
from torch import Tensor

from tod.strategies.clusters import clusters
from tod.strategies.diversity import squared_distances_to_others

MOST_CLUSTERS = 500
SMALL = 5
"""A cluster of so few members is picked from only when all others have run out."""
NEIGHBOURS = 20


@torch.inference_mode()
def typicality(features: np.ndarray) -> np.ndarray:
    """How densely each image is surrounded: the inverse mean distance to its nearest neighbours.

    Features (N, F) of one cluster → `1 / (mean of the distances to the K nearest + 1e-5)`, (N,),
    with K the smaller of 20 and N / 2, but at least 1; an image that is alone has 0. The distances
    are Euclidean, as in the paper; the published code's are their squares.
    """
    neighbours = min(max(len(features) // 2, 1), NEIGHBOURS)
    if len(features) == 1:
        return np.zeros(1)
    rows = torch.from_numpy(features).double()  # float32 would blur the closest ones
    means: list[Tensor] = []
    for block in squared_distances_to_others(rows):
        nearest = block.topk(neighbours, dim=1, largest=False).values
        means.append(nearest.sqrt().mean(dim=1))
    return (1 / (torch.cat(means) + 1e-5)).numpy()


def pick_typical(
    features: np.ndarray,
    is_labeled: np.ndarray,
    query_size: int,
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Picks the most typical image of a cluster, and then of the next one, round and round.

    Clusters with the fewest labelled images come first, and of these the largest. What is labelled
    or picked is nobody's neighbour any more.

    Features (N, F) of all images, of which some are labelled, (N,) bool → positions among the N
    images in the order picked, (query_size,) int64; and the typicality of each image before
    any pick, (N,): 0 for the labelled.
    """
    count = min(int(is_labeled.sum()) + query_size, MOST_CLUSTERS, len(features))
    cluster_of = clusters(features, count, random)
    labeled_in = np.bincount(cluster_of, weights=is_labeled, minlength=count)
    sizes = np.bincount(cluster_of, minlength=count)
    order = np.lexsort((-sizes, labeled_in))  # the last key is the first to sort by
    members = {c: np.flatnonzero((cluster_of == c) & ~is_labeled) for c in order.tolist()}
    scores = np.zeros(len(features))
    for positions in members.values():
        if len(positions):
            scores[positions] = typicality(features[positions])
    large = [c for c in order.tolist() if sizes[c] > SMALL]
    small = [c for c in order.tolist() if sizes[c] <= SMALL]
    picked: list[int] = []
    for of_size in (large, small):
        while len(picked) < query_size and any(len(members[c]) for c in of_size):
            for c in of_size:
                if len(picked) < query_size and len(members[c]):
                    best = typicality(features[members[c]]).argmax()
                    picked.append(int(members[c][best]))
                    members[c] = np.delete(members[c], best)
    return np.array(picked, dtype=np.int64), scores
