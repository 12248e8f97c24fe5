"""Systematic sampling with inclusion probabilities proportional to the attention."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from ats.sampling.checks import tolerance_of
from ats.sampling.design import Design, Generators, uniform
from ats.sampling.runs import Runs, hit, hit_within, largest

# About 1/2, where the points lie in the middle of what they stand for; but irrational, so that sums
# of fractions do not meet them.
MIDDLE = 0.5 + math.sqrt(2) / 1024


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
            the draw deterministic. A fraction like 1/2 can meet the boundary of two positions
            exactly, in maps of few different values; rounding then decides, and may take a position
            of no attention, or one of pi_i = 1 not at all or twice. :data:`MIDDLE` does not.
    """

    start: float | None = None
    fused: ClassVar[bool] = True

    def draw(self, runs: Runs, n_patches: int, generator: Generators) -> tuple[Tensor, Tensor]:
        """Walk along the cumulated inclusion probabilities in steps of 1."""
        if self.start is not None:
            start = runs.rows.new_full((runs.rows.shape[0], 1), self.start, dtype=torch.float64)
            mask = torch.zeros_like(start, dtype=torch.int64)
        else:
            noise = uniform(runs.rows, 2, generator)
            mask = (noise[:, :1] * mask_size(runs)).long()
            start = noise[:, 1:]
        return walk(runs, start, mask, n_patches)

    def draw_by_kernels(self, runs: Runs, n_patches: int, generator: Generators) -> Any:
        """All of it by two, of which the first sums up the runs."""
        assert runs.kernels is not None
        noise = uniform(runs.rows, 2, generator) if self.start is None else None
        return runs.kernels.systematic.walk(
            runs, runs.along_curve(), noise, self.start, n_patches, tolerance_of(runs.rows)
        )


def included(attention: Tensor, scale: Tensor) -> Tensor:
    """Inclusion probabilities pi(a) = min(1, c a) of attention (B, ...) and scales c (B, 1)."""
    return (attention * scale.reshape(-1, *(1,) * (attention.dim() - 1))).clamp_(max=1.0)


def inclusion_scale(top: Tensor, rest: Tensor) -> Tensor:
    """The scales c (B, 1) with which the inclusion probabilities of each row sum to N.

    Going down the largest positions, the i-th (from 0) is certain while (N - i) a_i is at least the
    mass from it on; at most N are, so that no full sort is needed.

    Args:
        top: (B, N) float64, the largest attention of each row in descending order, as far down as
            it is certain; then any other.
        rest: (B, 1) mass of all other positions.
    """
    upwards = top.flip(1)
    # The mass of the others and of the least 0, 1, ... N of these, summed from the small end:
    # 1 - sum(top) would cancel where attention is nearly one-hot. One after another, as a sum in
    # another order for each row would make a draw depend on its batch.
    tail = torch.cat([rest, upwards], 1).cumsum(1)
    left = torch.arange(1, top.shape[1] + 1, device=top.device)
    # The certain come first: with (N - i) a_i below the tail, so is (N - i - 1) a_j of a later j.
    n_uncertain = (left * upwards < tail[:, 1:]).sum(1, keepdim=True)
    # Where N are certain, the least of them is, and next to nothing is left for the others.
    tail[:, :1] = upwards[:, :1]
    return n_uncertain.clamp_min_(1) / tail.gather(1, n_uncertain)


def inclusion_probabilities(probabilities: Tensor, n_patches: int) -> Tensor:
    """pi_i = min(1, c a_i) with c such that each row sums to N.

    Args:
        probabilities: (B, K) float64, positive.
        n_patches: N <= K.

    Returns:
        (B, K) float64 in (0, 1].
    """
    top, where = largest(probabilities, n_patches)
    rest = probabilities.scatter(1, where, 0.0).sum(1, keepdim=True)
    return included(probabilities, inclusion_scale(top, rest))


def walk(runs: Runs, start: Tensor, mask: Tensor, n_patches: int) -> tuple[Tensor, Tensor]:
    """The positions hit by start, start + 1, ... on the cumulated inclusion probabilities.

    The numbers of all positions along the curve, that of the run and then that within it, are
    combined with one mask by exclusive or (a digital shift, as of quasi-Monte-Carlo points): every
    block of 2^j numbers stays together, and is walked through in another order.

    Args:
        runs: of the attention.
        start: (B, 1) in [0, 1).
        mask: (B, 1) int64 below :func:`mask_size`; 0 for the curve as it is.
        n_patches: N.

    Returns:
        Indices (B, N) and importance ratios 1 / pi (B, N).
    """
    scale, mass = included_mass(runs, n_patches)
    curve = runs.along_curve()
    places = lane_count(runs)
    block, mask = mask // places, mask % places
    # Numbers beyond the runs stand for nothing and are never hit.
    along = mass.new_zeros(len(mass), mask_size(runs) // places)
    along[:, : len(curve)] = mass.gather(1, curve.expand(len(mass), -1))
    along = along.gather(1, block ^ torch.arange(along.shape[1], device=mask.device))
    # The sums are N up to rounding, and the points are spread over just that.
    steps = (start + torch.arange(n_patches, device=mask.device)) / n_patches
    number, share = hit(along, steps)
    lanes = mask ^ torch.arange(places, device=mask.device)
    first, attention = runs.look(curve.take(block ^ number), lanes.unsqueeze(1))
    lane, chance = hit_within(included(attention, scale), share)
    return first + (mask ^ lane), 1 / chance


def mask_size(runs: Runs) -> int:
    """Number of masks of :func:`walk`: a power of two."""
    return lane_count(runs) << (runs.n_runs - 1).bit_length()


def lane_count(runs: Runs) -> int:
    """Places of a run that a mask permutes: a power of two, of which the last stand for nothing."""
    return 1 << (runs.length - 1).bit_length()


def included_mass(runs: Runs, n_patches: int) -> tuple[Tensor, Tensor]:
    """Scales c (B, 1), and the sums of the inclusion probabilities over each run (B, T)."""
    mass = runs.mass()
    # A certain position outside the N heaviest runs would have N - i runs in its tail, each heavier
    # than itself, where i is the number of positions before it: more than it may have.
    _, heaviest = largest(mass, min(n_patches, runs.n_runs))
    attention = runs.look(heaviest)[1]
    values = attention.flatten(1)
    top, where = largest(values, n_patches)
    others = mass.scatter(1, heaviest, 0.0)
    rest = others.sum(1, keepdim=True) + values.scatter(1, where, 0.0).sum(1, keepdim=True)
    scale = inclusion_scale(top, rest)
    return scale, (others * scale).scatter_(1, heaviest, included(attention, scale).sum(2))
