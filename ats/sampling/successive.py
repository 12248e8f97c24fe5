"""Successive sampling: one position after another, without replacement."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, final

import torch
from torch import Tensor

from ats.sampling.checks import tolerance_of
from ats.sampling.design import Design, Generators, uniform
from ats.sampling.runs import TINY, Runs, hit, hit_within

# Independent draws at once for each position that is wanted. Attention on fewer than N positions
# needs a second round, once these are out of the way, and where N is not near K seldom more.
TRIES = 2
# The index of no position.
NONE = -1


class Drawn(NamedTuple):
    """A successive sample, or the beginning of one.

    Attributes:
        indices: (B, N) in the order of drawing; while the sample is being drawn (B, N + 1), with
            NONE behind what was found so far, and whatever was not taken in the last column.
        attention: of the same shape, float64 there.
        outside: (B, 1) attention left outside the sample, without cancellation; (B, T) in each run
            while the sample is being drawn.
    """

    indices: Tensor
    attention: Tensor
    outside: Tensor


def draw_in_order(runs: Runs, n_patches: int, generator: Generators) -> Drawn:
    """Draw one position after another from what the earlier ones have left.

    The law is that of the Gumbel top-k trick, which would need a random number for each of the K
    positions. It is also that of independent draws without those that repeat an earlier one, and
    these come many at once.
    """
    if runs.kernels is not None:
        found = draw_by_kernel(runs, n_patches, generator)
        return Drawn(found.indices, found.attention, found.outside)
    mass = runs.mass()
    rounds = rounds_of(n_patches)
    noise = torch.split(uniform(mass, sum(rounds), generator), rounds, 1)
    # The last column is that of the draws that are not taken.
    index = torch.full((len(mass), n_patches + 1), NONE, device=mass.device)
    drawn = Drawn(index, mass.new_zeros(index.shape), mass)
    drawn = add_draws(runs, drawn, noise[0], first=True)
    for points in noise[1:]:
        rows = unfinished(drawn.indices)
        if rows is None:
            drawn = add_draws(runs, drawn, points)
            continue
        if not len(rows):
            break
        some = Drawn(*(values[rows] for values in drawn))
        for values, new in zip(drawn, add_draws(runs.of(rows), some, points[rows]), strict=True):
            values[rows] = new
    index, attention, outside = drawn
    return Drawn(index[:, :-1], attention[:, :-1], outside.sum(1, keepdim=True))


def rounds_of(n_patches: int) -> list[int]:
    """Draws of each round, of which every one adds a position at least."""
    return ([TRIES * n_patches] * 2 + [1] * n_patches)[:n_patches]


def draw_by_kernel(runs: Runs, n_patches: int, generator: Generators) -> Any:
    """The same by the kernel of a GPU: its :class:`ats.kernels.successive.Found`."""
    assert runs.kernels is not None
    noise = uniform(runs.rows, sum(rounds_of(n_patches)), generator)
    tolerance = tolerance_of(runs.rows)
    return runs.kernels.successive.draw_in_order(runs, noise, n_patches, tolerance)


def unfinished(indices: Tensor) -> Tensor | None:
    """Rows of indices (B, N + 1) that are not full; None for all, full or not.

    All are taken where the host would wait for the answer, and where a copy of the few that are
    full would not pay.
    """
    if indices.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    rows = (indices[:, -2] == NONE).nonzero().squeeze(1)
    return None if 2 * len(rows) > len(indices) else rows


def add_draws(runs: Runs, drawn: Drawn, points: Tensor, *, first: bool = False) -> Drawn:
    """Fill a sample up with independent draws from what it leaves.

    Args:
        runs: of the attention.
        drawn: what was found so far.
        points: (B, M) float64 in [0, 1), one for each draw.
        first: nothing was found before.
    """
    index, attention, mass = drawn
    run, share = hit(mass, points)
    first_position, values = runs.look(run)
    # One place before and one behind each run, for what lies in other runs.
    begin, values = first_position - 1, torch.nn.functional.pad(values, (1, 1))
    if not first:
        take_out(index, begin, values)
    place, chance = hit_within(values, share)
    new = begin + place
    slot = free_slots(new, index)
    index, attention = index.scatter(1, slot, new), attention.scatter(1, slot, chance)
    take_out(index, begin, values)
    # What is left in a run is summed anew: a difference would cancel.
    left = mass.scatter(1, run, values.sum(2))
    if not first:
        full = drawn.indices[:, -2:-1] != NONE
        left = torch.where(full, mass, left)
    return Drawn(index, attention, left)


def free_slots(new: Tensor, index: Tensor) -> Tensor:
    """Columns (B, M) of samples for new positions; N for those that repeat, or are too many.

    Args:
        new: (B, M) positions, none of which is in the sample yet, unless that is full.
        index: (B, N + 1) samples, with NONE behind what was found.
    """
    last = index.shape[1] - 1
    repeats = (new.unsqueeze(2) == new.unsqueeze(1)).tril_(-1).any(2)
    slot = (index[:, :-1] != NONE).sum(1, keepdim=True) - 1 + (~repeats).cumsum(1)
    return slot.masked_fill_(repeats, last).clamp_max_(last)


def take_out(found: Tensor, begin: Tensor, values: Tensor) -> None:
    """Set the attention of positions that are found to 0.

    Args:
        found: (B, N + 1) indices of positions, or NONE; the last is left out.
        begin: (B, M) index of the first place of each run.
        values: (B, M, P) attention there, of which the first and the last place stand for whatever
            lies outside.
    """
    place = found[:, None, :-1] - begin.unsqueeze(2)
    values.scatter_(2, place.clamp_(0, values.shape[2] - 1), 0.0)


@final
@dataclass(frozen=True)
class DesRaj(Design):
    """The ordered estimator of Des Raj (1956), which the attention-sampling paper uses.

    The k-th draw, from the p_k = 1 - sum_{j<k} a_j that is left, gives the unbiased estimate
    sum_{j<k} a_j f_j + p_k f_k; the estimator is their mean, with w_k = (p_k + (N - k) a_k) / N.
    """

    fused: ClassVar[bool] = True

    def draw(self, runs: Runs, n_patches: int, generator: Generators) -> tuple[Tensor, Tensor]:
        """Draw in order; the ratio is w_k / a_k."""
        indices, attention, outside = draw_in_order(runs, n_patches, generator)
        return indices, des_raj_weights(attention, outside) / attention

    def draw_by_kernels(self, runs: Runs, n_patches: int, generator: Generators) -> Any:
        """All of it by two, of which the first sums up the runs."""
        return draw_by_kernel(runs, n_patches, generator)


def des_raj_weights(drawn: Tensor, outside: Tensor, mixture: Tensor | None = None) -> Tensor:
    """Weights w_k = m_k p_k + a_k sum_{j>k} m_j of the features in the order of drawing.

    Args:
        drawn: (B, N) attention of the sample, in the order of drawing.
        outside: (B, 1) attention outside the sample.
        mixture: (B, N) weights m of the N unbiased estimates, 1/N if None.
    """
    if mixture is None:
        mixture = torch.full_like(drawn, 1 / drawn.shape[1])
    remaining = outside + drawn.flip(1).cumsum(1).flip(1)
    later = mixture.flip(1).cumsum(1).flip(1) - mixture
    return mixture * remaining + drawn * later


@final
@dataclass(frozen=True)
class Murthy(Design):
    """The estimator of Murthy (1957): that of Des Raj with the order of the draws averaged out.

    w_s = a_s P(S without s | s drawn first) / P(S). It is the expectation of Des Raj's estimate
    given the set that was drawn, so that its variance is never larger (Kool, van Hoof and Welling,
    2020).
    """

    fused: ClassVar[bool] = True

    def draw(self, runs: Runs, n_patches: int, generator: Generators) -> tuple[Tensor, Tensor]:
        """Draw in order and forget it; the ratio is P(S without s | s) / P(S)."""
        indices, attention, outside = draw_in_order(runs, n_patches, generator)
        return indices, leave_one_out_ratio(attention, outside)


def leave_one_out_ratio(drawn: Tensor, outside: Tensor) -> Tensor:
    """P(S without s | s drawn first) / P(S) for every s of a successive sample S.

    With exponential clocks, P(S) = int_0^inf e^-t prod_{s in S} (1 - e^(-q_s t)) dt where
    q_s = a_s / (1 - a(S)): all of S rings before the first of the rest does. Leaving s out of the
    population leaves its factor out of the product.

    The substitution t = exp(x - e^-x) makes the integrand decay doubly exponentially at both ends,
    so that the trapezoidal rule converges exponentially (Takahasi and Mori, 1974).

    Args:
        drawn: (B, N) float64 attention of the sample.
        outside: (B, 1) float64 attention outside the sample; 0 where the sample is everything.

    Returns:
        (B, N), at least 1.
    """
    nodes, log_weights = _quadrature(drawn.shape[1], drawn)
    rate = drawn / outside.clamp_min(TINY)
    log_factor = _log_of_ringing(rate.unsqueeze(2) * nodes)
    log_terms = log_factor.sum(1) + log_weights
    log_without = torch.logsumexp(log_terms.unsqueeze(1) - log_factor, dim=2)
    ratio = torch.exp(log_without - torch.logsumexp(log_terms, dim=1, keepdim=True))
    # A sample that is everything has the probability 1, whichever of it came first.
    return torch.where(outside > 0, ratio, 1.0)


def _log_of_ringing(time: Tensor) -> Tensor:
    """log(1 - e^-y) of y > 0."""
    exact = torch.log(-torch.expm1(-time))
    if not torch.compiler.is_compiling():
        return exact
    # In code that is compiled for a CPU, expm1 of what is next to nothing is 0.
    series = time.log() - time / 2 + time.square() / 24
    return torch.where(time < 1e-3, series, exact)


def _quadrature(n_patches: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes t and the logarithms of e^-t dt/dx at them, for products of up to N factors."""
    # With N factors the integrand peaks near t = N at the latest; ten standard deviations and the
    # decay of e^-t beyond it leave less than float64 can tell. The narrower the peak, the finer.
    end = n_patches + 10 * (n_patches + 1) ** 0.5 + 40
    count = 160 + 16 * int(n_patches**0.5)
    x = torch.linspace(-3.8, math.log(end) + 0.02, count, dtype=like.dtype, device=like.device)
    decay = torch.exp(-x)
    nodes = torch.exp(x - decay)
    return nodes, -nodes + x - decay + torch.log1p(decay)


@final
@dataclass(frozen=True)
class Published:
    """The gradient of the 2019 program for sampling without replacement, which is biased.

    The value is that of :class:`DesRaj`. The gradient to the attention is *not* the derivative of
    the expectation and can even point away from it; it is here to reproduce published results only.
    """

    @property
    def distinct(self) -> bool:
        """Positions do not repeat."""
        return True

    def __call__(
        self, attention: Tensor, n_patches: int, generator: Generators
    ) -> tuple[Tensor, Tensor]:
        """Indices (B, N) and weights (B, N) of attention (B, \\*map)."""
        runs = Runs(attention, n_patches, fused=True)
        indices, _, outside = draw_in_order(runs, n_patches, generator)
        drawn = attention.flatten(1).gather(1, indices)
        weights = published_weights(drawn.double(), outside)
        return indices, weights.to(torch.promote_types(attention.dtype, torch.float32))


def published_weights(drawn: Tensor, outside: Tensor, mixture: Tensor | None = None) -> Tensor:
    """Des Raj's weights with the attention gradient of the 2019 program.

    For the gradient h_j = f_j . g to the weights, the gradient to a_k is (k from 0)
    m_k (p_k F_k / a_k + sum_{j<k} h_j - k h_k), F_k = sum_{j<k} a_j h_j + p_k h_k.

    Args:
        drawn: (B, N) attention of the sample, in the order of drawing; gradients flow to it.
        outside: (B, 1) attention outside the sample.
        mixture: (B, N) weights m of the N estimates, 1/N if None.
    """
    a = drawn.detach().clamp_min(TINY)
    n_patches = a.shape[1]
    mixture = torch.full_like(a, 1 / n_patches) if mixture is None else mixture
    remaining = outside + a.flip(1).cumsum(1).flip(1)
    earlier = ((remaining / a).unsqueeze(2) * a.unsqueeze(1) + 1).tril(-1)
    order = torch.arange(n_patches, device=a.device)
    jacobian = mixture.unsqueeze(2) * (earlier + torch.diag_embed(remaining**2 / a - order))
    gradient_only = torch.einsum("bk,bkj->bj", drawn - drawn.detach(), jacobian)
    return des_raj_weights(a, outside, mixture) + gradient_only
