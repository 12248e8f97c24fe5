"""``ats train`` and ``ats crossval``."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch

from ats.cli.data import (
    Labelled,
    Split,
    divide,
    divisions,
    read_labelled,
    split_digest,
    untrained,
    write_bad,
    write_split,
)
from ats.cli.measure import finite, predict_all, write_measures, write_predictions
from ats.cli.model import Trained, build, load_model, pixel_statistics, save_model
from ats.datasets.file_images import Bad
from ats.files import write_json
from ats.training.folder import check_output
from ats.training.run import fit


def train(args: argparse.Namespace) -> None:
    """Train on a user's images, then measure the held-out ones.

    Raises:
        ValueError: settings that do not fit each other or the images.
        ImageError: an image cannot be read and ``strict`` is set.
    """
    output = Path(_output(args))
    # Before the images are read, which may take long.
    check_output(output, resume=args.resume)
    data = read_labelled(args)
    _say_bad(data.images.bad)
    result = train_on(divide(data.entries, data.task, args), data, args, output)
    print(write_measures(Path(args.output), data.task, *result))


def crossval(args: argparse.Namespace) -> None:
    """Train once for each fold, and measure every image by the network that never saw it.

    A fold that is finished is not trained again.
    """
    root = Path(_output(args))
    data = read_labelled(args)
    task = data.task
    _say_bad(data.images.bad)
    found = []
    for number, split in enumerate(divisions(data.entries, task, args.folds, args.seed)):
        folder = root / f"fold_{number}"
        own = argparse.Namespace(**{**vars(args), "output": str(folder)})
        # Folds that are done, and the one that was interrupted, go on where they were.
        own.resume = args.resume and folder.exists()
        print(f"Fold {number + 1} of {args.folds}", flush=True)
        result = train_on(Split(*split), data, own, folder)
        write_measures(folder, task, *result)
        found.append(result)
    scores, targets, groups = zip(*found, strict=True)
    every = (np.concatenate(scores), torch.cat(targets), [name for own in groups for name in own])
    print(write_measures(root, task, *every))
    spread = {
        name: [finite(metric(own, wanted.numpy())) for own, wanted, _ in found]
        for name, metric in task.metrics().items()
    }
    write_json(root / "folds.json", spread)
    print(by_fold(spread))


def by_fold(spread: Mapping[str, Sequence[float | None]]) -> str:
    """Metrics of each fold and their mean, in lines for the terminal."""
    lines = ["each fold by itself, and the mean"]
    for name, values in spread.items():
        known = [value for value in values if value is not None]
        each = " ".join("unknown" if value is None else f"{value:.3f}" for value in values)
        mean = f"{sum(known) / len(known):.3f}" if known else "unknown"
        lines.append(f"  {name.replace('_', ' ')}: {each}, {mean}")
    return "\n".join(lines)


def train_on(
    split: Split, data: Labelled, args: argparse.Namespace, folder: Path
) -> tuple[Any, torch.Tensor, list[str]]:
    """Train on one part, and give scores, targets and groups of the other."""
    reading = data.images.reading
    train_set, test_set = (data.part(entries) for entries in split)
    task = data.task.fitted(train_set.targets)
    if missing := untrained(split, task):
        print(f"no image to train on is {', '.join(missing)}; it will not be learnt")

    def write_all_bad() -> None:
        write_bad(folder / "bad_images.csv", data.images.bad + train_set.bad + test_set.bad)

    settings = vars(args)
    pixels = pixel_statistics(train_set)
    torch.manual_seed(args.seed)
    model = build(settings, task, reading, pixels)
    weights = task.class_weights(train_set.targets) if args.class_weights else None

    fit(
        model,
        train_set,
        test_set,
        args,
        {
            "n_train": len(train_set),
            "n_test": len(test_set),
            "task": task.name,
            # A run that goes on must not be tested on what it was trained on.
            "split": split_digest(split),
        },
        task.names,
        picture=(test_set[0], test_set.small_view(0)),
        describe=lambda logits, _: task.say(task.scores(logits[None])[0].tolist()),
        callbacks=[
            Begin(
                lambda: save_model(folder, settings, task, reading, pixels),
                lambda: write_split(folder / "split.csv", split),
                write_all_bad,
            )
        ],
        class_weights=weights,
        loss=task.loss,
        error=task.error,
    )
    trained: Trained = load_model(folder)
    found = predict_all(trained, test_set)
    write_predictions(folder / "predictions.csv", task, found)
    write_all_bad()
    _say_damaged(train_set.bad + test_set.bad, folder)
    groups = [split.test[place].group for place in found.places]
    return found.scores, found.images.targets, groups


class Begin(lightning.Callback):
    """What is written once the folder of the run is known to be free.

    Args:
        steps: called one after another.
    """

    def __init__(self, *steps: Callable[[], None]) -> None:
        self.steps = steps

    def on_fit_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Take the steps, on one device."""
        if trainer.is_global_zero:
            for step in self.steps:
                step()


def _say_bad(bad: Sequence[Bad]) -> None:
    if not bad:
        return
    print(f"{len(bad)} images cannot be read and are left out:")
    for entry in bad[:10]:
        print(f"  {entry.reason}")
    if len(bad) > 10:
        print("  and more, which bad_images.csv in the folder of the run will list")


def _say_damaged(bad: Sequence[Bad], folder: Path) -> None:
    if bad:
        print(
            f"{len(bad)} images could not be read where patches lie, such as {bad[0].reason}; "
            f"those to test on are left out of what follows. {folder / 'bad_images.csv'} lists all"
        )


def _output(args: argparse.Namespace) -> str:
    if args.output is None:
        raise ValueError("out: give --out FOLDER for the results")
    output: str = args.output
    classes = args.images if args.labels is None else None
    if classes and Path(output).resolve().is_relative_to(Path(classes).resolve()):
        raise ValueError(
            f"out={output} lies in images={classes}, of which every folder is a class; choose "
            "another folder"
        )
    return output
