"""Images onto which small pictures are pasted, in the patches that show them and nowhere else."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ats.images.protocol import Images


class Overlay(NamedTuple):
    """A picture and its place.

    Attributes:
        pixels: (h, w, C + 1) uint8, the last channel the opacity.
        offset: row and column of its first pixel in the image; may lie outside.
    """

    pixels: NDArray[np.uint8]
    offset: tuple[int, int]


class PastedImages:
    """8-bit images with a picture pasted onto some of them.

    Args:
        images: two-dimensional images of 8 bits, left as they are.
        overlays: for each image the pictures to paste, in this order.

    Raises:
        ValueError: there is not one list of overlays for each image.
    """

    def __init__(self, images: Images, overlays: Sequence[Sequence[Overlay]]) -> None:
        if len(overlays) != len(images.shapes):
            raise ValueError(
                f"overlays={len(overlays)} must be one list for each of the {len(images.shapes)} "
                "images"
            )
        self.images = images
        self.overlays = tuple(map(tuple, overlays))

    @property
    def shapes(self) -> Tensor:
        """Spatial extents (B, 2) int64."""
        return self.images.shapes

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.images.channels

    def patches(self, offsets: Tensor, size: Sequence[int]) -> Tensor:
        """Patches (B, N, C, \\*size) uint8 on the CPU."""
        patches = self.images.patches(offsets, size).cpu()
        shapes = self.shapes.tolist()
        for target, corners, overlays, shape in zip(
            patches.numpy(), offsets.tolist(), self.overlays, shapes, strict=True
        ):
            for patch, corner in zip(target, corners, strict=True):
                for overlay in overlays:
                    paste(patch.transpose(1, 2, 0), overlay, corner, shape)
        return patches


def paste(
    view: NDArray[Any], overlay: Overlay, corner: Sequence[int], shape: Sequence[int]
) -> None:
    """Paste an overlay in place onto a cut-out of an image.

    Args:
        view: (h, w, C) uint8, pixels of the image from ``corner`` on; written to.
        overlay: with an offset in pixels of the image.
        corner: row and column in the image of the first pixel of the view.
        shape: rows and columns of the image, beyond which nothing is pasted.
    """
    extents = overlay.pixels.shape[:2]
    spans = [
        (max(start, first, 0), min(start + extent, first + seen, limit))
        for start, extent, first, seen, limit in zip(
            overlay.offset, extents, corner, view.shape[:2], shape, strict=True
        )
    ]
    if any(first >= last for first, last in spans):
        return
    read = tuple(
        slice(first - start, last - start)
        for (first, last), start in zip(spans, overlay.offset, strict=True)
    )
    write = tuple(
        slice(first - start, last - start)
        for (first, last), start in zip(spans, corner, strict=True)
    )
    pixels = overlay.pixels[read].astype(np.uint16)
    colour, opacity = pixels[..., :-1], pixels[..., -1:]
    mixed = colour * opacity + view[write] * (255 - opacity)
    view[write] = (mixed + 127) // 255
