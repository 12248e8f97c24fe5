"""Several data sets as one."""

import bisect
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ats.datasets.batch import Batch
from ats.images import JoinedImages


class LabelledBatches(Protocol):
    """A data set whose items are batches and whose classes are known beforehand."""

    @property
    def targets(self) -> Tensor:
        """Classes of all images (n) int64."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, index: int) -> Batch:
        """One image as a batch."""

    def __getitems__(self, indices: list[int]) -> Batch:
        """Several images as a batch."""


class Joined(Dataset[Batch]):
    """The images of several data sets, one set after another.

    Args:
        parts: with small views of one shape and type.

    Raises:
        ValueError: no parts.
    """

    def __init__(self, parts: Sequence[LabelledBatches]) -> None:
        if not parts:
            raise ValueError("parts must be at least one data set")
        self.parts = list(parts)
        lengths = torch.tensor([len(part) for part in parts])
        self._ends: list[int] = lengths.cumsum(0).tolist()

    @property
    def targets(self) -> Tensor:
        """Classes of all images (n) int64."""
        return torch.cat([part.targets for part in self.parts])

    def __len__(self) -> int:
        """Number of images."""
        return self._ends[-1]

    def __getitem__(self, index: int) -> Batch:
        """The batch of one image."""
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:
        """The batch of some images."""
        batches = []
        # Counted from the end where they are negative.
        indices = [range(len(self))[index] for index in indices]
        for index in indices:
            number = bisect.bisect_right(self._ends, index)
            start = self._ends[number - 1] if number else 0
            batches.append(self.parts[number].__getitems__([index - start]))
        return Batch(
            x_low=torch.cat([batch.x_low for batch in batches]),
            x_high=JoinedImages([batch.x_high for batch in batches]),
            target=torch.cat([batch.target for batch in batches]),
            index=torch.tensor(indices),
            places=_places(batches),
        )


def _places(batches: Sequence[Batch]) -> Tensor | None:
    """Those of all batches, as far as any knows them."""
    if all(batch.places is None for batch in batches):
        return None
    unknown = [
        torch.full_like(batch.x_high.shapes, torch.nan, dtype=torch.float32) for batch in batches
    ]
    return torch.cat(
        [
            none if batch.places is None else batch.places
            for none, batch in zip(unknown, batches, strict=True)
        ]
    )
