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
from ats.images import Overlay, PastedImages
from ats.images.pasted import paste

Draw = Callable[[str, np.random.Generator, int], NDArray[np.uint8]]
"""From a class, a source of randomness and a height to a picture (h, w, 4) with opacity."""


class Composite(NamedTuple):
    """How one composite is made.

    Attributes:
        background: index of the photograph.
        target: number of the class.
        overlays: what is pasted.
    """

    background: int
    target: int
    overlays: tuple[Overlay, ...]


class Composites(Dataset[Batch]):
    """Photographs without any object, with an object of a known class pasted onto each.

    Composite i is the same in every epoch and every process: it follows from the seed and i. The
    classes take turns. Only the pixels of the patches are ever composed, and those of the small
    view that the object touches.

    Args:
        backgrounds: photographs that show no object of any class. Those labelled
            :data:`ats.datasets.scenes.EMPTY` make up the class of that name; objects are pasted
            onto any.
        classes: names of the classes.
        n_images: number of composites.
        draw: draws an object of a class; see :data:`Draw`.
        heights: smallest and largest height of an object in pixels; drawn with a uniform logarithm.
        rows: share of the height of the photograph, from the top, where centres of objects lie.
        seed: of everything drawn.

    Raises:
        ValueError: ``EMPTY`` is a class and no background has that label.
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
        seed: int = 0,
    ) -> None:
        self.backgrounds = backgrounds
        self.classes = list(classes)
        self.n_images = n_images
        self.draw = draw
        self.heights = heights
        self.rows = rows
        self.seed = seed
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
        made = [self.compose(index) for index in indices]
        images = self.backgrounds.images([composite.background for composite in made])
        plain = self.backgrounds.small_views([composite.background for composite in made])
        for composite, view, array in zip(made, plain.numpy(), images.arrays, strict=True):
            for overlay in composite.overlays:
                self._paste_small(view, array.transpose(1, 2, 0), overlay)
        return Batch(
            x_low=plain,
            x_high=PastedImages(images, [composite.overlays for composite in made]),
            target=torch.tensor([composite.target for composite in made]),
            index=torch.tensor(indices),
        )

    def compose(self, index: int) -> Composite:
        """What composite ``index`` is made of."""
        rng = np.random.default_rng([self.seed, index])
        target = index % len(self.classes)
        label = self.classes[target]
        if label == EMPTY:
            return Composite(int(rng.choice(self.empty)), target, ())
        background = int(rng.integers(len(self.backgrounds)))
        low, high = (math.log(height) for height in self.heights)
        pixels = self.draw(label, rng, round(math.exp(rng.uniform(low, high))))
        height, width = self.backgrounds.high_shape
        top = rng.uniform(*self.rows) * height - pixels.shape[0] / 2
        left = rng.uniform(0, width - pixels.shape[1])
        top = min(max(top, 0), max(height - pixels.shape[0], 0))
        return Composite(background, target, (Overlay(pixels, (int(top), int(left))),))

    def boxes(self, index: int) -> tuple[Box, ...]:
        """Where composite ``index`` shows its object."""
        found = []
        for overlay in self.compose(index).overlays:
            top, left = overlay.offset
            height, width = overlay.pixels.shape[:2]
            found.append((float(top), float(left), float(top + height), float(left + width)))
        return tuple(found)

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
