"""Images of formats that must be decoded from their beginning: JPEG, PNG, WebP, BMP and others."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ats.images.decoded import DecodedFiles
from ats.images.mapped import Mapped
from ats.images.reader import Layout, Reader


class PlainReader(Reader):
    """An image that is decoded once, and then read from a file that is mapped into memory.

    Upright as its tags say, grey or RGB, without opacity (on white); of 8 or 16 bits. CMYK and
    palettes become RGB.

    Args:
        path: file.
        decoded: where decoded images are kept.
    """

    def __init__(self, path: str | os.PathLike[str], decoded: DecodedFiles | None = None) -> None:
        super().__init__(path)
        self.decoded = decoded or DecodedFiles()

    def _open(self) -> Mapped:
        try:
            return Mapped(self.decoded.path(self.path))
        except FileNotFoundError:
            # Another process may have made room between the two steps.
            return Mapped(self.decoded.path(self.path))

    def _describe(self, handle: Mapped) -> Layout:
        height, width, channels = handle.array.shape
        return Layout(((height, width),), channels, handle.array.dtype)

    def _read(
        self, handle: Mapped, first: tuple[int, ...], extents: tuple[int, ...], level: int
    ) -> NDArray[Any]:
        (top, left), (height, width) = first, extents
        box = handle.array[top : top + height, left : left + width]
        return np.ascontiguousarray(box.transpose(2, 0, 1))
