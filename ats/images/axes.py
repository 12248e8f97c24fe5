"""Which axes of an array are rows and columns, and which one is the channels."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

# An array whose first or last axis is at most so long has its channels there.
_FEW = 4


class Axes(NamedTuple):
    """Where an image lies in an array.

    Attributes:
        order: the axis of the channels, if there is one, and then the spatial ones.
        has_channels: whether there is one.
        ndim: dimensions of the array; those not in ``order`` have one element.
    """

    order: tuple[int, ...]
    has_channels: bool
    ndim: int

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Spatial extents of an array of that shape."""
        return tuple(int(shape[axis]) for axis in self.spatial)

    def channels(self, shape: Sequence[int]) -> int:
        """Number of channels of an array of that shape."""
        return int(shape[self.order[0]]) if self.has_channels else 1

    @property
    def spatial(self) -> tuple[int, ...]:
        """Spatial axes, in tensor order."""
        return self.order[1:] if self.has_channels else self.order

    def box(self, first: Sequence[int], extents: Sequence[int]) -> tuple[int | slice, ...]:
        """Index of a spatial box, all channels, in the array's own order."""
        index: list[int | slice] = [0] * self.ndim
        if self.has_channels:
            index[self.order[0]] = slice(None)
        for axis, start, extent in zip(self.spatial, first, extents, strict=True):
            index[axis] = slice(start, start + extent)
        return tuple(index)

    def arrange(self, box: NDArray[Any]) -> NDArray[Any]:
        """What such an index gave, as (C, \\*extents)."""
        kept = sorted(self.order)
        moved = box.transpose([kept.index(axis) for axis in self.order])
        return moved if self.has_channels else moved[None]


def find_axes(shape: Sequence[int], names: str | None, path: str) -> Axes:
    """The axes of an array, by their names or by its shape.

    Without names: the channels are the first axis where that has at most 4 elements, else the last
    where that has, and else there are none where there are two axes.

    Args:
        shape: of the array.
        names: a letter for each axis, C for channels and Z, Y, X for space; others have one
            element. None to go by the shape.
        path: of the array, for the message.

    Raises:
        ValueError: the names do not fit the shape, or the shape says too little.
    """
    ndim = len(shape)
    if names is None:
        if ndim == 2:
            names = "YX"
        elif ndim == 3 and shape[0] <= _FEW:
            names = "CYX"
        elif ndim == 3 and shape[2] <= _FEW:
            names = "YXC"
        else:
            raise ValueError(
                f"{path} has the shape {tuple(shape)}, which does not say where its channels are; "
                "name its axes, such as axes='CYX' or axes='ZYX'"
            )
    names = names.upper()
    others = [axis for axis, name in enumerate(names) if name not in "CZYX"]
    if len(names) != ndim or len(set(names)) < ndim or any(shape[axis] != 1 for axis in others):
        raise ValueError(
            f"axes={names!r} does not fit the shape {tuple(shape)} of {path}; give one letter for "
            "each axis, C, Z, Y or X, and any other for an axis with one element"
        )
    spatial = tuple(names.index(name) for name in "ZYX" if name in names)
    channels = (names.index("C"),) if "C" in names else ()
    if not spatial:
        raise ValueError(f"axes={names!r} of {path} has none of Z, Y and X; name the spatial ones")
    return Axes(channels + spatial, bool(channels), ndim)
