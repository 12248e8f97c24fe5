"""Whether a network that knows labels alone looks at what the labels name."""

from collections.abc import Sequence
from typing import Any

import lightning
import torch
from torch import Tensor
from torchmetrics import MeanMetric

from ats.datasets.batch import Batch
from ats.datasets.scenes import Box
from ats.geometry import patch_offsets
from ats.nn import AttentionSamplingOutput, SamplePatches
from ats.training.measured import Measured


class Pointing(Measured):
    """Of the test images that show an object: how often a patch covers its centre.

    Logs ``test_pointing``, the share of these images in which at least one patch covers the centre
    of an object, and ``test_attention_on_objects``, the mean attention of all positions whose patch
    does: the probability that a single patch drawn from the attention covers one.

    Args:
        boxes: of each test image, where it shows what its label names; none in images to leave out.
    """

    def __init__(self, boxes: Sequence[Sequence[Box]]) -> None:
        self.boxes = boxes
        names = ("test_pointing", "test_attention_on_objects")
        # Without any object there is nothing to measure.
        self.measures = names if any(boxes) else ()
        self.hits = MeanMetric()
        self.mass = MeanMetric()
        super().__init__([self.hits, self.mass])

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the images of a batch that show an object."""
        seen: AttentionSamplingOutput = outputs["seen"]
        model: Any = pl_module.kept
        sample: SamplePatches = model.sampling.sample
        offsets, attention = seen.offsets, seen.attention
        everywhere = offsets_of_positions(sample, attention, batch)
        for place, index in enumerate(batch.index.tolist()):
            if not self.boxes[index]:
                continue
            centres = box_centres(self.boxes[index]).to(offsets.device)
            hit = covers(offsets[place], sample.patch_size, centres).any()
            self.hits.update(hit.float())
            on_object = covers(everywhere[place], sample.patch_size, centres).any(1)
            self.mass.update(attention[place].flatten()[on_object].sum())

    def on_validation_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Log both."""
        for name, metric in zip(self.measures, (self.hits, self.mass), strict=False):
            # Already that of all devices.
            pl_module.log(name, metric.compute(), rank_zero_only=False)


def box_centres(boxes: Sequence[Box]) -> Tensor:
    """Centres (n, 2) of boxes, row and column."""
    edges = torch.tensor(boxes)
    return (edges[:, :2] + edges[:, 2:]) / 2


def covers(offsets: Tensor, size: Sequence[int], points: Tensor) -> Tensor:
    """Whether patches at offsets (N, D) cover points (P, D): (N, P)."""
    distance = points - offsets.unsqueeze(1)
    extents = torch.tensor(list(size), device=offsets.device)
    return ((distance >= 0) & (distance < extents)).all(2)


def offsets_of_positions(sample: SamplePatches, attention: Tensor, batch: Batch) -> Tensor:
    """Offsets (B, K, D) of the patches of all positions of an attention map (B, \\*map)."""
    shape = attention.shape[1:]
    axes = [torch.arange(extent, device=attention.device) for extent in shape]
    grid = torch.cartesian_prod(*axes).reshape(1, -1, len(shape))
    return patch_offsets(
        grid.expand(len(attention), -1, -1),
        map_shape=shape,
        low_shape=batch.x_low.shape[2:],
        high_shape=batch.x_high.shapes,
        patch_size=sample.patch_size,
        receptive_field=sample.receptive_field,
        content_shape=batch.content_shape,
    )
