"""Whole slides through OpenSlide, and through tiffslide where OpenSlide cannot."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ats.images.reader import ImageError, Layout, Reader


class SlideReader(Reader):
    """A whole slide: RGB of 8 bits, with the levels that it was scanned or saved with.

    What the scanner left out is white, as glass is.
    """

    def _open(self) -> Any:
        return open_slide(self.path)

    def _describe(self, handle: Any) -> Layout:
        shapes = tuple((height, width) for width, height in handle.level_dimensions)
        microns = [handle.properties.get(f"openslide.mpp-{axis}") for axis in "yx"]
        if microns[0] is None:
            microns = [handle.properties.get(f"tiffslide.mpp-{axis}") for axis in "yx"]
        known = all(microns)
        mpp = (float(microns[0]), float(microns[1])) if known else None
        return Layout(shapes, 3, np.dtype(np.uint8), mpp)

    def _read(
        self, handle: Any, first: tuple[int, ...], extents: tuple[int, ...], level: int
    ) -> NDArray[Any]:
        # Slides are asked in (x, y) of the finest level, whatever level is read.
        factors = [
            fine / coarse
            for fine, coarse in zip(
                handle.level_dimensions[0], handle.level_dimensions[level], strict=True
            )
        ]
        place = tuple(
            round(start * factor) for start, factor in zip(first[::-1], factors, strict=True)
        )
        region = np.asarray(handle.read_region(place, level, extents[::-1]))
        pixels = np.ascontiguousarray(region[..., :3].transpose(2, 0, 1))
        if region.shape[2] == 4 and not (region[..., 3] == 255).all():
            # Colours of OpenSlide's pixels are not multiplied with their opacity.
            opacity = region[..., 3].astype(np.uint16)
            mixed = pixels * opacity + 255 * (255 - opacity)
            pixels = ((mixed + 127) // 255).astype(np.uint8)
        return pixels


def open_slide(path: str) -> Any:
    """An open slide, of OpenSlide or else of tiffslide, which have the same methods.

    Raises:
        ImportError: neither is installed.
        ImageError: neither can read it.
    """
    failures: list[tuple[str, Exception]] = []
    for module, name in (("openslide", "OpenSlide"), ("tiffslide", "TiffSlide")):
        try:
            library = __import__(module)
        except (ImportError, OSError) as error:
            failures.append((module, error))
            continue
        try:
            return getattr(library, name)(path)
        except FileNotFoundError:
            raise
        except Exception as error:
            failures.append((module, error))
    if all(isinstance(error, ImportError) for _, error in failures):
        raise ImportError(
            "whole slides need OpenSlide or tiffslide: pip install 'attention-sampling[images]'"
        )
    reasons = "; ".join(f"{module}: {error}" for module, error in failures)
    raise ImageError(f"{path} is no slide that can be read ({reasons})")
