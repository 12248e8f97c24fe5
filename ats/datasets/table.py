"""Tables of images with their labels: a CSV file, or a folder for each class."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ats.images.opening import image_suffixes, is_zarr


class Entry(NamedTuple):
    """A line of a table.

    Attributes:
        path: of the image.
        labels: what it is labelled with: one class, several, or a number for each target.
        group: images of one group are never divided between training and test.
        split: ``train`` or ``test`` where the table says it, else empty.
    """

    path: str
    labels: tuple[str, ...]
    group: str = ""
    split: str = ""


class Columns(NamedTuple):
    """Names of the columns of a table.

    Attributes:
        path: of the image, absolute, an address, or relative to the folder of the images.
        labels: one column, or one for each target of a regression.
        group: such as the patient; None for none.
        split: ``train`` or ``test``; None for none.
        separator: between several classes in one field; None where an image has one.
    """

    path: str = "path"
    labels: tuple[str, ...] = ("label",)
    group: str | None = None
    split: str | None = None
    separator: str | None = None


def read_table(file: str | os.PathLike[str], images: str, columns: Columns) -> list[Entry]:
    """The entries of a CSV file with a header.

    Args:
        file: CSV, UTF-8.
        images: folder that relative paths start from.
        columns: their names.

    Raises:
        ValueError: the file is missing or empty, a column is missing, or a field is empty.
    """
    try:
        with Path(file).open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            rows = list(reader)
            header = list(reader.fieldnames or [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"labels={file} cannot be read ({error}); give a CSV in UTF-8") from error
    wanted = [columns.path, *columns.labels]
    wanted += [name for name in (columns.group, columns.split) if name]
    missing = [name for name in wanted if name not in header]
    if missing or not rows:
        raise ValueError(
            f"labels={file} has {len(rows)} lines with the columns {header}, and not "
            f"{', '.join(missing) or 'a single image'}; name the columns with --path_column, "
            "--label_column, --group_column and --split_column"
        )
    entries: dict[str, Entry] = {}
    for number, row in enumerate(rows, 2):
        entry = _entry(row, images, columns, f"{file}, line {number}")
        # In training and in test it would measure what was learnt by heart.
        if entries.setdefault(identity(entry.path), entry) is not entry:
            raise ValueError(f"{file}, line {number}: {entry.path} is there twice; leave one out")
    return list(entries.values())


def identity(path: str) -> str:
    """The same for all spellings of a path, and links to it; of an address itself."""
    return path if "://" in path else os.path.realpath(path)


def _entry(row: dict[str, str], images: str, columns: Columns, place: str) -> Entry:
    """A line as an entry."""
    fields = {name: (row[name] or "").strip() for name in row if name is not None}
    path = fields[columns.path]
    labels = tuple(fields[name] for name in columns.labels)
    if columns.separator:
        # An image without any of the classes has an empty field.
        labels = tuple(part.strip() for part in labels[0].split(columns.separator) if part.strip())
    elif not all(labels):
        raise ValueError(f"{place} has no label; fill it in, or leave the line out")
    if not path:
        raise ValueError(f"{place} has no path; fill it in, or leave the line out")
    split = fields[columns.split].lower() if columns.split else ""
    if columns.split and split not in ("train", "test"):
        raise ValueError(f"{place}: {columns.split} is {split!r}; write train or test")
    if "://" not in path:
        path = os.path.join(images, path)  # noqa: PTH118  # images may be an address, too
    return Entry(path, labels, fields[columns.group] if columns.group else "", split)


def read_folders(images: str | os.PathLike[str]) -> list[Entry]:
    """An entry for each image in a folder that has a folder for each class.

    Raises:
        ValueError: there are not two such folders with images, or two have the same image.
    """
    root = Path(images)
    found = sorted(root.iterdir()) if root.is_dir() else []
    folders = [path for path in found if path.is_dir() and not path.name.startswith(".")]
    found_in: dict[str, Entry] = {}
    for folder in folders:
        for path in find_images(folder):
            entry = Entry(str(path), (folder.name,))
            first = found_in.setdefault(identity(entry.path), entry)
            if first.labels != entry.labels:
                raise ValueError(
                    f"images={images} has the same image in two classes, {first.path} and "
                    f"{entry.path}; remove one"
                )
    entries = list(found_in.values())
    if len({entry.labels for entry in entries}) < 2:
        raise ValueError(
            f"images={images} must hold a folder with images for each of at least two classes, or "
            "be given with a table, --labels labels.csv"
        )
    return entries


def find_images(folder: str | os.PathLike[str]) -> list[Path]:
    """Every image below a folder, by what its name ends in, sorted.

    Links upwards are left out, and folders that were looked into already.
    """
    return _images_below(Path(folder), tuple(image_suffixes()), set())


def _images_below(folder: Path, suffixes: tuple[str, ...], seen: set[Path]) -> list[Path]:
    own = folder.resolve()
    if own in seen:
        return []
    seen.add(own)
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.name.lower().endswith(suffixes) or is_zarr(path):
            found.append(path)
        elif path.is_dir() and not own.is_relative_to(path.resolve()):
            found += _images_below(path, suffixes, seen)
    return found


def classes_of(entries: Sequence[Entry]) -> list[str]:
    """Every class, sorted; numbers by their value."""
    names = {label for entry in entries for label in entry.labels}
    if all(name.removeprefix("-").isdecimal() for name in names):
        return sorted(names, key=int)
    return sorted(names)
