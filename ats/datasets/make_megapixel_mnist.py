"""Make the folder of a Megapixel MNIST data set.

``train.safetensors`` and ``test.safetensors`` come first, ``parameters.json`` last; each of them
is complete or not there. So a killed run leaves nothing that looks finished, and the next one
keeps the splits that it finds.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ats.datasets.megapixel_layout import draw_digits, draw_noise
from ats.datasets.mnist import N_CLASSES, SIZE, Digits, read_mnist
from ats.datasets.optdigits import read_optdigits
from ats.datasets.sparse_file import open_spool, open_split, write_split
from ats.datasets.stamps import compose, shrink
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
    noise: bool = True,
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
        noise: put 50 noise patterns over the digits of each image.
        dataset_seed: the same seed gives the same data; the test split uses it, training the next.
        digits: ``"mnist"`` or ``"optdigits"``, the digits that scikit-learn carries.
        mnist: folder with four files in MNIST's format; by default the cache or a download.
        json_only: write ``parameters.json`` alone.
        progress: show bars on a terminal.

    Raises:
        ValueError: an argument is out of range, or the folder holds another data set.
        OSError: the folder cannot be written, or MNIST not be had.
    """
    _check_arguments(n_train, n_test, width, height, scale, dataset_seed, digits, mnist)
    folder = writable_folder(folder)
    sources = read_optdigits() if digits == "optdigits" else read_mnist(mnist, progress=progress)
    parameters: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "n_train": n_train,
        "n_test": n_test,
        "width": width,
        "height": height,
        "scale": scale,
        "noise": noise,
        "dataset_seed": dataset_seed,
        "digits": digits,
        "digits_sha256": {
            name: source.digest() for name, source in zip(SPLITS, sources, strict=True)
        },
        "n_classes": N_CLASSES,
    }
    recorded = _recorded_splits(folder, parameters)
    if json_only:
        finished = {**parameters, "splits": recorded}
        write_json(folder / PARAMETERS_FILE, finished)
        return finished
    splits = {}
    for name, source in zip(SPLITS, sources, strict=True):
        path = folder / f"{name}.safetensors"
        if not path.exists():
            remove_leftovers(path)
            _make_split(path, source, parameters, train=name == "train", progress=progress)
        splits[name] = _describe(path, parameters)
        if name in recorded and recorded[name] != splits[name]:
            raise ValueError(f"{path} is not the file that was made here; {AGAIN}")
    finished = {**parameters, "splits": splits}
    remove_leftovers(folder / PARAMETERS_FILE)
    write_json(folder / PARAMETERS_FILE, finished)
    return finished


def low_shape(parameters: dict[str, Any]) -> tuple[int, int]:
    """Rows and columns of the small views."""
    scale = parameters["scale"]
    return int(parameters["height"] * scale), int(parameters["width"] * scale)


def _check_arguments(
    n_train: int,
    n_test: int,
    width: int,
    height: int,
    scale: float,
    dataset_seed: int,
    digits: str,
    mnist: str | os.PathLike[str] | None,
) -> None:
    for name, value in (("n_train", n_train), ("n_test", n_test)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    for name, value in (("width", width), ("height", height)):
        if value < SIZE:
            raise ValueError(f"{name}={value} is smaller than a digit of {SIZE} pixels")
    if not 0 < scale <= 1 or round(scale * SIZE) < 1:
        raise ValueError(
            f"scale={scale} must lie between {math.ceil(1000 / SIZE / 2) / 1000} (a digit of one "
            "pixel) and 1"
        )
    if not 0 <= dataset_seed < 2**32 - 1:
        raise ValueError(f"dataset_seed={dataset_seed} must lie between 0 and {2**32 - 2}")
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
    except (ValueError, KeyError, AttributeError) as error:
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
    from tqdm import tqdm

    n_images = parameters["n_train" if train else "n_test"]
    shape = {"height": parameters["height"], "width": parameters["width"]}
    rng = np.random.RandomState(parameters["dataset_seed"] + train)
    layout = draw_digits(rng, source.labels, n_images=n_images, **shape)
    used, chosen = np.unique(layout.digits, return_inverse=True)
    stamps, corners = source.images[used], layout.corners
    small = shrink(stamps, parameters["scale"])
    if parameters["noise"]:
        noise = draw_noise(rng, n_images=n_images, **shape)
        # Noise comes after the digits, and so lies over them.
        chosen = np.concatenate([chosen, len(used) + noise.chosen], axis=1)
        corners = np.concatenate([corners, noise.corners], axis=1)
        stamps = np.concatenate([stamps, (255 * noise.patterns).astype(np.uint8)])
        small = np.concatenate([small, shrink(noise.patterns, parameters["scale"])])
    low_height, low_width = low_shape(parameters)
    low_corners: NDArray[np.int64] = (corners * parameters["scale"]).astype(np.int64)
    views = zip(
        compose(stamps, chosen, corners, **shape),
        compose(small, chosen, low_corners, height=low_height, width=low_width),
        strict=True,
    )
    with (
        open_spool(path.parent, math.prod(shape.values())) as high,
        open_spool(path.parent, low_height * low_width) as low,
        tqdm(
            desc=path.stem, total=n_images, unit="image", disable=None if progress else True
        ) as bar,
    ):
        for high_part, low_part in views:
            high.append(high_part)
            low.append(low_part)
            bar.update(len(high_part.counts))
        write_split(path, labels=layout.targets, high=high, low=low, parameters=parameters)
