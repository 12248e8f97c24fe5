"""What follows from indices that were drawn: weights, the gradient of these, and positions."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ats.kernels.runs import on_device_of, power_of_two


def weigh(
    attention: Tensor, indices: Tensor, ratio: Tensor, centred: bool
) -> tuple[Tensor, Tensor]:
    """Weights of what was drawn, see :func:`ats.sampling.design.importance_weights`, and where.

    Args:
        attention: (B, \\*map), of at most three map dimensions.
        indices: (B, N) in flat maps.
        ratio: (B, N) importance ratios float64, constant.
        centred: centre the gradient.

    Returns:
        Weights (B, N), from which gradients flow to the attention, but not further, to that of the
        gradient; and positions (B, N, D).
    """
    rows, map_shape = attention.flatten(1).contiguous(), attention.shape[1:]
    found: tuple[Tensor, Tensor]
    found = _Weights.apply(rows, indices, ratio, centred, map_shape)  # type: ignore[no-untyped-call]
    return found


class _Weights(torch.autograd.Function):
    """Attention where it was drawn times importance ratios."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        indices: Tensor,
        ratio: Tensor,
        centred: bool,
        map_shape: tuple[int, ...],
    ) -> tuple[Tensor, Tensor]:
        """Weights (B, N) of rows (B, K), indices (B, N) and ratios (B, N), and positions."""
        dim = len(map_shape)
        _, height, width = (1, 1, *map_shape)[-3:]
        dtype = torch.promote_types(rows.dtype, torch.float32)
        weights = torch.empty(indices.shape, dtype=dtype, device=rows.device)
        positions = torch.empty(*indices.shape, dim, dtype=torch.int64, device=rows.device)
        ctx.shape, ctx.dtype, ctx.centred = rows.shape, rows.dtype, centred
        with on_device_of(rows):
            _weigh[(len(rows),)](
                rows, indices, ratio, weights, positions, height, width, *rows.shape[1:],
                indices.shape[1], DIM=dim, POINTS=power_of_two(indices.shape[1]),
            )  # fmt: skip
        # A copy, since the weights themselves may be changed in place.
        ctx.save_for_backward(indices, ratio, weights.clone() if centred else ratio)
        ctx.mark_non_differentiable(positions)
        return weights, positions

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor, None, None, None, None]:
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


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["height", "width", "n_positions", "n_patches"]
)
def _weigh(  # type: ignore[no-untyped-def]
    rows,
    indices,
    ratios,
    weights,
    positions,
    height,
    width,
    n_positions,
    n_patches,
    DIM: tl.constexpr,
    POINTS: tl.constexpr,
):
    """Weights and positions of one image. The product is of float64, which a ratio may need."""
    image = tl.program_id(0).to(tl.int64)
    point = tl.arange(0, POINTS)
    inside = point < n_patches
    target = image * n_patches + point
    index = tl.load(indices + target, mask=inside, other=0)
    attention = tl.load(rows + image * n_positions + index, mask=inside, other=0.0)
    ratio = tl.load(ratios + target, mask=inside, other=0.0)
    tl.store(weights + target, attention.to(tl.float64) * ratio, mask=inside)
    place = positions + target * DIM
    tl.store(place + DIM - 1, index % width if DIM > 1 else index, mask=inside)
    if DIM == 2:
        tl.store(place, index // width, mask=inside)
    if DIM == 3:
        tl.store(place + 1, index // width % height, mask=inside)
        tl.store(place, index // width // height, mask=inside)


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
