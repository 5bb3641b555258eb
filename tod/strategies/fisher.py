"""Picking images that together tell the most about the last layer: BAIT (NeurIPS 2021)."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from models.inference import without_tf32
from tod.strategies.diversity import off_mps

PICKS_BETWEEN_SUMS = 256
"""After so many updates, `q` and `r` are computed anew, without the errors of rounding."""


def fisher_vectors(logits: Tensor, features: Tensor) -> Tensor:
    """v with `v vᵀ` the Fisher information of the likeliest class against the rest, (N, F).

    With its probability p̂, the two rows of "Fast Fishing" (Huseljic et al., 2024),
    `√p̂·(1 − p̂)·h` and `−√(1 − p̂)·p̂·h`, are one vector: `v = √(p̂·(1 − p̂))·h` has the same
    `VᵀV`. Logits are (N, C), features h (N, F).
    """
    likeliest = logits.softmax(dim=1).amax(dim=1, keepdim=True)
    return (likeliest * (1 - likeliest)).sqrt() * features


@without_tf32()
@torch.inference_mode()
def pick_informative(
    pool: Tensor, labeled: Tensor, query_size: int, ridge: float
) -> tuple[np.ndarray, np.ndarray]:
    """Picks the batch S that makes `tr((M + Σ_{x ∈ S} v vᵀ)⁻¹ F)` small, greedily.

    F is the mean of `v vᵀ` over the pool, `M = λI + n/(n+B) · mean of v vᵀ over the n labelled`,
    and the pool's v count √(B/(n+B)) times. It adds 2B images, time and again the one that lowers
    the trace most, `vᵀM⁻¹FM⁻¹v / (1 + vᵀM⁻¹v)`, and then takes B of them away, each time the one
    that raises it least.

    Args:
        pool: v of the images to pick from, (M, F); see `fisher_vectors`.
        labeled: of the labelled images, (n, F).
        query_size: B, at most M.
        ridge: λ.

    Returns:
        Positions among the M images in the order picked, (B,) int64; and by how much each lowers
        the trace before any pick, (M,).
    """
    pool, labeled = off_mps(pool), off_mps(labeled)
    count, size = len(labeled), len(pool)
    vectors = pool * (query_size / (count + query_size)) ** 0.5
    fisher = (pool.T @ pool / size).double()
    known = (labeled.T @ labeled).double() / (count + query_size)
    inverse = torch.linalg.inv(known + ridge * torch.eye(pool.shape[1], device=pool.device))
    added = _Greedy(vectors, fisher, inverse, sign=1)
    scores = added.change.cpu().numpy().copy()
    picked = torch.cat([added.step() for _ in range(min(2 * query_size, size))])
    # 1 − q is so small for long vectors that float32 would not tell it from 0.
    removed = _Greedy(vectors[picked].double(), fisher, added.inverse, sign=-1)
    stays = torch.ones_like(picked, dtype=torch.bool)
    for _ in range(len(picked) - query_size):
        stays[removed.step()] = False
    return picked[stays].cpu().numpy(), scores


class _Greedy:
    """Adds images to M (sign 1) or takes them away (sign −1), and keeps M⁻¹ up to date.

    Of each image it keeps `q = vᵀM⁻¹v` and `r = vᵀM⁻¹FM⁻¹v`, which tell the `change` of the trace,
    `r / (1 ± q)`.
    """

    def __init__(self, vectors: Tensor, fisher: Tensor, inverse: Tensor, sign: int) -> None:
        self.vectors, self.fisher = vectors, fisher
        self.inverse, self.sign = inverse.clone(), sign
        self.is_taken = torch.zeros_like(vectors[:, 0], dtype=torch.bool)
        self.count = 0
        self._sum()

    def _sum(self) -> None:
        fisher, inverse = (each.to(self.vectors.dtype) for each in (self.fisher, self.inverse))
        solved = self.vectors @ inverse
        self.q = (self.vectors * solved).sum(dim=1).double()
        self.r = (solved * (solved @ fisher)).sum(dim=1).double()
        self._rank()

    def _rank(self) -> None:
        self.change = self.r / (1 + self.sign * self.q)
        self.change.masked_fill_(self.is_taken, -self.sign * torch.inf)

    def step(self) -> Tensor:
        """The position of the next image, (1,)."""
        best = self.change.argmax if self.sign > 0 else self.change.argmin
        position = best(dim=0, keepdim=True)
        self.is_taken[position] = True
        self.count += 1
        v = self.vectors[position].squeeze(0).double()
        u = self.inverse @ v
        divisor = self.sign + v @ u
        fu = self.fisher @ u
        both = torch.stack([u, self.inverse @ fu]).to(self.vectors.dtype)
        # `linear` is several times as fast as a product with two columns.
        along, across = linear(self.vectors, both).double().unbind(dim=1)
        self.inverse.addr_(u, u / -divisor)
        if self.count % PICKS_BETWEEN_SUMS == 0:
            self._sum()
        else:
            self.q -= along.square() / divisor
            self.r -= (2 * along * across - along.square() * (u @ fu) / divisor) / divisor
            self._rank()
        return position
