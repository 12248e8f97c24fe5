"""Predictions for a data set, and how good they are."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix

from ats.cli.data import group_names
from ats.cli.model import Trained
from ats.datasets.batch import Batch
from ats.datasets.file_images import ImageFiles
from ats.datasets.progress import progress_bar
from ats.files import write_csv, write_json
from ats.images import ImageError
from ats.nn import AttentionSamplingOutput
from ats.training.confusion import write_confusion
from ats.training.tasks import Array, Classes, Interval, Task, with_intervals


class Prediction(NamedTuple):
    """What a network says of one image, and what it saw.

    Attributes:
        scores: (T,) of its outputs.
        seen: of a batch of one.
        batch: the image.
    """

    scores: Array
    seen: AttentionSamplingOutput
    batch: Batch


def predict_image(trained: Trained, images: ImageFiles, index: int) -> Prediction:
    """The prediction for one image of a set.

    Always by itself, and deterministic, so that it depends on nothing but the image.

    Raises:
        ImageError: a patch cannot be read.
    """
    with torch.no_grad():
        batch = images.batch([index], strict=True)
        # The generator counts where a network was told to sample in predictions, too.
        logits, seen = trained.model(
            batch.x_low,
            batch.x_high,
            generator=torch.Generator().manual_seed(0),
            content_shape=batch.content_shape,
        )
        return Prediction(trained.task.scores(logits)[0].numpy(), seen, batch)


class Predictions(NamedTuple):
    """What a network says of the images that can be read.

    Attributes:
        images: these.
        scores: (n, T) of its outputs.
        places: of these images among those that were given.
    """

    images: ImageFiles
    scores: Array
    places: list[int]


def predict_all(trained: Trained, images: ImageFiles, *, progress: bool = True) -> Predictions:
    """Scores of every image; one of which a patch cannot be read is noted and left out.

    Raises:
        ImageError: a patch cannot be read and the images are ``strict``.
        ValueError: no image can be read.
    """
    scores, places = [], []
    with progress_bar("predictions", len(images), unit=" images", shown=progress) as bar:
        for index in range(len(images)):
            try:
                scores.append(predict_image(trained, images, index).scores)
                places.append(index)
            except ImageError as error:
                if images.strict:
                    raise
                images.note(images.readers[index].path, error)
            bar.update()
    if not scores:
        raise ValueError(f"none of {len(images)} images can be read ({images.bad[0].reason})")
    return Predictions(images.part(places, images.targets[places]), np.stack(scores), places)


def prediction_rows(task: Task, found: Predictions) -> Iterator[list[str]]:
    """A header, and for each image its path, the prediction, and the score of every output."""
    yield ["path", "prediction", *task.names]
    for reader, row in zip(found.images.readers, found.scores, strict=True):
        yield [reader.path, task.say(row.tolist()), *(f"{value:.6g}" for value in row)]


def write_predictions(path: Path, task: Task, found: Predictions) -> None:
    """Write :func:`prediction_rows`."""
    header, *rows = prediction_rows(task, found)
    write_csv(path, header, rows)


def write_measures(
    folder: Path, task: Task, scores: Array, targets: torch.Tensor, groups: Sequence[str]
) -> str:
    """Write ``metrics.json``, and for classes the confusion matrix; the metrics as a table."""
    found = with_intervals(task.metrics(), scores, targets.numpy(), group_names(groups))
    values: dict[str, Any] = {
        name: {end: finite(value) for end, value in interval._asdict().items()}
        for name, interval in found.items()
    }
    write_json(folder / "metrics.json", {"images": len(targets), **values})
    if isinstance(task, Classes):
        counts = multiclass_confusion_matrix(
            torch.from_numpy(scores), targets, num_classes=len(task.names)
        )
        write_confusion(folder, counts.numpy(), task.names)
    return table(found, len(targets), len(set(groups) - {""}))


def table(found: dict[str, Interval], n_images: int, n_groups: int) -> str:
    """Metrics in lines for the terminal."""
    over = f"{n_groups} groups" if n_groups else "images"
    lines = [f"{n_images} images; 95 % intervals by the bootstrap over {over}"]
    for name, interval in found.items():
        known = np.isfinite(interval.low)
        between = f"[{interval.low:.3f}, {interval.high:.3f}]" if known else "[unknown]"
        lines.append(f"  {name.replace('_', ' ')}: {interval.value:.3f} {between}")
    return "\n".join(lines)


def finite(value: float) -> float | None:
    """A number, or None for NaN, which JSON does not have."""
    return value if np.isfinite(value) else None
