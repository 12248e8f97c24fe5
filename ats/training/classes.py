"""How many images there are of each class, and what they weigh."""

from pathlib import Path
from typing import Any

import lightning
from torch import Tensor

from ats.datasets.scenes import (
    Scenes,
    SceneSource,
    balanced_weights,
    class_counts,
    scenes_digest,
)
from ats.files import write_csv

COLUMNS = ("class", "train_images", "train_frequency", "weight", "test_images", "test_frequency")


class ClassTable(lightning.Callback):
    """Writes ``classes.csv`` once: images, frequency and weight of each class.

    Args:
        output: folder to write to.
        train: classes of the training images (n) int64.
        test: classes of the test images (m) int64.
        classes: names of the classes.
    """

    def __init__(self, output: Path, train: Tensor, test: Tensor, classes: list[str]) -> None:
        self.output = output
        weights = balanced_weights(train, classes).tolist()
        counts = class_counts(train, classes), class_counts(test, classes)
        self.rows = []
        for name, weight in zip(classes, weights, strict=True):
            shares = [
                (part[name], round(part[name] / len(targets), 6))
                for part, targets in zip(counts, (train, test), strict=True)
            ]
            self.rows.append((name, *shares[0], round(weight, 6), *shares[1]))

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Write the table."""
        if trainer.is_global_zero:
            write_csv(self.output / "classes.csv", COLUMNS, self.rows)


def scene_parameters(train: Tensor, test: Scenes, source: SceneSource) -> dict[str, Any]:
    """What a run's ``parameters.json`` says of its scenes.

    Args:
        train: classes of the training images (n) int64.
        test: the test images.
        source: of all of them.
    """
    counts = {"train": class_counts(train, test.classes)}
    counts["test"] = class_counts(test.targets, test.classes)
    described = {
        part: ", ".join(f"{name} {count}" for name, count in counts[part].items())
        for part in counts
    }
    return {
        "n_train": len(train),
        "n_test": len(test),
        "height": test.high_shape[0],
        "width": test.high_shape[1],
        "train_images": described["train"],
        "test_images": described["test"],
        # A run that goes on must not be tested on what it was trained on.
        "scenes": scenes_digest(source),
    }
