"""Pictures of where a network looks, while it learns."""

from collections.abc import Callable, Sequence
from pathlib import Path

import lightning
import numpy as np
import torch
from torch import Tensor

from ats.datasets.batch import Batch
from ats.files import write_array
from ats.nn import AttentionSamplingOutput, unit_float
from ats.plots import Array, save_heat_map, save_image, save_overview
from ats.training.sparing import Sparing


class Pictures(lightning.Callback):
    """After every epoch: the attention over one test image, its N patches, and an overview.

    Writes ``image.png`` once, then ``attention_EEE.png``, ``attention_EEE.npy``,
    ``patches_EEE_NN.png`` and, where its time is worth it, ``overview_EEE.png``.

    Args:
        output: folder to write to.
        batch: the test image, a batch of one.
        image: its pixels to draw, (C, H, W), as large as shall be drawn.
        describe: from the logits (T) and the target of the image to what is written above it.
    """

    def __init__(
        self, output: Path, batch: Batch, image: Tensor, describe: Callable[[Tensor, Tensor], str]
    ) -> None:
        self.output = output
        self.batch = batch
        self.image = for_drawing(image)
        self.describe = describe
        self.sparing = Sparing()

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Write the image itself."""
        if trainer.is_global_zero:
            save_image(self.output / "image.png", self.image)

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Write the pictures of this epoch."""
        if not trainer.is_global_zero:
            return
        logits, seen = predict(pl_module, self.batch)
        said = self.describe(logits[0].float().cpu(), self.batch.target[0])
        epoch = trainer.current_epoch
        attention = save_attention(self.output, epoch, seen.attention[0])
        patches = save_patches(self.output, epoch, seen.patches[0])
        if not self.sparing.due(trainer):
            return
        with self.sparing.drawing():
            save_overview(
                self.output / f"overview_{epoch:03d}.png",
                image=self.image,
                attention=attention,
                patches=np.stack(patches),
                boxes=patch_boxes(seen, 0, self.batch.x_high.shapes[0]),
                title=f"Epoch {epoch + 1}: {said}",
            )


def class_and_truth(classes: Sequence[str]) -> Callable[[Tensor, Tensor], str]:
    """Says which class is predicted and which is true."""

    def describe(logits: Tensor, target: Tensor) -> str:
        return f"predicted {classes[int(logits.argmax())]}, true {classes[int(target)]}"

    return describe


def predict(
    pl_module: lightning.LightningModule, batch: Batch
) -> tuple[Tensor, AttentionSamplingOutput]:
    """Logits of a batch, and what was seen, by a network in training: as they are measured."""
    # Parts of it may not be in training.
    modes = [(part, part.training) for part in pl_module.modules()]
    pl_module.eval()
    with torch.no_grad():
        batch = pl_module.transfer_batch_to_device(batch, pl_module.device, 0)
        logits, seen = pl_module(batch)
    for part, training in modes:
        part.training = training
    return logits, seen


def save_attention(folder: Path, epoch: int, attention: Tensor) -> Array:
    """Write ``attention_EEE.png`` and ``.npy`` of a map (h, w), and return it."""
    values: Array = attention.float().cpu().numpy()
    save_heat_map(folder / f"attention_{epoch:03d}.png", values)
    write_array(folder / f"attention_{epoch:03d}.npy", values)
    return values


def save_patches(folder: Path, epoch: int, patches: Tensor) -> list[Array]:
    """Write ``patches_EEE_NN.png`` of patches (N, C, h, w), and return them as they are drawn."""
    drawn = [for_drawing(patch) for patch in patches.float().cpu()]
    for number, patch in enumerate(drawn):
        save_image(folder / f"patches_{epoch:03d}_{number:02d}.png", patch)
    return drawn


def patch_boxes(seen: AttentionSamplingOutput, place: int, shape: Tensor) -> Array:
    """Patches of one image of a batch as shares of its extents: (N, 4) top, left, height, width."""
    size = torch.tensor(seen.patches.shape[-2:]).expand(seen.patches.shape[1], 2)
    boxes: Array = torch.cat([seen.offsets[place].cpu() / shape, size / shape], 1).numpy()
    return boxes


def for_drawing(pixels: Tensor) -> Array:
    """(H, W) or (H, W, 3) in [0, 1] of pixels (C, H, W): the first channel, or the first three."""
    array: Array = unit_float(pixels).numpy()
    return array[0] if array.shape[0] < 3 else array[:3].transpose(1, 2, 0)
