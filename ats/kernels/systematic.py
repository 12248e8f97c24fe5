"""Systematic sampling by one kernel: the counterpart of :mod:`ats.sampling.systematic`."""

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


def walk(
    maps: Maps,
    curve: Tensor,
    noise: Tensor | None,
    start: float | None,
    n_patches: int,
    tolerance: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Systematic sampling along a curve, see :func:`ats.sampling.systematic.walk`.

    Args:
        maps: of attention.
        curve: (T) numbers of the runs.
        noise: (B, 2) float64 in [0, 1), for the mask and for the start; None for no mask.
        start: of the points, where there is no noise.
        n_patches: N.
        tolerance: of the sum of attention, which is 1.

    Returns:
        Indices (B, N), importance ratios (B, N) float64, and whether the maps are attention (B).
    """
    rows = maps.rows
    n_images = len(rows)
    runs = power_of_two(maps.n_runs)
    indices = torch.empty(n_images, n_patches, dtype=torch.int64, device=rows.device)
    ratios = torch.empty(n_images, n_patches, dtype=torch.float64, device=rows.device)
    valid = torch.empty(n_images, dtype=torch.bool, device=rows.device)
    scratch = torch.empty(n_images, 3 * runs, dtype=torch.float64, device=rows.device)
    with on_device_of(rows):
        _walk[(n_images,)](
            rows,
            curve,
            # Without noise it is not looked at.
            ratios if noise is None else noise,
            0 if noise is None else noise.stride(0),
            scratch,
            indices,
            ratios,
            valid,
            *geometry(maps),
            n_patches,
            START=start,
            TOLERANCE=tolerance,
            POINTS=power_of_two(n_patches),
            **sizes(maps),
            num_warps=WARPS,
        )
    return indices, ratios, valid


@triton.jit  # type: ignore[untyped-decorator]
def _scale(  # type: ignore[no-untyped-def]
    rows,
    mass_of,
    largest_of,
    total,
    largest,
    width,
    length,
    per_line,
    n_runs,
    n_patches,
    LANES: tl.constexpr,
    TILE: tl.constexpr,
):
    """The c with which min(1, c a) sums to N: more are certain the larger it is, and it rises."""
    lanes = tl.arange(0, LANES)[None, :]
    scale = n_patches / total
    certain = tl.full([], 0, tl.int32)
    goes_on = scale * largest >= 1
    while goes_on:
        count = tl.full([], 0, tl.int32)
        rest = tl.full([], 0.0, tl.float64)
        for tile in range(0, n_runs, TILE):
            run = tile + tl.arange(0, TILE)
            exists = run < n_runs
            peak = tl.load(largest_of + run, mask=exists, other=0.0)
            if tl.max(peak, 0) * scale >= 1:
                _, values = look(rows, run, lanes, exists, width, length, per_line)
                large = values * scale >= 1
                count += tl.sum(tl.sum(large.to(tl.int32), 1), 0)
                rest += tl.sum(tl.sum(tl.where(large, 0.0, values), 1), 0)
            else:
                rest += tl.sum(tl.load(mass_of + run, mask=exists, other=0.0), 0)
        goes_on = (count > certain) & (count < n_patches)
        scale = tl.where(goes_on, (n_patches - count) / rest, scale)
        certain = count
    return scale


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
def _walk(  # type: ignore[no-untyped-def]
    attention,
    curve,
    noise,
    noise_stride,
    scratch,
    indices,
    ratios,
    valid,
    n_positions,
    width,
    length,
    per_line,
    n_runs,
    n_patches,
    START: tl.constexpr,
    TOLERANCE: tl.constexpr,
    POINTS: tl.constexpr,
    RUNS: tl.constexpr,
    BITS: tl.constexpr,
    LANES: tl.constexpr,
    TILE: tl.constexpr,
):
    """Draw from one map."""
    image = tl.program_id(0).to(tl.int64)
    rows = attention + image * n_positions
    mass_of = scratch + image * (3 * RUNS)
    largest_of, ends_of = mass_of + RUNS, mass_of + 2 * RUNS
    if START is None:
        mask = tl.load(noise + image * noise_stride) * (RUNS * LANES)
        mask = mask.to(tl.int32)
        start = tl.load(noise + image * noise_stride + 1)
    else:
        mask = tl.full([], 0, tl.int32)
        start = tl.full([], START, tl.float64)
    block, mask = mask // LANES, mask % LANES

    total, largest, is_valid = sum_up(
        rows, mass_of, largest_of, width, length, per_line, n_runs, TOLERANCE, LANES, TILE
    )
    tl.store(valid + image, is_valid)
    scale = _scale(
        rows, mass_of, largest_of, total, largest, width, length, per_line, n_runs, n_patches,
        LANES, TILE,
    )  # fmt: skip
    # The mass of each run, along the curve: what comes behind the last stands for nothing.
    for tile in range(0, RUNS, TILE):
        number = tile + tl.arange(0, TILE)
        along = block ^ number
        exists = along < n_runs
        run = tl.load(curve + along, mask=exists, other=0)
        included = tl.load(mass_of + run, mask=exists, other=0.0) * scale
        peak = tl.load(largest_of + run, mask=exists, other=0.0)
        if tl.max(peak, 0) * scale >= 1:
            lanes = tl.arange(0, LANES)[None, :]
            _, values = look(rows, run, lanes, exists, width, length, per_line)
            included = tl.sum(tl.minimum(values * scale, 1.0), 1)
        tl.store(ends_of + number, included)
    tl.debug_barrier()
    included = tl.load(ends_of + tl.arange(0, RUNS))
    tl.debug_barrier()
    # The largest of the runs are no longer needed.
    tl.store(largest_of + tl.arange(0, RUNS), included)

    point = tl.arange(0, POINTS)
    steps = (start + point) / n_patches
    number, share = hit(largest_of, ends_of, included, steps, RUNS, BITS)
    run = tl.load(curve + tl.minimum(block ^ number, n_runs - 1))
    lanes = mask ^ tl.arange(0, LANES)[None, :]
    first, values = look(rows, run, lanes, point < n_patches, width, length, per_line)
    place, chance = hit_within(tl.minimum(values * scale, 1.0), share, LANES)
    target = image * n_patches + point
    tl.store(indices + target, first + (mask ^ place), mask=point < n_patches)
    tl.store(ratios + target, 1 / chance, mask=point < n_patches)
