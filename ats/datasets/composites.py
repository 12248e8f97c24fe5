"""Small objects pasted onto large photographs: data where labels are few and objects are small."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from ats.datasets.batch import Batch
from ats.datasets.decoded import area_in_image, small_view
from ats.datasets.scenes import EMPTY, Box, Scenes
from ats.images import ArrayImages, Overlay, PastedImages
from ats.images.pasted import paste

# Drawing takes longer than training on a small composite: the first so many are drawn once, and
# take about 20 kB each.
KEPT = 20_000

Draw = Callable[[str, np.random.Generator, int], NDArray[np.uint8]]
"""From a class, a source of randomness and a height to a picture (h, w, 4) with opacity."""


class Composite(NamedTuple):
    """How one composite is made.

    Attributes:
        background: index of the photograph.
        corner: row and column in the photograph of the composite's first pixel.
        target: number of the class.
        overlays: what is pasted, in pixels of the composite.
    """

    background: int
    corner: tuple[int, int]
    target: int
    overlays: tuple[Overlay, ...]


class Composites(Dataset[Batch]):
    """Photographs without any object, with an object of a known class pasted onto each.

    Composite i is the same in every epoch and every process: it follows from the seed and i. The
    classes take turns. Only the pixels of the patches are ever composed, and those of the small
    view that the object touches.

    Small composites, cut out around their objects, teach a network to read the objects in a
    fraction of the time; whole photographs then teach it to find them.

    Args:
        backgrounds: photographs that show no object of any class. Those labelled
            :data:`ats.datasets.scenes.EMPTY` make up the class of that name; objects are pasted
            onto any.
        classes: names of the classes.
        n_images: number of composites.
        draw: draws an object of a class; see :data:`Draw`.
        heights: smallest and largest height of an object in pixels; drawn with a uniform logarithm.
        rows: share of the height of the photograph, from the top, where centres of objects lie.
        size: rows and columns of a composite, cut out of the photograph with the object anywhere in
            it; by default the whole photograph.
        seed: of everything drawn.

    Raises:
        ValueError: ``EMPTY`` is a class and no background has that label, the size or an object's
            height is larger than the photographs, or the rows are no part of their height.
    """

    def __init__(
        self,
        backgrounds: Scenes,
        classes: Sequence[str],
        n_images: int,
        *,
        draw: Draw,
        heights: tuple[int, int] = (16, 130),
        rows: tuple[float, float] = (0.0, 1.0),
        size: tuple[int, int] | None = None,
        seed: int = 0,
    ) -> None:
        self.backgrounds = backgrounds
        self.classes = list(classes)
        self.n_images = n_images
        self.draw = draw
        self.heights = heights
        self.rows = rows
        self.size = size or backgrounds.high_shape
        if any(
            not 0 < own <= whole
            for own, whole in zip(self.size, backgrounds.high_shape, strict=True)
        ):
            raise ValueError(
                f"size={self.size} must lie above 0 and within the {backgrounds.high_shape} pixels "
                "of the backgrounds"
            )
        if not 0 <= rows[0] <= rows[1] <= 1:
            raise ValueError(
                f"rows={rows} must be shares of the height from 0 to 1, the upper first"
            )
        if heights[1] > min(backgrounds.high_shape):
            raise ValueError(
                f"heights={heights} reach beyond the {backgrounds.high_shape} pixels of the "
                "backgrounds; lower the largest"
            )
        self.seed = seed
        self._made: dict[int, Composite] = {}
        labels = [scene.label for scene in backgrounds.scenes]
        self.empty = [number for number, label in enumerate(labels) if label == EMPTY]
        if EMPTY in self.classes and not self.empty:
            raise ValueError(
                f"backgrounds have no {EMPTY} photograph for the class of that name; add some, or "
                "leave the class out"
            )

    @property
    def targets(self) -> torch.Tensor:
        """Classes (n_images) int64."""
        return torch.arange(self.n_images) % len(self.classes)

    def __len__(self) -> int:
        """Number of composites."""
        return self.n_images

    def __getitem__(self, index: int) -> Batch:
        """The batch of one composite."""
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:
        """The batch of some composites."""
        indices = [range(len(self))[index] for index in indices]
        made = [self.compose(index) for index in indices]
        photographs = self.backgrounds.images([composite.background for composite in made])
        parts = [
            array[(slice(None), *map(slice, composite.corner, np.add(composite.corner, self.size)))]
            for composite, array in zip(made, photographs.arrays, strict=True)
        ]
        return Batch(
            x_low=self._small_views(made, parts),
            x_high=PastedImages(ArrayImages(parts), [composite.overlays for composite in made]),
            target=torch.tensor([composite.target for composite in made]),
            index=torch.tensor(indices),
            places=torch.tensor([_place(composite) for composite in made]),
        )

    def compose(self, index: int) -> Composite:
        """What composite ``index`` is made of.

        Raises:
            IndexError: there are not so many.
        """
        index = range(len(self))[index]
        made = self._made.get(index) or self._compose(index)
        if index < KEPT:
            self._made[index] = made
        return made

    def _compose(self, index: int) -> Composite:
        rng = np.random.default_rng([self.seed, index])
        target = index % len(self.classes)
        label = self.classes[target]
        empty = label == EMPTY
        background = int(rng.choice(self.empty) if empty else rng.integers(len(self.backgrounds)))
        low, high = (math.log(height) for height in self.heights)
        tall = round(math.exp(rng.uniform(low, high)))
        # Without an object the place of one all the same: such parts are like the others.
        pixels = np.zeros((tall, tall, 4), np.uint8) if empty else self.draw(label, rng, tall)
        height, width = self.backgrounds.high_shape
        top = rng.uniform(*self.rows) * height - pixels.shape[0] / 2
        # An object may be wider than high.
        left = rng.uniform(0, max(width - pixels.shape[1], 0))
        top = min(max(top, 0), max(height - pixels.shape[0], 0))
        place = (int(top), int(left))
        corner = self._corner(rng, place, pixels.shape[:2])
        offset = (place[0] - corner[0], place[1] - corner[1])
        return Composite(background, corner, target, () if empty else (Overlay(pixels, offset),))

    def boxes(self, index: int) -> tuple[Box, ...]:
        """Where composite ``index`` shows its object."""
        return _boxes(self.compose(index))

    def _corner(
        self, rng: np.random.Generator, place: tuple[int, int], extents: tuple[int, ...]
    ) -> tuple[int, int]:
        """First pixel of a part of the photograph that shows as much of a place as it can."""
        corner = []
        for start, extent, own, whole in zip(
            place, extents, self.size, self.backgrounds.high_shape, strict=True
        ):
            ends = sorted((start, start + extent - own))
            first, last = (min(max(end, 0), whole - own) for end in ends)
            corner.append(int(rng.integers(first, last + 1)))
        return corner[0], corner[1]

    def _small_views(
        self, made: Sequence[Composite], parts: Sequence[NDArray[np.uint8]]
    ) -> torch.Tensor:
        """Small views (B, 3, h, w) of composites on these parts (3, H, W) of photographs."""
        if self.size == self.backgrounds.high_shape:
            views = self.backgrounds.small_views([composite.background for composite in made])
            for composite, view, part in zip(made, views.numpy(), parts, strict=True):
                for overlay in composite.overlays:
                    self._paste_small(view, part.transpose(1, 2, 0), overlay)
            return views
        reduced = []
        for composite, part in zip(made, parts, strict=True):
            pixels = np.array(part.transpose(1, 2, 0), order="C")
            for overlay in composite.overlays:
                paste(pixels, overlay, (0, 0), self.size)
            reduced.append(small_view(pixels, self.backgrounds.scale).transpose(2, 0, 1))
        return torch.from_numpy(np.stack(reduced))

    def _paste_small(
        self, view: NDArray[np.uint8], image: NDArray[np.uint8], overlay: Overlay
    ) -> None:
        """Make anew the pixels of a small view (C, h, w) that an overlay on the image changes."""
        shape, low = image.shape[:2], view.shape[1:]
        spans = []
        for start, extent, large, small in zip(
            overlay.offset, overlay.pixels.shape[:2], shape, low, strict=True
        ):
            first = max(0, math.floor(start * small / large))
            last = min(small, math.ceil((start + extent) * small / large))
            spans.append((first, last))
        if any(first >= last for first, last in spans):
            return
        areas = [
            area_in_image(span, large, small)
            for span, large, small in zip(spans, shape, low, strict=True)
        ]
        (top, bottom), (left, right) = areas
        part = np.array(image[top:bottom, left:right])
        paste(part, overlay, (top, left), shape)
        made = small_view(
            part,
            self.backgrounds.scale,
            rows=spans[0],
            columns=spans[1],
            shape=(shape[0], shape[1]),
            corner=(top, left),
        )
        view[:, slice(*spans[0]), slice(*spans[1])] = made.transpose(2, 0, 1)


def _boxes(composite: Composite) -> tuple[Box, ...]:
    """Where a composite shows its object."""
    found = []
    for overlay in composite.overlays:
        top, left = overlay.offset
        height, width = overlay.pixels.shape[:2]
        found.append((float(top), float(left), float(top + height), float(left + width)))
    return tuple(found)


def _place(composite: Composite) -> tuple[float, float]:
    """Centre of the object of a composite, NaN if it has none."""
    for top, left, bottom, right in _boxes(composite):
        return (top + bottom) / 2, (left + right) / 2
    return math.nan, math.nan
