"""Rotation, scale and shear of what each patch shows, which the small view hardly notices."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ats.images import Images
from ats.nn import unit_float
from ats.transforms import DerivedImages, checked_images


class TurnedImages(DerivedImages):
    """Images that are turned, stretched and sheared around the centre of each patch read from them.

    The pixel at p from the centre of a patch is that of the image at A p from there, interpolated
    linearly. Enough of the image is read that nothing of a patch is made up: beyond the borders of
    the image alone there are zeros.

    Args:
        images: a tensor (B, C, H, W) or :class:`ats.Images`, left as they are.
        seeds: of what is drawn for each image.
        transform: says how much.
        matrices: of the patches, if they were drawn already; see :meth:`RandomAffine.matrices`.
    """

    def __init__(
        self,
        images: Images | Tensor,
        seeds: Sequence[int],
        transform: "RandomAffine",
        matrices: Tensor | None = None,
    ) -> None:
        super().__init__(images)
        self.seeds = list(seeds)
        self.transform = transform
        self.matrices = matrices

    def patches(self, offsets: Tensor, size: Sequence[int]) -> Tensor:
        """Patches (B, N, C, h, w), floating point, unsigned integers scaled to [0, 1]."""
        reach = self.transform.reach(size)
        # As much on both sides, so that the centre stays where it is.
        margins = [
            max(math.ceil((far - extent) / 2), 0) for far, extent in zip(reach, size, strict=True)
        ]
        wide = [extent + 2 * margin for extent, margin in zip(size, margins, strict=True)]
        corners = torch.stack(
            [offsets[..., axis] - margin for axis, margin in enumerate(margins)], -1
        )
        pixels = unit_float(self.images.patches(corners, wide))
        matrices = self.matrices
        if matrices is None:
            matrices = self.transform.matrices(self.seeds, offsets.shape[1])
        return turned(pixels, matrices, size)


def turned(pixels: Tensor, matrices: Tensor, size: Sequence[int]) -> Tensor:
    """The middle of patches, turned around their centre.

    Args:
        pixels: (B, N, C, H, W) floating point.
        matrices: A (B, N, 2, 2), from places in the result to places in the pixels, both from the
            centre, row before column.
        size: h, w of the result.

    Returns:
        (B, N, C, h, w), 0 where there are no pixels.
    """
    # Half types cannot count pixels.
    dtype, pixels = pixels.dtype, pixels.to(torch.promote_types(pixels.dtype, torch.float32))
    # Places from the centre, counted in half extents of the pixels.
    half = [extent / 2 for extent in pixels.shape[3:]]
    rows, columns = (
        torch.arange(extent, device=pixels.device, dtype=pixels.dtype) - (extent - 1) / 2
        for extent in size
    )
    flat = matrices.to(pixels.device, pixels.dtype, non_blocking=True).flatten(0, 1)
    places = [
        (flat[:, axis, 0, None] * rows).unsqueeze(2) / half[axis]
        + (flat[:, axis, 1, None] * columns).unsqueeze(1) / half[axis]
        for axis in range(2)
    ]
    # That of the column comes first.
    grid = torch.stack(places[::-1], 3)
    out = F.grid_sample(
        pixels.flatten(0, 1), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return out.reshape(*pixels.shape[:3], *out.shape[2:]).to(dtype)


@dataclass(frozen=True)
class RandomAffine:
    """Rotation, scale and shear drawn anew for each patch, in two dimensions.

    For what may be seen from any side or in any size. The small view is left as it is: keep the
    changes so small that it would look the same.

    Args:
        degrees: largest rotation to either side.
        scale: bounds of the size of what is shown, drawn with a uniform logarithm.
        shear: largest shear to either side, in pixels a pixel.

    Raises:
        ValueError: bounds of the scale that are not positive or in the wrong order; a negative
            rotation or shear.
    """

    degrees: float = 20.0
    scale: tuple[float, float] = (0.75, 1.33)
    shear: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale={self.scale} must be two positive bounds, the smaller first")
        for name in ("degrees", "shear"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must be 0 or more")

    def __call__(
        self, x_low: Tensor, x_high: Images | Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, TurnedImages]:
        """The small views as they are, and images whose patches are turned.

        Args:
            x_low: (B, C, h, w).
            x_high: the same images in full resolution.
            generators: a CPU generator for each image.

        Raises:
            ValueError: images of other than two dimensions; not one generator for each image.
        """
        images = checked_images(x_low, x_high, generators)
        if images.shapes.shape[1] != 2:
            raise ValueError(
                f"x_high has {images.shapes.shape[1]} spatial dimensions; patches can be turned in "
                "two alone"
            )
        seeds = [int(torch.randint(2**62, (), generator=generator)) for generator in generators]
        return x_low, TurnedImages(images, seeds, self)

    def matrices(self, seeds: Sequence[int], count: int) -> Tensor:
        """A (B, count, 2, 2) float64 of the patches of each image, see :class:`TurnedImages`."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        drawn = [torch.rand(count, 3, generator=g, dtype=torch.float64) for g in generators]
        turn, stretch, slant = (2 * torch.stack(drawn) - 1).unbind(-1)
        angle = turn * math.radians(self.degrees)
        low, high = (math.log(bound) for bound in self.scale)
        # What is shown larger is read from a smaller part of the image.
        size = torch.exp(-(low + high) / 2 - stretch * (high - low) / 2)
        cos, sin = angle.cos() * size, angle.sin() * size
        shear = slant * self.shear
        # Sheared along the columns, then rotated; row before column.
        entries = [shear * sin + cos, sin, shear * cos - sin, cos]
        return torch.stack(entries, -1).reshape(*turn.shape, 2, 2)

    def reach(self, size: Sequence[int]) -> tuple[float, float]:
        """Rows and columns of the image that a patch of so many can show."""
        sin = math.sin(math.radians(min(self.degrees, 90.0)))
        height, width = size
        rows = sin * width + (1 + self.shear * sin) * height
        columns = width + (self.shear + sin) * height
        return rows / self.scale[0], columns / self.scale[0]
