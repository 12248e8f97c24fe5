"""Images of formats without random access, decoded once into files that can be mapped."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ats.files import atomic_path, cache_folder, state_name, writable_folder, write_array
from ats.images.reader import ImageError

DEFAULT_BYTES = 16 << 30

Array = NDArray[Any]


class DecodedFiles:
    """A folder of decoded images, of which the least recently used go when it grows too large.

    An image is decoded in constant memory, whatever its size. One that changes is decoded anew.

    Args:
        folder: where decoded images are kept; by default in the user's cache.
        max_bytes: bound on their size.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, max_bytes: int = DEFAULT_BYTES
    ) -> None:
        self.folder = writable_folder(folder or cache_folder("decoded"))
        self.max_bytes = max_bytes

    def path(self, source: str | os.PathLike[str]) -> Path:
        """A ``.npy`` file (H, W, C) with the pixels of an image file.

        Raises:
            FileNotFoundError: there is no such file.
            ImageError: it is damaged, no image, or decoded larger than the bound.
        """
        kept = self._kept_as(source, "image")
        if kept.exists():
            # Its time says when it was last used.
            os.utime(kept)
            return kept
        image = _open(source)
        needed = image.width * image.height * image.bands * _DTYPES[image.format].itemsize
        if needed > self.max_bytes:
            raise ImageError(
                f"{source} takes {needed} bytes decoded, more than the {self.max_bytes} of the "
                f"cache {self.folder}; raise the bound, or write the image as a tiled TIFF"
            )
        with atomic_path(kept) as temporary:
            _decode(image, temporary)
        self._evict(keep=kept)
        return kept

    def small_view(
        self,
        source: str | os.PathLike[str],
        extents: Sequence[int],
        make: Callable[[], Array],
        *,
        axes: str | None = None,
    ) -> Array:
        """A small view (C, \\*extents) of an image file, made once and then kept.

        Args:
            source: the file. Small views of folders and addresses, of which nobody knows when they
                change, are made every time.
            extents: of the small view.
            make: makes it.
            axes: of the array in the file, which are understood in this way.
        """
        if not Path(source).is_file():
            return make()
        kept = self._kept_as(source, f"small-{'x'.join(map(str, extents))}{axes or ''}")
        with contextlib.suppress(OSError, ValueError, EOFError):
            found: Array = np.load(kept, allow_pickle=False)
            return found
        view = make()
        write_array(kept, view)
        return view

    def _kept_as(self, source: str | os.PathLike[str], kind: str) -> Path:
        """Name of the file that belongs to this state of a file."""
        return self.folder / f"{state_name(source)}.{kind}.npy"

    def _evict(self, keep: Path) -> None:
        """Delete what was used longest ago until the rest is within the bound."""
        found = [(path.stat(), path) for path in self.folder.glob("*.image.npy")]
        total = sum(state.st_size for state, _ in found)
        for state, path in sorted(found, key=lambda entry: entry[0].st_mtime_ns):
            if total <= self.max_bytes:
                return
            if path != keep:
                # Readers that have it mapped keep their pages.
                path.unlink(missing_ok=True)
                total -= state.st_size


_DTYPES: dict[str, np.dtype[Any]] = {
    "uchar": np.dtype(np.uint8),
    "ushort": np.dtype(np.uint16),
    "float": np.dtype(np.float32),
}


def _open(source: str | os.PathLike[str]) -> Any:
    """An image as libvips shows it: upright, grey or RGB, without opacity."""
    try:
        import pyvips
    except (ImportError, OSError) as error:
        raise ImportError(
            "plain images are decoded with pyvips: pip install 'attention-sampling[images]'"
        ) from error
    name = os.fspath(source)
    try:
        image = pyvips.Image.new_from_file(name, access="sequential", fail_on="truncated")
    except pyvips.Error:
        # Its builds leave out some formats, BMP among them.
        return _open_with_pillow(name)
    turned = image.get_typeof("orientation") and image.get("orientation") != 1
    if turned:
        # Upright, pixels come in another order than they are stored in.
        image = pyvips.Image.new_from_file(name, fail_on="truncated").autorot()
    if image.hasalpha():
        image = image.flatten(background=65535 if image.format == "ushort" else 255)
    if image.interpretation not in ("srgb", "rgb16", "b-w", "grey16"):
        image = image.colourspace("srgb")
    if image.format not in _DTYPES:
        image = image.cast("float")
    return image


def _open_with_pillow(name: str) -> Any:
    """The same of a format that libvips does not know; whole in memory."""
    import pyvips
    from PIL import Image

    with Image.open(name) as image:
        return pyvips.Image.new_from_array(np.asarray(image.convert("RGB")))


def _decode(image: Any, target: Path) -> None:
    """Write the pixels behind the header of a ``.npy`` file, strip by strip."""
    import pyvips

    with target.open("wb") as file:
        header = {
            "descr": np.lib.format.dtype_to_descr(_DTYPES[image.format]),
            "fortran_order": False,
            "shape": (image.height, image.width, image.bands),
        }
        np.lib.format.write_array_header_1_0(file, header)
        failed: list[OSError] = []

        def write(pixels: bytes) -> int:
            try:
                return file.write(pixels)
            except OSError as error:
                failed.append(error)
                return -1

        strips = pyvips.TargetCustom()
        strips.on_write(write)
        try:
            image.rawsave_target(strips)
        except pyvips.Error:
            # A full disk is no damage of the image.
            if failed:
                raise failed[0] from None
            raise
