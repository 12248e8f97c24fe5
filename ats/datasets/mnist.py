"""Handwritten digits: MNIST, any folder in its file format, and the digits of scikit-learn."""

import gzip
import hashlib
import math
import os
import re
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ats.datasets.download import download
from ats.files import cache_folder

N_CLASSES = 10
SIZE = 28  # pixels along each side of a digit

_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_OFFICIAL_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
_FILE_NAME = re.compile(
    r"(?P<prefix>.*?)(?P<split>train|t10k|test)-(?P<kind>images|labels)[-.]idx[13]-ubyte(\.gz)?"
)


class Digits(NamedTuple):
    """Images of one split with their classes.

    Attributes:
        images: (n, 28, 28) uint8.
        labels: (n,) int64, from 0 to 9.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def digest(self) -> str:
        """SHA-256 of the images and labels, whatever file they came from."""
        sha = hashlib.sha256(np.ascontiguousarray(self.images).data)
        sha.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        return sha.hexdigest()


def read_mnist(
    folder: str | os.PathLike[str] | None = None, *, progress: bool = True
) -> tuple[Digits, Digits]:
    """Training and test images of a folder in MNIST's format, else of MNIST itself.

    Args:
        folder: four files in MNIST's format, compressed or not; Fashion-MNIST and EMNIST's digits
            are such folders. By default MNIST's own files are taken from the user's cache, and
            downloaded into it where missing.
        progress: show downloads on a terminal.

    Raises:
        FileNotFoundError: one of the four files is missing.
        ValueError: a file is damaged, does not fit its companion, or is not MNIST's in the cache.
        OSError: a download failed.
    """
    if folder is not None:
        return _read_folder(Path(folder))
    cache = cache_folder("mnist")
    for name, md5 in _OFFICIAL_MD5.items():
        try:
            download([m + name for m in _MIRRORS], cache / name, md5, progress=progress)
        except OSError as error:
            raise OSError(
                f"{error}; without a network give a folder with MNIST's four files "
                "(--mnist DIR), or use --digits optdigits"
            ) from error
    return _read_folder(cache)


def read_idx(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """The array of unsigned bytes in an IDX file, compressed with gzip or not.

    Raises:
        ValueError: it is not such a file, or it is shorter or longer than its header says.
    """
    path = Path(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read()
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is damaged or truncated ({error}); fetch it again") from error
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise ValueError(
            f"{path} is not an IDX file of bytes: expected the magic number 0x000008.., "
            f"got 0x{data[:4].hex()}"
        )
    n_dims = data[3]
    header = 4 + 4 * n_dims
    shape = struct.unpack(f">{n_dims}I", data[4:header]) if len(data) >= header else ()
    if len(data) < header or len(data) - header != math.prod(shape):
        raise ValueError(
            f"{path} is truncated or damaged: a header for shape {shape} asks for "
            f"{header + math.prod(shape)} bytes, got {len(data)}; fetch it again"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _read_folder(folder: Path) -> tuple[Digits, Digits]:
    """Both splits of a folder in MNIST's format."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder with MNIST's four files")
    found: dict[str, dict[tuple[str, str], Path]] = {}
    for path in sorted(folder.iterdir()):
        if match := _FILE_NAME.fullmatch(path.name):
            split = "train" if match["split"] == "train" else "test"
            found.setdefault(match["prefix"], {})[split, match["kind"]] = path
    prefix = _choose_prefix(folder, set(found))
    files = found[prefix]
    splits = []
    for split, official in (("train", "train"), ("test", "t10k")):
        for kind, dims in (("images", 3), ("labels", 1)):
            if (split, kind) not in files:
                raise FileNotFoundError(
                    f"{folder} has no {prefix}{official}-{kind}-idx{dims}-ubyte(.gz)"
                )
        # EMNIST stores its images column by column.
        transposed = prefix.startswith("emnist")
        pair = files[split, "images"], files[split, "labels"]
        splits.append(_read_split(*pair, transposed=transposed))
    return splits[0], splits[1]


def _choose_prefix(folder: Path, prefixes: set[str]) -> str:
    """What precedes ``train-images-…`` in the names: nothing, or the name of one data set."""
    if not prefixes:
        raise FileNotFoundError(
            f"{folder} has none of MNIST's four files, such as {next(iter(_OFFICIAL_MD5))}"
        )
    for preferred in ("", "emnist-digits-"):
        if preferred in prefixes:
            return preferred
    if len(prefixes) > 1:
        raise ValueError(
            f"{folder} holds several data sets ({', '.join(sorted(prefixes))}); "
            "put the four files of one into a folder of their own"
        )
    return prefixes.pop()


def _read_split(images_path: Path, labels_path: Path, *, transposed: bool) -> Digits:
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.shape[1:] != (SIZE, SIZE):
        raise ValueError(
            f"{images_path} holds an array of shape {images.shape}; expected (n, {SIZE}, {SIZE})"
        )
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"{labels_path} has labels of shape {labels.shape} for the {len(images)} images of "
            f"{images_path.name}; the two files do not belong together"
        )
    classes = np.unique(labels)
    if not np.array_equal(classes, np.arange(N_CLASSES)):
        raise ValueError(
            f"{labels_path} has the classes {classes.tolist()}; expected each of 0 to 9"
        )
    if transposed:
        images = images.transpose(0, 2, 1)
    return Digits(images, labels.astype(np.int64))
