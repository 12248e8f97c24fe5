"""One image in a file, of which only the pixels that are asked for are read."""

import contextlib
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ats.files import UnwritableError
from ats.images.handles import HANDLES, Closable


class ImageError(ValueError):
    """A file that cannot be read as an image: its path, what is wrong with it, and the remedy."""


class Layout(NamedTuple):
    """What a file says about its image.

    Attributes:
        shapes: extents in pixels of each level, tensor order, the finest first.
        channels: number of channels.
        dtype: of the pixels.
        mpp: microns per pixel of the finest level, rows first, where the file knows it.
    """

    shapes: tuple[tuple[int, ...], ...]
    channels: int
    dtype: np.dtype[Any]
    mpp: tuple[float, float] | None = None


class Reader(ABC):
    """An image in a file: opened when it is first asked for something, and never read whole.

    Readers can be pickled, since an open file is not kept in them, and asked by several threads at
    a time; the files behind all readers of a process are bounded in number
    (:data:`ats.images.handles.HANDLES`). A reader shows the file that it was first asked about;
    where that is not open any more and another has taken its place, it says so.

    A subclass opens the file, describes it, and reads a box that lies inside the image.

    Args:
        path: file, folder or address.

    Raises:
        ImageError: the path is not UTF-8.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        try:
            self.path.encode()
        except UnicodeEncodeError:
            raise ImageError(
                f"{self.path!r} is a name that is not UTF-8, which tables cannot hold; rename it"
            ) from None
        self._layout: Layout | None = None
        self._state: tuple[int, ...] | None = None

    @abstractmethod
    def _open(self) -> Closable:
        """Open the file."""

    @abstractmethod
    def _describe(self, handle: Any) -> Layout:
        """What an open file says about its image."""

    @abstractmethod
    def _read(
        self, handle: Any, first: tuple[int, ...], extents: tuple[int, ...], level: int
    ) -> NDArray[Any]:
        """Pixels (C, \\*extents) of a box inside a level that begins at pixel ``first``."""

    @property
    def layout(self) -> Layout:
        """What the file says about its image.

        Raises:
            ImageError: there is no such file, or it cannot be read.
        """
        if self._layout is None:
            with self._handle() as handle:
                self._layout = self._describe(handle)
        return self._layout

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents of the finest level in pixels, tensor order."""
        return self.layout.shapes[0]

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.layout.channels

    def level_shape(self, level: int) -> tuple[int, ...]:
        """Extents of a level in pixels, tensor order.

        Raises:
            ValueError: no such level.
        """
        shapes = self.layout.shapes
        if not 0 <= level < len(shapes):
            raise ValueError(
                f"level={level} of {self.path}, which has the levels 0 to {len(shapes) - 1}; take "
                "one of these"
            )
        return shapes[level]

    def read(self, offset: Sequence[int], size: Sequence[int], level: int = 0) -> NDArray[Any]:
        """Pixels (C, \\*size) of a box of one level, 0 outside the image.

        Args:
            offset: first pixel of the box in pixels of that level, tensor order; may lie outside.
            size: extents of the box.
            level: 0 for the finest.

        Raises:
            ValueError: no such level, or a box that is empty or of another dimension.
            ImageError: the pixels cannot be read.
        """
        shape = self.level_shape(level)
        if not len(offset) == len(size) == len(shape) or min(size) < 1:
            raise ValueError(
                f"offset={tuple(offset)} and size={tuple(size)} must have {len(shape)} numbers "
                "each, those of the size positive"
            )
        low = [max(int(start), 0) for start in offset]
        high = [
            min(int(start) + int(extent), limit)
            for start, extent, limit in zip(offset, size, shape, strict=True)
        ]
        extents = tuple(last - first for first, last in zip(low, high, strict=True))
        if min(extents) < 1:
            return np.zeros((self.channels, *size), self.layout.dtype)
        with self._handle() as handle:
            pixels = self._read(handle, tuple(low), extents, level)
        if extents == tuple(size):
            return pixels
        out = np.zeros((self.channels, *size), self.layout.dtype)
        inside = (
            slice(first - start, first - start + extent)
            for first, start, extent in zip(low, offset, extents, strict=True)
        )
        out[(slice(None), *inside)] = pixels
        return out

    def close(self) -> None:
        """Close the file; it is opened again when something is asked for."""
        HANDLES.close(self._key())

    def _key(self) -> Hashable:
        self._state = self._state or _file_state(self.path)
        return (type(self), self.path, self._state)

    def _open_unchanged(self) -> Closable:
        handle = self._open()
        if self._state not in (None, _file_state(self.path)):
            handle.close()
            raise ImageError(f"{self.path} has changed while it was in use; open it again")
        return handle

    @contextlib.contextmanager
    def _handle(self) -> Iterator[Any]:
        """The open file, every error of whichever library behind it as one kind."""
        try:
            with HANDLES.lend(self._key(), self._open_unchanged) as handle:
                yield handle
        except (ImageError, ImportError, MemoryError, UnwritableError):
            raise
        except FileNotFoundError as error:
            raise ImageError(f"{self.path} is missing; check the path") from error
        # Every library has its own exceptions, and damaged data can raise any.
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ImageError(
                f"{self.path} cannot be read ({reason}); it may be damaged, or of a format that "
                "this reader does not know"
            ) from error


def _file_state(path: str) -> tuple[int, ...] | None:
    """What tells a file from another one at its path; None of what is no file of this machine."""
    try:
        state = Path(path).stat()
    except (OSError, ValueError):
        return None
    if stat.S_ISDIR(state.st_mode):
        # Something may be added to a folder while it is read.
        return (state.st_dev, state.st_ino)
    return (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
