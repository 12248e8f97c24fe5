"""Where the digits of Megapixel MNIST stand, drawn again from the seed of a data set.

The files hold pixels and one class an image; no training ever sees a place.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ats.datasets.batch import Batch
from ats.datasets.make_megapixel_mnist import SPLITS, draw_layout, read_digits
from ats.datasets.megapixel_mnist import MegapixelMNIST
from ats.datasets.mnist import SIZE
from ats.nn import SamplePatches
from ats.training.pointing import covers, offsets_of_positions

LOST = 0.05  # attention below which a digit, of five, counts as lost


class Places(NamedTuple):
    """The digits of n images.

    Attributes:
        corners: (n, 5, 2) int64, (row, column) of each digit's first pixel.
        labels: (n, 5) int64, the class of each.
        covered: (n, 5) bool, where noise may lie over a part of it.
    """

    corners: Tensor
    labels: Tensor
    covered: Tensor


def digit_places(data: MegapixelMNIST, *, train: bool, mnist: Path | None = None) -> Places:
    """Places of one split.

    Args:
        data: the split.
        train: whether it is that for training.
        mnist: folder of MNIST, see :func:`ats.datasets.mnist.read_mnist`.

    Raises:
        ValueError: the digits are not those that the data set was made of.
    """
    parameters, split = data.parameters, SPLITS[0 if train else 1]
    source = read_digits(parameters["digits"], mnist)[0 if train else 1]
    if source.digest() != parameters["digits_sha256"][split]:
        raise ValueError(f"mnist={mnist} does not hold the digits that the data set was made of")
    layout, noise = draw_layout(source, parameters, train=train)
    corners = layout.corners.astype(np.int64)
    covered = np.zeros(corners.shape[:2], bool)
    if noise is not None:
        apart = np.abs(corners[:, :, None] - noise.corners[:, None]).max(-1)
        covered = (apart < SIZE).any(-1)
    labels = source.labels[layout.digits].astype(np.int64)
    return Places(*(torch.from_numpy(values) for values in (corners, labels, covered)))


def attention_on_digits(
    sample: SamplePatches, attention: Tensor, batch: Batch, corners: Tensor
) -> Tensor:
    """Attention of all positions whose patch holds the centre of a digit, (B, 5).

    Args:
        sample: reads the patches.
        attention: (B, H, W).
        batch: the images.
        corners: (B, 5, 2) of their digits.
    """
    offsets = offsets_of_positions(sample, attention, batch)
    centres = corners + SIZE // 2
    rows = [
        flat @ covers(own, sample.patch_size, points).to(flat.dtype)
        for flat, own, points in zip(attention.flatten(1), offsets, centres, strict=True)
    ]
    return torch.stack(rows)


def lost_digits(mass: Tensor, places: Places) -> str:
    """What there is to say of the attention (n, 5) on the digits of as many images."""
    lost, free = mass < LOST, ~places.covered
    parts = [
        f"attention on digits {mass.sum(1).mean():.3f}",
        f"digits with less than {LOST} of it: {lost.float().mean():.4f}",
        f"not covered: {lost[free].float().mean():.4f}",
    ]
    classes = [
        f"{label} {lost[free & (places.labels == label)].float().mean():.3f}" for label in range(10)
    ]
    return ", ".join(parts) + "\nof these by class: " + ", ".join(classes)


def add_mnist(parser: argparse.ArgumentParser) -> None:
    """The option that says where MNIST is."""
    parser.add_argument(
        "--mnist", type=Path, default=None, help="folder of MNIST, by default that of the cache"
    )
