"""What people are asked next: images drawn at random, by the network's scores, or again."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tod.engine.trial import Trial
from tod.people.requests import AUDIT, FIRST, QUERY
from tod.strategies.pool import Pool, Query

Judgement = tuple[str, str, str]
"""What a network says of an image: the cells `score`, `predicted` and `probability`."""


class Candidates(NamedTuple):
    """The images that may be asked for, as indices.

    Attributes:
        unlabeled: all that have no label, (M,), in order.
        again: why those of them come again about which people disagree.
        audit_share: of the others, the share to measure the accuracy on.
    """

    unlabeled: np.ndarray
    again: Mapping[int, str]
    audit_share: float

    def num_audits(self, size: int) -> int:
        """How many of so many images are for the audit: never all of them."""
        share = self.audit_share
        return min(max(round(share * size), 1), size - 1) if share and size > 1 else 0


def first_batch(
    candidates: Candidates, size: int, random: np.random.Generator
) -> list[tuple[int, str]]:
    """Images drawn at random, before there is a network, each with its reason."""
    again = [*candidates.again.items()][:size]
    others = np.setdiff1d(candidates.unlabeled, [*candidates.again])
    drawn = random.choice(others, min(size - len(again), len(others)), replace=False)
    for_audit = np.arange(len(drawn)) < candidates.num_audits(len(drawn))
    reasons = random.permutation(np.where(for_audit, AUDIT, FIRST))
    return [*again, *zip(drawn.tolist(), reasons.tolist(), strict=True)]


def next_batch(
    candidates: Candidates,
    size: int,
    random: np.random.Generator,
    trial: Trial,
    sampling: Callable[[Pool], Query],
    class_names: Sequence[str],
) -> list[tuple[int, str, Judgement]]:
    """What the trial's network asks for, best first; audits are strewn among them at random.

    Audits are drawn from all images, and the strategy never sees them.
    """
    again = dict([*candidates.again.items()][:size])
    others = np.setdiff1d(candidates.unlabeled, [*again])
    size = min(size - len(again), len(others))
    for_audit = random.choice(others, candidates.num_audits(size), replace=False).tolist()
    subset = trial.random_subset(np.setdiff1d(others, for_audit))
    judged, queried = {}, []
    num_queried = min(size - len(for_audit), len(subset))
    if num_queried:
        pool = trial.pool_of(subset, num_queried)
        query = sampling(pool)
        judged, queried = _judgements(pool, query, class_names), query.best_first.tolist()
    aside = [*again, *for_audit]
    if aside:
        # They are asked for whatever their scores; where a score depends on what else there is,
        # they are scored among the subset.
        beside = subset if sampling.takes_features else subset[:0]
        scored = np.concatenate([np.array(aside), beside])
        pool = trial.pool_of(scored, len(aside), "sampling beside the query")
        of_aside = _judgements(pool, sampling(pool), class_names)
        judged |= {index: of_aside[index] for index in aside}
    is_audit = random.permutation(np.arange(len(queried) + len(for_audit)) < len(for_audit))
    audits, queries = iter(for_audit), iter(queried)
    strewn = [(next(audits), AUDIT) if audit else (next(queries), QUERY) for audit in is_audit]
    return [(index, why, judged[index]) for index, why in [*again.items(), *strewn]]


def _judgements(pool: Pool, query: Query, class_names: Sequence[str]) -> dict[int, Judgement]:
    best = pool.logits.softmax(dim=1).max(dim=1)
    columns = (pool.subset, query.scores, best.indices, best.values)
    return {
        index: (repr(score), class_names[predicted], f"{probability:.6g}")
        for index, score, predicted, probability in zip(
            *(column.tolist() for column in columns), strict=True
        )
    }
