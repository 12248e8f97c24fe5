"""Photographs, decoded once and then mapped into memory."""

import math
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ats.files import state_name, writable_folder, write_array


class DecodedImages:
    """Decoded photographs in a folder of ``.npy`` files, of which a patch reads a few pages.

    A photograph that changes is decoded anew. Beyond the bound it is decoded in every access, which
    is slower and changes nothing else; the smaller files of the small views are always kept.

    Args:
        folder: where decoded images are kept.
        max_bytes: bound on the full-resolution images kept there.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str], max_bytes: int) -> None:
        try:
            self.folder = writable_folder(folder)
        except OSError as error:
            raise OSError(f"cache of decoded images (--cache): {error}") from error
        self.max_bytes = max_bytes
        self._kept = sum(path.stat().st_size for path in self.folder.glob("*.full.npy"))

    def full(self, path: Path) -> NDArray[np.uint8]:
        """Pixels (H, W, 3) of a photograph, mapped from a file if they are kept.

        Raises:
            FileNotFoundError: there is no such photograph.
            ValueError: it is truncated or no image.
        """
        kept = self._kept_as(path, "full")
        found = _load(kept)
        if found is None:
            pixels = decode(path)
            if self._kept + pixels.nbytes > self.max_bytes:
                return pixels
            write_array(kept, pixels)
            self._kept += kept.stat().st_size
            found = _load(kept)
        return pixels if found is None else found

    def small(self, path: Path, scale: float, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Small view (h, w, 3) of a photograph with these pixels; see :func:`small_view`."""
        kept = self._kept_as(path, f"small-{scale!r}")
        found = _load(kept)
        if found is None:
            found = small_view(pixels, scale)
            write_array(kept, found)
        return np.array(found)

    def _kept_as(self, path: Path, kind: str) -> Path:
        """Name of the file that belongs to this state of the photograph."""
        try:
            return self.folder / f"{state_name(path)}.{kind}.npy"
        except OSError as error:
            raise FileNotFoundError(f"{path} is missing; fetch the data set again") from error


def decode(path: Path) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) of a photograph.

    Raises:
        ValueError: it is truncated, no image, or too large.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"))
    except FileNotFoundError:
        raise
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{path} has too many pixels to be decoded as a whole ({error}); make it smaller, or "
            "train on it with ats train, which reads large images patch by patch"
        ) from error
    # What Pillow raises depends on the format and on the place of the damage.
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(
            f"{path} is truncated or no image ({error}); fetch it again, or remove it from the "
            "data set"
        ) from error


def small_shape(shape: tuple[int, int], scale: float) -> tuple[int, int]:
    """Rows and columns of the small view of an image with these rows and columns."""
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def small_view(
    pixels: NDArray[np.uint8],
    scale: float,
    *,
    rows: tuple[int, int] | None = None,
    columns: tuple[int, int] | None = None,
    shape: tuple[int, int] | None = None,
    corner: tuple[int, int] = (0, 0),
) -> NDArray[np.uint8]:
    """An image (H, W, C) made smaller by averaging areas, or some pixels of that.

    Each pixel of the small view is the mean of the pixels whose centres lie in its area, and of no
    others: a change of the image by whole pixels of both resolutions is the same change of the
    small view, up to its borders.

    Args:
        pixels: (H, W, C) uint8.
        scale: of the small view.
        rows: first and last row, exclusive, of the small view to make; all by default.
        columns: the same of its columns.
        shape: rows and columns of the whole image where ``pixels`` is a cut-out of it.
        corner: row and column of the cut-out's first pixel.
    """
    from PIL import Image

    shape = shape or (pixels.shape[0], pixels.shape[1])
    low = small_shape(shape, scale)
    spans = (rows or (0, low[0]), columns or (0, low[1]))
    box = [
        (first * large / small - start, last * large / small - start)
        for (first, last), large, small, start in zip(spans, shape, low, corner, strict=True)
    ]
    (top, bottom), (left, right) = box
    size = (spans[1][1] - spans[1][0], spans[0][1] - spans[0][0])
    image = Image.fromarray(pixels)
    reduced = image.resize(size, Image.Resampling.BOX, box=(left, top, right, bottom))
    return np.array(reduced)


def area_in_image(rows: tuple[int, int], shape: int, low: int) -> tuple[int, int]:
    """First and last pixel, exclusive, of an image that these pixels of its small view average."""
    return math.floor(rows[0] * shape / low), min(shape, math.ceil(rows[1] * shape / low))


def _load(path: Path) -> NDArray[np.uint8] | None:
    """The array of a file, mapped; None if there is none, or a damaged one to make anew."""
    try:
        pixels: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return pixels if pixels.ndim == 3 and pixels.dtype == np.uint8 else None
