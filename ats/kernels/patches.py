"""Patches of tensors and of non-zeros on a GPU in one pass over them: Triton kernels.

Imported on first use alone; where Triton is not installed, importing it fails.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ats.kernels.runs import on_device_of

# Bits are copied, whatever they mean.
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_BLOCK = 1024
_LINES = 64


def copy_patches(image: Tensor, offsets: Tensor, size: tuple[int, ...]) -> Tensor:
    """Patches of an image, 0 outside of it; no gradient flows.

    Args:
        image: (B, C, \\*S) on a GPU, of 1, 2, 4 or 8 bytes a pixel and any strides.
        offsets: (B, N, D) int64 on the same GPU.
        size: D extents in pixels, D at most 3.

    Returns:
        (B, N, C, \\*size) of the image's dtype.
    """
    n_patches, dim = offsets.shape[1:]
    out = image.new_empty(*offsets.shape[:2], image.shape[1], *size)
    if not out.numel():
        return out
    # What has fewer than three dimensions has one slice, and one row.
    before = (1,) * (3 - dim)
    spatial = (*before, *image.shape[2:]), (*before, *image.stride()[2:]), (*before, *size)
    limits, strides, extents = spatial
    bits = _BITS[image.element_size()]
    n_pixels = math.prod(size)
    n_blocks = triton.cdiv(n_pixels, _BLOCK)
    grid = (math.prod(out.shape[:3]) * n_blocks,)
    with on_device_of(image):
        _copy[grid](
            image.view(bits),
            offsets.contiguous(),
            out.view(bits),
            n_patches,
            image.shape[1],
            image.stride(0),
            image.stride(1),
            *strides,
            *limits,
            *extents[1:],
            n_pixels,
            n_blocks,
            DIM=dim,
            BLOCK=_BLOCK,
        )
    return out


def scatter_patches(
    indices: Tensor,
    values: Tensor,
    indptr: Tensor,
    shape: tuple[int, ...],
    offsets: Tensor,
    size: tuple[int, ...],
) -> Tensor:
    """Patches of images that are given by their non-zeros; no gradient flows.

    Args:
        indices: (nnz) flat indices within (C, \\*S), ascending within each image.
        values: (nnz) of 1, 2, 4 or 8 bytes each.
        indptr: (B + 1) where each image starts, int64.
        shape: (C, \\*S).
        offsets: (B, N, D) int64.
        size: D extents in pixels, D at most 3.

    Returns:
        (B, N, C, \\*size) of the values' dtype.
    """
    n_patches, dim = offsets.shape[1:]
    out = values.new_zeros(*offsets.shape[:2], shape[0], *size)
    if not out.numel() or not len(values):
        return out
    before = (1,) * (3 - dim)
    limits, extents = (*before, *shape[1:]), (*before, *size)
    bits = _BITS[values.element_size()]
    n_lines = math.prod(extents[:2])
    n_blocks = triton.cdiv(n_lines, _LINES)
    grid = (math.prod(out.shape[:3]) * n_blocks,)
    with on_device_of(values):
        _scatter[grid](
            indices.contiguous(),
            values.contiguous().view(bits),
            indptr.contiguous(),
            offsets.contiguous(),
            out.view(bits),
            n_patches,
            shape[0],
            *limits,
            *extents[1:],
            n_lines,
            n_blocks,
            STEPS=max(math.prod(shape), len(values)).bit_length(),
            DIM=dim,
            LINES=_LINES,
        )
    return out


@triton.jit  # type: ignore[untyped-decorator]
def _copy(  # type: ignore[no-untyped-def]
    image,
    offsets,
    out,
    n_patches,
    n_channels,
    image_stride,
    channel_stride,
    slice_stride,
    row_stride,
    column_stride,
    n_slices,
    n_rows,
    n_columns,
    height: tl.constexpr,
    width: tl.constexpr,
    n_pixels: tl.constexpr,
    n_blocks: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Copy a block of the pixels of one channel of one patch."""
    channel_of_patch = tl.program_id(0) // n_blocks
    pixel = tl.program_id(0) % n_blocks * BLOCK + tl.arange(0, BLOCK)
    patch = channel_of_patch // n_channels
    channel = (channel_of_patch % n_channels).to(tl.int64)
    number = (patch // n_patches).to(tl.int64)
    corner = offsets + patch.to(tl.int64) * DIM
    column = pixel % width + tl.load(corner + DIM - 1)
    inside = (pixel < n_pixels) & (column >= 0) & (column < n_columns)
    source = image + number * image_stride + channel * channel_stride + column * column_stride
    if DIM > 1:
        row = pixel // width % height + tl.load(corner + DIM - 2)
        inside = inside & (row >= 0) & (row < n_rows)
        source += row * row_stride
    if DIM > 2:
        plane = pixel // (width * height) + tl.load(corner)
        inside = inside & (plane >= 0) & (plane < n_slices)
        source += plane * slice_stride
    values = tl.load(source, mask=inside, other=0)
    target = out + channel_of_patch.to(tl.int64) * n_pixels + pixel
    tl.store(target, values, mask=pixel < n_pixels)


@triton.jit  # type: ignore[untyped-decorator]
def _scatter(  # type: ignore[no-untyped-def]
    indices,
    values,
    indptr,
    offsets,
    out,
    n_patches,
    n_channels,
    n_slices,
    n_rows,
    n_columns,
    height: tl.constexpr,
    width: tl.constexpr,
    n_lines: tl.constexpr,
    n_blocks: tl.constexpr,
    STEPS: tl.constexpr,
    DIM: tl.constexpr,
    LINES: tl.constexpr,
):
    """Write the non-zeros of some lines of one channel of one patch, which is 0 so far."""
    channel_of_patch = tl.program_id(0) // n_blocks
    line = tl.program_id(0) % n_blocks * LINES + tl.arange(0, LINES)
    patch = channel_of_patch // n_channels
    number = patch // n_patches
    corner = offsets + patch.to(tl.int64) * DIM
    inside = line < n_lines
    place = (channel_of_patch % n_channels).to(tl.int64)
    if DIM > 2:
        plane = line // height + tl.load(corner)
        inside = inside & (plane >= 0) & (plane < n_slices)
        place = place * n_slices + plane
    if DIM > 1:
        row = line % height + tl.load(corner + DIM - 2)
        inside = inside & (row >= 0) & (row < n_rows)
        place = place * n_rows + row
    column = tl.load(corner + DIM - 1)
    # Flat indices of the first pixel of the line, and of its part inside the image.
    first = place * n_columns + column
    begin = first + tl.maximum(-column, 0)
    end = first + tl.minimum(n_columns - column, width)
    end = tl.where(inside, tl.maximum(end, begin), begin)
    start, stop = tl.load(indptr + number), tl.load(indptr + number + 1)
    nowhere = tl.zeros([LINES], dtype=tl.int64)
    # Bisection for the first non-zero of each line, and for the first behind it.
    low, low_limit = nowhere + start, nowhere + stop
    high, high_limit = nowhere + start, nowhere + stop
    for _ in range(STEPS):
        middle = (low + low_limit) // 2
        found = tl.load(indices + middle, mask=middle < low_limit, other=0).to(tl.int64)
        before = (middle < low_limit) & (found < begin)
        low_limit = tl.where(before, low_limit, middle)
        low = tl.where(before, middle + 1, low)
        middle = (high + high_limit) // 2
        found = tl.load(indices + middle, mask=middle < high_limit, other=0).to(tl.int64)
        before = (middle < high_limit) & (found < end)
        high_limit = tl.where(before, high_limit, middle)
        high = tl.where(before, middle + 1, high)
    target = (channel_of_patch.to(tl.int64) * n_lines + line) * width - first
    longest = tl.max(high - low)
    step = 0
    while step < longest:
        there = low + step < high
        index = tl.load(indices + low + step, mask=there, other=0).to(tl.int64)
        value = tl.load(values + low + step, mask=there, other=0)
        tl.store(out + target + index, value, mask=there)
        step += 1
