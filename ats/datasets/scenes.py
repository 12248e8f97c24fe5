"""Photographs with one label each, read from files, and the seam to where they come from."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ats.datasets.batch import Batch
from ats.datasets.decoded import DecodedImages
from ats.datasets.progress import progress_bar
from ats.files import cache_folder, value_digest
from ats.images import ArrayImages

EMPTY = "EMPTY"

Box = tuple[float, float, float, float]
"""Top, left, bottom and right in pixels, as tensors are indexed."""


class Scene(NamedTuple):
    """A photograph with its label.

    Attributes:
        path: file with the pixels.
        label: name of its class.
        boxes: where it shows what the label names. For evaluation; never trained on.
    """

    path: Path
    label: str
    boxes: tuple[Box, ...] = ()


class SceneSource(Protocol):
    """A set of scenes: what a new one has to offer."""

    @property
    def classes(self) -> list[str]:
        """Names of the classes; :data:`EMPTY` first."""

    def scenes(self, *, train: bool) -> list[Scene]:
        """Scenes of the training or of the test set, each with one of the classes."""

    def backgrounds(self) -> list[Scene]:
        """Training scenes without anything that the classes name, of whatever else they show."""


def scenes_digest(source: SceneSource) -> str:
    """A digest of which scene, with which label and boxes, is in which part, wherever they lie."""
    parts = (source.scenes(train=True), source.scenes(train=False), source.backgrounds())
    known = [[(scene.path.name, *scene[1:]) for scene in part] for part in parts]
    return value_digest(known)


def check_limits(limits: Sequence[str], known: Sequence[str]) -> None:
    """Of the speed limits that were asked for, each must be known to the source.

    Raises:
        ValueError: one is not.
    """
    unknown = sorted(set(limits) - set(known))
    if unknown:
        raise ValueError(
            f"limits={unknown} are not in this set of scenes; it has {', '.join(known)}"
        )


class Scenes(Dataset[Batch]):
    """Scenes as batches: small views of 8 bits, and images that are read patch by patch.

    Every photograph is decoded once, when the set is made, so that a damaged one shows before a
    training and not within it.

    Args:
        scenes: photographs with their labels.
        classes: names of the classes.
        scale: of the small views.
        cache: folder for decoded photographs; by default one in the user's cache.
        max_bytes: bound on what is kept there.
        progress: show a bar while photographs are decoded, on a terminal.

    Raises:
        FileNotFoundError: a photograph is missing.
        ValueError: there are no scenes, one is damaged, has an unknown label, a box elsewhere, or
            is of another size than the others.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        classes: Sequence[str],
        *,
        scale: float,
        cache: str | os.PathLike[str] | None = None,
        max_bytes: int = 16 << 30,
        progress: bool = True,
    ) -> None:
        if not 0 < scale <= 1:
            raise ValueError(f"scale={scale} must lie above 0 and be at most 1")
        unknown = {scene.label for scene in scenes} - set(classes)
        if unknown or not scenes:
            raise ValueError(
                f"scenes={len(scenes)} with the labels {sorted(unknown)} beside the classes "
                f"{list(classes)}; give at least one scene, and the class of each"
            )
        self.scenes = list(scenes)
        self.classes = list(classes)
        self.scale = scale
        self.decoded = DecodedImages(cache or cache_folder("decoded"), max_bytes)
        places = {name: number for number, name in enumerate(classes)}
        self.targets = torch.tensor([places[scene.label] for scene in scenes])
        self.high_shape, self._small = self._read_small_views(progress=progress)

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self.scenes)

    def __getitem__(self, index: int) -> Batch:
        """The batch of one scene."""
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:
        """The batch of some scenes."""
        return Batch(
            x_low=self.small_views(indices),
            x_high=self.images(indices),
            target=self.targets[indices],
            index=torch.tensor(indices),
        )

    def images(self, indices: Iterable[int]) -> ArrayImages:
        """Some scenes in full resolution, mapped into memory."""
        arrays = [self.decoded.full(self.scenes[index].path) for index in indices]
        return ArrayImages([array.transpose(2, 0, 1) for array in arrays])

    def pixels(self, index: int) -> Tensor:
        """All pixels of one scene, (3, H, W) uint8: for looking at it."""
        return torch.from_numpy(np.array(self.images([index]).arrays[0]))

    def small_views(self, indices: Sequence[int]) -> Tensor:
        """Small views of some scenes (B, 3, h, w) uint8, a copy."""
        return self._small[list(indices)]

    def _read_small_views(self, *, progress: bool) -> tuple[tuple[int, int], Tensor]:
        """Extents of the scenes, and all small views (n, 3, h, w) uint8."""
        views: list[np.ndarray] = []
        shape: tuple[int, int] | None = None
        with progress_bar("scenes", len(self.scenes), unit=" images", shown=progress) as bar:
            for scene in self.scenes:
                pixels = self.decoded.full(scene.path)
                height, width, _ = pixels.shape
                if shape not in (None, (height, width)):
                    raise ValueError(
                        f"{scene.path} has {height} x {width} pixels, the scenes before it "
                        f"{shape[0]} x {shape[1]}; bring all to one size"
                    )
                shape = (height, width)
                _check_boxes(scene, shape)
                views.append(self.decoded.small(scene.path, self.scale, pixels).transpose(2, 0, 1))
                bar.update()
        assert shape is not None
        return shape, torch.from_numpy(np.stack(views))


def _check_boxes(scene: Scene, shape: tuple[int, int]) -> None:
    """Refuse boxes that lie outside of the scene's pixels, as those of another size's scene do."""
    for box in scene.boxes:
        centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        if not all(0 <= place < extent for place, extent in zip(centre, shape, strict=True)):
            raise ValueError(
                f"{scene.path} has {shape[0]} x {shape[1]} pixels, but its annotation a box around "
                f"row {centre[0]:g} and column {centre[1]:g}; correct it, or bring the photograph "
                "to the size that was annotated"
            )


def class_counts(targets: Tensor, classes: Sequence[str]) -> dict[str, int]:
    """Number of images of each class, by its name."""
    counts = torch.bincount(targets, minlength=len(classes)).tolist()
    return dict(zip(classes, counts, strict=True))


def balanced_weights(targets: Tensor, classes: Sequence[str]) -> Tensor:
    """Weights of the classes, 1 / (classes x frequency): their mean over all images is 1.

    Raises:
        ValueError: a class has no image.
    """
    counts = torch.bincount(targets, minlength=len(classes))
    if int(counts.min()) == 0:
        empty = [name for name, count in zip(classes, counts.tolist(), strict=True) if count == 0]
        raise ValueError(
            f"the classes {', '.join(empty)} have no training image, so that they cannot be "
            "learnt; leave them out, or give more images"
        )
    return len(targets) / (len(classes) * counts.float())
