"""What follows from indices that are drawn: weights, the gradient of these, and positions."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ats.kernels.runs import Maps, on_device_of, power_of_two


def room_for(maps: Maps, n_patches: int) -> tuple[Tensor, Tensor]:
    """Weights (B, N) and positions (B, N, D) for :func:`finish`."""
    shape = len(maps.rows), n_patches
    positions = (*shape, len(maps.map_shape))
    return maps.rows.new_empty(shape), maps.rows.new_empty(positions, dtype=torch.int64)


def lines_of(maps: Maps) -> dict[str, int]:
    """Of maps: their dimensions D, and how many lines make a plane."""
    return {"height": (1, *maps.map_shape)[-2], "DIM": len(maps.map_shape)}


def attach(
    attention: Tensor, indices: Tensor, ratio: Tensor, weights: Tensor, centred: bool
) -> Tensor:
    """Weights that were found, with the gradient of :func:`ats.sampling.importance_weights`.

    Args:
        attention: (B, \\*map) that they are of.
        indices: (B, N) in flat maps.
        ratio: (B, N) importance ratios float64, constant.
        weights: (B, N) that follow from these.
        centred: centre the gradient.

    Returns:
        (B, N); gradients flow to the attention, but not further, to that of the gradient.
    """
    rows = attention.flatten(1)
    found: Tensor = _Weights.apply(rows, indices, ratio, weights, centred)  # type: ignore[no-untyped-call]
    return found


class _Weights(torch.autograd.Function):
    """Attention where it was drawn times importance ratios."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, indices: Tensor, ratio: Tensor, weights: Tensor, centred: bool
    ) -> Tensor:
        """Weights (B, N) of rows (B, K), indices (B, N) and ratios (B, N)."""
        ctx.shape, ctx.dtype, ctx.centred = rows.shape, rows.dtype, centred
        # A copy, since the weights themselves may be changed in place.
        ctx.save_for_backward(indices, ratio, weights.clone() if centred else ratio)
        # Not what was given, of which torch would forbid just that.
        return weights.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        """To the rows alone."""
        indices, ratio, weights = ctx.saved_tensors
        to_drawn = torch.empty(indices.shape, dtype=ctx.dtype, device=indices.device)
        with on_device_of(indices):
            _weigh_back[(len(indices),)](
                gradient.contiguous(), ratio, weights, to_drawn, indices.shape[1],
                CENTRED=ctx.centred,
                POINTS=power_of_two(indices.shape[1]),
            )  # fmt: skip
        to_rows = to_drawn.new_zeros(ctx.shape).scatter_add_(1, indices, to_drawn)
        return to_rows, None, None, None, None


@triton.jit  # type: ignore[untyped-decorator]
def finish(  # type: ignore[no-untyped-def]
    rows, index, ratio, place, inside, weights, positions, height, width, DIM: tl.constexpr
):
    """Store weights and positions of indices (M) of one map, where they are inside, at a place.

    The product is of float64, which a ratio may need.
    """
    attention = tl.load(rows + index, mask=inside, other=0.0)
    tl.store(weights + place, attention.to(tl.float64) * ratio, mask=inside)
    corner = positions + place * DIM
    tl.store(corner + DIM - 1, index % width if DIM > 1 else index, mask=inside)
    if DIM == 2:
        tl.store(corner, index // width, mask=inside)
    if DIM == 3:
        tl.store(corner + 1, index // width % height, mask=inside)
        tl.store(corner, index // width // height, mask=inside)


@triton.jit(do_not_specialize=["n_patches"])  # type: ignore[untyped-decorator]
def _weigh_back(  # type: ignore[no-untyped-def]
    gradients,
    ratios,
    weights,
    to_drawn,
    n_patches,
    CENTRED: tl.constexpr,
    POINTS: tl.constexpr,
):
    """Gradient to the attention that was drawn from one image."""
    image = tl.program_id(0).to(tl.int64)
    point = tl.arange(0, POINTS)
    inside = point < n_patches
    target = image * n_patches + point
    gradient = tl.load(gradients + target, mask=inside, other=0.0).to(tl.float64)
    ratio = tl.load(ratios + target, mask=inside, other=0.0)
    if CENTRED:
        weight = tl.load(weights + target, mask=inside, other=0.0).to(tl.float64)
        gradient -= tl.sum(weight * gradient, 0)
    tl.store(to_drawn + target, ratio * gradient, mask=inside)
