"""Regions of images as images of their own."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ats.images.protocol import Images


class RegionImages:
    """R regions of each of B images, as B * R images.

    Args:
        images: that the regions lie in; pixels of a patch beyond its region are those of the image.
        corners: (B, R, D) int64, first pixel of each region; may lie outside.
        extents: (B, D) int64 of the regions of each image.
    """

    def __init__(self, images: Images, corners: Tensor, extents: Tensor) -> None:
        self.images = images
        self.corners = corners
        self.extents = extents

    @classmethod
    def at(
        cls, images: Images, offsets: Tensor, size: Sequence[int], coarse_shapes: Tensor
    ) -> "RegionImages":
        """Regions that are known in pixels of the same images at a coarser resolution.

        Args:
            images: at the finer resolution.
            offsets: (B, R, D) of the regions at the coarser one.
            size: D extents of a region there.
            coarse_shapes: (B, D) extents of the images there.
        """
        # In float64: float32 cannot count the pixels of a side beyond 16 million.
        scale = images.shapes.to(offsets.device).double() / coarse_shapes.to(offsets.device)
        corners = torch.round(offsets * scale.unsqueeze(1)).long()
        extents = torch.round(torch.tensor(tuple(size), device=scale.device) * scale).long()
        return cls(images, corners, extents.clamp_min(1))

    @property
    def shapes(self) -> Tensor:
        """Spatial extents (B * R, D) int64."""
        return self.extents.repeat_interleave(self.corners.shape[1], 0)

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.images.channels

    def patches(self, offsets: Tensor, size: Sequence[int]) -> Tensor:
        """Patches (B * R, N, C, \\*size) at offsets (B * R, N, D) relative to the regions."""
        corners = self.corners.to(offsets.device)
        if offsets.shape[0] != corners.shape[0] * corners.shape[1]:
            raise ValueError(
                f"offsets are for a batch of {offsets.shape[0]}, the regions are "
                f"{corners.shape[0]} x {corners.shape[1]}; give the offsets of each region"
            )
        places = offsets + corners.flatten(0, 1).unsqueeze(1)
        batch, dim = corners.shape[0], corners.shape[2]
        patches = self.images.patches(places.reshape(batch, -1, dim), size)
        return patches.reshape(*offsets.shape[:2], *patches.shape[2:])
