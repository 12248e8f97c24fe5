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

    The positions are cumulated along a curve through the map, so that every part of it gets its
    share of the points. The curve is scrambled anew in every draw: in a fixed order only certain
    samples can occur (along the rows of a flat 180 x 180 map, for N = 10, those of one column
    each), and the bias of centring is several times larger.

    Args:
        start: the start in [0, 1) in place of a random one; the curve is then not scrambled, and
            the draw deterministic.
    """

    start: float | None = None

    @property
    def along_curve(self) -> bool:
        """Neighbours in a row of attention are to be neighbours in the map."""
        return True

    def draw(
        self, probabilities: Tensor, n_patches: int, generator: Generators
    ) -> tuple[Tensor, Tensor]:
        """Walk along the cumulated inclusion probabilities in steps of 1."""
        inclusion = inclusion_probabilities(probabilities, n_patches)
        if self.start is not None:
            start = probabilities.new_full((probabilities.shape[0], 1), self.start)
            indices = systematic_indices(inclusion, start, n_patches)
        else:
            noise = uniform(probabilities, 2, generator)
            order = scrambled_order(noise[:, :1], probabilities.shape[1])
            # Numbers beyond the positions stand for nothing and are never included.
            padded = torch.nn.functional.pad(inclusion, (0, order.shape[1] - inclusion.shape[1]))
            steps = systematic_indices(padded.gather(1, order), noise[:, 1:], n_patches)
            indices = order.gather(1, steps)
        return indices, 1 / inclusion.gather(1, indices)


def systematic_indices(inclusion: Tensor, start: Tensor, n_patches: int) -> Tensor:
    """Indices (B, N) hit by start, start + 1, ... on the cumulated inclusion probabilities (B, K).

    Args:
        inclusion: (B, K) float64 in [0, 1], rows of sum N.
        start: (B, 1) in [0, 1).
        n_patches: N.
    """
    cumulated = inclusion.cumsum(1)
    # Rounding must not leave the last point behind the last position.
    cumulated = cumulated * (n_patches / cumulated[:, -1:])
    points = start + torch.arange(n_patches, device=start.device)
    return torch.searchsorted(cumulated, points, right=True).clamp_max(inclusion.shape[1] - 1)


def scrambled_order(noise: Tensor, n_positions: int) -> Tensor:
    """A random order of 0, 1, ... 2^b - 1 >= K - 1 that keeps neighbours together, without sorting.

    The bits of the numbers are flipped by a random mask (a digital shift, as of quasi-Monte-Carlo
    points): every block of 2^j numbers stays together, and is walked through in another order.

    Args:
        noise: (B, 1) uniforms in [0, 1).
        n_positions: K.

    Returns:
        (B, 2^b) int64 permutations.
    """
    size = 1 << (n_positions - 1).bit_length()
    mask = (noise * size).long()
    return mask ^ torch.arange(size, device=noise.device)


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
