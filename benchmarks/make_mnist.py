#!/usr/bin/env python3
"""Claim: making Megapixel MNIST is at least 20 times faster than the dense way, with equal images.

The dense way fills each image stamp by stamp, resizes every stamp anew with scikit-image for the
small view, and then looks for the non-zeros. Its time is that of the images alone; ours is that
of the whole command, with reading the digits, drawing, writing, flushing to the disk and digests.
The two alternate, on one core.
"""

import argparse
import os
import statistics
import tempfile
import time
from typing import Any

WANTED_RATIO = 20.0
N_TEST = 1000


def dense_image(
    stamps: list[Any], corners: Any, parameters: dict[str, Any], low_shape: tuple[int, int]
) -> tuple[Any, Any, Any, Any]:
    """Indices and values of the non-zeros of an image and of its small view."""
    import numpy as np
    from skimage.transform import rescale

    scale = parameters["scale"]
    high = np.zeros((parameters["height"], parameters["width"]), np.uint8)
    low = np.zeros(low_shape, np.uint8)
    for stamp, (row, column) in zip(stamps, corners.tolist(), strict=True):
        high[row : row + 28, column : column + 28] = 255 * stamp
        small = 255 * rescale(stamp, scale, order=1, mode="constant", anti_aliasing=True)
        target = low[int(row * scale) :, int(column * scale) :][: len(small), : len(small)]
        target[:] = small[: target.shape[0], : target.shape[1]]
    high_indices, low_indices = np.flatnonzero(high), np.flatnonzero(low)
    return high_indices, high.ravel()[high_indices], low_indices, low.ravel()[low_indices]


def time_dense(folder: str, mnist: str | None, first: int, count: int) -> float:
    """Seconds an image of the dense way, for some training images, which are compared with ours."""
    import numpy as np

    from ats.datasets.megapixel_layout import draw_digits, draw_noise
    from ats.datasets.megapixel_mnist import MegapixelMNIST
    from ats.datasets.mnist import read_mnist
    from ats.datasets.optdigits import read_optdigits

    ours = MegapixelMNIST(folder)
    parameters = ours.parameters
    source = (read_mnist(mnist) if mnist else read_optdigits())[0]
    rng = np.random.RandomState(parameters["dataset_seed"] + 1)
    size = {"height": parameters["height"], "width": parameters["width"]}
    digits = draw_digits(rng, source.labels, n_images=len(ours), **size)
    noise = draw_noise(rng, n_images=len(ours), **size)
    corners = np.concatenate([digits.corners, noise.corners], axis=1)
    images = source.images / np.float32(255)
    seconds = 0.0
    for i in range(first, first + count):
        stamps = [*images[digits.digits[i]], *noise.patterns[noise.chosen[i]]]
        start = time.perf_counter()
        high_indices, high_values, low_indices, low_values = dense_image(
            stamps, corners[i], parameters, ours.low_shape
        )
        seconds += time.perf_counter() - start
        batch, high = ours[i], ours.images([i])
        np.testing.assert_array_equal(high.indices, high_indices)
        np.testing.assert_array_equal(high.values, high_values)
        view = batch.x_low.flatten()
        np.testing.assert_array_equal(view.nonzero()[:, 0], low_indices)
        np.testing.assert_array_equal(view[low_indices], low_values / np.float32(255))
    return seconds / count


def main() -> None:
    """Print a table and check the claim."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--mnist", metavar="DIR", help="MNIST's files, else scikit-learn's digits")
    parser.add_argument("--n_images", type=int, default=6000, help="images that we make each time")
    parser.add_argument("--n_dense", type=int, default=60, help="of these, made the dense way")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of measurements")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    from ats.datasets.make_megapixel_mnist import make_megapixel_mnist

    digits = "mnist" if arguments.mnist else "optdigits"
    sizes = {"n_train": arguments.n_images - N_TEST, "n_test": N_TEST}
    ratios = []
    print("dense ms/image   ours ms/image   ours s in all   ratio")
    for repeat in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            make_megapixel_mnist(
                folder, **sizes, digits=digits, mnist=arguments.mnist, progress=False
            )
            seconds = time.perf_counter() - start
            first = repeat * arguments.n_dense
            dense = time_dense(folder, arguments.mnist, first, arguments.n_dense)
        ours = seconds / arguments.n_images
        ratios.append(dense / ours)
        print(f"{1e3 * dense:14.2f}{1e3 * ours:16.3f}{seconds:16.2f}{ratios[-1]:8.1f}", flush=True)
    median = statistics.median(ratios)
    print(f"median ratio {median:.1f}; wanted: at least {WANTED_RATIO:.0f}")
    assert median >= WANTED_RATIO


if __name__ == "__main__":
    main()
