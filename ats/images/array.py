"""Images in numpy arrays, memory-mapped from files if they are large."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ats.patches import check_patch_request


class ArrayImages:
    """A batch of arrays, of which only the pixels of the patches are ever read.

    Args:
        arrays: one for each image, (C, \\*S) with common C, dtype and dimension; sizes may differ.

    Raises:
        ValueError: no arrays, or arrays that differ in channels, dtype or dimension.
    """

    def __init__(self, arrays: Sequence[NDArray[Any]]) -> None:
        kinds = {(array.ndim, array.shape[0], array.dtype) for array in arrays}
        if len(kinds) != 1 or arrays[0].ndim < 2:
            raise ValueError(
                "arrays must be at least one array (channels, *spatial), all of one number of "
                f"channels, dtype and dimension, got {sorted(map(str, kinds))}"
            )
        self.arrays = tuple(arrays)

    @classmethod
    def open(cls, paths: Sequence[str | PathLike[str]]) -> "ArrayImages":
        """Map ``.npy`` files, each (C, \\*S), without reading them; pickles are refused."""
        return cls([np.load(path, mmap_mode="r", allow_pickle=False) for path in paths])

    @property
    def shapes(self) -> Tensor:
        """Spatial extents (B, D) int64."""
        return torch.tensor([array.shape[1:] for array in self.arrays])

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.arrays[0].shape[0])

    def patches(self, offsets: Tensor, size: Sequence[int]) -> Tensor:
        """Patches (B, N, C, \\*size) on the CPU, read one by one from the arrays."""
        dim = self.arrays[0].ndim - 1
        extents = np.array(check_patch_request(offsets, size, batch=len(self.arrays), dim=dim))
        first = offsets.cpu().numpy()
        shape = (*offsets.shape[:2], self.channels, *extents)
        out = np.zeros(shape, dtype=self.arrays[0].dtype.newbyteorder("="))
        for array, target, corners in zip(self.arrays, out, first, strict=True):
            for patch, corner in zip(target, corners, strict=True):
                low = np.maximum(corner, 0)
                high = np.minimum(corner + extents, array.shape[1:])
                if (low < high).all():
                    write = map(slice, low - corner, high - corner)
                    read = map(slice, low, high)
                    patch[(slice(None), *write)] = array[(slice(None), *read)]
        return torch.from_numpy(out)
