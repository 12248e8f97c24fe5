"""Images in files with their labels, as batches."""

import os
import uuid
import weakref
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ats.datasets.batch import Batch
from ats.datasets.progress import progress_bar
from ats.images import (
    FileImages,
    ImageError,
    Reader,
    open_image,
    pad_small_views,
    read_small_view,
    small_extents,
)
from ats.images.decoded import DecodedFiles
from ats.images.files import one_type, with_channels

# Extent in pixels that small views of tiny images are padded to, so that there are positions.
LEAST = 64


class Reading(NamedTuple):
    """How images are read.

    Attributes:
        small_side: longest side of a small view in pixels.
        level: that patches are read at, 0 for the finest.
        mpp: microns per pixel that patches are read at, in place of the level: the level nearest to
            it is taken in each image.
        channels: that every image is brought to.
        axes: of arrays in files, see :func:`ats.open_image`.
    """

    small_side: int = 512
    level: int = 0
    mpp: float | None = None
    channels: int = 3
    axes: str | None = None


class Bad(NamedTuple):
    """An image that was left out, and why."""

    path: str
    reason: str


class Notes:
    """Images that were left out; one that comes back from another process is the one it was there.

    Whoever loads data sends batches, and with them whom to tell about damage, to another process.

    Args:
        key: of these notes, another one for each.
        bad: what is noted already.
    """

    def __init__(self, key: str | None = None, bad: Sequence[Bad] = ()) -> None:
        self.key = key or uuid.uuid4().hex
        self.bad = list(bad)
        _NOTES[self.key] = self

    def __call__(self, path: str, error: ImageError) -> None:
        """Note an image, once."""
        if all(bad.path != path for bad in self.bad):
            self.bad.append(Bad(path, str(error)))

    def __reduce__(self) -> tuple[Any, ...]:
        """A key and not the notes where they are known."""
        return _notes_of, (self.key, self.bad)


_NOTES: weakref.WeakValueDictionary[str, Notes] = weakref.WeakValueDictionary()


def _notes_of(key: str, bad: Sequence[Bad]) -> Notes:
    return _NOTES.get(key) or Notes(key, bad)


class ImageFiles(Dataset[Batch]):
    """Images of any sizes and formats, each with a target.

    Every small view is read when the set is made, so that a damaged file shows then; it is listed
    in ``bad`` and left out. A file that turns out to be damaged later, where a patch lies, gives
    empty patches and is listed as well.

    Args:
        paths: of the images.
        targets: (n, ...) one for each, see :mod:`ats.training.tasks`.
        reading: how images are read.
        decoded: where images without random access are kept decoded.
        strict: a damaged file is an error.
        progress: show a bar while small views are read, on a terminal.

    Raises:
        ImageError: a file is damaged and ``strict`` is set.
        ValueError: no image can be read.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        targets: Tensor,
        reading: Reading,
        *,
        decoded: DecodedFiles | None = None,
        strict: bool = False,
        progress: bool = True,
    ) -> None:
        self.reading = reading
        self.strict = strict
        self.decoded = decoded or DecodedFiles()
        self.note = Notes()
        self.readers: list[Reader] = []
        self.levels: list[int] = []
        self._views: list[np.ndarray] = []
        kept = []
        with progress_bar("small views", len(paths), unit=" images", shown=progress) as bar:
            for number, path in enumerate(paths):
                try:
                    self._add(path)
                    kept.append(number)
                except ImageError as error:
                    if strict:
                        raise
                    self.note(os.fspath(path), error)
                bar.update()
        if not kept:
            reasons = "; ".join(bad.reason for bad in self.bad[:3])
            raise ValueError(
                f"none of {len(paths)} images can be read ({reasons or 'there is none'})"
            )
        self.targets = targets[kept]
        self.kept = kept

    def _add(self, path: str | os.PathLike[str]) -> None:
        """Open an image and read its small view."""
        reading = self.reading
        reader = open_image(path, axes=reading.axes, decoded=self.decoded)
        if len(reader.shape) != 2:
            raise ImageError(f"{reader.path} has {len(reader.shape)} spatial dimensions, not 2")
        level = level_for(reader, reading)
        extents = small_extents(reader.shape, reading.small_side)
        if reader.layout.dtype not in (np.uint8, np.uint16) and reader.layout.dtype.kind != "f":
            raise ImageError(
                f"{reader.path} has pixels of type {reader.layout.dtype}, whose range is unknown; "
                "write it with 8 or 16 bits without a sign, or as numbers in [0, 1]"
            )
        view = self.decoded.small_view(
            path, extents, lambda: read_small_view(reader, extents), axes=reading.axes
        )
        if not np.isfinite(view).all():
            raise ImageError(f"{reader.path} holds pixels that are not finite; replace them")
        view = with_channels(view, reading.channels, reader.path)
        # A view may show a file that is mapped, and must not change with it.
        self._views.append(np.array(view))
        self.readers.append(reader)
        self.levels.append(level)

    def part(self, places: Sequence[int], targets: Tensor) -> "ImageFiles":
        """Some of the images, with other targets.

        Args:
            places: of the images among these.
            targets: (n, ...) one for each of them.
        """
        part = copy(self)
        part.readers = [self.readers[place] for place in places]
        part.levels = [self.levels[place] for place in places]
        part._views = [self._views[place] for place in places]
        part.targets, part.kept, part.note = targets, list(range(len(places))), Notes()
        return part

    @property
    def bad(self) -> list[Bad]:
        """Images that were left out, and those of which patches could not be read."""
        return self.note.bad

    def __len__(self) -> int:
        """Number of images."""
        return len(self.readers)

    def __getitem__(self, index: int) -> Batch:
        """The batch of one image."""
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:
        """The batch of some images."""
        return self.batch(indices, strict=self.strict)

    def batch(self, indices: list[int], *, strict: bool) -> Batch:
        """The batch of some images.

        Args:
            indices: of the images.
            strict: a patch that cannot be read is an error, and not empty.
        """
        views = one_type([self._views[index] for index in indices])
        x_low, content = pad_small_views(views, LEAST)
        images = FileImages(
            [self.readers[index] for index in indices],
            level=[self.levels[index] for index in indices],
            channels=self.reading.channels,
            on_error=None if strict else self.note,
        )
        return Batch(x_low, images, self.targets[indices], torch.tensor(indices), content)

    def small_view(self, index: int) -> Tensor:
        """Small view (C, h, w) of an image."""
        return torch.from_numpy(self._views[index])

    def path(self, index: int) -> Path:
        """Where an image is."""
        return Path(self.readers[index].path)


def level_for(reader: Reader, reading: Reading) -> int:
    """The level of an image at which patches are read.

    Raises:
        ImageError: there is no such level, or the file does not know its microns per pixel.
    """
    layout = reader.layout
    if reading.mpp is None:
        if reading.level >= len(layout.shapes):
            raise ImageError(
                f"{reader.path} has the levels 0 to {len(layout.shapes) - 1}, and no level "
                f"{reading.level}; lower it, or write the image as a pyramid"
            )
        return reading.level
    if layout.mpp is None:
        raise ImageError(
            f"{reader.path} does not know its microns per pixel; choose a level in place of mpp"
        )
    microns = [layout.mpp[0] * layout.shapes[0][0] / shape[0] for shape in layout.shapes]
    ratios = [max(own / reading.mpp, reading.mpp / own) for own in microns]
    best = ratios.index(min(ratios))
    # Objects would look another size in it than in the others.
    if ratios[best] > 1.25:
        raise ImageError(
            f"{reader.path} has levels of {', '.join(f'{own:.3g}' for own in microns)} microns per "
            f"pixel, none near mpp={reading.mpp:g}; choose one of these"
        )
    return best
