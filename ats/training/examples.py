"""A fixed selection of test images: where the network looks in each, epoch by epoch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import lightning
from torch import Tensor

from ats.datasets.batch import Batch
from ats.files import atomic_path
from ats.plots import save_boxes, save_image
from ats.training.pictures import for_drawing, patch_boxes, predict, save_attention, save_patches
from ats.training.sparing import Sparing

COLUMNS = ("epoch", "example", "image", "class", "predicted", "patch", "x", "y", "weight")


class Looked(Protocol):
    """A data set whose images can be looked at whole."""

    def __getitems__(self, indices: list[int]) -> Batch:
        """Several images as a batch."""

    def pixels(self, index: int) -> Tensor:
        """All pixels of one image, (C, H, W)."""


class Examples(lightning.Callback):
    """After every epoch the attention and the patches of some test images.

    Writes for example ``NN`` into ``examples/NN``: ``image.png``, its small view, once, and
    ``attention_EEE.png``, ``attention_EEE.npy`` and ``patches_EEE_PP.png``; into the output folder
    ``points.txt``, a line for each patch with its centre (x, y) in pixels, and, where its time is
    worth it, ``examples_EEE.png``, all of them with their patches.

    Args:
        output: folder to write to.
        dataset: the test set.
        indices: of the images to show.
        names: of these images.
        classes: names of the classes.
    """

    def __init__(
        self,
        output: Path,
        dataset: Looked,
        indices: Sequence[int],
        names: Sequence[str],
        classes: list[str],
    ) -> None:
        self.output = output
        self.batch = dataset.__getitems__(list(indices))
        self.images = [for_drawing(dataset.pixels(index)) for index in indices]
        self.names = names
        self.classes = classes
        self.sparing = Sparing()

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Write the small views, and begin the table or go on with it."""
        if not trainer.is_global_zero:
            return
        for number, view in enumerate(self.batch.x_low):
            folder = self._folder(number)
            folder.mkdir(parents=True, exist_ok=True)
            save_image(folder / "image.png", for_drawing(view))
        self._write_points(self._former_points(trainer.current_epoch))

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Write the pictures of this epoch."""
        if not trainer.is_global_zero:
            return
        logits, seen = predict(pl_module, self.batch)
        epoch = trainer.current_epoch
        predicted = [self.classes[number] for number in logits.argmax(1).tolist()]
        truth = [self.classes[number] for number in self.batch.target.tolist()]
        lines = self._former_points(epoch)
        boxes, shapes = [], self.batch.x_high.shapes
        for number in range(len(self.images)):
            folder = self._folder(number)
            save_attention(folder, epoch, seen.attention[number])
            save_patches(folder, epoch, seen.patches[number])
            boxes.append(patch_boxes(seen, number, shapes[number]))
            centres = boxes[-1][:, :2] + boxes[-1][:, 2:] / 2
            weights = seen.weights[number].tolist()
            for patch, (y, x) in enumerate((centres * shapes[number].numpy()).tolist()):
                entry = (epoch, number, self.names[number], truth[number], predicted[number])
                place = (patch, f"{x:.1f}", f"{y:.1f}", f"{weights[patch]:.5f}")
                lines.append("\t".join(map(str, (*entry, *place))))
        self._write_points(lines)
        titles = [f"{was}, true {true}" for was, true in zip(predicted, truth, strict=True)]
        if self.sparing.due(trainer):
            with self.sparing.drawing():
                save_boxes(self.output / f"examples_{epoch:03d}.png", self.images, boxes, titles)

    def _folder(self, number: int) -> Path:
        return self.output / "examples" / f"{number:02d}"

    def _former_points(self, epoch: int) -> list[str]:
        """Lines of the epochs before this one."""
        path = self.output / "points.txt"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()[1:] if path.exists() else []
            return [line for line in lines if int(line.split("\t", 1)[0]) < epoch]
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}); remove it to go on") from error

    def _write_points(self, lines: Sequence[str]) -> None:
        with atomic_path(self.output / "points.txt") as temporary:
            text = "\n".join(("\t".join(COLUMNS), *lines)) + "\n"
            temporary.write_text(text, encoding="utf-8")


def strided(n_images: int, count: int) -> list[int]:
    """At most so many indices of images, evenly spread."""
    stride = -(-n_images // count)
    return list(range(0, n_images, stride))
