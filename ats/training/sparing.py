"""Figures that are drawn only as often as their time is worth it."""

import contextlib
import time
from collections.abc import Iterator

import lightning


class Sparing:
    """Whether a figure is due, so that drawing takes at most a twentieth of a run.

    On a GPU an epoch of small images takes a second, and so does a figure. The first one is due,
    the last one, and of those in between each that begins so late that the one before it took a
    twentieth of the time since.
    """

    def __init__(self) -> None:
        self._due = 0.0

    def due(self, trainer: lightning.Trainer) -> bool:
        """Whether the figure of the epoch that ends is to be drawn."""
        last = trainer.current_epoch + 1 == trainer.max_epochs
        return last or time.perf_counter() >= self._due

    @contextlib.contextmanager
    def drawing(self) -> Iterator[None]:
        """Take the time of drawing one."""
        start = time.perf_counter()
        yield
        end = time.perf_counter()
        self._due = end + 19 * (end - start)
