"""The next batch for people: random images, those that the network queries, ties, and checks."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tod.engine.trial import Trial
from tod.people.requests import AUDIT, CHECK, FIRST, QUERY
from tod.strategies.first_labels import choose_first
from tod.strategies.pool import Pool, Query


class Candidates(NamedTuple):
    """The images that a batch may hold, as indices.

    Attributes:
        unlabeled: all images without a label, (M,), in order.
        again: the images about which people disagree, each with the reason to ask again.
        audit_share: the share of the other images on which the accuracy is measured.
        doubted: the images whose label may be asked for again, the most doubtful first.
        check_share: the share of a batch that asks for these.
    """

    unlabeled: np.ndarray
    again: Mapping[int, str]
    audit_share: float
    doubted: Sequence[int] = ()
    check_share: float = 0.0

    def num_audits(self, size: int) -> int:
        """How many images of a batch of this size are audits: never all of them."""
        return _share_of(size, self.audit_share)

    def checks(self, size: int) -> list[int]:
        """The images of a batch of this size whose label is checked."""
        return [*self.doubted[: _share_of(size, self.check_share)]]


def _share_of(size: int, share: float) -> int:
    """A share of a batch: one image at least, and never all."""
    return min(max(round(share * size), 1), size - 1) if share and size > 1 else 0


def first_batch(
    candidates: Candidates,
    size: int,
    random: np.random.Generator,
    initial: str = "random",
    features: np.ndarray | None = None,
) -> list[tuple[int, str]]:
    """The images to ask for, each with its reason, in a batch that no network has scored.

    They are drawn at random, or, but for the audits, chosen by the features (N, F) of all images;
    see `choose_first`.
    """
    again = [*candidates.again.items()][:size]
    others = np.setdiff1d(candidates.unlabeled, [*candidates.again])
    drawn = random.choice(others, min(size - len(again), len(others)), replace=False)
    for_audit = np.arange(len(drawn)) < candidates.num_audits(len(drawn))
    reasons = random.permutation(np.where(for_audit, AUDIT, FIRST))
    if features is not None and len(drawn):
        left = np.setdiff1d(others, drawn[reasons == AUDIT])
        count = int((reasons == FIRST).sum())
        picked = choose_first(initial, count, np.empty(0), features[left], random)
        drawn[reasons == FIRST] = left[picked]
    return [*again, *zip(drawn.tolist(), reasons.tolist(), strict=True)]


def next_batch(
    candidates: Candidates,
    size: int,
    random: np.random.Generator,
    trial: Trial,
    sampling: Callable[[Pool], Query],
    class_names: Sequence[str],
) -> list[tuple[int, str, str, str, str]]:
    """The images to ask for, best first, each with its reason and the network's three cells.

    Audits come from all images. They and the checks are at random positions; the strategy never
    sees them.
    """
    again = dict([*candidates.again.items()][:size])
    checks = candidates.checks(size - len(again))
    others = np.setdiff1d(candidates.unlabeled, [*again])
    size = min(size - len(again) - len(checks), len(others))
    for_audit = random.choice(others, candidates.num_audits(size), replace=False).tolist()
    subset = trial.random_subset(np.setdiff1d(others, for_audit))
    judged, queried = {}, []
    num_queried = min(size - len(for_audit), len(subset))
    if num_queried:
        pool = trial.pool_of(subset, num_queried)
        query = sampling(pool)
        judged, queried = _judgements(pool, query, class_names), query.best_first.tolist()
    aside = [*again, *for_audit, *checks]
    if aside:
        # Scores do not decide about these. A strategy that compares images scores them among the
        # subset.
        beside = subset if sampling.takes_features else subset[:0]
        scored = np.concatenate([np.array(aside), beside])
        pool = trial.pool_of(scored, len(aside), "sampling beside the query")
        of_aside = _judgements(pool, sampling(pool), class_names)
        judged |= {index: of_aside[index] for index in aside}
    by_reason = {AUDIT: for_audit, CHECK: checks, QUERY: queried}
    reasons = random.permutation([why for why, indices in by_reason.items() for _ in indices])
    rest = {why: iter(indices) for why, indices in by_reason.items()}
    strewn = [(next(rest[why]), why) for why in reasons.tolist()]
    return [(index, why, *judged[index]) for index, why in [*again.items(), *strewn]]


def _judgements(
    pool: Pool, query: Query, class_names: Sequence[str]
) -> dict[int, tuple[str, str, str]]:
    """The cells `score`, `predicted` and `probability` of each image."""
    best = pool.logits.softmax(dim=1).max(dim=1)
    columns = (pool.subset, query.scores, best.indices, best.values)
    return {
        index: (repr(score), class_names[predicted], f"{probability:.6g}")
        for index, score, predicted, probability in zip(
            *(column.tolist() for column in columns), strict=True
        )
    }
