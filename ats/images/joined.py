"""Batches of images from different sources, one after another in one batch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ats.images.protocol import Images


class JoinedImages:
    """Several batches of images as one.

    Args:
        parts: batches with the same number of channels and spatial dimensions.

    Raises:
        ValueError: no parts, or parts that differ in channels or dimensions.
    """

    def __init__(self, parts: Sequence[Images]) -> None:
        kinds = {(part.channels, part.shapes.shape[1]) for part in parts}
        if len(kinds) != 1:
            raise ValueError(
                "parts must be at least one batch, all of one number of channels and dimensions, "
                f"got (channels, dimensions) {sorted(kinds)}"
            )
        self.parts = tuple(parts)

    @property
    def shapes(self) -> Tensor:
        """Spatial extents (B, D) int64."""
        return torch.cat([part.shapes for part in self.parts])

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.parts[0].channels

    def patches(self, offsets: Tensor, size: Sequence[int]) -> Tensor:
        """Patches (B, N, C, \\*size), of one type that holds those of all parts."""
        counts = [len(part.shapes) for part in self.parts]
        if len(offsets) != sum(counts):
            raise ValueError(
                f"offsets are for a batch of {len(offsets)}, the images for one of {sum(counts)}; "
                "give the offsets of each image"
            )
        shares = zip(self.parts, torch.split(offsets, counts), strict=True)
        return torch.cat([part.patches(share, size) for part, share in shares])
