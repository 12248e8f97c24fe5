"""Small views of images that are read part by part."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ats.images.reader import Reader

# Pixels of a level that are held at a time.
_PART = 1 << 22


def small_extents(shape: Sequence[int], longest: int) -> tuple[int, ...]:
    """Extents of a small view whose longest side is at most so long, in the image's proportions."""
    factor = min(1.0, longest / max(shape))
    return tuple(max(1, round(extent * factor)) for extent in shape)


def read_small_view(reader: Reader, extents: Sequence[int]) -> NDArray[Any]:
    """An image made smaller by averaging areas, read from its coarsest level that is fine enough.

    Each pixel is the mean of the pixels of that level that its area touches. The level is read in
    parts, so that memory does not depend on the size of the image.

    Args:
        reader: of the image.
        extents: of the small view, at most those of the image.

    Returns:
        (C, \\*extents) of the image's type.

    Raises:
        ValueError: extents of another dimension, or larger than the image.
    """
    shapes = reader.layout.shapes
    if len(extents) != len(shapes[0]) or any(
        not 1 <= own <= whole for own, whole in zip(extents, shapes[0], strict=True)
    ):
        raise ValueError(
            f"extents={tuple(extents)} must lie within the {shapes[0]} pixels of {reader.path}"
        )
    level = max(
        number
        for number, shape in enumerate(shapes)
        if all(own <= whole for own, whole in zip(extents, shape, strict=True))
    )
    shape = shapes[level]
    if tuple(extents) == shape:
        return reader.read((0,) * len(shape), shape, level)
    out = np.zeros((reader.channels, *extents), reader.layout.dtype)
    for box in _parts(extents, shape):
        edges = [
            _edges(first, last, own, whole)
            for (first, last), own, whole in zip(box, extents, shape, strict=True)
        ]
        corner = [int(starts[0]) for starts, _ in edges]
        size = [int(ends[-1]) - start for (_, ends), start in zip(edges, corner, strict=True)]
        pixels: NDArray[Any] = reader.read(corner, size, level).astype(np.float64)
        area: NDArray[Any] = np.ones(())
        for axis, ((starts, ends), start) in enumerate(zip(edges, corner, strict=True), 1):
            pixels = _sums(pixels, axis, starts - start, ends - start)
            area = np.multiply.outer(area, ends - starts)
        # One division of whole numbers: the same result whatever the parts.
        pixels /= area
        target = (slice(None), *(slice(first, last) for first, last in box))
        out[target] = pixels.round() if out.dtype.kind in "iu" else pixels
    return out


def _edges(
    first: int, last: int, own: int, whole: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last pixel, exclusive, of the areas of pixels ``first`` to ``last``."""
    numbers = np.arange(first, last, dtype=np.int64)
    # In whole numbers: products of floats would be off by one in large images.
    return numbers * whole // own, -(-(numbers + 1) * whole // own)


def _sums(
    pixels: NDArray[Any], axis: int, starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[Any]:
    """Sums over ranges of one axis."""
    moved = np.moveaxis(pixels, axis, -1)
    sums = np.concatenate([np.zeros_like(moved[..., :1]), moved.cumsum(-1)], -1)
    return np.moveaxis(sums[..., ends] - sums[..., starts], -1, axis)


def _parts(extents: Sequence[int], shape: Sequence[int]) -> list[tuple[tuple[int, int], ...]]:
    """Boxes of the small view that each show about so many pixels of a level."""
    dim = len(extents)
    side = max(1, int(_PART ** (1 / dim)))
    spans = []
    for own, whole in zip(extents, shape, strict=True):
        step = max(1, side * own // whole)
        spans.append([(first, min(first + step, own)) for first in range(0, own, step)])
    return list(product(*spans))


def pad_small_views(views: Sequence[NDArray[Any]], least: int = 1) -> tuple[Tensor, Tensor]:
    """Small views of different extents as one batch, and what of each shows its image.

    Their last pixels are repeated up to the largest extents: an edge to empty space would draw
    attention.

    Args:
        views: (C, \\*extents) of one type and number of channels.
        least: smallest extent of the result, where a network needs one.

    Returns:
        Small views (B, C, \\*largest), and ``content_shape`` (B, D) int64 for
        :class:`ats.AttentionSampling`.
    """
    shapes = np.array([view.shape[1:] for view in views])
    largest = np.maximum(shapes.max(0), least)
    padded = [
        np.pad(view, [(0, 0), *((0, int(gap)) for gap in largest - shape)], mode="edge")
        for view, shape in zip(views, shapes, strict=True)
    ]
    return torch.from_numpy(np.stack(padded)), torch.from_numpy(shapes)
