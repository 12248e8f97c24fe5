"""Sets of street scenes by name."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ats.datasets.german_signs import LIMITS as GERMAN_LIMITS
from ats.datasets.german_signs import GermanSigns
from ats.datasets.scenes import SceneSource, check_limits
from ats.datasets.street_scenes import make_street_scenes
from ats.datasets.swedish_signs import ANNOTATIONS, TEST, TRAIN, SwedishSigns, fetch_swedish_signs
from ats.datasets.swedish_signs import LIMITS as SWEDISH_LIMITS


def swedish(folder: Path, limits: Sequence[str] | None) -> SceneSource:
    """The Swedish Traffic Signs, downloaded where they are missing."""
    return SwedishSigns(fetch_swedish_signs(folder), limits or SWEDISH_LIMITS)


def german(folder: Path, limits: Sequence[str] | None) -> SceneSource:
    """The German Traffic Sign Detection Benchmark in a folder."""
    return GermanSigns(folder, limits or GERMAN_LIMITS)


def synthetic(folder: Path, limits: Sequence[str] | None) -> SceneSource:
    """Drawn scenes: those that are in the folder, however many, or as many as are made by default.

    Raises:
        ValueError: a limit that is not drawn.
    """
    check_limits(limits or (), SWEDISH_LIMITS)
    made = all((folder / part / ANNOTATIONS).exists() for part in (TRAIN, TEST))
    return SwedishSigns(folder if made else make_street_scenes(folder), limits or SWEDISH_LIMITS)


SOURCES: dict[str, Callable[[Path, Sequence[str] | None], SceneSource]] = {
    "sts": swedish,
    "gtsdb": german,
    "synthetic": synthetic,
}
"""From a folder and the limits to keep, None for those of the source, to its scenes."""

GROUNDS = {"sts": "yellow", "gtsdb": "white", "synthetic": "yellow"}
"""Colour of a speed limit within its ring, by the name of the source."""
