"""The seam between where pixels come from and what is done with them."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Images(Protocol):
    """A batch of images that can be asked for patches, however large the images are."""

    @property
    def shapes(self) -> Tensor:
        """Spatial extents in pixels, (B, D) int64; the images of a batch may differ."""

    @property
    def channels(self) -> int:
        """Number of channels C."""

    def patches(self, offsets: Tensor, size: Sequence[int]) -> Tensor:
        """Patches (B, N, C, \\*size) at offsets (B, N, D) in pixels, 0 outside the images."""
