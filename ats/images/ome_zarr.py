"""Zarr arrays and OME-Zarr images, in a folder or at any address that fsspec knows."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ats.images.axes import Axes, find_axes
from ats.images.reader import ImageError, Layout, Reader

# Of a length in an OME-Zarr image.
_MICRONS = {"micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "meter": 1e6}


class _ZarrHandle:
    """Arrays of the levels, and what the metadata say about their axes."""

    def __init__(self, store: Any, path: str, axes: str | None) -> None:
        import zarr

        self.store = store
        node = zarr.open(store=path if store is None else store, mode="r")
        self.mpp: tuple[float, float] | None = None
        if isinstance(node, zarr.Array):
            self.arrays, names = [node], None
        else:
            self.arrays, names, self.mpp = _multiscale(node, path)
        self.axes: Axes = find_axes(self.arrays[0].shape, axes or names, path)

    def close(self) -> None:
        """Nothing is held open: each read opens the files of its chunks."""


class ZarrReader(Reader):
    """A zarr array, of version 2 or 3, or an OME-Zarr image with all of its levels.

    A box costs the chunks that it touches.

    Args:
        path: folder, or an address such as ``s3://bucket/slide.zarr``.
        axes: a letter for each axis of an array, such as ``"YXC"``; OME-Zarr names them itself. See
            :func:`ats.images.axes.find_axes`.
        store: a ``zarr`` store to read from in place of the path.
    """

    def __init__(
        self, path: str | os.PathLike[str], axes: str | None = None, store: Any = None
    ) -> None:
        super().__init__(path)
        self.axes = axes
        self.store = store

    def _key(self) -> Any:
        return (*super()._key(), self.axes, id(self.store))  # type: ignore[misc]

    def _open(self) -> _ZarrHandle:
        return _ZarrHandle(self.store, self.path, self.axes)

    def _describe(self, handle: _ZarrHandle) -> Layout:
        finest = handle.arrays[0]
        return Layout(
            tuple(handle.axes.shape(array.shape) for array in handle.arrays),
            handle.axes.channels(finest.shape),
            np.dtype(finest.dtype).newbyteorder("="),
            handle.mpp,
        )

    def _read(
        self, handle: _ZarrHandle, first: tuple[int, ...], extents: tuple[int, ...], level: int
    ) -> NDArray[Any]:
        box = np.asarray(handle.arrays[level][handle.axes.box(first, extents)])
        return np.ascontiguousarray(handle.axes.arrange(box), dtype=self.layout.dtype)


def _multiscale(group: Any, path: str) -> tuple[list[Any], str, tuple[float, float] | None]:
    """Arrays, names of the axes and microns per pixel of an OME-Zarr image.

    Raises:
        ImageError: the group is none.
    """
    attributes = dict(group.attrs)
    images = attributes.get("ome", attributes).get("multiscales")
    if not images:
        raise ImageError(
            f"{path} is a group without an image; name an array or an OME-Zarr image within it"
        )
    image = images[0]
    # Version 0.4 and later name the axes, those before had all five.
    axes = [
        axis if isinstance(axis, dict) else {"name": axis} for axis in image.get("axes", "tczyx")
    ]
    names = "".join(axis["name"][0] for axis in axes)
    arrays = [group[dataset["path"]] for dataset in image["datasets"]]
    steps = [
        change["scale"]
        for change in image["datasets"][0].get("coordinateTransformations", ())
        if change["type"] == "scale"
    ]
    units = [_MICRONS.get(axis.get("unit", "")) for axis in axes]
    mpp = None
    if steps and all(name in names and units[names.index(name)] for name in "yx"):
        rows, columns = (steps[0][names.index(n)] * units[names.index(n)] for n in "yx")
        mpp = (float(rows), float(columns))
    # An axis of time or depth with one element is none.
    shape = arrays[0].shape
    names = "".join(
        "s" if name == "z" and shape[axis] == 1 else name for axis, name in enumerate(names)
    )
    return arrays, names, mpp
