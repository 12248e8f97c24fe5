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

    The positions are cumulated in a new random order in every draw. In a fixed one only certain
    samples can occur: on a flat 180 x 180 map and N = 10 those of one column each, and the bias of
    centring is several times larger.

    Args:
        start: the start in [0, 1) in place of a random one. The draw is then deterministic, and
            follows a curve through the map, so that every part of it gets its share of the points.
    """

    start: float | None = None

    @property
    def along_curve(self) -> bool:
        """Whether neighbours in a row of attention should be neighbours in the map."""
        return self.start is not None

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
            order = random_order(noise[:, :1], probabilities.shape[1])
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


def random_order(noise: Tensor, n_positions: int) -> Tensor:
    """A random order of 0, 1, ... P - 2 for the smallest prime P > K, without sorting.

    The t-th number is m t mod P, less 1, with m random: every pair of positions is equally likely
    to be any given number of steps apart, which is what the second moments of a sample depend on.

    Args:
        noise: (B, 1) uniforms in [0, 1).
        n_positions: K.

    Returns:
        (B, P - 1) int64 permutations.
    """
    prime = next_prime(n_positions)
    multiplier = 1 + (noise * (prime - 1)).long()
    steps = torch.arange(1, prime, device=noise.device)
    return multiplier * steps % prime - 1


def next_prime(number: int) -> int:
    """The smallest prime above a positive number."""
    candidate = number + 1
    while any(candidate % divisor == 0 for divisor in range(2, int(candidate**0.5) + 1)):
        candidate += 1
    return candidate


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
