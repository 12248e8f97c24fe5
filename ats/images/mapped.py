"""Arrays in ``.npy`` files, mapped into memory."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ats.images.axes import Axes, find_axes
from ats.images.reader import Layout, Reader


class Mapped:
    """An array that is mapped into memory."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)

    def close(self) -> None:
        """Let go of it."""
        # The map goes with the last array that shows it.
        del self.array


class NumpyReader(Reader):
    """An array in a ``.npy`` file; pickled ones are refused.

    Args:
        path: file.
        axes: a letter for each axis, such as ``"YXC"``; see :func:`ats.images.axes.find_axes`.
    """

    def __init__(self, path: str | os.PathLike[str], axes: str | None = None) -> None:
        super().__init__(path)
        self.axes = axes

    def _open(self) -> Mapped:
        return Mapped(self.path)

    def _order(self, handle: Mapped) -> Axes:
        return find_axes(handle.array.shape, self.axes, self.path)

    def _describe(self, handle: Mapped) -> Layout:
        shape, order = handle.array.shape, self._order(handle)
        dtype = handle.array.dtype.newbyteorder("=")
        return Layout((order.shape(shape),), order.channels(shape), dtype)

    def _read(
        self, handle: Mapped, first: tuple[int, ...], extents: tuple[int, ...], level: int
    ) -> NDArray[Any]:
        order = self._order(handle)
        box = order.arrange(handle.array[order.box(first, extents)])
        return np.array(box, dtype=self.layout.dtype, order="C")
