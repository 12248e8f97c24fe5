"""``ats evaluate``, ``ats predict`` and ``ats explain``: what a trained network says and sees."""

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

import torch

from ats.cli.data import decoded_of, load_images, read_entries, read_split, write_bad
from ats.cli.measure import (
    Prediction,
    predict_all,
    predict_image,
    prediction_rows,
    write_measures,
    write_predictions,
)
from ats.cli.model import Trained, load_model
from ats.datasets.file_images import ImageFiles
from ats.datasets.table import Entry, find_images, identity
from ats.files import writable_folder, write_array, write_csv, write_json
from ats.images import ImageError
from ats.images.opening import is_zarr
from ats.plots import save_heat_over, save_image
from ats.training.pictures import for_drawing, patch_boxes
from ats.training.tasks import Numbers, Task


def evaluate(args: argparse.Namespace) -> None:
    """Measure a trained network on its held-out images, or on others with labels."""
    run = Path(args.run)
    trained = load_model(run)
    if args.images or args.labels:
        args.task = trained.task.name
        if isinstance(trained.task, Numbers):
            args.label_column = _number_columns(trained.task, args.label_column)
        # Where the table says which images were trained on, they are no test.
        entries = [entry for entry in read_entries(args) if entry.split != "train"]
        entries = _without_trained(entries, run, trained.task)
    else:
        entries = read_split(run / "split.csv", trained.task).test
    images = load_images(
        entries, trained.task, trained.reading, decoded_of(args), strict=args.strict
    )
    found = predict_all(trained, images)
    folder = writable_folder(args.output or run / "evaluation")
    write_predictions(folder / "predictions.csv", trained.task, found)
    write_bad(folder / "bad_images.csv", images.bad)
    _say_bad(images)
    groups = [entries[images.kept[place]].group for place in found.places]
    print(write_measures(folder, trained.task, found.scores, found.images.targets, groups))


def _without_trained(entries: list[Entry], run: Path, task: Task) -> list[Entry]:
    """Entries without the images that the run was trained on, where it says so.

    Raises:
        ValueError: there are no others, or what it says is damaged.
    """
    table = run / "split.csv"
    known = read_split(table, task).train if table.exists() else []
    trained = {identity(entry.path) for entry in known}
    left = [entry for entry in entries if identity(entry.path) not in trained]
    if not left:
        raise ValueError(f"all {len(entries)} images were trained on by {run}; give others")
    if len(left) < len(entries):
        print(f"left out: {len(entries) - len(left)} images that were trained on", file=sys.stderr)
    return left


def _number_columns(task: Numbers, given: list[str]) -> list[str]:
    """The columns of the numbers, which are those of the training."""
    if given not in (["label"], task.names):
        raise ValueError(
            f"label_column={given}, but the network says {task.names}; leave --label_column out, "
            "and give the columns these names"
        )
    return task.names


def predict(args: argparse.Namespace) -> int:
    """Print a table of predictions, or write it to a file; 1 where images were left out, else 0."""
    trained = load_model(Path(args.run))
    images = _images(args, trained)
    found = predict_all(trained, images)
    if args.output:
        write_predictions(Path(args.output), trained.task, found)
    else:
        table = csv.writer(sys.stdout, lineterminator="\n")
        table.writerows(prediction_rows(trained.task, found))
    _say_bad(images)
    return int(bool(images.bad))


def explain(args: argparse.Namespace) -> int:
    """For each image a heat map over it, its patches, and where they are, in level-0 pixels.

    Returns:
        1 where images were left out, else 0.

    Raises:
        ImageError: an image cannot be read and ``strict`` is set.
    """
    trained = load_model(Path(args.run))
    images = _images(args, trained)
    root = writable_folder(args.output)
    for index in range(len(images)):
        folder = root / _folder_name(images, index)
        try:
            explain_image(trained, images, index, folder)
            print(folder, flush=True)
        except ImageError as error:
            if args.strict:
                raise
            images.note(images.readers[index].path, error)
    _say_bad(images)
    return int(bool(images.bad))


def explain_image(trained: Trained, images: ImageFiles, index: int, folder: Path) -> None:
    """Write pictures of the attention and the patches, and where these lie, into a folder.

    Raises:
        ImageError: a patch cannot be read.
    """
    found = predict_image(trained, images, index)
    folder.mkdir(exist_ok=True)
    for former in folder.glob("patch_*.png"):
        # There may have been more of them.
        former.unlink()
    seen = found.seen
    view = images.small_view(index)
    attention = content_of(seen.attention[0], found.batch.x_low.shape[2:], view.shape[1:])
    places = patch_places(found, images, index)
    write_array(folder / "attention.npy", attention.numpy())
    boxes = patch_boxes(seen, 0, found.batch.x_high.shapes[0])
    save_heat_over(folder / "overlay.png", for_drawing(view), attention.numpy(), boxes)
    for number, patch in enumerate(seen.patches[0]):
        save_image(folder / f"patch_{number:02d}.png", for_drawing(patch))
    write_csv(folder / "patches.csv", list(places[0]), (place.values() for place in places))
    task = trained.task
    write_json(
        folder / "explain.json",
        {
            "path": images.readers[index].path,
            "shape": list(images.readers[index].shape),
            "prediction": task.say(found.scores.tolist()),
            "scores": dict(zip(task.names, map(float, found.scores), strict=True)),
            "patches": places,
        },
    )


def patch_places(found: Prediction, images: ImageFiles, index: int) -> list[dict[str, Any]]:
    """A line for each patch: first pixel and extents at level 0, attention and weight."""
    reader, level = images.readers[index], images.levels[index]
    shapes = reader.layout.shapes
    factors = [fine / coarse for fine, coarse in zip(shapes[0], shapes[level], strict=True)]
    seen = found.seen
    size = seen.patches.shape[-2:]
    lines = []
    for number, (position, offset) in enumerate(
        zip(seen.positions[0].tolist(), seen.offsets[0].tolist(), strict=True)
    ):
        lines.append(
            {
                "patch": number,
                "x": round(offset[1] * factors[1]),
                "y": round(offset[0] * factors[0]),
                "width": round(size[1] * factors[1]),
                "height": round(size[0] * factors[0]),
                "attention": float(seen.attention[0][tuple(position)]),
                "weight": float(seen.weights[0, number]),
            }
        )
    return lines


def content_of(attention: torch.Tensor, padded: Any, content: Any) -> torch.Tensor:
    """The part of an attention map (h, w) that lies on the image, without padding."""
    extents = [
        max(1, round(positions * own / whole))
        for positions, own, whole in zip(attention.shape, content, padded, strict=True)
    ]
    return attention[: extents[0], : extents[1]]


def _images(args: argparse.Namespace, trained: Trained) -> ImageFiles:
    """The images named on the command line; of a folder all."""
    paths = []
    for name in args.image:
        path = Path(name)
        found = [name]
        if path.is_dir() and not is_zarr(name):
            found = [str(image) for image in find_images(path)]
            if not found:
                raise ValueError(f"image={name} is a folder without images; give another")
        paths += found
    targets = torch.zeros(len(paths))
    return ImageFiles(paths, targets, trained.reading, decoded=decoded_of(args), strict=args.strict)


def _folder_name(images: ImageFiles, index: int) -> str:
    """The name of an image, numbered where others have the same."""
    names = [images.path(number).name for number in range(len(images))]
    name = names[index]
    return f"{name}-{names[:index].count(name)}" if names.count(name) > 1 else name


def _say_bad(images: ImageFiles) -> None:
    for bad in images.bad:
        print(f"left out: {bad.reason}", file=sys.stderr)
