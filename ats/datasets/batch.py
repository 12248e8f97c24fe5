"""What a data set hands to a training loop."""

from typing import NamedTuple

from torch import Tensor

from ats.images import Images


class Batch(NamedTuple):
    """Some images of a data set with their labels.

    Attributes:
        x_low: small views (B, C, h, w), float32 in [0, 1] or uint8.
        x_high: the same images in full resolution, read patch by patch.
        target: classes (B,) int64.
        index: places of the images in the data set (B,) int64.
    """

    x_low: Tensor
    x_high: Images
    target: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody calls


def collate(batch: Batch) -> Batch:
    """The batch itself: for ``DataLoader(collate_fn=...)`` over a data set that fetches batches."""
    return batch
