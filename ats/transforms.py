"""Augmentation that costs what the patches cost: on the small view and on patches, never the image.

An image is changed in two steps: its pixels x become gain x + bias, and then its content moves by a
pan, within a canvas of the same size; what comes into the canvas is 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ats.images import Images, as_images
from ats.nn import unit_float


class Change(NamedTuple):
    """How each image of a batch is changed.

    Attributes:
        gain: (B) float.
        bias: (B) float, in units of the brightest pixel.
        pan: (B, D) int64, pixels of the full-resolution image that its content moves by.
        pan_low: (B, D) int64, the same in pixels of the small view.
    """

    gain: Tensor
    bias: Tensor
    pan: Tensor
    pan_low: Tensor


class DerivedImages:
    """Images whose patches are made from those of others, of the same extents and channels.

    Args:
        images: a tensor (B, C, \\*S) or :class:`ats.Images`, left as they are.
    """

    def __init__(self, images: Images | Tensor) -> None:
        self.images = as_images(images)

    @property
    def shapes(self) -> Tensor:
        """Spatial extents (B, D) int64."""
        return self.images.shapes

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.images.channels


class ChangedImages(DerivedImages):
    """Images that were changed before patches were cut out of them, as far as anyone can see.

    Args:
        images: a tensor (B, C, \\*S) or :class:`ats.Images`, left as they are.
        change: what is done to them.
    """

    def __init__(self, images: Images | Tensor, change: Change) -> None:
        super().__init__(images)
        self.change = change

    def patches(self, offsets: Tensor, size: Sequence[int]) -> Tensor:
        """Patches (B, N, C, \\*size), floating point, unsigned integers scaled to [0, 1]."""
        # A GPU is not waited for.
        pan = self.change.pan.to(offsets.device, non_blocking=True).unsqueeze(1)
        patches = unit_float(self.images.patches(offsets - pan, size))
        changed = _adjust(patches, self.change.gain, self.change.bias)
        inside = self._inside(offsets, pan, size).to(patches.device)
        return changed.masked_fill(~inside.unsqueeze(2), 0)

    def _inside(self, offsets: Tensor, pan: Tensor, size: Sequence[int]) -> Tensor:
        """Whether a pixel lies in the canvas and shows the image: (B, N, \\*size)."""
        shapes = self.shapes.to(offsets.device, non_blocking=True)
        first = pan.clamp_min(0)
        last = torch.minimum(shapes.unsqueeze(1), shapes.unsqueeze(1) + pan)
        inside = torch.ones((), dtype=torch.bool, device=offsets.device)
        for axis, extent in enumerate(size):
            pixel = offsets[:, :, axis, None] + torch.arange(extent, device=offsets.device)
            within = (pixel >= first[:, :, axis, None]) & (pixel < last[:, :, axis, None])
            ones = [extent if a == axis else 1 for a in range(len(size))]
            inside = inside & within.reshape(*within.shape[:2], *ones)
        return inside


def change_small_views(x_low: Tensor, change: Change) -> Tensor:
    """Small views (B, C, \\*low) of the changed images, floating point.

    They equal the small views of images that were changed in full resolution if those are made by
    averaging areas and the pan is a whole number of pixels in both resolutions.
    """
    adjusted = _adjust(unit_float(x_low), change.gain, change.bias)
    out = torch.zeros_like(adjusted)
    for source, target, shift in zip(adjusted, out, change.pan_low.tolist(), strict=True):
        extents = zip(source.shape[1:], shift, strict=True)
        spans = [(limit, max(-limit, min(limit, by))) for limit, by in extents]
        read = [slice(max(-by, 0), limit - max(by, 0)) for limit, by in spans]
        write = [slice(max(by, 0), limit - max(-by, 0)) for limit, by in spans]
        target[(slice(None), *write)] = source[(slice(None), *read)]
    return out


@dataclass(frozen=True)
class RandomChange:
    """Brightness, contrast and pan drawn anew for each image.

    Args:
        gain: bounds of the gain, drawn uniformly together with the bias.
        bias: bounds of the bias.
        pan: largest pan in pixels of the full-resolution image, in either direction of every
            dimension. Where possible, pans are drawn among those that are a whole number of pixels
            in both resolutions, so that the small view and the patches show the same change;
            otherwise the pan of the small view is rounded.
        probability: with which an image is brightened, and with which it is panned.

    References:
        Katharopoulos and Fleuret, Processing Megapixel Images with Deep Attention-Sampling Models,
        2019, section 4.3: the default bounds.
    """

    gain: tuple[float, float] = (0.8, 1.2)
    bias: tuple[float, float] = (-0.1, 0.1)
    pan: int = 100
    probability: float = 0.8

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability={self.probability} must lie in [0, 1]")
        if not hasattr(self.pan, "__index__") or self.pan < 0:
            raise ValueError(f"pan={self.pan} must be a whole number of 0 or more pixels")
        for name, (low, high) in {"gain": self.gain, "bias": self.bias}.items():
            if not -math.inf < low <= high < math.inf:
                raise ValueError(f"{name}={(low, high)} must be finite bounds, the lower one first")

    def __call__(
        self, x_low: Tensor, x_high: Images | Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, ChangedImages]:
        """Changed small views and images.

        Args:
            x_low: (B, C, \\*low).
            x_high: the same images in full resolution.
            generators: a CPU generator for each image.

        Raises:
            ValueError: there is not one generator for each image, or images are of several sizes:
                the small views are padded then, and do not say how much of them is image.
        """
        images = checked_images(x_low, x_high, generators)
        shapes = images.shapes.tolist()
        if any(shape != shapes[0] for shape in shapes):
            raise ValueError(
                f"x_high holds images of several sizes ({shapes[0]} and others), whose small views "
                "are padded; change images of one size, or each by itself"
            )
        low = list(x_low.shape[2:])
        drawn = [
            self.draw(high, low, generator)
            for high, generator in zip(shapes, generators, strict=True)
        ]
        gain, bias, pan, pan_low = zip(*drawn, strict=True)
        change = Change(
            torch.tensor(gain).to(x_low.device, non_blocking=True),
            torch.tensor(bias).to(x_low.device, non_blocking=True),
            torch.tensor(pan),
            torch.tensor(pan_low),
        )
        return change_small_views(x_low, change), ChangedImages(images, change)

    def draw(
        self, high: Sequence[int], low: Sequence[int], generator: torch.Generator
    ) -> tuple[float, float, list[int], list[int]]:
        """Gain, bias, pan and pan of the small view for one image of these extents."""
        # The same count of draws whatever comes out, so that what follows does not depend on it.
        numbers = torch.rand(4 + len(high), generator=generator, dtype=torch.float64).tolist()
        brightened, panned, *rest = numbers
        gain = self.gain[0] + rest[0] * (self.gain[1] - self.gain[0])
        bias = self.bias[0] + rest[1] * (self.bias[1] - self.bias[0])
        if brightened >= self.probability:
            gain, bias = 1.0, 0.0
        largest = self.pan if panned < self.probability else 0
        pans, pans_low = [], []
        for extent, small, number in zip(high, low, rest[2:], strict=True):
            step = extent // math.gcd(extent, small)
            step = step if step <= self.pan else 1
            count = largest // step
            pan = step * (int(number * (2 * count + 1)) - count)
            pans.append(pan)
            pans_low.append(round(pan * small / extent))
        return gain, bias, pans, pans_low


def checked_images(
    x_low: Tensor, x_high: Images | Tensor, generators: Sequence[torch.Generator]
) -> Images:
    """The images, once there are as many small views and generators.

    Raises:
        ValueError: there are not.
    """
    images = as_images(x_high)
    if not len(generators) == len(x_low) == len(images.shapes):
        raise ValueError(
            f"generators={len(generators)}, x_low={len(x_low)} and x_high={len(images.shapes)} "
            "must be of one length; give one generator for each image"
        )
    return images


def _adjust(pixels: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """Gain x + bias of pixels (B, \\*), floating point."""
    ones = [1] * (pixels.dim() - 1)
    gain, bias = (value.to(pixels).reshape(-1, *ones) for value in (gain, bias))
    return torch.addcmul(bias, pixels, gain)
