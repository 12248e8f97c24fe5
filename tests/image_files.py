"""Image files of every format, made from arrays."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyvips
import tifffile
import zarr
from numpy.typing import NDArray
from PIL import Image

# Prime, so that a tile is cut at both far borders and axes cannot be mixed up.
SHAPE = (311, 457)
TILE = (64, 48)


def picture(shape: tuple[int, int] = SHAPE, channels: int = 3) -> NDArray[np.uint8]:
    """Noise (H, W, C): every pixel tells where it comes from."""
    rng = np.random.default_rng(shape[0])
    return rng.integers(0, 256, (*shape, channels), dtype=np.uint8)


def halved(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Every second pixel: a coarser level."""
    return np.ascontiguousarray(pixels[1::2, 1::2])


class Made(NamedTuple):
    """A file and what it shows.

    Attributes:
        path: of the file.
        levels: (H, W, C), the finest first.
    """

    path: Path
    levels: list[NDArray[Any]]


def tiff(folder: Path, levels: list[NDArray[Any]], name: str, **options: Any) -> Made:
    """A TIFF whose coarser levels are below its first page."""
    path = folder / name
    with tifffile.TiffWriter(path) as file:
        file.write(levels[0], subifds=len(levels) - 1, **options)
        for level in levels[1:]:
            file.write(level, subfiletype=1, **options)
    return Made(path, levels)


def tiled(folder: Path) -> Made:
    """Two levels in tiles."""
    levels = [picture(), halved(picture())]
    return tiff(folder, levels, "tiled.tif", tile=TILE, photometric="rgb", compression="zlib")


def strips(folder: Path) -> Made:
    """In strips of a few rows."""
    return tiff(folder, [picture()], "strips.tif", photometric="rgb", rowsperstrip=17)


def planes(folder: Path) -> Made:
    """One plane of tiles for each channel."""
    path = folder / "planes.tif"
    moved = np.ascontiguousarray(picture().transpose(2, 0, 1))
    tifffile.imwrite(path, moved, photometric="rgb", planarconfig="separate", tile=TILE)
    return Made(path, [picture()])


def ome(folder: Path) -> Made:
    """An OME-TIFF with a page of 16 bits for each of five channels."""
    path = folder / "five.ome.tif"
    pixels = picture(channels=5).astype(np.uint16) * 257
    sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 250, "PhysicalSizeYUnit": "nm"}
    metadata = {"axes": "CYX", **sizes}
    moved = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    tifffile.imwrite(path, moved, photometric="minisblack", tile=TILE, metadata=metadata)
    return Made(path, [pixels])


def geo(folder: Path) -> Made:
    """As cloud-optimised GeoTIFF: coarser levels in further pages."""
    path = folder / "geo.tif"
    pyvips.Image.new_from_array(picture()).tiffsave(
        str(path), tile=True, pyramid=True, tile_width=64, tile_height=48, compression="lzw"
    )
    with tifffile.TiffFile(path) as file:
        return Made(path, [page.asarray() for page in file.pages])


def plain(suffix: str) -> Callable[[Path], Made]:
    """An image without loss in one of the plain formats."""

    def make(folder: Path) -> Made:
        path = folder / f"plain.{suffix}"
        options = {"lossless": True} if suffix == "webp" else {}
        Image.fromarray(picture()).save(path, **options)
        return Made(path, [picture()])

    return make


def numpy_file(folder: Path) -> Made:
    """Rows, columns and channels in a ``.npy`` file."""
    path = folder / "array.npy"
    np.save(path, picture())
    return Made(path, [picture()])


def zarr_array(folder: Path) -> Made:
    """One array in chunks."""
    path = folder / "array.zarr"
    zarr.create_array(str(path), data=picture(), chunks=(*TILE, 3))
    return Made(path, [picture()])


def ome_zarr(folder: Path) -> Made:
    """Two levels with all five axes."""
    path = folder / "image.ome.zarr"
    levels = [picture(), halved(picture())]
    group = zarr.open_group(str(path), mode="w")
    for number, level in enumerate(levels):
        data = level.transpose(2, 0, 1)[None, :, None]
        group.create_array(str(number), data=data, chunks=(1, 1, 1, *TILE))
    kinds = {"t": "time", "c": "channel"}
    axes = [
        {"name": name, "type": kinds.get(name, "space")}
        | ({"unit": "micrometer"} if name in "zyx" else {})
        for name in "tczyx"
    ]
    datasets = [
        {
            "path": str(number),
            "coordinateTransformations": [
                {"type": "scale", "scale": [1, 1, 1, 0.25 * 2**number, 0.5 * 2**number]}
            ],
        }
        for number in range(2)
    ]
    image = {"axes": axes, "datasets": datasets}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
    return Made(path, levels)


FORMATS: dict[str, Callable[[Path], Made]] = {
    "tiled": tiled,
    "strips": strips,
    "planes": planes,
    "ome": ome,
    "geo": geo,
    "png": plain("png"),
    "bmp": plain("bmp"),
    "webp": plain("webp"),
    "npy": numpy_file,
    "zarr": zarr_array,
    "ome-zarr": ome_zarr,
}
