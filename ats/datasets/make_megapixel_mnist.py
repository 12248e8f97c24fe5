"""Make the folder of a Megapixel MNIST data set.

``train.safetensors`` and ``test.safetensors`` come first, ``parameters.json`` last; each of them
is complete or not there. So a killed run leaves nothing that looks finished, and the next one
keeps the splits that it finds.
"""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ats.datasets.megapixel_layout import DigitLayout, NoiseLayout, draw_digits, draw_noise
from ats.datasets.mnist import N_CLASSES, SIZE, Digits, read_mnist
from ats.datasets.optdigits import read_optdigits
from ats.datasets.progress import progress_bar
from ats.datasets.sparse_file import open_split, open_spool, write_split
from ats.datasets.stamps import NonZeros, compose, shrink
from ats.files import file_digest, remove_leftovers, writable_folder, write_json

FORMAT = "megapixel-mnist"
FORMAT_VERSION = 1
PARAMETERS_FILE = "parameters.json"
SPLITS = ("train", "test")
AGAIN = "delete the folder and run make_mnist.py again"


def make_megapixel_mnist(
    folder: str | os.PathLike[str],
    *,
    n_train: int = 5000,
    n_test: int = 1000,
    width: int = 1500,
    height: int = 1500,
    scale: float = 0.12,
    n_noise: int = 50,
    dataset_seed: int = 0,
    digits: str = "mnist",
    mnist: str | os.PathLike[str] | None = None,
    json_only: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Write a data set into a folder and return its parameters; what is there already is kept.

    Args:
        folder: made where missing.
        n_train: images for training.
        n_test: images for testing.
        width: columns of an image in pixels.
        height: rows of an image in pixels.
        scale: size of the small view over the size of the image, in (0, 1].
        n_noise: stamps of noise over the digits of each image.
        dataset_seed: the same seed gives the same data; the test split uses it, training the next.
        digits: ``"mnist"`` or ``"optdigits"``, the digits that scikit-learn carries.
        mnist: folder with four files in MNIST's format; by default the cache or a download.
        json_only: write ``parameters.json`` alone.
        progress: show bars on a terminal.

    Raises:
        ValueError: an argument is out of range, or the folder holds another data set.
        OSError: the folder cannot be written, or MNIST not be had.
    """
    parameters: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "n_train": n_train,
        "n_test": n_test,
        "width": width,
        "height": height,
        "scale": scale,
        "n_noise": n_noise,
        "dataset_seed": dataset_seed,
        "digits": digits,
        "n_classes": N_CLASSES,
    }
    _check_parameters(parameters, mnist)
    folder = writable_folder(folder)
    sources = read_digits(digits, mnist, progress=progress)
    digests = (source.digest() for source in sources)
    parameters["digits_sha256"] = dict(zip(SPLITS, digests, strict=True))
    recorded = _recorded_splits(folder, parameters)
    for name, source in zip(SPLITS, sources, strict=True):
        path = folder / f"{name}.safetensors"
        if not path.exists():
            if json_only:
                continue
            _make_split(path, source, parameters, train=name == "train", progress=progress)
        made = _describe(path, parameters)
        if recorded.setdefault(name, made) != made:
            raise ValueError(f"{path} is not the file that was made here; {AGAIN}")
    finished = {**parameters, "splits": recorded}
    remove_leftovers(folder / PARAMETERS_FILE)
    write_json(folder / PARAMETERS_FILE, finished)
    return finished


def read_digits(
    digits: str, mnist: str | os.PathLike[str] | None, *, progress: bool = True
) -> tuple[Digits, Digits]:
    """Training and test digits by the arguments of :func:`make_megapixel_mnist`."""
    return read_optdigits() if digits == "optdigits" else read_mnist(mnist, progress=progress)


def draw_layout(
    source: Digits, parameters: dict[str, Any], *, train: bool
) -> tuple[DigitLayout, NoiseLayout | None]:
    """What stands where in the images of a split; no noise where the data set has none."""
    n_images, n_noise = parameters["n_train" if train else "n_test"], parameters["n_noise"]
    extents = {name: parameters[name] for name in ("height", "width")}
    rng = np.random.RandomState(parameters["dataset_seed"] + train)
    digits = draw_digits(rng, source.labels, n_images=n_images, **extents)
    if not n_noise:
        return digits, None
    return digits, draw_noise(rng, n_images=n_images, n_noise=n_noise, **extents)


def low_shape(parameters: dict[str, Any]) -> tuple[int, int]:
    """Rows and columns of the small views."""
    scale = parameters["scale"]
    return int(parameters["height"] * scale), int(parameters["width"] * scale)


def _check_parameters(parameters: dict[str, Any], mnist: str | os.PathLike[str] | None) -> None:
    leasts = {"n_train": 1, "n_test": 1, "width": SIZE, "height": SIZE, "n_noise": 0}
    for name, least in leasts.items():
        if parameters[name] < least:
            raise ValueError(f"{name}={parameters[name]} must be at least {least}")
    n_noise, n_pixels = parameters["n_noise"], parameters["width"] * parameters["height"]
    if n_noise > n_pixels:
        raise ValueError(
            f"n_noise={n_noise} stamps exceed the {n_pixels} pixels of an image; lower it"
        )
    scale, seed, digits = (parameters[name] for name in ("scale", "dataset_seed", "digits"))
    if not 0 < scale <= 1 or round(scale * SIZE) < 1 or min(low_shape(parameters)) < 1:
        raise ValueError(
            f"scale={scale} must be at most 1, and large enough to leave a pixel of a digit; "
            "the default is 0.12"
        )
    if not 0 <= seed < 2**32 - 1:
        raise ValueError(f"dataset_seed={seed} must lie between 0 and {2**32 - 2}")
    if digits not in ("mnist", "optdigits"):
        raise ValueError(f"digits={digits!r} must be 'mnist' or 'optdigits'")
    if digits == "optdigits" and mnist is not None:
        raise ValueError(f"mnist={str(mnist)!r} has no use with digits='optdigits'; leave one out")


def _recorded_splits(folder: Path, parameters: dict[str, Any]) -> dict[str, Any]:
    """What a ``parameters.json`` that is there says of its splits.

    Raises:
        ValueError: it is that of another data set.
    """
    path = folder / PARAMETERS_FILE
    if not path.exists():
        return {}
    try:
        present = json.loads(path.read_text(encoding="utf-8"))
        splits: dict[str, Any] = present.pop("splits")
        if not isinstance(splits, dict):
            raise ValueError(f"splits is {splits!r}")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path} is not one of Megapixel MNIST; choose another output directory"
        ) from error
    _check_same(path, present, parameters)
    return splits


def _check_same(path: Path, present: dict[str, Any], wanted: dict[str, Any]) -> None:
    differences = [
        f"{name}={present.get(name)!r} there, {wanted.get(name)!r} wanted"
        for name in wanted | present
        if present.get(name) != wanted.get(name)
    ]
    if differences:
        raise ValueError(
            f"{path} belongs to a data set made with other parameters ({'; '.join(differences)}); "
            "choose another output directory or delete that one"
        )


def _describe(path: Path, parameters: dict[str, Any]) -> dict[str, Any]:
    """The entry of a split in ``parameters.json``, after a look at whose split it is."""
    present, split = open_split(path)
    _check_same(path, present, parameters)
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": file_digest(path),
        "n_images": len(split.labels),
        "high_nonzeros": len(split.high.values),
        "low_nonzeros": len(split.low.values),
    }


def _make_split(
    path: Path, source: Digits, parameters: dict[str, Any], *, train: bool, progress: bool
) -> None:
    remove_leftovers(path)
    targets, parts = _draw_split(source, parameters, train=train)
    with (
        open_spool(path.parent, parameters["height"] * parameters["width"]) as high,
        open_spool(path.parent, math.prod(low_shape(parameters))) as low,
        progress_bar(path.stem, len(targets), unit=" images", shown=progress) as bar,
    ):
        for high_part, low_part in parts:
            high.append(high_part)
            low.append(low_part)
            bar.update(len(high_part.counts))
        write_split(path, labels=targets, high=high, low=low, parameters=parameters)


def _draw_split(
    source: Digits, parameters: dict[str, Any], *, train: bool
) -> tuple[NDArray[np.int64], Iterator[tuple[NonZeros, NonZeros]]]:
    """Classes, and the images in full resolution with their small views, some at a time."""
    scale, height, width = (parameters[name] for name in ("scale", "height", "width"))
    layout, noise = draw_layout(source, parameters, train=train)
    used, chosen = np.unique(layout.digits, return_inverse=True)
    stamps, corners = source.images[used], layout.corners
    small = shrink(np.divide(stamps, 255, dtype=np.float32), scale)
    if noise is not None:
        # Noise comes after the digits, and so lies over them.
        chosen = np.concatenate([chosen, len(used) + noise.chosen], axis=1)
        corners = np.concatenate([corners, noise.corners], axis=1)
        stamps = np.concatenate([stamps, (255 * noise.patterns).astype(np.uint8)])
        small = np.concatenate([small, shrink(noise.patterns, scale)])
    low_height, low_width = low_shape(parameters)
    high = compose(stamps, chosen, corners, height=height, width=width)
    low = compose(small, chosen, corners, height=low_height, width=low_width, scale=scale)
    return layout.targets, zip(high, low, strict=True)
