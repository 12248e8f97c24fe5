"""Figures from arrays."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from ats.files import atomic_path

Array = NDArray[Any]


def save_learning_curves(
    path: Path,
    histories: Mapping[str, Sequence[Mapping[str, float]]],
    title: str = "",
    published: Mapping[str, float] | None = None,
) -> None:
    """Training loss and test error against the epoch, side by side, one line for each history.

    Args:
        path: PNG to write.
        histories: rows with ``epoch``, ``train_loss`` and ``test_error`` by the label of a run.
        title: above the figure.
        published: test errors that are known of others, each a dashed line with a label.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss, error = figure.subplots(1, 2)
    for label, rows in histories.items():
        epochs = [int(row["epoch"]) + 1 for row in rows]
        loss.plot(epochs, [row["train_loss"] for row in rows], label=label, marker=".")
        error.plot(epochs, [row["test_error"] for row in rows], label=label, marker=".")
    for number, (label, value) in enumerate((published or {}).items()):
        error.axhline(value, label=label, color="black", ls="--", lw=1, alpha=1 - 0.25 * number)
    for axes, name in ((loss, "Training loss"), (error, "Test error")):
        axes.set_xlabel("Epoch")
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
        axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
    if any(histories) or published:
        error.legend()
    if title:
        figure.suptitle(title)
    save_figure(path, figure)


def save_overview(
    path: Path,
    *,
    image: Array,
    attention: Array,
    patches: Array,
    boxes: Array,
    title: str = "",
) -> None:
    """The image with the attention and the patch boxes over it, and the patches beside it.

    Args:
        path: PNG to write.
        image: (H, W) or (H, W, 3) in [0, 1], as large as shall be drawn.
        attention: (h, w) over the whole image.
        patches: (N, ph, pw) or (N, ph, pw, 3) in [0, 1].
        boxes: (N, 4) top, left, height, width as shares of the image's height and width.
        title: above the figure.
    """
    height, width = image.shape[:2]
    columns = min(len(patches), 5)
    rows = -(-len(patches) // columns)
    figure = Figure(figsize=(15, 5.2), layout="constrained")
    parts: Any = figure.subfigures(1, 3, width_ratios=[1, 1, 1.1])
    left, middle, right = parts
    plain, heat = left.subplots(), middle.subplots()
    for axes in (plain, heat):
        axes.imshow(image, cmap="gray", vmin=0, vmax=1, extent=(0, width, height, 0))
        axes.set_axis_off()
    shown = np.sqrt(attention / attention.max())
    heat.imshow(shown, cmap="inferno", alpha=0.75, extent=(0, width, height, 0))
    _draw_boxes(plain, boxes, height, width)
    grid = np.atleast_1d(right.subplots(rows, columns)).ravel()
    for number, axes in enumerate(grid):
        axes.set_axis_off()
        if number < len(patches):
            axes.imshow(patches[number], cmap="gray", vmin=0, vmax=1)
            axes.set_title(str(number), fontsize=8)
    left.suptitle("Image and sampled patches", fontsize=10)
    middle.suptitle("Attention", fontsize=10)
    right.suptitle(title or "What was seen", fontsize=10)
    save_figure(path, figure)


def _draw_boxes(axes: Any, boxes: Array, height: int, width: int) -> None:
    """Numbered outlines of patches, given as shares of an image's extents."""
    for number, (top, edge, tall, wide) in enumerate(boxes):
        corner = (edge * width, top * height)
        box = Rectangle(corner, wide * width, tall * height, fill=False, ec="lime", lw=1.2)
        axes.add_patch(box)
        axes.text(*corner, str(number), color="lime", fontsize=7, va="bottom", clip_on=True)


def save_heat_over(path: Path, image: Array, attention: Array, boxes: Array) -> None:
    """An image with the attention over it and outlines of the patches, pixel by pixel.

    Args:
        path: PNG to write.
        image: (H, W) or (H, W, 3) in [0, 1].
        attention: (h, w) over the whole image.
        boxes: (N, 4), as in :func:`save_overview`.
    """
    height, width = image.shape[:2]
    figure = Figure(figsize=(8, 8 * height / width), layout="constrained")
    axes: Any = figure.subplots()
    axes.set_axis_off()
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, extent=(0, width, height, 0))
    shown = np.sqrt(attention / max(float(attention.max()), np.finfo(np.float64).tiny))
    # Where there is little attention, the image shows through.
    axes.imshow(shown, cmap="inferno", alpha=0.2 + 0.6 * shown, extent=(0, width, height, 0))
    _draw_boxes(axes, boxes, height, width)
    save_figure(path, figure)


def save_boxes(
    path: Path, images: Sequence[Array], boxes: Sequence[Array], titles: Sequence[str]
) -> None:
    """Several images side by side with the patches that were sampled.

    Args:
        path: PNG to write.
        images: each (H, W) or (H, W, 3) in [0, 1].
        boxes: for each image (N, 4), as in :func:`save_overview`.
        titles: one for each image.
    """
    columns = min(len(images), 4)
    rows = -(-len(images) // columns)
    height, width = images[0].shape[:2]
    figure = Figure(figsize=(3 * columns, 3 * rows * height / width + 0.5), layout="constrained")
    grid = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, image, patches, title in zip(grid, images, boxes, titles, strict=False):
        tall, wide = image.shape[:2]
        axes.imshow(image, cmap="gray", vmin=0, vmax=1, extent=(0, wide, tall, 0))
        axes.set_title(title, fontsize=9)
        _draw_boxes(axes, patches, tall, wide)
    save_figure(path, figure)


def save_confusion(path: Path, counts: Array, classes: Sequence[str]) -> None:
    """A confusion matrix (n, n) of counts, true classes down and predicted ones across."""
    figure = Figure(figsize=(1.5 + 0.6 * len(classes),) * 2, layout="constrained")
    axes: Any = figure.subplots()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(int(count)), ha="center", va="center", color=colour)
    axes.set_xticks(range(len(classes)), classes)
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("Predicted")
    axes.set_ylabel("True")
    save_figure(path, figure)


def save_image(path: Path, pixels: Array) -> None:
    """A PNG of pixels (H, W) or (H, W, 3) in [0, 1]."""
    levels = (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)
    with atomic_path(path) as temporary:
        Image.fromarray(levels).save(temporary, format="PNG")


def save_heat_map(path: Path, values: Array) -> None:
    """A PNG of non-negative values (H, W), from 0 in black to the largest in bright yellow."""
    relative = values / max(float(values.max()), np.finfo(np.float64).tiny)
    save_image(path, matplotlib.colormaps["inferno"](relative)[..., :3])


def save_figure(path: Path, figure: Figure) -> None:
    """A figure as PNG, atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
