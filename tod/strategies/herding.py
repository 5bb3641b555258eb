"""Picking images that are, by a kernel, near as many others as possible: MaxHerding."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.inference import without_tf32
from tod.strategies.diversity import (
    ROWS,
    nearest_squared_distances,
    off_mps,
    squared_distances_to_others,
)

ROUNDING = 1e-5
"""Gains that differ by this share are equal."""
PAIRS = 10_000_000
"""So many pairs of images are kept, in 200 MB; where more matter, their kernels are computed at
each pick."""


def unit_length(features: Tensor) -> Tensor:
    """Features (N, F), each divided by its length; those of length 0 stay 0."""
    return torch.nn.functional.normalize(features, dim=1)


@without_tf32()
@torch.inference_mode()
def pick_herding(
    features: Tensor,
    labeled: Tensor,
    query_size: int,
    weights: Tensor | None = None,
    bandwidth: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Picks, time and again, the image that adds the most to how near all images have a picked one.

    Bae et al., ECCV 2024. With the kernel `k(h, h′) = exp(−‖h − h′‖² / b²)`, an image x adds
    `1/N · Σ_n u_n · max(k(h_n, h_x) − m_n, 0)`, where m_n is the largest kernel of n with a
    labelled or picked image. The labelled among the N images have m_n = 1: nothing adds to them.

    Args:
        features: h of the candidates, of unit length, (M, F).
        labeled: of the labelled images, (L, F); N = L + M.
        query_size: at most M.
        weights: u of the candidates, (M,); None: 1 each.
        bandwidth: b.

    Returns:
        Positions among the M candidates in the order picked, (query_size,) int64; of those that
        add equally much, the one that added most before any pick; and what each added then, (M,).
    """
    features, labeled = off_mps(features), off_mps(labeled)
    weights = torch.ones_like(features[:, 0]) if weights is None else off_mps(weights)
    nearest = nearest_squared_distances(features, labeled).div(-(bandwidth**2)).exp()
    state = _State(features, bandwidth, weights, nearest)
    gains = torch.zeros_like(nearest, dtype=torch.float64)
    pairs = state.pairs(gains)
    scores = gains.cpu().numpy().copy()
    picked: list[int] = []
    while pairs is None and len(picked) < query_size:
        # Twice as many centres leave about half of the pairs.
        for _ in range(min(query_size - len(picked), len(picked) + len(labeled) + 1)):
            position = _best(gains.cpu().numpy(), scores)
            picked.append(position)
            gains -= state.pick(position)
            gains[picked] = -torch.inf
        if len(picked) < query_size:
            pairs = state.pairs()
    if pairs is not None:
        picked += _pick_from_pairs(pairs, state, scores, picked, query_size - len(picked))
    return np.array(picked, dtype=np.int64), scores / (len(features) + len(labeled))


def _best(gains: np.ndarray, scores: np.ndarray) -> int:
    # Two images that are near each other alone add exactly as much, but for rounding.
    # What adds nothing may come out below 0, too.
    is_best = gains >= gains.max() - ROUNDING * abs(gains.max())
    return int(np.where(is_best, scores, -1.0).argmax())


class _Pairs(NamedTuple):
    """The pairs in which an image n, the row, gains by the pick of another, the column."""

    rows: np.ndarray  # ascending
    columns: np.ndarray
    kernels: np.ndarray


class _State:
    """The kernels of candidates, and m, the largest of each with a labelled or picked image."""

    def __init__(
        self, features: Tensor, bandwidth: float, weights: Tensor, nearest: Tensor
    ) -> None:
        self.features, self.bandwidth = features, bandwidth
        self.weights, self.nearest = weights, nearest
        self.norms = features.square().sum(dim=1)

    def kernels(self, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The rows (m,) in parts, with the kernels of each part with all candidates, (m, M)."""
        for part in rows.split(ROWS):
            h, own = self.features[part], self.norms[part, None]
            squared = torch.addmm(self.norms, h, self.features.T, alpha=-2).add_(own).clamp_min_(0)
            kernels = squared.div_(-(self.bandwidth**2)).exp_()
            kernels[torch.arange(len(part), device=part.device), part] = 1.0
            yield part, kernels

    def _everything(self) -> Tensor:
        return torch.arange(len(self.features), device=self.features.device)

    def pick(self, position: int) -> Tensor:
        """Raises m where a pick is nearer; returns by how much this lowers the gains, (M,)."""
        ((_, kernel),) = self.kernels(torch.tensor([position], device=self.features.device))
        raised = torch.maximum(self.nearest, kernel.squeeze(0))
        total = torch.zeros_like(raised, dtype=torch.float64)
        rise = raised - self.nearest
        for part, kernels in self.kernels(rise.nonzero().squeeze(1)):
            excess = kernels.sub_(self.nearest[part, None]).clamp_min_(0)
            total += (self.weights[part] @ torch.minimum(excess, rise[part, None])).double()
        self.nearest = raised
        return total

    def pairs(self, gains: Tensor | None = None) -> _Pairs | None:
        """All pairs that matter, or None if they are too many.

        In the same pass, what each candidate adds to all is added to `gains`, (M,).
        """
        found, count = [], 0
        for part, kernels in self.kernels(self._everything()):
            nearest = self.nearest[part, None]
            if count <= PAIRS:
                rows, columns = (kernels > nearest).nonzero().unbind(dim=1)
                count += len(rows)
            if count <= PAIRS:
                parts = (part[rows].int(), columns.int(), kernels[rows, columns])
                found.append([each.cpu().numpy() for each in parts])
            elif gains is None:
                return None
            else:
                found.clear()
            if gains is not None:
                excess = kernels.sub_(nearest).clamp_min_(0)
                gains += (self.weights[part] @ excess).double()
        if count > PAIRS:
            return None
        return _Pairs(*map(np.concatenate, zip(*found, strict=True)))


def _pick_from_pairs(
    pairs: _Pairs, state: _State, scores: np.ndarray, taken: list[int], count: int
) -> list[int]:
    size = len(scores)
    nearest, weights = (each.double().cpu().numpy() for each in (state.nearest, state.weights))
    excess = weights[pairs.rows] * (pairs.kernels - nearest[pairs.rows])
    gains = np.bincount(pairs.columns, excess, size).astype(np.float64)  # of no pairs: int64
    gains[taken] = -np.inf
    by_column = np.argsort(pairs.columns, kind="stable")
    row_ends, column_ends = (
        np.concatenate([[0], np.bincount(each, minlength=size).cumsum()])
        for each in (pairs.rows, pairs.columns)
    )
    picked = []
    for _ in range(count):
        position = _best(gains, scores)
        picked.append(position)
        entries = by_column[column_ends[position] : column_ends[position + 1]]
        entries = entries[pairs.kernels[entries] > nearest[pairs.rows[entries]]]
        for row, kernel in zip(pairs.rows[entries], pairs.kernels[entries], strict=True):
            of_row = slice(row_ends[row], row_ends[row + 1])
            excess = (pairs.kernels[of_row] - nearest[row]).clip(0, kernel - nearest[row])
            gains[pairs.columns[of_row]] -= weights[row] * excess
            nearest[row] = kernel
        gains[position] = -np.inf
    return picked


@without_tf32()
@torch.inference_mode()
def smallest_distance(features: Tensor) -> float:
    """The smallest distance of two images whose features (N, F) differ; 1 if there are none."""
    different = off_mps(features).double().unique(dim=0)
    if len(different) < 2:
        return 1.0
    nearest = [block.argmin(dim=1) for block in squared_distances_to_others(different.float())]
    # Products tell which is the nearest, and are too inexact to tell how near it is.
    return float((different - different[torch.cat(nearest)]).norm(dim=1).min())
