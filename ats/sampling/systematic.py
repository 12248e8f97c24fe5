"""Systematic sampling with inclusion probabilities proportional to the attention."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ats.sampling.design import TINY, Design, Generators, uniform


@final
@dataclass(frozen=True)
class Systematic(Design):
    """N equally spaced points on the cumulated inclusion probabilities, from one random start.

    Every position is included with probability pi_i = min(1, c a_i), c such that they sum to N, and
    weighs a_i / pi_i (Horvitz and Thompson, 1952; Madow, 1949). The weights sum to 1.

    Args:
        start: the start in [0, 1) in place of a random one; the draw is then deterministic.
    """

    start: float | None = None

    def draw(
        self, probabilities: Tensor, n_patches: int, generator: Generators
    ) -> tuple[Tensor, Tensor]:
        """Walk along the cumulated inclusion probabilities in steps of 1."""
        inclusion = inclusion_probabilities(probabilities, n_patches)
        cumulated = inclusion.cumsum(1)
        # Rounding must not leave the last point behind the last position.
        cumulated = cumulated * (n_patches / cumulated[:, -1:])
        if self.start is None:
            start = uniform(probabilities, 1, generator)
        else:
            start = probabilities.new_full((probabilities.shape[0], 1), self.start)
        points = start + torch.arange(n_patches, device=start.device)
        last = probabilities.shape[1] - 1
        indices = torch.searchsorted(cumulated, points, right=True).clamp_max(last)
        return indices, 1 / inclusion.gather(1, indices)


def inclusion_probabilities(probabilities: Tensor, n_patches: int) -> Tensor:
    """pi_i = min(1, c a_i) with c such that each row sums to N.

    Going down the largest positions, the i-th (from 0) is certain while (N - i) a_i is at least the
    mass from it on; at most N are, so that no full sort is needed.

    Args:
        probabilities: (B, K) float64, positive.
        n_patches: N <= K.

    Returns:
        (B, K) float64 in (0, 1].
    """
    top, where = probabilities.topk(n_patches, dim=1)
    # Summed from the small end: 1 - sum(top) would cancel where attention is nearly one-hot.
    rest = probabilities.scatter(1, where, 0.0).sum(1, keepdim=True)
    tail = rest + top.flip(1).cumsum(1).flip(1)
    left = torch.arange(n_patches, 0, -1, device=top.device)
    certain = (left * top >= tail).long().cumprod(1)
    n_certain = certain.sum(1, keepdim=True)
    uncertain_mass = torch.cat([tail, rest], 1).gather(1, n_certain)
    scale = (n_patches - n_certain) / uncertain_mass.clamp_min(TINY)
    inclusion = (probabilities * scale).clamp(TINY, 1.0)
    settled = torch.where(certain.bool(), 1.0, inclusion.gather(1, where))
    return inclusion.scatter(1, where, settled)
