"""Megapixel MNIST: large black images with five digits, three of which are of one class.

Made by ``scripts/make_mnist.py``. An image is read from its non-zeros and never made dense.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ats.datasets.batch import Batch
from ats.datasets.make_megapixel_mnist import (
    AGAIN,
    FORMAT,
    FORMAT_VERSION,
    PARAMETERS_FILE,
    SPLITS,
    low_shape,
)
from ats.datasets.sparse_file import Split, open_split
from ats.files import file_digest
from ats.images import SparseImages

_PARAMETER_TYPES = {
    "height": int,
    "width": int,
    "scale": int | float,
    "n_classes": int,
    "splits": dict,
}
_SPLIT_TYPES = {"file": str, "n_images": int, "bytes": int, "sha256": str}
_PICKLES = {".npy", ".npz", ".pkl", ".pickle", ".pt", ".pth"}


class MegapixelMNIST(Dataset[Batch]):
    """One split of a data set folder.

    The file is mapped into memory; its digest is checked once, here. Batches are fetched whole:
    give ``collate_fn=ats.datasets.batch.collate`` to a ``DataLoader``.

    Args:
        folder: what ``scripts/make_mnist.py`` wrote.
        train: the training images; otherwise those for testing.

    Raises:
        FileNotFoundError: there is no finished data set in the folder.
        ValueError: a file is truncated or changed, belongs to another data set or to another
            version of the format, or is a pickle.

    References:
        Katharopoulos and Fleuret, "Processing Megapixel Images with Deep Attention-Sampling
        Models", ICML 2019, section 4.1.
    """

    channels = 1

    def __init__(self, folder: str | os.PathLike[str], train: bool = True) -> None:
        folder = Path(folder)
        self.parameters = _read_parameters(folder)
        entry = self.parameters["splits"][SPLITS[0] if train else SPLITS[1]]
        self._path = folder / entry["file"]
        _check_file(self._path, entry, self.parameters)
        self._split: Split | None = None
        self._length: int = entry["n_images"]

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return int(self.parameters["n_classes"])

    @property
    def high_shape(self) -> tuple[int, int]:
        """Rows and columns of an image in full resolution."""
        return self.parameters["height"], self.parameters["width"]

    @property
    def low_shape(self) -> tuple[int, int]:
        """Rows and columns of a small view."""
        return low_shape(self.parameters)

    def __len__(self) -> int:
        """Number of images."""
        return self._length

    def __getitem__(self, index: int) -> Batch:
        """The batch of one image."""
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:
        """The batch of some images, fetched at once.

        Raises:
            IndexError: an index is not one of ``range(len(self))``.
        """
        indices = [int(index) for index in indices]
        outside = [index for index in indices if not 0 <= index < len(self)]
        if outside:
            raise IndexError(f"index {outside[0]} is outside the {len(self)} images")
        return Batch(
            x_low=self._small_views(indices),
            x_high=self.images(indices),
            target=self._open().labels[indices],
            index=torch.tensor(indices),
        )

    def pixels(self, index: int) -> Tensor:
        """All pixels of one image, (1, H, W) uint8: for looking at images that are not large."""
        return self.images([index]).to_dense()[0]

    def __getstate__(self) -> dict[str, Any]:
        """State for a worker process, which maps the file itself."""
        return {**self.__dict__, "_split": None}

    def _open(self) -> Split:
        """The file of this split, mapped on first use."""
        if self._split is None:
            self._split = open_split(self._path)[1]
        return self._split

    def images(self, indices: list[int]) -> SparseImages:
        """Some images in full resolution."""
        high = self._open().high.take(indices)
        shape = (self.channels, *self.high_shape)
        return SparseImages(high.indices, high.values, high.indptr, shape)

    def _small_views(self, indices: list[int]) -> Tensor:
        """Small views (B, 1, h, w) uint8."""
        low = self._open().low.take(indices)
        pixels = low.values.new_zeros(len(indices), self.channels, *self.low_shape)
        image = torch.repeat_interleave(low.indptr.diff())
        pixels.flatten(1)[image, low.indices.long()] = low.values
        return pixels


def _read_parameters(folder: Path) -> dict[str, Any]:
    """The parameters of a finished data set of this version of the format."""
    path = folder / PARAMETERS_FILE
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else "null"
        parameters: dict[str, Any] | None = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); {AGAIN}") from error
    known = isinstance(parameters, dict) and parameters.get("format") == FORMAT
    if not known and (pickle := _find_pickle(folder)):
        raise ValueError(
            f"{folder} holds {pickle}, a file that may carry a pickle, and those are never loaded; "
            "make the data set anew in another folder with make_mnist.py (the same seed gives the "
            "same data)"
        )
    if parameters is None:
        raise FileNotFoundError(
            f"dataset folder {folder} has no {PARAMETERS_FILE}: it is empty, unfinished or no data "
            "set; make one there, or complete it, with make_mnist.py"
        )
    if not known:
        raise ValueError(f"{path} is not one of Megapixel MNIST; give a folder of make_mnist.py")
    version = parameters.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(f"{path} has format_version={version}, expected {FORMAT_VERSION}; {AGAIN}")
    _check_types(path, parameters, _PARAMETER_TYPES)
    if set(parameters["splits"]) != set(SPLITS):
        raise FileNotFoundError(
            f"{folder} holds parameters only; run make_mnist.py with them, without --json_only"
        )
    for name, entry in parameters["splits"].items():
        _check_types(path, entry, _SPLIT_TYPES, f"splits/{name}/")
        if Path(entry["file"]).name != entry["file"]:
            raise ValueError(f"{path} is damaged: {entry['file']!r} is no name of a file; {AGAIN}")
    return parameters


def _check_types(path: Path, found: Any, types: Mapping[str, Any], where: str = "") -> None:
    """Raise a ValueError unless there is a value of the right type under every name."""
    for name, kind in types.items():
        value = found.get(name) if isinstance(found, dict) else None
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(
                f"{path} is damaged: {where}{name} is {value!r}, expected {kind}; {AGAIN}"
            )


def _find_pickle(folder: Path) -> str | None:
    """A file that the program of 2019, or another one, pickled here."""
    for pattern in ("*", "*/*"):
        for path in folder.glob(pattern):
            if path.suffix in _PICKLES:
                return str(path.relative_to(folder))
    return None


def _check_file(path: Path, entry: dict[str, Any], parameters: dict[str, Any]) -> None:
    """Whether the file of a split is the one that was written."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; run make_mnist.py with the same arguments")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise ValueError(f"{path} has {size} bytes, expected {entry['bytes']}: truncated; {AGAIN}")
    made_with, split = open_split(path)
    if len(split.labels) != entry["n_images"]:
        raise ValueError(
            f"{path} holds {len(split.labels)} images, {PARAMETERS_FILE} says {entry['n_images']}; "
            f"{AGAIN}"
        )
    expected = {name: value for name, value in parameters.items() if name != "splits"}
    if made_with != expected:
        names = [name for name in expected if made_with.get(name) != expected[name]]
        raise ValueError(
            f"{path} was made with other parameters than {PARAMETERS_FILE} says "
            f"({', '.join(names)}); {AGAIN}"
        )
    if (found := file_digest(path)) != entry["sha256"]:
        raise ValueError(
            f"{path} has the wrong digest: expected sha256 {entry['sha256']}, got {found}; {AGAIN}"
        )
