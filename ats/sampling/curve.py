"""A curve through all positions of a map that keeps neighbours together."""

import torch
from torch import Tensor


def curve_order(map_shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Flat indices (K) of a map in the order of Morton's Z-order curve (1966).

    The bits of the coordinates are interleaved, so that every prefix of them is a box: equally
    spaced points along the curve are spread over the map in all of its dimensions.
    """
    code = torch.zeros(map_shape, dtype=torch.int64, device=device)
    dim = len(map_shape)
    for axis, extent in enumerate(map_shape):
        coordinate = torch.arange(extent, device=device)
        bits = torch.zeros_like(coordinate)
        for bit in range(max(extent - 1, 1).bit_length()):
            bits = bits | ((coordinate >> bit & 1) << (dim * bit + dim - 1 - axis))
        code = code + bits.reshape([-1 if other == axis else 1 for other in range(dim)])
    return code.flatten().argsort()
