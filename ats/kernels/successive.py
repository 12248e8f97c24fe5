"""Successive sampling by one kernel: the counterpart of :mod:`ats.sampling.successive`."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ats.kernels.runs import (
    WARPS,
    Maps,
    geometry,
    hit,
    hit_within,
    look,
    on_device_of,
    power_of_two,
    sizes,
    sum_up,
)


def draw_in_order(
    maps: Maps, noise: Tensor, n_patches: int, tolerance: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Successive sampling, see :func:`ats.sampling.successive.draw_in_order`.

    Args:
        maps: of attention.
        noise: (B, M) float64 in [0, 1), for two rounds of 2N draws and N - 2 of one.
        n_patches: N.
        tolerance: of the sum of attention, which is 1.

    Returns:
        Indices (B, N), their attention (B, N) float64, the attention that is left (B, 1), and
        whether the maps are attention (B).
    """
    rows = maps.rows
    n_images = len(rows)
    runs = power_of_two(maps.n_runs)
    indices = torch.empty(n_images, n_patches, dtype=torch.int64, device=rows.device)
    drawn = torch.empty(n_images, n_patches, dtype=torch.float64, device=rows.device)
    outside = torch.empty(n_images, 1, dtype=torch.float64, device=rows.device)
    valid = torch.empty(n_images, dtype=torch.bool, device=rows.device)
    scratch = torch.empty(n_images, 3 * runs, dtype=torch.float64, device=rows.device)
    with on_device_of(rows):
        _draw_in_order[(n_images,)](
            rows,
            noise,
            noise.stride(0),
            scratch,
            indices,
            drawn,
            outside,
            valid,
            *geometry(maps),
            n_patches,
            TOLERANCE=tolerance,
            DRAWS=power_of_two(2 * n_patches),
            **sizes(maps),
            num_warps=WARPS,
        )
    return indices, drawn, outside, valid


@triton.jit(
    do_not_specialize=[
        "noise_stride",
        "n_positions",
        "width",
        "length",
        "per_line",
        "n_runs",
        "n_patches",
    ]
)  # type: ignore[untyped-decorator]
def _draw_in_order(  # type: ignore[no-untyped-def]
    attention,
    noise,
    noise_stride,
    scratch,
    indices,
    drawn,
    outside,
    valid,
    n_positions,
    width,
    length,
    per_line,
    n_runs,
    n_patches,
    TOLERANCE: tl.constexpr,
    DRAWS: tl.constexpr,
    RUNS: tl.constexpr,
    BITS: tl.constexpr,
    LANES: tl.constexpr,
    TILE: tl.constexpr,
):
    """Draw from one map: independent draws, without those that repeat an earlier one."""
    image = tl.program_id(0).to(tl.int64)
    rows = attention + image * n_positions
    noise += image * noise_stride
    indices += image * n_patches
    drawn += image * n_patches
    mass_of = scratch + image * (3 * RUNS)
    largest_of, ends_of = mass_of + RUNS, mass_of + 2 * RUNS
    _, _, is_valid = sum_up(
        rows, mass_of, largest_of, width, length, per_line, n_runs, TOLERANCE, LANES, TILE
    )
    tl.store(valid + image, is_valid)
    number = tl.arange(0, RUNS)
    draw = tl.arange(0, DRAWS)
    lanes = tl.arange(0, LANES)[None, :]
    earlier = draw[None, :] < draw[:, None]
    tl.store(mass_of + number, 0.0, mask=number >= n_runs)
    # Where this is no attention, there may be nothing to find.
    tl.store(indices + draw, 0, mask=draw < n_patches)
    tl.debug_barrier()
    mass = tl.load(mass_of + number)
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
        position = first[:, None] + lanes
        for other in range(found):
            values = tl.where(position == tl.load(indices + other), 0.0, values)
        place, chance = hit_within(values, share, LANES)
        new = first + place
        again = (new[:, None] == new[None, :]) & earlier
        fresh = active & (tl.max(again.to(tl.int32), 1) == 0)
        slot = found + tl.cumsum(fresh.to(tl.int32), 0) - 1
        taken = fresh & (slot < n_patches)
        tl.store(indices + slot, new, mask=taken)
        tl.store(drawn + slot, chance, mask=taken)
        tl.debug_barrier()
        now = found + tl.sum(taken.to(tl.int32), 0)
        for other in range(found, now):
            values = tl.where(position == tl.load(indices + other), 0.0, values)
        # What is left in a run is summed anew: a difference would cancel.
        tl.store(mass_of + run, tl.sum(values, 1), mask=active)
        tl.debug_barrier()
        mass = tl.load(mass_of + number)
        found = now
        used += wanted
        step += 1
    tl.store(outside + image, tl.sum(mass, 0))
