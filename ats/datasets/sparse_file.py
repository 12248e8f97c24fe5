"""The safetensors file of one split: the non-zeros of all images, and their labels.

``high_indptr`` (n + 1) int64, ``high_indices`` int32 or int64, ``high_values`` uint8, the same
for ``low``, and ``labels`` (n) int64. Indices are row-major within an image and sorted.
"""

import contextlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ats.datasets.stamps import NonZeros
from ats.files import atomic_path

_DTYPE_NAMES = {"int64": "I64", "int32": "I32", "uint8": "U8"}


class View(NamedTuple):
    """Non-zeros of all images of a split in one resolution, read from the mapped file.

    Attributes:
        indptr: (n + 1) int64; image i is at ``indptr[i]:indptr[i + 1]``.
        indices: (nnz) int32 or int64.
        values: (nnz) uint8.
    """

    indptr: Tensor
    indices: Tensor
    values: Tensor

    def take(self, images: list[int]) -> "View":
        """The non-zeros of some images, in this order."""
        spans = [(int(self.indptr[i]), int(self.indptr[i + 1])) for i in images]
        lengths = torch.tensor([0, *(end - start for start, end in spans)])
        indices, values = (
            torch.cat([whole[start:end] for start, end in spans])
            for whole in (self.indices, self.values)
        )
        return View(lengths.cumsum(0), indices, values)


class Split(NamedTuple):
    """All images of a split.

    Attributes:
        labels: (n) int64.
        high: the images in full resolution.
        low: the small views.
    """

    labels: Tensor
    high: View
    low: View


@dataclass
class Spool:
    """Non-zeros on their way into a file, kept on the disk and not in memory.

    Attributes:
        index_dtype: int32, or int64 where an image has too many pixels for it.
        indices: the indices of all images so far.
        values: their values.
        counts: how many belong to each image.
    """

    index_dtype: np.dtype[Any]
    indices: IO[bytes]
    values: IO[bytes]
    counts: list[NDArray[np.int64]] = field(default_factory=list)

    def append(self, part: NonZeros) -> None:
        """Add the next images."""
        self.counts.append(part.counts)
        self.indices.write(part.indices.astype(self.index_dtype).data)
        self.values.write(part.values.data)

    def indptr(self) -> NDArray[np.int64]:
        """Where each image starts, (n + 1)."""
        return np.concatenate([[0], *self.counts]).cumsum()

    def length(self) -> int:
        """Number of non-zeros."""
        return int(self.indptr()[-1])


@contextlib.contextmanager
def open_spool(folder: Path, n_pixels: int) -> Iterator[Spool]:
    """An empty spool for images of so many pixels.

    Its files have no name: their space is given back when the process ends, however it ends.
    """
    dtype = np.dtype("<i4" if n_pixels < 2**31 else "<i8")
    with (
        tempfile.TemporaryFile(dir=folder) as indices,
        tempfile.TemporaryFile(dir=folder) as values,
    ):
        yield Spool(dtype, indices, values)


def write_split(
    path: Path, *, labels: NDArray[np.int64], high: Spool, low: Spool, parameters: dict[str, Any]
) -> None:
    """Write the file, atomically; the parameters travel in its header."""
    int64, uint8 = np.dtype("<i8"), np.dtype("u1")
    pieces: list[_Piece] = [_Piece("labels", int64, len(labels), labels.astype(int64))]
    # Widest numbers first, so that every array is aligned and can be used where it lies.
    views = sorted((("high", high), ("low", low)), key=lambda view: -view[1].index_dtype.itemsize)
    for name, spool in views:
        indptr = spool.indptr().astype(int64)
        pieces.append(_Piece(f"{name}_indptr", int64, len(indptr), indptr))
    for name, spool in views:
        pieces.append(_Piece(f"{name}_indices", spool.index_dtype, spool.length(), spool.indices))
    for name, spool in views:
        pieces.append(_Piece(f"{name}_values", uint8, spool.length(), spool.values))
    header: dict[str, Any] = {"__metadata__": {"parameters": json.dumps(parameters)}}
    offset = 0
    for piece in pieces:
        end = offset + piece.length * piece.dtype.itemsize
        header[piece.name] = {
            "dtype": _DTYPE_NAMES[piece.dtype.name],
            "shape": [piece.length],
            "data_offsets": [offset, end],
        }
        offset = end
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        _write(file, header, pieces)


class _Piece(NamedTuple):
    """One array of the file: in memory, or spooled."""

    name: str
    dtype: np.dtype[Any]
    length: int
    source: NDArray[np.int64] | IO[bytes]


def _write(file: IO[bytes], header: dict[str, Any], pieces: list[_Piece]) -> None:
    """The safetensors format: length of the header, header, arrays one after another."""
    text = json.dumps(header).encode()
    text = text.ljust(8 * math.ceil(len(text) / 8))
    file.write(len(text).to_bytes(8, "little") + text)
    for piece in pieces:
        if isinstance(piece.source, np.ndarray):
            file.write(piece.source.data)
        else:
            piece.source.seek(0)
            shutil.copyfileobj(piece.source, file, 1 << 20)


def open_split(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Split]:
    """Parameters and arrays of a file; the arrays are mapped, not read.

    Raises:
        ValueError: the file is truncated, or not one of these.
        ImportError: safetensors is not installed.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ImportError(
            "data sets are kept in safetensors: pip install 'attention-sampling[train]'"
        ) from error
    try:
        with safe_open(path, framework="pt") as file:
            parameters = json.loads(file.metadata()["parameters"])
            high, low = (
                View(*(file.get_tensor(f"{name}_{part}") for part in View._fields))
                for name in ("high", "low")
            )
            return parameters, Split(file.get_tensor("labels"), high, low)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is truncated or not a file of Megapixel MNIST ({error}); "
            "delete it and run make_mnist.py again"
        ) from error
