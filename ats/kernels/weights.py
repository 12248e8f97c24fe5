"""What follows from indices that were drawn: positions, weights, and the gradient of these."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ats.kernels.runs import on_device_of, power_of_two

_BLOCK = 256


def coordinates(indices: Tensor, map_shape: tuple[int, ...]) -> Tensor:
    """Positions (B, N, D) of indices (B, N) in flat maps, D at most 3."""
    dim = len(map_shape)
    out = torch.empty(*indices.shape, dim, dtype=torch.int64, device=indices.device)
    _, height, width = (1, 1, 1, *map_shape)[-3:]
    n_indices = indices.numel()
    with on_device_of(indices):
        _coordinates[(triton.cdiv(n_indices, _BLOCK),)](
            indices.contiguous(), out, height, width, n_indices, DIM=dim, BLOCK=_BLOCK
        )
    return out


def importance_weights(attention: Tensor, indices: Tensor, ratio: Tensor, centred: bool) -> Tensor:
    """Weights of what was drawn, see :func:`ats.sampling.design.importance_weights`.

    Args:
        attention: (B, \\*map).
        indices: (B, N) in flat maps.
        ratio: (B, N) importance ratios float64, constant.
        centred: centre the gradient.

    Returns:
        (B, N); gradients flow to the attention, but not further, to that of the gradient.
    """
    rows = attention.flatten(1).contiguous()
    weights: Tensor = _Weights.apply(rows, indices, ratio, centred)  # type: ignore[no-untyped-call]
    return weights


class _Weights(torch.autograd.Function):
    """Attention where it was drawn times importance ratios."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, indices: Tensor, ratio: Tensor, centred: bool) -> Tensor:
        """Weights (B, N) of rows (B, K), indices (B, N) and ratios (B, N)."""
        dtype = torch.promote_types(rows.dtype, torch.float32)
        weights = torch.empty(indices.shape, dtype=dtype, device=rows.device)
        ctx.shape, ctx.dtype, ctx.centred = rows.shape, rows.dtype, centred
        with on_device_of(rows):
            _weigh[(len(rows),)](
                rows, indices, ratio, weights, *rows.shape[1:], indices.shape[1],
                POINTS=power_of_two(indices.shape[1]),
            )  # fmt: skip
        # A copy, since the weights themselves may be changed in place.
        ctx.save_for_backward(indices, ratio, weights.clone() if centred else ratio)
        return weights

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """To the rows alone."""
        indices, ratio, weights = ctx.saved_tensors
        to_drawn = torch.empty(indices.shape, dtype=ctx.dtype, device=indices.device)
        with on_device_of(indices):
            _weigh_back[(len(indices),)](
                gradient.contiguous(), ratio, weights, to_drawn, indices.shape[1],
                CENTRED=ctx.centred,
                POINTS=power_of_two(indices.shape[1]),
            )  # fmt: skip
        return to_drawn.new_zeros(ctx.shape).scatter_add_(1, indices, to_drawn), None, None, None


@triton.jit(do_not_specialize=["n_positions", "n_patches"])  # type: ignore[untyped-decorator]
def _weigh(  # type: ignore[no-untyped-def]
    rows, indices, ratios, weights, n_positions, n_patches, POINTS: tl.constexpr
):
    """Weights of one image. The product is of float64, which a ratio may need."""
    image = tl.program_id(0).to(tl.int64)
    point = tl.arange(0, POINTS)
    inside = point < n_patches
    target = image * n_patches + point
    index = tl.load(indices + target, mask=inside, other=0)
    attention = tl.load(rows + image * n_positions + index, mask=inside, other=0.0)
    ratio = tl.load(ratios + target, mask=inside, other=0.0)
    tl.store(weights + target, attention.to(tl.float64) * ratio, mask=inside)


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


@triton.jit(do_not_specialize=["height", "width", "n_indices"])  # type: ignore[untyped-decorator]
def _coordinates(  # type: ignore[no-untyped-def]
    indices, out, height, width, n_indices, DIM: tl.constexpr, BLOCK: tl.constexpr
):
    """Of a block of indices."""
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = number < n_indices
    index = tl.load(indices + number, mask=inside, other=0)
    target = out + number * DIM
    tl.store(target + DIM - 1, index % width if DIM > 1 else index, mask=inside)
    if DIM == 2:
        tl.store(target, index // width, mask=inside)
    if DIM == 3:
        tl.store(target + 1, index // width % height, mask=inside)
        tl.store(target, index // width // height, mask=inside)
