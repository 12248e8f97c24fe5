"""The Swedish Traffic Signs: its annotations, its folders, and where it is downloaded from."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ats.datasets.archive import unpack_zip
from ats.datasets.download import download
from ats.datasets.scenes import EMPTY, Box, Scene
from ats.datasets.table import find_images

LIMITS = ("50", "70", "80")
MIRRORS = (
    "https://www.cvl.isy.liu.se/research/trafficSigns/swedishSignsSummer/",
    "http://www.isy.liu.se/cvl/research/trafficSigns/swedishSignsSummer/",
)
# Nobody published digests of the archives; their own checksums are verified when they are unpacked.
ANNOTATION_MD5 = {
    "Set1": "9106a905a86209c95dc9b51d12f520d6",
    "Set2": "09debbc67f6cd89c1e2a2688ad1d03ca",
}
TRAIN, TEST = "Set1", "Set2"
ANNOTATIONS = "annotations.txt"

# The most visible first.
VISIBILITIES = ("VISIBLE", "BLURRED", "SIDE_ROAD", "OCCLUDED")
_IGNORED = "MISC_SIGNS"
_SUFFIX = "_SIGN"


class SwedishSign(NamedTuple):
    """A sign in one of the photographs.

    Attributes:
        visibility: one of :data:`VISIBILITIES`.
        box: top, left, bottom and right in pixels.
        kind: such as ``PROHIBITORY``.
        name: such as ``70_SIGN``.
    """

    visibility: str
    box: Box
    kind: str
    name: str

    @property
    def area(self) -> float:
        """Area of the box in pixels."""
        top, left, bottom, right = self.box
        return (bottom - top) * (right - left)


class SwedishSigns:
    """The parts of the Swedish Traffic Signs that were annotated in full, sorted by speed limit.

    An image is kept if it shows no sign (``EMPTY``; signs that were not annotated, MISC_SIGNS, do
    not count), or if its most visible speed limit is one of those asked for and VISIBLE. Limits are
    ordered by visibility, then by area. ``Set1`` is for training, ``Set2`` for testing.

    Args:
        folder: holds ``Set1`` and ``Set2``, each with ``annotations.txt`` and images, at any depth.
        limits: speed limits to keep, such as ``("50", "70", "80")``.

    References:
        Larsson and Felsberg, Using Fourier Descriptors and Spatial Models for Traffic Sign
        Recognition, SCIA 2011.
    """

    def __init__(self, folder: str | os.PathLike[str], limits: Sequence[str] = LIMITS) -> None:
        self.folder = Path(folder)
        self.limits = list(limits)
        self.classes = [EMPTY, *limits]

    def scenes(self, *, train: bool) -> list[Scene]:
        """Scenes of one of the two parts, in the order of their names."""
        part = self.folder / (TRAIN if train else TEST)
        found = []
        for name, signs in sorted(_read(part).items()):
            label = label_of(signs, self.limits)
            if label is not None:
                boxes = [sign.box for sign in signs if sign.name == label + _SUFFIX]
                found.append((name, label, tuple(boxes)))
        return _with_paths(part, found)

    def backgrounds(self) -> list[Scene]:
        """Training scenes without any speed limit."""
        part = self.folder / TRAIN
        found = [
            (name, label_of(signs, self.limits) or "OTHER", ())
            for name, signs in sorted(_read(part).items())
            if not any(_is_limit(sign) for sign in signs)
        ]
        return _with_paths(part, found)


def label_of(signs: Sequence[SwedishSign], limits: Sequence[str]) -> str | None:
    """Class of an image with these signs, None if it is left out."""
    if not signs:
        return EMPTY
    speed = [sign for sign in signs if _is_limit(sign)]
    if not speed:
        return None
    first = min(speed, key=lambda sign: (VISIBILITIES.index(sign.visibility), -sign.area))
    label = first.name.removesuffix(_SUFFIX)
    return label if first.visibility == VISIBILITIES[0] and label in limits else None


def parse_annotations(text: str) -> dict[str, list[SwedishSign]]:
    """Signs of each image, in the order of the file.

    A line is ``NAME:SIGN;SIGN;...``, a sign ``VISIBILITY, right, bottom, left, top, KIND, NAME`` or
    ``MISC_SIGNS``. Spaces may be missing, and a coordinate may have a stray letter in it.

    Raises:
        ValueError: a line is none of these; the message has its number.
    """
    images: dict[str, list[SwedishSign]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        name, colon, rest = line.partition(":")
        if not colon:
            raise ValueError(f"line {number} of the annotations has no colon: {line[:60]!r}")
        parts = [part.strip() for part in rest.split(";")]
        try:
            signs = [_parse_sign(part) for part in parts if part not in ("", _IGNORED)]
        except ValueError as error:
            raise ValueError(f"line {number} of the annotations: {error}") from None
        images[name.strip()] = signs
    return images


def fetch_swedish_signs(
    folder: str | os.PathLike[str], *, mirrors: Sequence[str] = MIRRORS, progress: bool = True
) -> Path:
    """The folder with annotations and images of both parts, downloaded where they are missing.

    Interrupted downloads are continued, and an archive is unpacked in whole or not at all.

    Args:
        folder: of the data set.
        mirrors: addresses of the folder with ``Set1`` and ``Set2``.
        progress: show bars with the remaining time, on a terminal.

    Raises:
        ValueError: annotations with a wrong digest, or a damaged or dangerous archive.
        OSError: a download failed, or the folder cannot be written.
    """
    folder = Path(folder)
    for part, md5 in ANNOTATION_MD5.items():
        place = folder / part
        urls = [f"{mirror}{part}/{ANNOTATIONS}" for mirror in mirrors]
        download(urls, place / ANNOTATIONS, md5, progress=progress)
        if not _images(place):
            name = f"{part}Part0"
            archive = place / f"{name}.zip"
            urls = [f"{mirror}{part}/{archive.name}" for mirror in mirrors]
            given = archive.exists()
            download(urls, archive, None, progress=progress)
            unpack_zip(archive, place / name, progress=progress)
            if not given:
                archive.unlink()
    return folder


def _parse_sign(text: str) -> SwedishSign:
    fields = [field.strip() for field in text.split(",")]
    if fields[0] not in VISIBILITIES:
        raise ValueError(f"{fields[0]!r} is none of {', '.join(VISIBILITIES)}")
    if len(fields) < 5:
        raise ValueError(f"{text[:60]!r} has no box")
    right, bottom, left, top = (_coordinate(field) for field in fields[1:5])
    kind, name = (*fields[5:7], "", "")[:2]
    return SwedishSign(fields[0], (top, left, bottom, right), kind, name)


def _coordinate(text: str) -> float:
    """A number, whatever letters slipped into it."""
    digits = re.sub(r"[^-0-9.]", "", text)
    try:
        return float(digits)
    except ValueError:
        raise ValueError(f"{text!r} is no coordinate") from None


def _is_limit(sign: SwedishSign) -> bool:
    return re.fullmatch(rf"\d+{_SUFFIX}", sign.name) is not None


def _read(part: Path) -> dict[str, list[SwedishSign]]:
    path = part / ANNOTATIONS
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise FileNotFoundError(
            f"{path} is missing: give the folder of the data set, or one to download it to"
        ) from error
    try:
        return parse_annotations(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _images(part: Path) -> dict[str, Path]:
    """Photographs of a part by their name, at any depth; none of a folder that is being made."""
    found = find_images(part) if part.is_dir() else []
    return {f"{path.stem}.jpg": path for path in found if path.suffix.lower() == ".jpg"}


def _with_paths(part: Path, found: Sequence[tuple[str, str, tuple[Box, ...]]]) -> list[Scene]:
    images = _images(part)
    missing = [name for name, *_ in found if name not in images]
    if missing:
        raise FileNotFoundError(
            f"{part} lacks {len(missing)} of {len(found)} images, such as {missing[0]}; delete the "
            "folder to download it again, or complete it"
        )
    return [Scene(images[name], label, boxes) for name, label, boxes in found]
