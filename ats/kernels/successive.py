"""Successive sampling by one kernel: the counterpart of :mod:`ats.sampling.successive`."""

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
WARPS = 16
# Positions taken out at once.
_AHEAD = tl.constexpr(4)


class Found(NamedTuple):
    """Successive samples.

    Attributes:
        indices: (B, N) in the order of drawing.
        attention: (B, N) there, float64.
        outside: (B, 1) attention left outside.
        ratios: (B, N) importance ratios of Des Raj's estimator.
        weights: (B, N) of that.
        positions: (B, N, D).
    """

    indices: Tensor
    attention: Tensor
    outside: Tensor
    ratios: Tensor
    weights: Tensor
    positions: Tensor


def draw_in_order(maps: Maps, noise: Tensor, n_patches: int, tolerance: float) -> Found:
    """Successive sampling, see :func:`ats.sampling.successive.draw_in_order`.

    Args:
        maps: of attention.
        noise: (B, M) float64 in [0, 1), for two rounds of 2N draws and N - 2 of one.
        n_patches: N.
        tolerance: of the sum of attention, which is 1.

    Raises:
        RuntimeError: later, the maps are no attention.
    """
    rows = maps.rows
    shape = len(rows), n_patches
    attention, ratios = torch.empty(2, *shape, dtype=torch.float64, device=rows.device)
    found = Found(
        torch.empty(shape, dtype=torch.int64, device=rows.device),
        attention,
        torch.empty(shape[0], 1, dtype=torch.float64, device=rows.device),
        ratios,
        *room_for(maps, n_patches),
    )
    scratch = summed_up(maps, 3)
    noise = by_image(noise, len(rows))
    with on_device_of(rows):
        _draw_in_order[(len(rows),)](
            rows,
            noise,
            noise.stride(0),
            scratch,
            *found,
            *geometry(maps),
            n_patches,
            TOLERANCE=tolerance,
            DRAWS=power_of_two(2 * n_patches),
            **sizes(maps),
            **lines_of(maps),
            num_warps=WARPS,
            **CHECKED,
        )
    return found


@triton.jit
def _without(values, first, lanes, indices, begin, end):  # type: ignore[no-untyped-def]
    """Values of runs, but 0 at positions that stand at places begin to end of the indices."""
    for place in range(begin, end, _AHEAD):
        # Memory is waited for once for all of these.
        for ahead in tl.static_range(_AHEAD):
            inside = place + ahead < end
            index = tl.load(indices + place + ahead, mask=inside, other=-1)
            # Few comparisons of many bits, and many of few.
            lane = (index - first).to(tl.int32)
            values = tl.where(lanes == lane[:, None], 0.0, values)
    return values


@triton.jit(do_not_specialize=VARYING)  # type: ignore[untyped-decorator]
def _draw_in_order(  # type: ignore[no-untyped-def]
    attention,
    noise,
    noise_stride,
    scratch,
    indices,
    drawn,
    outside,
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
    TOLERANCE: tl.constexpr,
    DRAWS: tl.constexpr,
    RUNS: tl.constexpr,
    BITS: tl.constexpr,
    LANES: tl.constexpr,
    DIM: tl.constexpr,
):
    """Draw from one map: independent draws, without those that repeat an earlier one."""
    image = tl.program_id(0).to(tl.int64)
    rows = attention + image * n_positions
    noise += image * noise_stride
    indices += image * n_patches
    drawn += image * n_patches
    mass_of = scratch + image * (3 * RUNS)
    ends_of = mass_of + 2 * RUNS
    number = tl.arange(0, RUNS)
    draw = tl.arange(0, DRAWS)
    lanes = tl.arange(0, LANES)[None, :]
    earlier = draw[None, :] < draw[:, None]
    mass = tl.load(mass_of + number)
    check(tl.sum(mass, 0), TOLERANCE)
    found = tl.full([], 0, tl.int32)
    used = tl.full([], 0, tl.int32)
    step = tl.full([], 0, tl.int32)
    while (found < n_patches) & (step < n_patches):
        wanted = tl.where(step < 2, 2 * n_patches, 1)
        active = draw < wanted
        points = tl.load(noise + used + draw, mask=active, other=0.0)
        run, share = hit(mass_of, ends_of, mass, points, RUNS, BITS)
        run = tl.minimum(run, n_runs - 1)
        first, values = look(rows, run, lanes, active, width, length, per_line)
        values = _without(values, first, lanes, indices, 0, found)
        place, chance = hit_within(values, share, active, LANES)
        new = first + place
        again = (new[:, None] == new[None, :]) & earlier
        fresh = active & (tl.max(again.to(tl.int32), 1) == 0)
        slot = found + tl.cumsum(fresh.to(tl.int32), 0) - 1
        taken = fresh & (slot < n_patches)
        tl.store(indices + slot, new, mask=taken)
        tl.store(drawn + slot, chance, mask=taken)
        tl.debug_barrier()
        now = found + tl.sum(taken.to(tl.int32), 0)
        values = _without(values, first, lanes, indices, found, now)
        # What is left in a run is summed anew: a difference would cancel.
        tl.store(mass_of + run, tl.sum(values, 1), mask=active)
        tl.debug_barrier()
        mass = tl.load(mass_of + number)
        found = now
        used += wanted
        step += 1
    left = tl.sum(mass, 0)
    tl.store(outside + image, left)
    inside = draw < n_patches
    chance = tl.load(drawn + draw, mask=inside, other=0.0)
    index = tl.load(indices + draw, mask=inside, other=0)
    remaining = left + tl.cumsum(chance, 0, reverse=True)
    ratio = (remaining / chance + (n_patches - 1 - draw)) / n_patches
    place = image * n_patches + draw
    tl.store(ratios + place, ratio, mask=inside)
    finish(rows, index, ratio, place, inside, weights, positions, height, width, DIM)
