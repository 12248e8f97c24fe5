"""From settings to training and test set."""

import argparse
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ats.datasets.file_images import Bad, ImageFiles, Reading
from ats.datasets.table import Columns, Entry, classes_of, read_folders, read_table
from ats.files import value_digest, write_csv
from ats.images.decoded import DecodedFiles
from ats.training.tasks import TASKS, Array, Classes, Numbers, Task

_SPLIT_COLUMNS = ("path", "label", "group", "split")


class Split(NamedTuple):
    """Entries to train on and to test on."""

    train: list[Entry]
    test: list[Entry]


class Labelled(NamedTuple):
    """Images that can be read, each with its line of the table.

    Attributes:
        entries: of the images, in their order.
        images: all of them.
        task: for their labels.
    """

    entries: list[Entry]
    images: ImageFiles
    task: Task

    def part(self, entries: Sequence[Entry]) -> ImageFiles:
        """The images of some of the entries."""
        places = {entry.path: place for place, entry in enumerate(self.entries)}
        targets = self.task.targets([entry.labels for entry in entries])
        return self.images.part([places[entry.path] for entry in entries], targets)


def read_labelled(args: argparse.Namespace) -> Labelled:
    """The images and labels that settings name, without those that cannot be read.

    Raises:
        ValueError: they name none, or what they name cannot be used.
        ImageError: an image cannot be read and ``strict`` is set.
    """
    entries = read_entries(args)
    # What is wrong with the labels shows before all images are opened, which may take long.
    task = make_task(args, entries)
    images = load_images(entries, task, reading_of(args), decoded_of(args), strict=args.strict)
    entries = [entries[place] for place in images.kept]
    return Labelled(entries, images, make_task(args, entries))


def read_entries(args: argparse.Namespace) -> list[Entry]:
    """The table, or the folders, that settings name.

    Raises:
        ValueError: they name neither, or what they name cannot be used.
    """
    if args.images is None and args.labels is None:
        raise ValueError("images: give --images FOLDER, and --labels TABLE unless it has classes")
    if args.labels is None:
        return read_folders(args.images)
    if len(args.label_column) > 1 and args.task != "numbers":
        raise ValueError(
            f"label_column={args.label_column} names several columns, which --task numbers takes; "
            "for several classes of an image take one column and --task labels"
        )
    columns = Columns(
        args.path_column,
        tuple(args.label_column),
        args.group_column,
        args.split_column,
        (args.label_separator or ";") if args.task == "labels" else None,
    )
    return read_table(args.labels, args.images or str(Path(args.labels).parent), columns)


def make_task(args: argparse.Namespace, entries: Sequence[Entry]) -> Task:
    """The task that settings name, for the labels that occur.

    Raises:
        ValueError: these are none of that task.
    """
    if args.task != "numbers":
        names = classes_of(entries)
        if not names:
            raise ValueError("labels: no image has any; give at least one label")
        if len(names) < 2 and args.task == "classes":
            raise ValueError(f"labels are all {names[0]}; there must be at least two classes")
        joined = [name for name in names if ";" in name]
        if joined and args.task == "labels":
            raise ValueError(f"labels {joined[0]!r} holds a ';', which separates labels; rename it")
        return TASKS[args.task](names)
    numbers = Numbers(args.label_column)
    numbers.targets([entry.labels for entry in entries])
    return numbers


def divide(entries: Sequence[Entry], task: Task, args: argparse.Namespace) -> Split:
    """Training and test entries: as the table says, or at random.

    At random, groups stay together and every class keeps its share as well as it can.

    Raises:
        ValueError: one of the two would be empty, or there is one class alone to train on.
    """
    if args.split_column:
        train, test = split_of(entries)
        both = sorted({entry.group for entry in train} & {entry.group for entry in test} - {""})
        if both:
            raise ValueError(
                f"split_column={args.split_column} has images of {len(both)} groups in both parts, "
                f"such as {both[0]}; correct it, or leave --split_column or --group_column out"
            )
    else:
        part, folds = _fraction(args.test_share)
        parts = islice(divisions(entries, task, folds, args.seed), part)
        test = [entry for _, own in parts for entry in own]
        chosen = {entry.path for entry in test}
        train = [entry for entry in entries if entry.path not in chosen]
    if not train or not test:
        raise ValueError(
            f"{len(train)} images to train on and {len(test)} to test on; give more images, more "
            "groups, or another --test_share"
        )
    names = classes_of(train)
    if isinstance(task, Classes) and len(names) < 2:
        raise ValueError(
            f"labels of the {len(train)} images to train on are all {names[0]}; there must be "
            "at least two classes among them: give more images, or divide them in another way"
        )
    return Split(train, test)


def untrained(split: Split, task: Task) -> list[str]:
    """Classes that no image to train on has."""
    if isinstance(task, Numbers):
        return []
    known = classes_of(split.train)
    return [name for name in task.names if name not in known]


def _fraction(share: float) -> tuple[int, int]:
    """How many of how many equal parts come close to a share."""
    finest = max(10, math.ceil(1 / min(share, 1 - share)))
    fraction = Fraction(share).limit_denominator(finest)
    return fraction.numerator, fraction.denominator


def divisions(
    entries: Sequence[Entry], task: Task, folds: int, seed: int
) -> Iterator[tuple[list[Entry], list[Entry]]]:
    """Training and test entries for each of several folds, each entry tested on once.

    Raises:
        ValueError: there are fewer groups than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    names = group_names([entry.group for entry in entries])
    groups: Array = np.unique(names, return_inverse=True)[1]
    if len(np.unique(groups)) < folds:
        raise ValueError(
            f"{len(np.unique(groups))} images or groups cannot be divided into {folds} parts; give "
            "more of them, another --test_share, or fewer --folds"
        )
    strata = task.strata(task.targets([entry.labels for entry in entries]))
    rare = np.bincount(strata)[strata] < folds
    divider = StratifiedGroupKFold(folds, shuffle=True, random_state=seed % 2**32)
    # Classes rarer than the folds cannot be spread: they are divided as the commonest one is.
    known = np.where(rare, np.bincount(strata).argmax(), strata)
    for train, test in divider.split(strata, known, groups):
        yield [entries[place] for place in train], [entries[place] for place in test]


def group_names(groups: Sequence[str]) -> list[str]:
    """Names of groups, where each image without one is a group of its own."""
    return [group or f"\0{number}" for number, group in enumerate(groups)]


def reading_of(args: argparse.Namespace) -> Reading:
    """How settings say that images are read."""
    return Reading(args.small_side, args.level, args.mpp, args.channels, args.axes)


def decoded_of(args: argparse.Namespace) -> DecodedFiles:
    """Where decoded images are kept."""
    return DecodedFiles(args.cache, int(min(args.cache_gib * 2**30, 2**62)))


def load_images(
    entries: Sequence[Entry], task: Task, reading: Reading, decoded: DecodedFiles, *, strict: bool
) -> ImageFiles:
    """The images of a table as a data set."""
    targets = task.targets([entry.labels for entry in entries])
    paths = [entry.path for entry in entries]
    return ImageFiles(paths, targets, reading, decoded=decoded, strict=strict)


def write_bad(path: Path, bad: Sequence[Bad]) -> None:
    """List the images that were left out, and why."""
    write_csv(path, Bad._fields, bad)


def write_split(path: Path, split: Split) -> None:
    """Write which image is trained on and which is tested on."""
    rows = (
        (_absolute(entry.path), ";".join(entry.labels), entry.group, name)
        for name, entries in split._asdict().items()
        for entry in entries
    )
    write_csv(path, _SPLIT_COLUMNS, rows)


def split_digest(split: Split) -> str:
    """A digest of which image, with which labels, is in which part."""
    return value_digest(split)


def read_split(path: Path, task: Task) -> Split:
    """Read what :func:`write_split` wrote of a task.

    Raises:
        ValueError: it is missing or damaged.
    """
    separator = None if isinstance(task, Classes) else ";"
    columns = Columns(group="group", split="split", separator=separator)
    try:
        return split_of(read_table(path, "", columns))
    except ValueError as error:
        raise ValueError(f"{path} is missing or damaged ({error}); give --labels") from error


def split_of(entries: Sequence[Entry]) -> Split:
    """The two parts as the entries say them."""
    train, test = ([e for e in entries if e.split == name] for name in Split._fields)
    return Split(train, test)


def _absolute(path: str) -> str:
    """A path that is found from wherever ``ats evaluate`` is called."""
    return path if "://" in path else str(Path(path).absolute())
