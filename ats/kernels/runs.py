"""Attention maps cut into runs, as programs of a GPU look at them: one program for each map.

The counterpart of :mod:`ats.sampling.runs` for Triton.
"""

from typing import Any, Protocol

import torch
import triton
import triton.language as tl
from torch import Tensor

# Warps of a program, and elements that it has at hand at once.
WARPS = 8
ELEMENTS = 4096
# Kernels go to the current device, which need not be that of the tensors.
on_device_of: Any = torch.cuda.device_of

# Attention of zero, see ats.sampling.runs.
_TINY = tl.constexpr(1e-300)
_BELOW_ONE = tl.constexpr(1 - 2.0**-53)


class Maps(Protocol):
    """Attention maps that are cut into runs: :class:`ats.sampling.runs.Runs`.

    Attributes:
        rows: (B, K) attention, contiguous.
        width: of a line of the map.
        length: L of a run.
        per_line: runs of a line.
    """

    rows: Tensor
    width: int
    length: int
    per_line: int

    @property
    def n_runs(self) -> int:
        """Number T of runs of a map."""


def can_draw(maps: Maps, n_patches: int) -> bool:
    """Whether there are kernels for such maps, of which a program's share fits into registers."""
    if maps.rows.dtype not in (torch.float32, torch.float64):
        return False
    lanes = power_of_two(maps.length)
    points = power_of_two(2 * n_patches)
    return power_of_two(maps.n_runs) <= 8192 and points <= 128 and points * lanes <= 2 * ELEMENTS


def power_of_two(number: int) -> int:
    """The least one that is not less."""
    return 1 << (number - 1).bit_length()


def geometry(maps: Maps) -> tuple[int, ...]:
    """How the rows are cut into runs."""
    return maps.rows.shape[1], maps.width, maps.length, maps.per_line, maps.n_runs


def sizes(maps: Maps) -> dict[str, int]:
    """Powers of two with room for the runs, the places of one, and the runs of a tile."""
    runs, lanes = power_of_two(maps.n_runs), power_of_two(maps.length)
    tile = max(1, min(runs, ELEMENTS // lanes))
    return {"RUNS": runs, "BITS": runs.bit_length() - 1, "LANES": lanes, "TILE": tile}


@triton.jit
def look(rows, run, lanes, exists, width, length, per_line):  # type: ignore[no-untyped-def]
    """First index of some runs (M), and attention (M, P) at lanes (1, P) or (M, P); 0 elsewhere."""
    place = run % per_line * length
    first = run // per_line * width + place
    size = tl.minimum(width - place, length)
    inside = exists[:, None] & (lanes < size[:, None])
    values = tl.load(rows + first[:, None] + lanes, mask=inside, other=0.0).to(tl.float64)
    # What is negative or not a number stays so.
    return first, tl.where(inside & ~(values < 0), tl.maximum(values, _TINY), values)


@triton.jit  # type: ignore[untyped-decorator]
def sum_up(  # type: ignore[no-untyped-def]
    rows,
    mass_of,
    largest_of,
    width,
    length,
    per_line,
    n_runs,
    TOLERANCE: tl.constexpr,
    LANES: tl.constexpr,
    TILE: tl.constexpr,
):
    """Store mass and largest attention of each run.

    Returns the sum, the largest attention, and whether this is attention.
    """
    lanes = tl.arange(0, LANES)[None, :]
    total = tl.full([], 0.0, tl.float64)
    largest = tl.full([], 0.0, tl.float64)
    negative = tl.full([], 0, tl.int32)
    for tile in range(0, n_runs, TILE):
        run = tile + tl.arange(0, TILE)
        exists = run < n_runs
        _, values = look(rows, run, lanes, exists, width, length, per_line)
        mass, peak = tl.sum(values, 1), tl.max(values, 1)
        tl.store(mass_of + run, mass, mask=exists)
        tl.store(largest_of + run, peak, mask=exists)
        total += tl.sum(mass, 0)
        largest = tl.maximum(largest, tl.max(peak, 0))
        negative += tl.sum(tl.sum((values < 0).to(tl.int32), 1), 0)
    tl.debug_barrier()
    return total, largest, (tl.abs(total - 1) <= TOLERANCE) & (negative == 0)


@triton.jit  # type: ignore[untyped-decorator]
def search(ends, points, BITS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The first of 2^BITS ascending numbers that is above each point; the last if none is."""
    low = tl.zeros_like(points).to(tl.int32)
    for bit in tl.static_range(BITS):
        half = 1 << (BITS - 1 - bit)
        below = tl.load(ends + low + half - 1) <= points
        low = tl.where(below, low + half, low)
    return low


@triton.jit  # type: ignore[untyped-decorator]
def hit_within(mass, share, LANES: tl.constexpr):  # type: ignore[no-untyped-def]
    """The place in each row (M, P) at a share (M) of its mass, and the mass there."""
    lane = tl.arange(0, LANES)[None, :]
    ends = tl.cumsum(mass, 1)
    point = tl.minimum(share, tl.full([], _BELOW_ONE, tl.float64)) * tl.max(ends, 1)
    found = tl.minimum(tl.sum((ends <= point[:, None]).to(tl.int32), 1), LANES - 1)
    chosen = tl.sum(tl.where(lane == found[:, None], mass, 0.0), 1)
    # Sums of many at once may rise by a rounding where there is nothing.
    found = tl.where(chosen > 0, found, tl.argmax(mass, 1))
    return found, tl.where(chosen > 0, chosen, tl.max(mass, 1))


@triton.jit  # type: ignore[untyped-decorator]
def hit(mass_of, ends_of, mass, points, RUNS: tl.constexpr, BITS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Which number each point (M), a fraction of all mass (RUNS), falls on, and its share of that.

    The mass is at hand as well as stored; its ends are stored on the way.
    """
    ends = tl.cumsum(mass, 0)
    tl.store(ends_of + tl.arange(0, RUNS), ends)
    tl.debug_barrier()
    points = tl.minimum(points, tl.full([], _BELOW_ONE, tl.float64)) * tl.max(ends, 0)
    number = search(ends_of, points, BITS)
    length = tl.load(mass_of + number)
    heaviest = tl.argmax(mass, 0)
    number = tl.where(length > 0, number, heaviest)
    length = tl.where(length > 0, length, tl.max(mass, 0))
    share = (points - (tl.load(ends_of + number) - length)) / length
    return number, tl.minimum(tl.maximum(share, 0.0), 1.0)
