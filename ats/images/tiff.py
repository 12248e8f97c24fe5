"""TIFF files, tiled or in strips, with or without smaller copies of the image inside."""

import math
import os
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from ats.images.reader import ImageError, Layout, Reader

# Microns of a length in OME metadata.
_OME_UNITS = {"µm": 1.0, "nm": 1e-3, "mm": 1e3}
# Pixels of a strip that may be decoded for one patch.
_LARGEST_STRIP = 1 << 22


class _Level(NamedTuple):
    """One copy of the image.

    Attributes:
        pages: one, or one for each channel.
        shape: rows and columns.
        channels: samples of a pixel over all pages.
    """

    pages: tuple[Any, ...]
    shape: tuple[int, int]
    channels: int


class _TiffHandle:
    """An open file: descriptor, tags, levels."""

    def __init__(self, path: str) -> None:
        import tifffile

        self.file = tifffile.TiffFile(path)
        try:
            self.levels = [_level(series, path) for series in _levels(self.file)]
        except Exception:
            self.file.close()
            raise
        self.descriptor = os.open(path, os.O_RDONLY)

    def close(self) -> None:
        os.close(self.descriptor)
        self.file.close()


class TiffReader(Reader):
    """The first image of a TIFF, OME-TIFF, BigTIFF or cloud-optimised GeoTIFF.

    Its levels are the smaller copies that the file holds. A box costs the tiles that it touches,
    each read by one request to the operating system and decoded by itself. Rows by columns, of any
    number of channels, in one page or in one for each channel.
    """

    def _open(self) -> _TiffHandle:
        return _TiffHandle(self.path)

    def _describe(self, handle: _TiffHandle) -> Layout:
        finest = handle.levels[0]
        page = finest.pages[0]
        return Layout(
            tuple(level.shape for level in handle.levels),
            finest.channels,
            np.dtype(page.dtype).newbyteorder("="),
            _ome_microns(handle.file) or _microns(page),
        )

    def _read(
        self, handle: _TiffHandle, first: tuple[int, ...], extents: tuple[int, ...], level: int
    ) -> NDArray[Any]:
        pages = handle.levels[level].pages
        out = np.zeros((self.channels, *extents), self.layout.dtype)
        for page, planes in zip(pages, np.split(out, len(pages)), strict=True):
            for segment in _segments_of(page, first, extents):
                _copy_segment(handle, page, segment, planes, first)
        return out


def _levels(file: Any) -> list[Any]:
    """The series of the finest level and of its smaller copies."""
    series = list(file.series)
    found = list(series[0].levels)
    if len(found) == 1:
        # Files whose copies are plain pages beside the image, marked as reduced.
        found += [
            other
            for other in series[1:]
            if other.keyframe.is_reduced and other.axes == found[0].axes and other.ndim >= 2
        ]
    return sorted(found, key=lambda level: -math.prod(level.shape))


def _level(series: Any, path: str) -> _Level:
    """A series as a level.

    Raises:
        ImageError: it has more than rows, columns and channels.
    """
    extents = dict(zip(series.axes, series.shape, strict=True))
    rows, columns = extents.pop("Y", 0), extents.pop("X", 0)
    channels = math.prod(extents.pop(axis, 1) for axis in "SC")
    if not rows or not columns or math.prod(extents.values()) > 1:
        raise ImageError(
            f"{path} has the axes {series.axes} of {series.shape} pixels; images have rows, "
            "columns and channels: write each of the others to a file of its own"
        )
    pages = tuple(page for page in series.pages if page is not None)
    if channels % len(pages):
        raise ImageError(f"{path} has {len(pages)} pages for {channels} channels; write it again")
    return _Level(pages, (rows, columns), channels)


def _microns(page: Any) -> tuple[float, float] | None:
    """Microns per pixel by the resolution tags, rows first; None without a unit."""
    units = {2: 25400.0, 3: 10000.0}
    unit = units.get(int(page.tags.valueof("ResolutionUnit", 1) or 1))
    values = [page.tags.valueof(f"{axis}Resolution") for axis in "YX"]
    if unit is None or not all(value and value[0] and value[1] for value in values):
        return None
    rows, columns = (unit * value[1] / value[0] for value in values)
    return rows, columns


def _ome_microns(file: Any) -> tuple[float, float] | None:
    """Microns per pixel by the metadata of an OME-TIFF, rows first."""
    if not file.ome_metadata:
        return None
    pixels = ElementTree.fromstring(file.ome_metadata).find(".//{*}Pixels")
    if pixels is None:
        return None
    values = []
    for axis in "YX":
        unit = _OME_UNITS.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        size = pixels.get(f"PhysicalSize{axis}")
        if unit is None or size is None:
            return None
        values.append(float(size) * unit)
    return values[0], values[1]


def _segments_of(page: Any, first: tuple[int, ...], extents: tuple[int, ...]) -> list[int]:
    """Numbers of the tiles or strips of a page that a box touches, in all of its planes."""
    frame = page.keyframe
    rows = frame.tilelength if frame.is_tiled else frame.rowsperstrip
    columns = frame.tilewidth if frame.is_tiled else frame.imagewidth
    down = math.ceil(frame.imagelength / rows)
    across = math.ceil(frame.imagewidth / columns)
    planes = frame.samplesperpixel if int(frame.planarconfig) == 2 else 1
    (top, left), (height, width) = first, extents
    return [
        (plane * down + row) * across + column
        for plane in range(planes)
        for row in range(top // rows, (top + height - 1) // rows + 1)
        for column in range(left // columns, (left + width - 1) // columns + 1)
    ]


def _copy_segment(
    handle: _TiffHandle, page: Any, number: int, planes: NDArray[Any], first: tuple[int, ...]
) -> None:
    """Copy what a tile or strip shows of the box (C, h, w) that begins at pixel ``first``."""
    frame = page.keyframe
    data = None
    if page.databytecounts[number]:
        data = os.pread(handle.descriptor, page.databytecounts[number], page.dataoffsets[number])
    options = {}
    if int(frame.compression) in (6, 7, 34892, 33007):
        options = {"jpegtables": page.jpegtables, "jpegheader": frame.jpegheader}
    pixels, (plane, _, top, left, _), shape = frame.decode(data, number, **options)
    inside = [
        (max(start, begin), min(start + seen, begin + extent, limit))
        for start, seen, begin, extent, limit in zip(
            (top, left),
            shape[1:3],
            first,
            planes.shape[1:],
            (frame.imagelength, frame.imagewidth),
            strict=True,
        )
    ]
    (up, down), (begin, end) = inside
    target = planes[:, up - first[0] : down - first[0], begin - first[1] : end - first[1]]
    if pixels is None:
        target[plane : plane + shape[3]] = frame.nodata
        return
    part = pixels[0, up - top : down - top, begin - left : end - left]
    target[plane : plane + shape[3]] = part.transpose(2, 0, 1)


def has_random_access(path: str) -> bool:
    """Whether parts of a TIFF can be read without decoding the rest; True where it is no TIFF.

    Not where it is one large strip, or has colours that have to be converted.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            page: Any = file.pages[0].keyframe
            plain = page.photometric.name in ("MINISBLACK", "RGB", "YCBCR")
            rows = page.tilelength if page.is_tiled else page.rowsperstrip
            small = page.is_tiled or rows * page.imagewidth <= _LARGEST_STRIP
            return plain and small and page.bitspersample >= 8 and not page.extrasamples
    # Damaged data can raise anything; the reader says what is wrong with it.
    except Exception:
        return True
