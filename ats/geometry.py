"""From positions in an attention map to offsets in pixels of the full-resolution image."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

Shape = Sequence[int] | Tensor
"""Spatial extents: one for a whole batch (D), or a tensor (B, D) with one for each image."""


def patch_offsets(
    positions: Tensor,
    *,
    map_shape: Sequence[int],
    low_shape: Shape,
    high_shape: Shape,
    patch_size: Sequence[int],
    receptive_field: int = 0,
    content_shape: Shape | None = None,
) -> Tensor:
    """First corners of the patches that are centred on attention-map positions.

    With scale = high / content for each dimension and r the receptive field of the attention
    network, step = (low - r) * scale / map and
    offset = round_half_even(r/2 * scale + position * step + step/2 - patch/2).

    Computed in float32 and in this order, which decides exact ties of one half as the 2019 program
    does.

    Args:
        positions: (B, N, D) indices in the attention map.
        map_shape: extents of the attention map, D.
        low_shape: extents of the small view in pixels, D or (B, D).
        high_shape: extents of the full-resolution image in pixels, D or (B, D).
        patch_size: extents of a patch in pixels, D.
        receptive_field: receptive field of the attention network in pixels of the small view, 0
            where its convolutions keep the size ("same" padding).
        content_shape: extents of that part of the small view, from its first pixel on, that shows
            the image, D or (B, D); the rest is padding. By default all of it.

    Returns:
        (B, N, D) int64; may be negative or reach over the far border.

    Raises:
        ValueError: a shape does not have D extents, an extent is not positive, or the receptive
            field exceeds the small view.

    >>> patch_offsets(torch.tensor([[[0], [9]]]), map_shape=[10], low_shape=[10],
    ...               high_shape=[100], patch_size=[20])
    tensor([[[-5],
             [85]]])
    """
    if positions.dim() != 3 or positions.is_floating_point():
        raise ValueError(
            f"positions must be integers (batch, n_patches, dim), got {positions.dtype} "
            f"{tuple(positions.shape)}"
        )
    batch, dim = positions.shape[0], positions.shape[2]
    if receptive_field < 0:
        raise ValueError(f"receptive_field={receptive_field} must be 0 or more pixels")
    patch = _extents("patch_size", patch_size, batch, dim, positions)
    if not isinstance(low_shape, Tensor) and min(low_shape) <= receptive_field:
        raise ValueError(
            f"receptive_field={receptive_field} leaves nothing of low_shape={tuple(low_shape)}; "
            "give a larger small view"
        )
    step, scale = _step_and_scale(
        map_shape, low_shape, high_shape, receptive_field, content_shape, batch, dim, positions
    )
    centre = receptive_field / 2 * scale + positions.float() * step + step / 2
    return torch.round(centre - patch / 2).long()


def position_step(
    *,
    map_shape: Sequence[int],
    low_shape: Shape,
    high_shape: Shape,
    receptive_field: int = 0,
    content_shape: Shape | None = None,
    like: Tensor,
) -> Tensor:
    """Pixels of the full-resolution image from one attention-map position to the next.

    Args:
        map_shape: see :func:`patch_offsets`, as all but the last.
        low_shape: extents of the small view.
        high_shape: extents of the image.
        receptive_field: of the attention network.
        content_shape: extents of the image in the small view.
        like: a tensor (B, ...) on the device of the result.

    Returns:
        (B or 1, D) float32.
    """
    step, _ = _step_and_scale(
        map_shape,
        low_shape,
        high_shape,
        receptive_field,
        content_shape,
        len(like),
        len(map_shape),
        like,
    )
    return step.squeeze(1)


def _step_and_scale(
    map_shape: Sequence[int],
    low_shape: Shape,
    high_shape: Shape,
    receptive_field: int,
    content_shape: Shape | None,
    batch: int,
    dim: int,
    like: Tensor,
) -> tuple[Tensor, Tensor]:
    """Pixels of the image in a position of the map and in a pixel of the small view."""
    maps = _extents("map_shape", map_shape, batch, dim, like)
    low = _extents("low_shape", low_shape, batch, dim, like)
    high = _extents("high_shape", high_shape, batch, dim, like)
    content = low
    if content_shape is not None:
        content = _extents("content_shape", content_shape, batch, dim, like)
    scale = high / content
    return (low - receptive_field) * scale / maps, scale


def content_positions(
    map_shape: Sequence[int], low_shape: Sequence[int], content_shape: Tensor, receptive_field: int
) -> Tensor:
    """Which positions of an attention map have their centre on the image, and not on padding.

    Args:
        map_shape: extents of the attention map, D.
        low_shape: extents of the padded small views, D.
        content_shape: (B, D) extents of the part of each that shows the image.
        receptive_field: of the attention network in pixels of the small view.

    Returns:
        (B, \\*map) bool; the first position of an image is always among them.

    >>> content_positions([4], [8], torch.tensor([[8], [3], [0]]), 0)
    tensor([[ True,  True,  True,  True],
            [ True,  True, False, False],
            [ True, False, False, False]])
    """
    batch, dim = content_shape.shape
    inside = torch.ones(batch, *[1] * dim, dtype=torch.bool, device=content_shape.device)
    for axis, (positions, low) in enumerate(zip(map_shape, low_shape, strict=True)):
        step = (low - receptive_field) / positions
        index = torch.arange(positions, device=content_shape.device)
        centre = receptive_field / 2 + (index + 0.5) * step
        along = (centre < content_shape[:, axis, None]) | (index == 0)
        inside = inside & along.reshape(batch, *(-1 if a == axis else 1 for a in range(dim)))
    return inside


def _extents(name: str, shape: Shape, batch: int, dim: int, like: Tensor) -> Tensor:
    """Extents as float32, broadcastable over (B, N, D)."""
    if isinstance(shape, Tensor):
        if shape.shape not in ((dim,), (batch, dim)):
            raise ValueError(
                f"{name} has shape {tuple(shape.shape)}, expected ({dim},) or ({batch}, {dim})"
            )
        return shape.to(like.device, torch.float32, non_blocking=True).reshape(-1, 1, dim)
    if len(shape) != dim:
        raise ValueError(
            f"{name}={tuple(shape)} must have one extent for each of the {dim} dimensions of the "
            "positions"
        )
    if min(shape) < 1:
        raise ValueError(f"{name}={tuple(shape)} must be positive in every dimension")
    # What is kept must be a real tensor, and not one that stands for it while a program is traced.
    real = type(like) is Tensor and not torch.compiler.is_compiling()
    on_gpu = real and like.device.type == "cuda"
    return (_kept if on_gpu else _extents_on)(tuple(shape), like.device)


def _extents_on(shape: tuple[int, ...], device: torch.device) -> Tensor:
    extents = torch.tensor(shape, dtype=torch.float32)
    return extents.to(device, non_blocking=True).reshape(1, 1, -1)


_kept = functools.lru_cache(maxsize=256)(_extents_on)
