"""The German Traffic Sign Detection Benchmark, sorted by speed limit."""

import os
from collections.abc import Sequence
from pathlib import Path

from ats.datasets.scenes import EMPTY, Box, Scene, check_limits

ANNOTATIONS = "gt.txt"
N_IMAGES = 900
N_TRAIN = 600  # images 00000 to 00599 are the benchmark's own training set

# Class numbers of the benchmark.
CLASS_OF_LIMIT = {
    "20": 0,
    "30": 1,
    "50": 2,
    "60": 3,
    "70": 4,
    "80": 5,
    "100": 7,
    "120": 8,
}
LIMITS = tuple(CLASS_OF_LIMIT)
_SUFFIXES = (".ppm", ".jpg", ".jpeg", ".png")
N_KINDS = 43


class GermanSigns:
    """Scenes without any sign (``EMPTY``) and scenes with a speed limit.

    Scenes with other signs alone, or with a limit that was not asked for, are left out. Of two
    limits in one scene the larger counts; the benchmark has no such scene.

    Args:
        folder: ``gt.txt`` and the images 00000 to 00899 or some of them, as published (ppm) or in
            another format (jpg, jpeg, png).
        limits: speed limits to keep, of :data:`LIMITS`.

    Raises:
        ValueError: a limit that the benchmark does not know.

    References:
        Houben, Stallkamp, Salmen, Schlipsing and Igel, Detection of Traffic Signs in Real-World
        Images: The German Traffic Sign Detection Benchmark, IJCNN 2013.
    """

    def __init__(self, folder: str | os.PathLike[str], limits: Sequence[str] = LIMITS) -> None:
        check_limits(limits, LIMITS)
        self.folder = Path(folder)
        self.limits = list(limits)
        self.classes = [EMPTY, *limits]

    def scenes(self, *, train: bool) -> list[Scene]:
        """Scenes of the benchmark's training or test set, in the order of their numbers."""
        found = []
        for path, signs in self._read(train=train):
            label, boxes = _limit_of(signs)
            if not signs or label in self.limits:
                found.append(Scene(path, label or EMPTY, boxes))
        return found

    def backgrounds(self) -> list[Scene]:
        """Training scenes without any speed limit."""
        return [
            Scene(path, "OTHER" if signs else EMPTY)
            for path, signs in self._read(train=True)
            if _limit_of(signs)[0] is None
        ]

    def _read(self, *, train: bool) -> list[tuple[Path, list[tuple[int, Box]]]]:
        """Images of one of the sets with the class number and box of each sign."""
        annotations = self.folder / ANNOTATIONS
        try:
            text = annotations.read_text(encoding="utf-8-sig", errors="replace")
        except OSError as error:
            raise FileNotFoundError(
                f"{annotations} is missing: give the benchmark's folder, with its images"
            ) from error
        signs = parse_ground_truth(text, annotations)
        images = {
            path.stem: path
            for path in sorted(self.folder.iterdir())
            if path.suffix.lower() in _SUFFIXES
            and path.stem.isdecimal()
            and int(path.stem) < N_IMAGES
        }
        missing = sorted(set(signs) - set(images))
        if missing:
            raise FileNotFoundError(
                f"{self.folder} lacks {len(missing)} images that {ANNOTATIONS} names, such as "
                f"{missing[0]}; complete it, or take their lines out"
            )
        part = "training" if train else "test"
        wanted = [stem for stem in images if (int(stem) < N_TRAIN) == train]
        if not wanted:
            span = (0, N_TRAIN) if train else (N_TRAIN, N_IMAGES)
            raise FileNotFoundError(
                f"{self.folder} has none of the {part} images "
                f"{span[0]:05d} to {span[1] - 1:05d}, as {' or '.join(_SUFFIXES)}; complete it"
            )
        if not any(stem in signs for stem in wanted):
            # The benchmark's two archives have a file of that name each.
            raise ValueError(
                f"{annotations} names no {part} image, so that all of them would be taken for "
                "empty scenes; put the lines of both sets into it"
            )
        return [(images[stem], signs.get(stem, [])) for stem in wanted]


def parse_ground_truth(text: str, path: Path) -> dict[str, list[tuple[int, Box]]]:
    """Class number and box of each sign, by the number of the image as it is written.

    A line is ``NUMBER.ppm;left;top;right;bottom;class``, pixels inclusive and counted from 1.

    Raises:
        ValueError: a line is not; the message has its number.
    """
    images: dict[str, list[tuple[int, Box]]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        name, *fields = line.split(";")
        try:
            left, top, right, bottom, kind = (int(field) for field in fields)
        except ValueError as error:
            raise ValueError(
                f"{path}: line {number} is no NAME;left;top;right;bottom;class: {line[:60]!r}"
            ) from error
        if not (1 <= left <= right and 1 <= top <= bottom):
            raise ValueError(f"{path}: line {number} has a box inside out: {line[:60]!r}")
        if not 0 <= kind < N_KINDS:
            raise ValueError(
                f"{path}: line {number} has a class beyond 0 to {N_KINDS - 1}: {line[:60]!r}"
            )
        # From inclusive pixels, counted from 1, to edges: pixel 1 alone reaches from 0 to 1.
        box = (top - 1.0, left - 1.0, float(bottom), float(right))
        images.setdefault(Path(name).stem, []).append((kind, box))
    return images


def _limit_of(signs: Sequence[tuple[int, Box]]) -> tuple[str | None, tuple[Box, ...]]:
    """The speed limit of a scene and the boxes that show it."""
    names = {number: limit for limit, number in CLASS_OF_LIMIT.items()}
    speed = [(names[kind], box) for kind, box in signs if kind in names]
    if not speed:
        return None, ()
    label = max(speed, key=lambda sign: _area(sign[1]))[0]
    return label, tuple(box for name, box in speed if name == label)


def _area(box: Box) -> float:
    top, left, bottom, right = box
    return (bottom - top) * (right - left)
