"""Predictions for a data set, and how good they are."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix

from ats.cli.model import Trained
from ats.datasets.file_images import ImageFiles
from ats.datasets.progress import progress_bar
from ats.files import atomic_path, write_json
from ats.nn import AttentionSamplingOutput
from ats.plots import save_confusion
from ats.training.tasks import Array, Classes, Interval, Task, with_intervals


class Prediction(NamedTuple):
    """What a network says of one image, and what it saw."""

    scores: Array
    seen: AttentionSamplingOutput


def predict_image(trained: Trained, images: ImageFiles, index: int) -> Prediction:
    """The prediction for one image of a set.

    Always by itself, and deterministic, so that it depends on nothing but the image.
    """
    with torch.no_grad():
        batch = images[index]
        # The generator counts where a network was told to sample in predictions, too.
        logits, seen = trained.model(
            batch.x_low,
            batch.x_high,
            generator=torch.Generator().manual_seed(0),
            content_shape=batch.content_shape,
        )
        return Prediction(trained.task.scores(logits)[0].numpy(), seen)


def predict_all(trained: Trained, images: ImageFiles, *, progress: bool = True) -> Array:
    """Scores (n, T) of every image."""
    scores = []
    with progress_bar("predictions", len(images), unit=" images", shown=progress) as bar:
        for index in range(len(images)):
            scores.append(predict_image(trained, images, index).scores)
            bar.update()
    return np.stack(scores)


def write_predictions(path: Path, task: Task, images: ImageFiles, scores: Array) -> None:
    """A line for each image: its path, the prediction, and the score of every output."""
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "prediction", *task.names])
        for index, row in enumerate(scores):
            numbers = [f"{value:.6g}" for value in row]
            writer.writerow([images.readers[index].path, task.say(row.tolist()), *numbers])


def measure(
    task: Task, scores: Array, targets: torch.Tensor, groups: Sequence[str]
) -> dict[str, Interval]:
    """Every metric of a task with its 95 % interval."""
    # Images without a group are each one of their own.
    named = [group or f"\0{number}" for number, group in enumerate(groups)]
    return with_intervals(task.metrics(), scores, targets.numpy(), named)


def write_measures(
    folder: Path, task: Task, scores: Array, targets: torch.Tensor, groups: Sequence[str]
) -> str:
    """Write ``metrics.json``, and for classes the confusion matrix; the metrics as a table."""
    found = measure(task, scores, targets, groups)
    values: dict[str, Any] = {name: _finite(interval) for name, interval in found.items()}
    write_json(folder / "metrics.json", {"images": len(targets), **values})
    if isinstance(task, Classes):
        counts = multiclass_confusion_matrix(
            torch.from_numpy(scores), targets, num_classes=len(task.names)
        )
        save_confusion(folder / "confusion.png", counts.numpy(), task.names)
        with atomic_path(folder / "confusion.csv") as temporary, temporary.open("w") as file:
            writer = csv.writer(file)
            writer.writerow(["true", *task.names])
            rows = zip(task.names, counts.tolist(), strict=True)
            writer.writerows([name, *row] for name, row in rows)
    return table(found, len(targets), len(set(groups) - {""}))


def table(found: dict[str, Interval], n_images: int, n_groups: int) -> str:
    """Metrics in lines for the terminal."""
    over = f"{n_groups} groups" if n_groups else "images"
    lines = [f"{n_images} images; 95 % intervals by the bootstrap over {over}"]
    for name, interval in found.items():
        between = f"[{interval.low:.3f}, {interval.high:.3f}]"
        lines.append(f"  {name.replace('_', ' ')}: {interval.value:.3f} {between}")
    return "\n".join(lines)


def _finite(interval: Interval) -> dict[str, float | None]:
    """JSON has no NaN."""
    return {
        name: value if np.isfinite(value) else None for name, value in interval._asdict().items()
    }


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        ValueError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is missing or damaged ({error})") from error
