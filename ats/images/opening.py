"""From a path to a reader of the image there."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ats.images.decoded import DecodedFiles
from ats.images.mapped import NumpyReader
from ats.images.ome_zarr import ZarrReader
from ats.images.plain import PlainReader
from ats.images.reader import ImageError, Reader
from ats.images.slide import SlideReader
from ats.images.tiff import TiffReader, has_random_access

MakeReader = Callable[[str], Reader]
"""From a path to a reader."""

_PLAIN = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".pnm", ".jp2", ".j2k")
_SLIDES = (".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".dcm")
_TIFFS = (".tif", ".tiff", ".btf", ".tf8", ".gtiff")
_registered: dict[str, MakeReader] = {}


def register_reader(suffix: str, make: MakeReader) -> None:
    """Let :func:`open_image` read files of a suffix with a reader of one's own.

    Args:
        suffix: end of the name, such as ``".nd2"``; without regard to case. Of several that fit a
            name the longest holds, and one's own before those of the library.
        make: from a path to a :class:`ats.images.Reader`.

    Raises:
        ValueError: the suffix does not begin with a dot.
    """
    if not suffix.startswith("."):
        raise ValueError(f"suffix={suffix!r} must begin with a dot, such as '.nd2'")
    _registered[suffix.lower()] = make


def open_image(
    path: str | os.PathLike[str],
    *,
    axes: str | None = None,
    decoded: DecodedFiles | None = None,
) -> Reader:
    """A reader of the image at a path, by what its name ends in.

    Whole slides (through OpenSlide, or tiffslide), TIFF of every kind, zarr and OME-Zarr (also at
    an address of fsspec), ``.npy``, and plain images (JPEG, PNG, WebP, BMP and others). Of none is
    more read than what is asked for; plain images, which can only be decoded whole, are decoded
    once into a cache, in constant memory.

    Args:
        path: file, folder or address.
        axes: a letter for each axis of an array in a zarr or ``.npy`` file, such as ``"YXC"``,
            where its shape does not say it.
        decoded: where decoded images are kept, and how many bytes of them.

    Returns:
        A reader, which opens the file when it is first asked for something.

    Raises:
        ImageError: no reader knows files of such a name.

    >>> open_image("slide.zarr", axes="CYX").path
    'slide.zarr'
    """
    name = os.fspath(path)
    lower = name.lower().rstrip("/")
    own = [suffix for suffix in _registered if lower.endswith(suffix)]
    if own:
        return _registered[max(own, key=len)](name)
    suffix = Path(lower).suffix
    if is_zarr(name):
        return ZarrReader(name, axes)
    if suffix == ".npy":
        return NumpyReader(name, axes)
    if suffix in _SLIDES:
        return SlideReader(name)
    if suffix in _TIFFS:
        return _open_tiff(name, decoded)
    if suffix in _PLAIN:
        return PlainReader(name, decoded)
    known = ", ".join(sorted(image_suffixes()))
    raise ImageError(
        f"{name} ends in none of {known}; convert it, or give ats.images.register_reader a reader "
        "for it"
    )


def image_suffixes() -> set[str]:
    """What names of images end in, in small letters."""
    return {*_PLAIN, *_SLIDES, *_TIFFS, ".npy", ".zarr", *_registered}


def is_zarr(path: str | os.PathLike[str]) -> bool:
    """Whether a folder or address holds a zarr array or group: by its name, or what is in it."""
    return os.fspath(path).lower().rstrip("/").endswith(".zarr") or any(
        (Path(path) / name).exists() for name in ("zarr.json", ".zattrs", ".zgroup", ".zarray")
    )


def _open_tiff(path: str, decoded: DecodedFiles | None) -> Reader:
    """A slide of a vendor, a TIFF of which parts can be read, or one to decode."""
    if _vendor(path) not in (None, "generic-tiff"):
        return SlideReader(path)
    return TiffReader(path) if has_random_access(path) else PlainReader(path, decoded)


def _vendor(path: str) -> Any:
    """Whose slide OpenSlide says that a file is; None where it is none, or OpenSlide is missing."""
    try:
        import openslide
    except (ImportError, OSError):
        return None
    return openslide.OpenSlide.detect_format(path) if Path(path).exists() else None
