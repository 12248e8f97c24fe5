"""Which digit and which noise stands where in the images of Megapixel MNIST.

The random stream is that of the program of 2019: NumPy's legacy ``RandomState``, whose stream
NumPy has promised to keep, read in the order of the functions below.

References:
    Katharopoulos and Fleuret, "Processing Megapixel Images with Deep Attention-Sampling Models",
    ICML 2019, section 4.1.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ats.datasets.mnist import N_CLASSES, SIZE

N_SAME = 3  # digits of the target class in each image
N_DIGITS = 5
N_PATTERNS = 50  # noise patterns of a split

_MAX_REJECTIONS = 100_000  # positions in a row without room before an image counts as too small
_ROWS_AT_ONCE = 4096  # images whose noise is drawn together: bounds the memory


class DigitLayout(NamedTuple):
    """Digits of n images.

    Attributes:
        targets: (n,) int64, the class of most digits.
        digits: (n, 5) int64, indices into the images of the digits, the first three of the target.
        corners: (n, 5, 2) int32, (row, column) of each digit's first pixel. Digits never overlap.
    """

    targets: NDArray[np.int64]
    digits: NDArray[np.int64]
    corners: NDArray[np.int32]


class NoiseLayout(NamedTuple):
    """Noise of n images.

    Attributes:
        patterns: (50, 28, 28) float32 in [0, 1], two lines each.
        corners: (n, m, 2) int32, (row, column) of each stamp's first pixel. Stamps may overlap.
        chosen: (n, m) int32, the pattern of each stamp.
    """

    patterns: NDArray[np.float32]
    corners: NDArray[np.int32]
    chosen: NDArray[np.int32]


def draw_digits(
    rng: np.random.RandomState,
    labels: NDArray[np.int64],
    *,
    n_images: int,
    height: int,
    width: int,
) -> DigitLayout:
    """Targets, digits and their places: the first part of the stream.

    Args:
        rng: its state moves on.
        labels: (m,) classes of the digits to choose from.
        n_images: images to lay out.
        height: rows of an image in pixels.
        width: columns of an image in pixels.

    Raises:
        ValueError: the image has no room for five digits that do not overlap.
    """
    same = [np.flatnonzero(labels == target) for target in range(N_CLASSES)]
    other = [np.flatnonzero(labels != target) for target in range(N_CLASSES)]
    targets = np.empty(n_images, np.int64)
    digits = np.empty((n_images, N_DIGITS), np.int64)
    for i in range(n_images):
        target = int(rng.random_sample() * N_CLASSES)
        targets[i] = target
        digits[i, :N_SAME] = rng.choice(same[target], N_SAME)
        digits[i, N_SAME:] = rng.choice(other[target], N_DIGITS - N_SAME)
    if (height // SIZE) * (width // SIZE) < N_DIGITS:
        raise _too_small(height, width)
    corners = np.empty((n_images, N_DIGITS, 2), np.int32)
    for i in range(n_images):
        corners[i] = _place_digits(rng, height, width)
    return DigitLayout(targets, digits, corners)


def draw_noise(
    rng: np.random.RandomState, *, n_images: int, n_noise: int, height: int, width: int
) -> NoiseLayout:
    """Noise patterns, their places and choice, n_noise an image: the second part of the stream.

    Raises:
        ValueError: the image is smaller than the margin that noise keeps from its border.
    """
    if min(height, width) < 2 * SIZE:
        raise ValueError(
            f"height={height} and width={width} leave no place for noise, which keeps {SIZE} "
            f"pixels from the border; use at least {2 * SIZE}, or --no_noise"
        )
    patterns = _draw_patterns(rng)
    corners = np.empty((n_images, n_noise, 2), np.int32)
    chosen = np.empty((n_images, n_noise), np.int32)
    room = np.array([height - 2 * SIZE, width - 2 * SIZE])
    for start in range(0, n_images, _ROWS_AT_ONCE):
        part = corners[start : start + _ROWS_AT_ONCE]
        part[:] = SIZE + rng.random_sample(part.shape) * room
    for start in range(0, n_images, _ROWS_AT_ONCE):
        rows = chosen[start : start + _ROWS_AT_ONCE]
        rows[:] = rng.random_sample(rows.shape) * N_PATTERNS
    return NoiseLayout(patterns, corners, chosen)


def _place_digits(rng: np.random.RandomState, height: int, width: int) -> list[tuple[int, int]]:
    """Corners of five digits that do not overlap, each drawn until it has room."""
    placed: list[tuple[int, int]] = []
    rejections = 0
    while len(placed) < N_DIGITS:
        row = round(rng.random_sample() * (height - SIZE))
        column = round(rng.random_sample() * (width - SIZE))
        if all(abs(row - r) >= SIZE or abs(column - c) >= SIZE for r, c in placed):
            placed.append((row, column))
            continue
        rejections += 1
        if rejections > _MAX_REJECTIONS:
            raise _too_small(height, width)
    return placed


def _too_small(height: int, width: int) -> ValueError:
    return ValueError(
        f"height={height} and width={width} are too small to place {N_DIGITS} digits of {SIZE} "
        f"pixels without overlap; use at least {5 * SIZE} each"
    )


def _draw_patterns(rng: np.random.RandomState) -> NDArray[np.float32]:
    """Noise patterns (50, 28, 28): a line from the first corner, and another pattern's line."""
    slopes = np.tan(rng.random_sample(N_PATTERNS) * np.pi / 2.5)
    lines = np.zeros((N_PATTERNS, SIZE, SIZE), bool)
    last = SIZE - 0.51  # just before the coordinate that would round to the pixel behind the last
    for line, slope in zip(lines, slopes, strict=True):
        rows = np.linspace(0, min(last, last / slope), 2 * SIZE)
        line[np.round(rows).astype(int), np.round(slope * rows).astype(int)] = True
    second = lines[rng.permutation(N_PATTERNS)]
    # Two flips of the same axis cancel. The program of 2019 drew the second one for the other
    # axis and applied it to this one.
    flipped = (rng.random_sample(N_PATTERNS) < 0.33) ^ (rng.random_sample(N_PATTERNS) < 0.33)
    second[flipped] = second[flipped, :, ::-1]
    ink = rng.random_sample((N_PATTERNS, SIZE, SIZE)) * 0.2 + 0.8
    return np.where(lines | second, ink, 0.0).astype(np.float32)
