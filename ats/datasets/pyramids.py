"""Images of any size with smaller copies of themselves, written tile by tile in constant memory."""

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ats.datasets.progress import progress_bar
from ats.files import atomic_folder, atomic_path

TILE = 512
_DISCS = 24
# Share of the longer side.
_RADIUS = (0.004, 0.02)


@dataclass(frozen=True)
class Tissue:
    """Coloured discs with a fine texture on black, given by a formula: no pixel is kept.

    Discs are as large a share of the image at any size, up to a limit, so that what has to be
    written stays the same beyond it.

    Args:
        shape: rows and columns in pixels.
        seed: of places, sizes and colours.
    """

    shape: tuple[int, int]
    seed: int = 0

    @cached_property
    def discs(self) -> NDArray[np.float64]:
        """Row, column and radius in pixels, and red, green and blue of each disc."""
        rng = np.random.default_rng(self.seed)
        radii = np.minimum(rng.uniform(*_RADIUS, _DISCS) * max(self.shape), 1500)
        rows, columns = (rng.uniform(0.1, 0.9, _DISCS) * extent for extent in self.shape)
        return np.column_stack([rows, columns, radii, rng.uniform(120, 230, (_DISCS, 3))])

    def tile(self, corner: tuple[int, int], extents: tuple[int, int], factor: int) -> Any:
        """Pixels (h, w, 3) uint8 of the image made smaller by a factor; None where all are black.

        Args:
            corner: first row and column, in pixels of the smaller image.
            extents: rows and columns.
            factor: whole number.
        """
        # Centres of the pixels, in pixels of the whole image.
        rows, columns = (
            (np.arange(start, start + extent) + 0.5) * factor
            for start, extent in zip(corner, extents, strict=True)
        )
        out: NDArray[np.uint8] | None = None
        for row, column, radius, *colour in self.discs:
            # The part of the tile that the disc can reach.
            down = slice(*np.searchsorted(rows, (row - radius, row + radius)))
            across = slice(*np.searchsorted(columns, (column - radius, column + radius)))
            y, x = rows[down, None], columns[across]
            if not y.size or not x.size:
                continue
            if out is None:
                out = np.zeros((*extents, 3), np.uint8)
            inside = (y - row) ** 2 + (x - column) ** 2 < radius**2
            # A wave of 16 pixels; where a pixel is larger than that, its mean is seen.
            wave = np.sin(y / 2.5) * np.cos(x / 2.5) * (factor <= 8)
            shade = (0.85 + 0.15 * wave)[..., None] * np.asarray(colour)
            out[down, across][inside] = shade[inside].astype(np.uint8)
        return out


def factors(shape: tuple[int, int]) -> list[int]:
    """1, 2, 4, ... down to a copy that fits into one tile."""
    return [2**level for level in range(max(0, math.ceil(math.log2(max(shape) / TILE))) + 1)]


def write_pyramid(path: str | Path, image: Tissue, *, kind: str, progress: bool = True) -> Path:
    """Write an image with all of its smaller copies; tiles that are black take no place.

    Args:
        path: file of a TIFF, or folder of an OME-Zarr image.
        image: what to write.
        kind: ``"tiff"`` or ``"zarr"``.
        progress: show a bar, on a terminal.

    Raises:
        ValueError: another kind.
        FileExistsError: there is something at the path already.
    """
    path = Path(path)
    if kind not in ("tiff", "zarr"):
        raise ValueError(f"kind={kind!r} must be 'tiff' or 'zarr'")
    if path.exists():
        raise FileExistsError(f"{path} exists already; delete it, or take another path")
    total = sum(math.prod(_grid(image, factor)) for factor in factors(image.shape))
    with progress_bar("tiles", total, unit=" tiles", shown=progress) as bar:
        if kind == "tiff":
            with atomic_path(path) as temporary:
                _write_tiff(temporary, image, bar)
        else:
            with atomic_folder(path) as temporary:
                _write_zarr(temporary, image, bar)
    return path


def _low_shape(image: Tissue, factor: int) -> tuple[int, int]:
    rows, columns = (max(1, extent // factor) for extent in image.shape)
    return rows, columns


def _grid(image: Tissue, factor: int) -> tuple[int, int]:
    rows, columns = (-(-extent // TILE) for extent in _low_shape(image, factor))
    return rows, columns


def _tiles(image: Tissue, factor: int, bar: Any) -> Iterator[tuple[int, int, Any]]:
    """Row and column of every tile, and its pixels or None."""
    down, across = _grid(image, factor)
    for row in range(down):
        for column in range(across):
            yield row, column, image.tile((row * TILE, column * TILE), (TILE, TILE), factor)
            bar.update()


def _write_tiff(path: Path, image: Tissue, bar: Any) -> None:
    import tifffile

    levels = factors(image.shape)
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for number, factor in enumerate(levels):
            below: dict[str, Any] = {"subfiletype": 1} if number else {"subifds": len(levels) - 1}
            file.write(
                # A tile without bytes is black.
                (
                    b"" if pixels is None else zlib.compress(pixels, 1)
                    for _, _, pixels in _tiles(image, factor, bar)
                ),
                shape=(*_low_shape(image, factor), 3),
                dtype=np.uint8,
                photometric="rgb",
                tile=(TILE, TILE),
                compression="zlib",
                **below,
            )


def _write_zarr(path: Path, image: Tissue, bar: Any) -> None:
    import zarr

    group = zarr.open_group(str(path), mode="w")
    datasets: list[Any] = []
    for number, factor in enumerate(factors(image.shape)):
        height, width = _low_shape(image, factor)
        array = group.create_array(
            str(number), shape=(height, width, 3), chunks=(TILE, TILE, 3), dtype=np.uint8
        )
        for row, column, pixels in _tiles(image, factor, bar):
            if pixels is not None:
                top, left = row * TILE, column * TILE
                array[top : top + TILE, left : left + TILE] = pixels[: height - top, : width - left]
        change = {"type": "scale", "scale": [factor, factor, 1]}
        datasets.append({"path": str(number), "coordinateTransformations": [change]})
    axes: list[Any] = [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    axes.append({"name": "c", "type": "channel"})
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
