"""What people are asked in a round: images drawn at random, by the network's scores, or again."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tod.data.own_images import Found
from tod.engine.trial import Trial
from tod.people.batches import Asking
from tod.people.labels import AUDIT, FIRST, QUERY
from tod.strategies.pool import Pool, Query


class Candidates(NamedTuple):
    """The images that may be asked for, as indices.

    Attributes:
        unlabeled: all that have no label, (M,), in order.
        again: those of them that must come again, since people disagree.
        again_for_audit: whether each of these was drawn for an audit, (len(again),).
    """

    unlabeled: np.ndarray
    again: np.ndarray
    again_for_audit: Sequence[bool]


class Chosen(NamedTuple):
    """An image to ask for: its index, the reason, and what the network says, if there is one."""

    index: int
    reason: str
    score: float | None = None
    predicted: int | None = None
    probability: float | None = None


def _num_audits(share: float, size: int) -> int:
    """How many of so many images are for the audit: never all of them."""
    return min(max(round(share * size), 1), size - 1) if share and size > 1 else 0


def first_batch(
    candidates: Candidates, size: int, audit_share: float, random: np.random.Generator
) -> list[Chosen]:
    """Images drawn at random, before there is a network.

    Args:
        candidates: what may be asked for.
        size: how many to ask for, if there are as many.
        audit_share: of those that are drawn, the share to measure the accuracy on.
        random: for all that is drawn.
    """
    again = [
        Chosen(index, AUDIT if is_audit else FIRST)
        for index, is_audit in zip(
            candidates.again.tolist(), candidates.again_for_audit, strict=True
        )
    ][:size]
    others = np.setdiff1d(candidates.unlabeled, candidates.again)
    drawn = random.choice(others, min(size - len(again), len(others)), replace=False)
    for_audit = np.arange(len(drawn)) < _num_audits(audit_share, len(drawn))
    reasons = random.permutation(np.where(for_audit, AUDIT, FIRST))
    return again + [
        Chosen(*chosen) for chosen in zip(drawn.tolist(), reasons.tolist(), strict=True)
    ]


def next_batch(
    candidates: Candidates,
    size: int,
    audit_share: float,
    random: np.random.Generator,
    trial: Trial,
    sampling: Callable[[Pool], Query],
) -> list[Chosen]:
    """What the trial's network asks for, best first; audits are strewn among them at random.

    Audits are drawn from all images, and the strategy never sees them.

    Args:
        candidates: what may be asked for.
        size: how many to ask for, if there are as many.
        audit_share: of those that do not come again, the share to measure the accuracy on.
        random: for all that is drawn, but for what the strategy draws.
        trial: at the end of a cycle.
        sampling: the strategy.
    """
    again = candidates.again[:size]
    others = np.setdiff1d(candidates.unlabeled, again)
    size = min(size - len(again), len(others))
    for_audit = random.choice(others, _num_audits(audit_share, size), replace=False)
    subset = trial.random_subset(np.setdiff1d(others, for_audit))
    queried = _queried(trial, sampling, subset, size - len(for_audit))

    reasons = [
        AUDIT if is_audit else QUERY for is_audit in candidates.again_for_audit[: len(again)]
    ]
    reasons += [AUDIT] * len(for_audit)
    aside = _judged(trial, sampling, np.concatenate([again, for_audit]), reasons, subset)
    repeated, audited = aside[: len(again)], iter(aside[len(again) :])
    is_audit = random.permutation(np.arange(len(queried) + len(for_audit)) < len(for_audit))
    in_order = iter(queried)
    return repeated + [next(audited if audit else in_order) for audit in is_audit]


def _queried(
    trial: Trial, sampling: Callable[[Pool], Query], subset: np.ndarray, size: int
) -> list[Chosen]:
    """The strategy's own choice from a subset, best first."""
    if min(size, len(subset)) == 0:
        return []
    pool = trial.pool_of(subset, min(size, len(subset)))
    query = sampling(pool)
    by_index = _by_index(pool, query, [QUERY] * len(subset))
    return [by_index[index] for index in query.best_first.tolist()]


def _judged(
    trial: Trial,
    sampling: Callable[[Pool], Query],
    indices: np.ndarray,
    reasons: Sequence[str],
    subset: np.ndarray,
) -> list[Chosen]:
    """Images that are asked for whatever their scores.

    Where a score depends on what else there is, they are scored among the subset.
    """
    if len(indices) == 0:
        return []
    others = subset if sampling.takes_features else subset[:0]
    scored = np.concatenate([indices, others])
    pool = trial.pool_of(scored, len(indices), "sampling beside the query")
    by_index = _by_index(pool, sampling(pool), [*reasons, *[QUERY] * len(others)])
    return [by_index[index] for index in indices.tolist()]


def _by_index(pool: Pool, query: Query, reasons: Sequence[str]) -> dict[int, Chosen]:
    best = pool.logits.softmax(dim=1).max(dim=1)
    columns = (
        pool.subset.tolist(),
        reasons,
        query.scores.tolist(),
        best.indices.tolist(),
        best.values.tolist(),
    )
    return {index: Chosen(index, *row) for index, *row in zip(*columns, strict=True)}


def as_rows(chosen: Sequence[Chosen], digests: Sequence[str], found: Found) -> list[Asking]:
    """The rows of `batch.csv`; `digests` are those of all images, by index."""
    rows = []
    for rank, (index, reason, score, predicted, probability) in enumerate(chosen, start=1):
        digest, judged = digests[index], ()
        if predicted is not None:
            judged = (repr(score), found.class_names[predicted], f"{probability:.6g}")
        rows.append(Asking(str(rank), found.files[digest], digest, reason, *judged))
    return rows
