"""Attention maps cut into runs, as programs of a GPU look at them: one program for each map.

The counterpart of :mod:`ats.sampling.runs` for Triton.
"""

from typing import Any, Protocol

import torch
import triton
import triton.language as tl
from torch import Tensor

# Elements of the part of a map that a program sums up, and the most that a draw has at hand.
ELEMENTS = 8192
# Lanes of a run that are read at once to sum it up.
STRIP = 4
# Arguments of a draw for whose values no kernel is compiled anew: maps are of many sizes.
VARYING = (
    "noise_stride",
    "n_positions",
    "width",
    "length",
    "per_line",
    "n_runs",
    "n_patches",
    "height",
)
# With assertions that are not left out, but none for overflows.
CHECKED = {"debug": True, "sanitize_overflow": False}
# Kernels go to the current device, which need not be that of the tensors.
on_device_of: Any = torch.cuda.device_of

# Attention of zero, see ats.sampling.runs.
_TINY = tl.constexpr(1e-300)
_BELOW_ONE = tl.constexpr(1 - 2.0**-53)
_FAULT = tl.constexpr("attention must be non-negative, finite and sum to 1")


class Maps(Protocol):
    """Attention maps that are cut into runs: :class:`ats.sampling.runs.Runs`.

    Attributes:
        map_shape: of each.
        rows: (B, K) attention, contiguous.
        width: of a line of the map.
        length: L of a run.
        per_line: runs of a line.
    """

    map_shape: tuple[int, ...]
    rows: Tensor
    width: int
    length: int
    per_line: int

    @property
    def n_runs(self) -> int:
        """Number T of runs of a map."""


def can_draw(maps: Maps, n_patches: int) -> bool:
    """Whether there are kernels for such maps, of which a program's share fits into registers."""
    if maps.rows.dtype not in (torch.float32, torch.float64) or len(maps.map_shape) > 3:
        return False
    lanes = power_of_two(maps.length)
    points = power_of_two(2 * n_patches)
    return power_of_two(maps.n_runs) <= 8192 and points <= 128 and points * lanes <= ELEMENTS


def power_of_two(number: int) -> int:
    """The least one that is not less."""
    return 1 << (number - 1).bit_length()


def geometry(maps: Maps) -> tuple[int, ...]:
    """How the rows are cut into runs."""
    return maps.rows.shape[1], maps.width, maps.length, maps.per_line, maps.n_runs


def sizes(maps: Maps) -> dict[str, int]:
    """Powers of two with room for the runs, with the exponent, and for the places of one."""
    runs = power_of_two(maps.n_runs)
    return {"RUNS": runs, "BITS": runs.bit_length() - 1, "LANES": power_of_two(maps.length)}


def by_image(noise: Tensor, n_images: int) -> Tensor:
    """Numbers (B, M), of which those of an image lie one after another."""
    noise = noise.expand(n_images, -1)
    return noise if noise.stride(1) == 1 else noise.contiguous()


def summed_up(maps: Maps, arrays: int) -> Tensor:
    """Mass and largest attention of each run, and room for more.

    Args:
        maps: of attention.
        arrays: how many numbers for each run there is to be room for, at least 2.

    Returns:
        (B, arrays, T') float64, T' the power of two from T on. The mass is not a number where
        attention is negative.
    """
    rows = maps.rows
    runs, lanes = power_of_two(maps.n_runs), power_of_two(maps.length)
    tile = max(1, min(runs, ELEMENTS // lanes))
    out = torch.empty(len(rows), arrays, runs, dtype=torch.float64, device=rows.device)
    with on_device_of(rows):
        _sum_up[(len(rows), runs // tile)](
            rows, out, out.stride(0), *geometry(maps),
            RUNS=runs, LANES=lanes, TILE=tile, STRIP=min(lanes, STRIP),
        )  # fmt: skip
    return out


@triton.jit
def place_of(run, width, length, per_line):  # type: ignore[no-untyped-def]
    """First index and length of runs."""
    place = run % per_line * length
    return run // per_line * width + place, tl.minimum(width - place, length)


@triton.jit
def look(rows, run, lanes, exists, width, length, per_line):  # type: ignore[no-untyped-def]
    """First index of some runs (M), and attention (M, P) at lanes (1, P) or (M, P); 0 elsewhere."""
    first, size = place_of(run, width, length, per_line)
    inside = exists[:, None] & (lanes < size[:, None])
    values = tl.load(rows + first[:, None] + lanes, mask=inside, other=0.0).to(tl.float64)
    # What is negative or not a number stays so.
    return first, tl.where(inside & ~(values < 0), tl.maximum(values, _TINY), values)


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["stride", "n_positions", "width", "length", "per_line", "n_runs"]
)
def _sum_up(  # type: ignore[no-untyped-def]
    attention,
    out,
    stride,
    n_positions,
    width,
    length,
    per_line,
    n_runs,
    RUNS: tl.constexpr,
    LANES: tl.constexpr,
    TILE: tl.constexpr,
    STRIP: tl.constexpr,
):
    """Sum up some runs of one map."""
    image = tl.program_id(0).to(tl.int64)
    run = tl.program_id(1) * TILE + tl.arange(0, TILE)
    rows = attention + image * n_positions
    first, size = place_of(run, width, length, per_line)
    dtype = attention.dtype.element_ty
    mass = tl.zeros([TILE, STRIP], dtype)
    largest, least = mass, mass
    # Few lanes at a time: each thread sums up its own, and few threads have to share theirs.
    for strip in tl.static_range(LANES // STRIP):
        lanes = strip * STRIP + tl.arange(0, STRIP)[None, :]
        inside = (run < n_runs)[:, None] & (lanes < size[:, None])
        values = tl.load(rows + first[:, None] + lanes, mask=inside, other=0.0)
        mass += values
        largest = tl.maximum(largest, values)
        least = tl.minimum(least, values)
    # A run of zeros has their mass, too.
    total = tl.sum(mass, 1).to(tl.float64) + size * _TINY
    total = tl.where(tl.min(least, 1) < 0, float("nan"), total)
    tl.store(out + image * stride + run, tl.where(run < n_runs, total, 0.0))
    tl.store(out + image * stride + RUNS + run, tl.max(largest, 1).to(tl.float64))


@triton.jit  # type: ignore[untyped-decorator]
def check(total, TOLERANCE: tl.constexpr):  # type: ignore[no-untyped-def]
    """End it all where the sum of a map is not 1, or not a number; the host hears of it later."""
    tl.device_assert(tl.abs(total - 1) <= TOLERANCE, _FAULT)


@triton.jit  # type: ignore[untyped-decorator]
def search(ends, points, BITS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The first of 2^BITS ascending numbers that is above each point; the last if none is."""
    # In two steps, each of which waits for memory once.
    FINE: tl.constexpr = 1 << (BITS // 2)
    COARSE: tl.constexpr = 1 << (BITS - BITS // 2)
    last = tl.load(ends + tl.arange(0, COARSE) * FINE + (FINE - 1))
    block = tl.sum((last[None, :] <= points[:, None]).to(tl.int32), 1)
    block = tl.minimum(block, COARSE - 1)
    near = tl.load(ends + block[:, None] * FINE + tl.arange(0, FINE)[None, :])
    place = tl.sum((near <= points[:, None]).to(tl.int32), 1)
    return block * FINE + tl.minimum(place, FINE - 1)


@triton.jit  # type: ignore[untyped-decorator]
def hit_within(mass, share, wanted, LANES: tl.constexpr):  # type: ignore[no-untyped-def]
    """The place in each row (M, P) at a share (M) of its mass, and the mass there, where wanted."""
    lane = tl.arange(0, LANES)[None, :]
    ends = tl.cumsum(mass, 1)
    point = tl.minimum(share, tl.full([], _BELOW_ONE, tl.float64)) * tl.max(ends, 1)
    found = tl.minimum(tl.sum((ends <= point[:, None]).to(tl.int32), 1), LANES - 1)
    chosen = tl.sum(tl.where(lane == found[:, None], mass, 0.0), 1)
    # Sums of many at once may rise by a rounding where there is nothing.
    if tl.sum((wanted & ~(chosen > 0)).to(tl.int32), 0) > 0:
        found = tl.where(chosen > 0, found, tl.argmax(mass, 1))
        chosen = tl.where(chosen > 0, chosen, tl.max(mass, 1))
    return found, chosen


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
    end = tl.load(ends_of + number)
    # As above.
    if tl.sum((~(length > 0)).to(tl.int32), 0) > 0:
        number = tl.where(length > 0, number, tl.argmax(mass, 0))
        length = tl.load(mass_of + number)
        end = tl.load(ends_of + number)
    share = (points - (end - length)) / length
    return number, tl.minimum(tl.maximum(share, 0.0), 1.0)
