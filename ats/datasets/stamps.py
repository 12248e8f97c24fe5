"""Images composed of square stamps, as the non-zeros that one would find in them.

The non-zeros are computed from the stamps; no image is ever filled in. Each distinct stamp is
resized once, all of them together.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Stamps with a pixel this close to an integer are resized by scikit-image itself, because
# truncation to uint8 magnifies a difference in the last bit. It computes in float32, so its
# pixels differ from ours by about 1e-5.
_DOUBTFUL = 1e-3
_STAMPS_AT_ONCE = 4096
_IMAGES_AT_ONCE = 32
_VALUE_BITS = 8


class NonZeros(NamedTuple):
    """Non-zero pixels of n images.

    Attributes:
        indices: (nnz,) int64, row-major within an image, sorted, image after image.
        values: (nnz,) uint8.
        counts: (n,) int64, how many belong to each image.
    """

    indices: NDArray[np.int64]
    values: NDArray[np.uint8]
    counts: NDArray[np.int64]


def shrink(stamps: NDArray[np.float32], scale: float) -> NDArray[np.uint8]:
    """Each stamp resized on its own: exactly scikit-image's ``rescale``, times 255, truncated.

    ``rescale`` (order 1, antialiased, zeros outside) is linear and separable but for a clip to
    the range of its input, so all stamps are resized by one matrix along each axis: S -> A S A^T.

    Args:
        stamps: (n, s, s) float32 in [0, 1].
        scale: size after over size before, in (0, 1].

    Returns:
        (n, t, t) uint8 with t = round(scale * s).

    Raises:
        ImportError: scikit-image is not installed.
    """
    along = _rescale(np.eye(stamps.shape[-1]), (scale, 1.0))
    small = np.empty((len(stamps), len(along), len(along)), np.uint8)
    for start in range(0, len(stamps), _STAMPS_AT_ONCE):
        part = stamps[start : start + _STAMPS_AT_ONCE]
        pixels = 255 * _clip_to_inputs(along @ part @ along.T, part)
        nearest = np.round(pixels)
        doubtful = (np.abs(pixels - nearest) < _DOUBTFUL) & (nearest > 0)
        for i in np.flatnonzero(doubtful.any((1, 2))):
            pixels[i] = 255 * _rescale(part[i], scale)
        small[start : start + _STAMPS_AT_ONCE] = pixels
    return small


def compose(
    stamps: NDArray[np.uint8],
    chosen: NDArray[np.integer[Any]],
    corners: NDArray[np.integer[Any]],
    *,
    height: int,
    width: int,
    scale: float = 1.0,
) -> Iterator[NonZeros]:
    """Non-zeros of images that stamps were put on one after another, some images at a time.

    A later stamp replaces all that lies in its square, by its zeros as well. What lies outside
    the image is cut off.

    Args:
        stamps: (m, s, s), the distinct stamps.
        chosen: (n, k), the stamps of each image in the order in which they are put.
        corners: (n, k, 2), (row, column) of each one's first pixel, not negative.
        height: rows of an image.
        width: columns of an image.
        scale: the corners are multiplied by it, and truncated.
    """
    size = stamps.shape[-1]
    n_pixels = height * width
    within = (np.arange(size)[:, None] * width + np.arange(size)).ravel()
    for start in range(0, len(chosen), _IMAGES_AT_ONCE):
        part = slice(start, start + _IMAGES_AT_ONCE)
        boxes = stamps[chosen[part]]
        first_pixels = (corners[part] * scale).astype(np.int64)
        _erase_covered(boxes, first_pixels)
        _erase_outside(boxes, first_pixels, height, width)
        n, k = boxes.shape[:2]
        first = first_pixels @ np.array([width, 1]) + np.arange(n)[:, None] * n_pixels
        found = np.flatnonzero(boxes != 0)
        stamp, pixel = np.divmod(found, size * size)
        # One sort of (pixel, value) in one integer is faster than ordering two arrays.
        keys = (first.reshape(n * k)[stamp] + within[pixel]) << _VALUE_BITS
        keys |= boxes.reshape(-1)[found]
        keys.sort()
        ends = np.searchsorted(keys, (np.arange(n + 1) * n_pixels) << _VALUE_BITS)
        counts = np.diff(ends)
        indices = (keys >> _VALUE_BITS) - np.repeat(np.arange(n) * n_pixels, counts)
        yield NonZeros(indices, keys.astype(np.uint8), counts)


def _rescale(image: NDArray[Any], scale: float | tuple[float, float]) -> NDArray[Any]:
    try:
        from skimage.transform import rescale
    except ImportError as error:
        raise ImportError(
            "small views are made with scikit-image: pip install 'attention-sampling[train]'"
        ) from error
    result: NDArray[Any] = rescale(image, scale, order=1, mode="constant", anti_aliasing=True)
    return result


def _clip_to_inputs(small: NDArray[np.float64], stamps: NDArray[np.float32]) -> NDArray[np.float64]:
    """Outputs clipped to the range of their own stamp, as ``rescale`` does.

    A result that reaches 0, the value outside, is not raised.
    """
    axes = (1, 2)
    lowest = stamps.min(axes, keepdims=True)
    lowest = np.where(small.min(axes, keepdims=True) > 0, lowest, 0)
    return np.clip(small, lowest, stamps.max(axes, keepdims=True))


def _erase_covered(boxes: NDArray[np.uint8], corners: NDArray[np.integer[Any]]) -> None:
    """Zero, in place, what later stamps of the same image lie on."""
    size = boxes.shape[-1]
    below, above = np.triu_indices(corners.shape[1], k=1)
    rows, columns = (
        axis[:, above] - axis[:, below] for axis in np.moveaxis(corners.astype(np.int32), -1, 0)
    )
    image, pair = np.nonzero((np.abs(rows) < size) & (np.abs(columns) < size))
    shifts = rows[image, pair].tolist(), columns[image, pair].tolist()
    for i, stamp, row, column in zip(image.tolist(), below[pair].tolist(), *shifts, strict=True):
        boxes[i, stamp, _covered(row, size), _covered(column, size)] = 0


def _covered(shift: int, size: int) -> slice:
    """Part of a stamp along one axis that lies under a stamp of the same size at this shift."""
    return slice(max(shift, 0), size + min(shift, 0))


def _erase_outside(
    boxes: NDArray[np.uint8], corners: NDArray[np.integer[Any]], height: int, width: int
) -> None:
    """Zero, in place, what lies behind the last row or column."""
    size = boxes.shape[-1]
    room = np.array([height, width]) - corners
    for image, stamp in np.argwhere((room < size).any(-1)).tolist():
        rows, columns = room[image, stamp].clip(0).tolist()
        boxes[image, stamp, rows:] = 0
        boxes[image, stamp, :, columns:] = 0
