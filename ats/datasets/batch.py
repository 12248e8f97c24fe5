"""What a data set hands to a training loop."""

from typing import Any, NamedTuple

from torch import Tensor

from ats.images import Images


class Batch(NamedTuple):
    """Some images of a data set with their labels.

    Attributes:
        x_low: small views (B, C, h, w), float32 in [0, 1] or uint8.
        x_high: the same images in full resolution, read patch by patch.
        target: classes (B,) int64, or what else a task learns, (B, \\*T).
        index: places of the images in the data set (B,) int64.
        content_shape: extents (B, D) of that part of each small view that shows the image, where
            images of different sizes are padded; None where there is no padding.
        drawn: positions and patches that were drawn ahead (:class:`ats.Drawn`), or None.
        places: centres (B, D) of the object of each image in pixels, float, NaN where there is none
            or it is not known; None if that is so for all.
    """

    x_low: Tensor
    x_high: Images
    target: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    content_shape: Tensor | None = None
    drawn: Any = None
    places: Tensor | None = None


def collate(batch: Batch) -> Batch:
    """The batch itself: for ``DataLoader(collate_fn=...)`` over a data set that fetches batches."""
    return batch
