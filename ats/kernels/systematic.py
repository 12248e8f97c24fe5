"""Systematic sampling by one kernel: the counterpart of :mod:`ats.sampling.systematic`."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ats.kernels.runs import (
    CHECKED,
    VARYING,
    Maps,
    by_image,
    check,
    geometry,
    hit,
    hit_within,
    look,
    on_device_of,
    power_of_two,
    sizes,
    summed_up,
)
from ats.kernels.weights import finish, lines_of, room_for

# Of the program for a map.
WARPS = 8


class Walked(NamedTuple):
    """A systematic sample.

    Attributes:
        indices: (B, N).
        ratios: (B, N) importance ratios float64.
        weights: (B, N).
        positions: (B, N, D).
    """

    indices: Tensor
    ratios: Tensor
    weights: Tensor
    positions: Tensor


def walk(
    maps: Maps,
    curve: Tensor,
    noise: Tensor | None,
    start: float | None,
    n_patches: int,
    tolerance: float,
) -> Walked:
    """Systematic sampling along a curve, see :func:`ats.sampling.systematic.walk`.

    Args:
        maps: of attention.
        curve: (T) numbers of the runs.
        noise: (B, 2) float64 in [0, 1), for the mask and for the start; None for no mask.
        start: of the points, where there is no noise.
        n_patches: N.
        tolerance: of the sum of attention, which is 1.

    Raises:
        RuntimeError: later, the maps are no attention.
    """
    rows = maps.rows
    shape = len(rows), n_patches
    walked = Walked(
        torch.empty(shape, dtype=torch.int64, device=rows.device),
        torch.empty(shape, dtype=torch.float64, device=rows.device),
        *room_for(maps, n_patches),
    )
    # Without noise it is not looked at.
    numbers = walked.ratios if noise is None else by_image(noise, len(rows))
    scratch = summed_up(maps, 5)
    with on_device_of(rows):
        _walk[(len(rows),)](
            rows,
            curve,
            numbers,
            numbers.stride(0),
            scratch,
            *walked,
            *geometry(maps),
            n_patches,
            START=start,
            TOLERANCE=tolerance,
            POINTS=power_of_two(n_patches),
            **sizes(maps),
            **lines_of(maps),
            num_warps=WARPS,
            **CHECKED,
        )
    return walked


@triton.jit
def _add(one, other, one_more, other_more):  # type: ignore[no-untyped-def]
    return one + one_more, other + other_more


@triton.jit
def _outside(heavy, mass):  # type: ignore[no-untyped-def]
    """Number of those (M) that are heavy, and mass of the others."""
    # At once, as each sum makes all threads wait for each other.
    return tl.reduce((heavy.to(tl.int32), tl.where(heavy, 0.0, mass)), 0, _add)


@triton.jit  # type: ignore[untyped-decorator]
def _scale(  # type: ignore[no-untyped-def]
    rows,
    mass,
    largest,
    total,
    list_of,
    included_of,
    width,
    length,
    per_line,
    n_patches,
    POINTS: tl.constexpr,
    RUNS: tl.constexpr,
    LANES: tl.constexpr,
):
    """The c with which min(1, c a) sums to N; sums of that over runs (RUNS) are stored.

    The larger c is, the more positions are certain. It rises until there are no more, first within
    the runs that are known to have one, no more than N, then with those that have one by then.
    """
    number = tl.arange(0, RUNS)
    point = tl.arange(0, POINTS)
    lanes = tl.arange(0, LANES)[None, :]
    scale = n_patches / total
    certain = tl.full([], 0, tl.int32)
    n_listed = tl.full([], 0, tl.int32)
    heavy = largest * scale >= 1
    n_heavy, outside = _outside(heavy, mass)
    while n_heavy > n_listed:
        slot = tl.cumsum(heavy.to(tl.int32), 0) - 1
        tl.store(list_of + slot, number.to(tl.float64), mask=heavy & (slot < POINTS))
        tl.debug_barrier()
        n_listed = n_heavy
        listed = point < n_listed
        run = tl.load(list_of + point, mask=listed, other=0.0).to(tl.int32)
        _, values = look(rows, run, lanes, listed, width, length, per_line)
        every = tl.reshape(values, [POINTS * LANES])
        rises = n_listed > 0
        while rises:
            count, left = _outside(every * scale >= 1, every)
            rises = (count > certain) & (count < n_patches)
            scale = tl.where(rises, (n_patches - count) / (outside + left), scale)
            certain = tl.maximum(certain, count)
        tl.store(included_of + run, tl.sum(tl.minimum(values * scale, 1.0), 1), mask=listed)
        heavy = largest * scale >= 1
        n_heavy, outside = _outside(heavy, mass)
        tl.debug_barrier()
    stored = tl.load(included_of + number, mask=heavy, other=0.0)
    tl.debug_barrier()
    tl.store(included_of + number, tl.where(heavy, stored, mass * scale))
    tl.debug_barrier()
    return scale


@triton.jit(do_not_specialize=VARYING)  # type: ignore[untyped-decorator]
def _walk(  # type: ignore[no-untyped-def]
    attention,
    curve,
    noise,
    noise_stride,
    scratch,
    indices,
    ratios,
    weights,
    positions,
    n_positions,
    width,
    length,
    per_line,
    n_runs,
    n_patches,
    height,
    START: tl.constexpr,
    TOLERANCE: tl.constexpr,
    POINTS: tl.constexpr,
    RUNS: tl.constexpr,
    BITS: tl.constexpr,
    LANES: tl.constexpr,
    DIM: tl.constexpr,
):
    """Draw from one map."""
    image = tl.program_id(0).to(tl.int64)
    rows = attention + image * n_positions
    mass_of = scratch + image * (5 * RUNS)
    largest_of, included_of = mass_of + RUNS, mass_of + 2 * RUNS
    along_of, ends_of = mass_of + 3 * RUNS, mass_of + 4 * RUNS
    if START is None:
        mask = tl.load(noise + image * noise_stride) * (RUNS * LANES)
        mask = mask.to(tl.int32)
        start = tl.load(noise + image * noise_stride + 1)
    else:
        mask = tl.full([], 0, tl.int32)
        start = tl.full([], START, tl.float64)
    block, mask = mask // LANES, mask % LANES

    number = tl.arange(0, RUNS)
    mass = tl.load(mass_of + number)
    total = tl.sum(mass, 0)
    check(total, TOLERANCE)
    scale = _scale(
        rows,
        mass,
        tl.load(largest_of + number),
        total,
        along_of,
        included_of,
        width,
        length,
        per_line,
        n_patches,
        POINTS,
        RUNS,
        LANES,
    )
    # Along the curve; what comes behind the last run stands for nothing.
    there = block ^ number
    exists = there < n_runs
    run = tl.load(curve + there, mask=exists, other=0)
    included = tl.load(included_of + run, mask=exists, other=0.0)
    tl.store(along_of + number, included)

    point = tl.arange(0, POINTS)
    steps = (start + point) / n_patches
    number, share = hit(along_of, ends_of, included, steps, RUNS, BITS)
    run = tl.load(curve + tl.minimum(block ^ number, n_runs - 1))
    lanes = mask ^ tl.arange(0, LANES)[None, :]
    inside = point < n_patches
    first, values = look(rows, run, lanes, inside, width, length, per_line)
    included = tl.minimum(values * scale, 1.0)
    lane, chance = hit_within(included, share, inside, LANES)
    index, ratio = first + (mask ^ lane), 1 / chance
    place = image * n_patches + point
    tl.store(indices + place, index, mask=inside)
    tl.store(ratios + place, ratio, mask=inside)
    finish(rows, index, ratio, place, inside, weights, positions, height, width, DIM)
