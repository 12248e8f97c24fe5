"""Images in a dense tensor."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ats.images.protocol import Images
from ats.patches import extract_patches


class TensorImages:
    """A batch of images of one size, all in memory.

    Args:
        pixels: (B, C, \\*S) of any dtype.

    Raises:
        ValueError: there is no spatial dimension.
    """

    def __init__(self, pixels: Tensor) -> None:
        if pixels.dim() < 3:
            raise ValueError(
                f"images must be (batch, channels, *spatial), got {tuple(pixels.shape)}; add the "
                "missing channel or batch dimension"
            )
        self.pixels = pixels

    @property
    def shapes(self) -> Tensor:
        """Spatial extents (B, D) int64."""
        return torch.tensor(self.pixels.shape[2:]).expand(self.pixels.shape[0], -1)

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.pixels.shape[1]

    def patches(self, offsets: Tensor, size: Sequence[int]) -> Tensor:
        """Patches (B, N, C, \\*size); gradients flow to the pixels."""
        return extract_patches(self.pixels, offsets, size)


def as_images(images: Images | Tensor) -> Images:
    """A tensor as :class:`TensorImages`; anything that answers for patches as it is.

    Raises:
        ValueError: neither.
    """
    if isinstance(images, Tensor):
        return TensorImages(images)
    if not isinstance(images, Images):
        raise ValueError(
            f"images must be a tensor (batch, channels, *spatial) or have shapes, channels and "
            f"patches(offsets, size), got {type(images).__name__}"
        )
    return images
