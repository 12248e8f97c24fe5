"""Which classes are taken for which."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
from torchmetrics.classification import MulticlassConfusionMatrix

from ats.datasets.batch import Batch
from ats.files import write_csv
from ats.plots import Array, save_confusion
from ats.training.measured import Measured


class Confusion(Measured):
    """After every epoch ``confusion.csv`` and ``confusion.png``: counts of the test set.

    A row for each true class, a column for each predicted one.

    Args:
        output: folder to write to.
        classes: names of the classes.
    """

    def __init__(self, output: Path, classes: list[str]) -> None:
        self.output = output
        self.classes = classes
        self.counts = MulticlassConfusionMatrix(len(classes))
        super().__init__([self.counts])

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch."""
        self.counts.update(outputs["logits"], batch.target)

    def on_validation_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Write both files."""
        counts = self.counts.compute().cpu().numpy()
        if not trainer.is_global_zero:
            return
        write_confusion(self.output, counts, self.classes)


def write_confusion(folder: Path, counts: Array, classes: Sequence[str]) -> None:
    """Write ``confusion.csv`` and ``confusion.png`` of counts (true, predicted)."""
    rows = ([name, *row] for name, row in zip(classes, counts.tolist(), strict=True))
    write_csv(folder / "confusion.csv", ["true", *classes], rows)
    save_confusion(folder / "confusion.png", counts, classes)
