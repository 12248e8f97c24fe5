"""A curve through all runs of a map that keeps neighbours together."""

import functools

import torch
from torch import Tensor


def curve_order(map_shape: tuple[int, ...], length: int, device: torch.device) -> Tensor:
    """Numbers (T) of the runs of a map in the order of Morton's Z-order curve (1966).

    The bits of the coordinates of a run's first position are interleaved, so that every prefix of
    them is a box: equally spaced points along the curve are spread over the map in all of its
    dimensions.

    Args:
        map_shape: extents of the map.
        length: of a run along the last dimension.
        device: of the result.
    """
    # What is kept must be a real tensor, and not one that stands for it while a program is traced.
    if torch.compiler.is_compiling():
        return _order(map_shape, length, device)
    return _kept(map_shape, length, device)


def _order(map_shape: tuple[int, ...], length: int, device: torch.device) -> Tensor:
    code = torch.zeros((), dtype=torch.int64, device=device)
    dim = len(map_shape)
    for axis, extent in enumerate(map_shape):
        step = length if axis == dim - 1 else 1
        coordinate = torch.arange(0, extent, step, device=device)
        bits = torch.zeros_like(coordinate)
        for bit in range(max(extent - 1, 1).bit_length()):
            bits = bits | ((coordinate >> bit & 1) << (dim * bit + dim - 1 - axis))
        code = code + bits.reshape([-1 if other == axis else 1 for other in range(dim)])
    return code.flatten().argsort()


_kept = functools.lru_cache(maxsize=64)(_order)
