"""Batches of images in files, whose patches are read in parallel."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ats.images.reader import ImageError, Reader
from ats.patches import check_patch_request
from ats.threads import Threads

# Reading waits for disks and networks, and decoding lets other threads run.
_THREADS = Threads(16, "ats-read")


class FileImages:
    """A batch of images in files, of which only the pixels of the patches are ever read.

    Args:
        readers: one for each image; see :func:`ats.open_image`.
        level: of each image, 0 for the finest: patches are read there, and ``shapes`` are its
            extents. One number for all of them or one for each.
        channels: that every image is brought to: grey is repeated, and a fourth channel, which is
            opacity, left out. By default those of the first image.
        on_error: is told the path and the error where a patch cannot be read, which is then empty;
            by default the error is raised.

    Raises:
        ValueError: no readers, not as many levels, or no such level.
        ImageError: a file cannot be read, or not be brought to these channels.
    """

    def __init__(
        self,
        readers: Sequence[Reader],
        *,
        level: int | Sequence[int] = 0,
        channels: int | None = None,
        on_error: Callable[[str, ImageError], None] | None = None,
    ) -> None:
        levels = [level] * len(readers) if isinstance(level, int) else list(level)
        if not readers or len(levels) != len(readers):
            raise ValueError(
                f"readers={len(readers)} must be at least one, level one number or one for each of "
                f"them, got {len(levels)}"
            )
        for reader, number in zip(readers, levels, strict=True):
            reader.level_shape(number)
        self.readers = tuple(readers)
        self.levels = tuple(levels)
        self._channels = channels or readers[0].channels
        self.on_error = on_error

    @property
    def shapes(self) -> Tensor:
        """Spatial extents (B, D) int64 of the level that is read."""
        levels = zip(self.readers, self.levels, strict=True)
        return torch.tensor([reader.layout.shapes[level] for reader, level in levels])

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self._channels

    def patches(self, offsets: Tensor, size: Sequence[int]) -> Tensor:
        """Patches (B, N, C, \\*size) on the CPU; float32 where the images' types differ."""
        dim = len(self.readers[0].shape)
        extents = check_patch_request(offsets, size, batch=len(self.readers), dim=dim)

        def read(image: int, corner: list[int]) -> NDArray[Any]:
            reader = self.readers[image]
            try:
                pixels = reader.read(corner, extents, self.levels[image])
                return with_channels(pixels, self._channels, reader.path)
            except ImageError as error:
                if self.on_error is None:
                    raise
                self.on_error(reader.path, error)
                return np.zeros((self._channels, *extents), reader.layout.dtype)

        corners = offsets.tolist()
        jobs = [
            _THREADS.executor().submit(read, image, corner)
            for image, own in enumerate(corners)
            for corner in own
        ]
        # An error must not leave threads reading for a batch that nobody waits for.
        try:
            found = [job.result() for job in jobs]
        finally:
            for job in jobs:
                job.cancel()
        patches = torch.from_numpy(np.stack(one_type(found)))
        return patches.reshape(*offsets.shape[:2], *patches.shape[1:])


def with_channels(pixels: NDArray[Any], channels: int, path: str) -> NDArray[Any]:
    """Pixels (C, \\*S) with that many channels.

    Raises:
        ImageError: they are neither grey nor have only an opacity too many.
    """
    own = pixels.shape[0]
    if own == channels:
        return pixels
    if own == 1:
        return np.repeat(pixels, channels, 0)
    if (own, channels) in ((4, 3), (2, 1)):
        return pixels[:channels]
    raise ImageError(
        f"{path} has {own} channels where {channels} are wanted; give images of one kind, or set "
        "channels"
    )


def one_type(arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Arrays of one type: 8 or 16 bits as they are, others float32, in [0, 1] where they differ."""
    if len({array.dtype for array in arrays}) == 1 and arrays[0].dtype.kind != "f":
        return arrays
    return [
        array.astype(np.float32) / (np.iinfo(array.dtype).max if array.dtype.kind == "u" else 1)
        for array in arrays
    ]
