"""Attention maps cut into runs, so that a draw looks into the few runs that it hits."""

import math
from copy import copy

import torch
from torch import Tensor

from ats.kernels import Kernels, kernels_on
from ats.sampling.checks import check_attention, check_type
from ats.sampling.curve import curve_order

# Attention of exactly zero is lifted to this in float64: far below anything a softmax returns, so
# that no expectation changes, yet its reciprocal is finite, so that every weight and gradient is.
TINY = 1e-300
# The largest float64 below 1.
BELOW_ONE = 1 - 2.0**-53


class Runs:
    """Attention maps as runs of neighbouring positions, of which the mass is known.

    Going through all K positions of a map once, to sum them up, is what it costs; whatever follows
    is done on the K / L runs, and on the L positions of the runs that are hit. L is about
    sqrt(K / N), which balances the two, and makes a run as wide as N samples are apart. Runs
    are the equal parts of each line along the last dimension; the last part may be shorter.

    Args:
        attention: (B, \\*map).
        n_patches: N.
        fused: what draws from them can do so by the kernels of a GPU, and then has them check
            the attention, too.

    Raises:
        ValueError: attention is not finite, negative or does not sum to 1.

    Attributes:
        rows: (B, K) attention.
        width: positions of a line.
        length: L.
        per_line: number of runs of a line.
        kernels: that are to draw; None where there are none.
    """

    def __init__(self, attention: Tensor, n_patches: int, *, fused: bool = False) -> None:
        check_type(attention)
        self.map_shape = tuple(attention.shape[1:])
        self.rows = attention.detach().flatten(1).contiguous()
        self.width = self.map_shape[-1]
        wanted = math.sqrt(self.rows.shape[1] / n_patches)
        self.length = math.ceil(self.width / max(1, round(self.width / wanted)))
        self.per_line = -(-self.width // self.length)
        self.kernels = self._kernels(n_patches) if fused else None
        if self.kernels is None:
            self._sum_up(attention)

    def _kernels(self, n_patches: int) -> Kernels | None:
        """Those that can draw so many positions of such maps where they are."""
        if self.rows.device.type != "cuda" or torch.compiler.is_compiling():
            return None
        kernels = kernels_on(self.rows.device) if self.rows.numel() else None
        return kernels if kernels and kernels.runs.can_draw(self, n_patches) else None

    def _sum_up(self, attention: Tensor) -> None:
        n_images, n_positions = self.rows.shape
        self._maps = torch.arange(0, n_images * n_positions, n_positions, device=self.rows.device)

        dtype = torch.promote_types(self.rows.dtype, torch.float32)
        # A run of zeros has their mass, too.
        masses = [
            part.sum(-1, dtype=dtype).double().add_(part.shape[3] * TINY) for part in self._parts()
        ]
        self._mass = (masses[0] if len(masses) == 1 else torch.cat(masses, 2)).flatten(1)
        check_attention(attention, self._mass)

    def of(self, images: Tensor) -> "Runs":
        """The same, of which :meth:`look` looks at some images; all else is of all of them."""
        some = copy(self)
        some._maps = self._maps[images]
        return some

    @property
    def n_runs(self) -> int:
        """Number T of runs of a map."""
        return self.rows.shape[1] // self.width * self.per_line

    def probabilities(self) -> Tensor:
        """Attention (B, K) float64, positive."""
        return self.rows.double().clamp_min(TINY)

    def mass(self) -> Tensor:
        """Attention of each run (B, T) float64, positive."""
        return self._mass

    def look(self, runs: Tensor, lanes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attention within some runs.

        Args:
            runs: (B, M) numbers of runs.
            lanes: (P) or (B, 1, P): the numbers below P, at least L, in the order in which a run's
                places are wanted; 0 to L - 1 by default.

        Returns:
            Index (B, M) of each run's first position, to which the number of a place adds up, and
            attention (B, M, P) float64, 0 where a run has no such place.
        """
        if self.width % self.length:
            return self._look_at_ragged(runs, self.lanes() if lanes is None else lanes)
        first = runs * self.length
        values = self._windows(first)
        if lanes is not None:
            values = _pick(values, lanes, lanes.shape[-1])
        return first, values

    def _look_at_ragged(self, runs: Tensor, lanes: Tensor) -> tuple[Tensor, Tensor]:
        """The same where the last run of a line is shorter."""
        place = runs % self.per_line * self.length
        # The window of a shorter run begins before it, so as not to reach into the next line.
        start = place.clamp_max(self.width - self.length)
        begin = runs // self.per_line * self.width + start
        lead = place - start
        reach = lanes.shape[-1] + self.length - 1
        return begin + lead, _pick(self._windows(begin), lanes + lead.unsqueeze(2), reach)

    def _windows(self, begin: Tensor) -> Tensor:
        """Attention (B, M, L) float64, positive, from positions (B, M) on."""
        begin = begin + self._maps.unsqueeze(1)
        if self.rows.device.type != "cpu" or torch.compiler.is_compiling():
            values = self.rows.take(begin.unsqueeze(2) + self.lanes())
        else:
            # Copied line by line out of a view in which any position begins a window.
            size = (self.rows.numel() - self.length + 1, self.length)
            windows = self.rows.as_strided(size, (1, 1))
            values = windows.index_select(0, begin.flatten()).reshape(*begin.shape, self.length)
        return values.double().clamp_min_(TINY)

    def largest(self, count: int) -> tuple[Tensor, Tensor]:
        """Where the largest attention is: indices, and attention float64, (B, count) descending.

        The largest of a map lie in the runs with the largest maxima.

        Args:
            count: of positions, at most K.
        """
        peaks = torch.cat([part.amax(-1) for part in self._parts()], 2).flatten(1)
        _, runs = largest(peaks, min(count, self.n_runs))
        first, values = self.look(runs)
        top, where = largest(values.flatten(1), count)
        return first.gather(1, where // self.length) + where % self.length, top

    def lanes(self) -> Tensor:
        """0 to L - 1."""
        return torch.arange(self.length, device=self.rows.device)

    def along_curve(self) -> Tensor:
        """Numbers of the runs (T) in an order that keeps neighbours in the map together."""
        return curve_order(self.map_shape, self.length, self.rows.device)

    def _parts(self) -> list[Tensor]:
        """Of each line the full runs (B, lines, J, L), and the shorter one (B, lines, 1, L')."""
        lines = torch.unflatten(self.rows, 1, (-1, self.width))
        whole = self.width // self.length * self.length
        parts = [torch.unflatten(lines[..., :whole], 2, (-1, self.length))] if whole else []
        if whole < self.width:
            parts.append(lines[..., None, whole:])
        return parts


def _pick(values: Tensor, places: Tensor, end: int) -> Tensor:
    """Values (B, M, L) at places (P), (B, 1, P) or (B, M, P) below ``end``; 0 from L on."""
    values = torch.nn.functional.pad(values, (0, end - values.shape[2]))
    return values.gather(2, places.expand(*values.shape[:2], -1))


def largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest of each row (B, n) of numbers that are not negative, in descending order.

    Returns:
        Values and their places, both (B, count).
    """
    room = 64 * count - values.shape[1]
    # From 64 times as many on, torch sorts on a CPU no more than what is asked for, which is three
    # times as fast as what it does otherwise.
    if values.device.type == "cpu" and 0 < room < 40 * count:
        values = torch.nn.functional.pad(values, (0, room), value=-1.0)
    top, where = values.topk(count, dim=1)
    return top, where


def hit(mass: Tensor, fraction: Tensor) -> tuple[Tensor, Tensor]:
    """Which interval each point falls into, where intervals of given lengths lie end to end.

    Args:
        mass: (..., T) float64, not negative. Where the sum is 0, nothing that is returned means
            anything.
        fraction: (..., M) float64, points as fractions of that sum, in [0, 1].

    Returns:
        Indices (..., M) of intervals of positive length, and which share (..., M) of it, in
        [0, 1], lies before the point.
    """
    ends, points, found = _search(mass, fraction)
    length = mass.gather(-1, found)
    share = (points - (ends.gather(-1, found) - length)) / length
    return found, share.clamp_(0.0, 1.0)


def hit_within(mass: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """The place in each run that lies at a share of the run's mass.

    Args:
        mass: (B, M, P) float64 of each place, not negative, of positive sums.
        share: (B, M) in [0, 1], see :func:`hit`.

    Returns:
        Numbers (B, M) of places of positive mass, and their mass (B, M).
    """
    found = _search(mass, share.unsqueeze(2))[2]
    return found.squeeze(2), mass.gather(2, found).squeeze(2)


def _search(mass: Tensor, fraction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ends of the intervals, points, and the intervals that these fall into; see :func:`hit`."""
    ends = mass.cumsum(-1)
    # Not at the very end, behind the last positive length: rounded, the product with a number
    # below 1 is below the sum.
    points = fraction.clamp_max(BELOW_ONE) * ends[..., -1:]
    # Only behind intervals that are all empty, of which the result is not used, is there none.
    found = torch.searchsorted(ends, points, right=True).clamp_max_(ends.shape[-1] - 1)
    return ends, points, found
