"""MNIST's file format, read from files that are right and from files that are not."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from ats.datasets import mnist
from ats.datasets.download import check_digest
from ats.datasets.mnist import Digits, read_idx, read_mnist
from ats.datasets.optdigits import read_optdigits
from ats.files import cache_folder


def idx(array: NDArray[np.uint8]) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def write_folder(
    folder: Path, *, prefix: str = "", mark: str = "-", suffix: str = "", test: str = "t10k"
) -> tuple[Digits, Digits]:
    rng = np.random.default_rng(0)
    splits = []
    for n, name in ((30, "train"), (20, test)):
        images = rng.integers(0, 256, (n, 28, 28), np.uint8)
        labels = np.arange(n, dtype=np.uint8) % 10
        for kind, dims, array in (("images", 3, images), ("labels", 1, labels)):
            data = idx(array)
            path = folder / f"{prefix}{name}-{kind}{mark}idx{dims}-ubyte{suffix}"
            path.write_bytes(gzip.compress(data, 1) if suffix else data)
        splits.append(Digits(images, labels.astype(np.int64)))
    return splits[0], splits[1]


def assert_equal(found: tuple[Digits, Digits], expected: tuple[Digits, Digits]) -> None:
    for split, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(split.images, wanted.images)
        np.testing.assert_array_equal(split.labels, wanted.labels)
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int64
        assert split.digest() == wanted.digest()


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=4, max_side=5)), st.booleans())
def test_any_array_survives_the_format(
    tmp_path_factory: pytest.TempPathFactory, array: NDArray[np.uint8], compressed: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / ("array.gz" if compressed else "array")
    path.write_bytes(gzip.compress(idx(array)) if compressed else idx(array))
    np.testing.assert_array_equal(read_idx(path), array)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("mark", ["-", "."])
@pytest.mark.parametrize("prefix", ["", "fashion-"])
def test_the_names_that_are_about(tmp_path: Path, prefix: str, mark: str, suffix: str) -> None:
    expected = write_folder(tmp_path, prefix=prefix, mark=mark, suffix=suffix)
    assert_equal(read_mnist(tmp_path), expected)


def test_emnist_is_stored_column_by_column(tmp_path: Path) -> None:
    stored = write_folder(tmp_path, prefix="emnist-digits-", suffix=".gz", test="test")
    write_folder(tmp_path, prefix="emnist-letters-", suffix=".gz", test="test")
    upright = tuple(Digits(split.images.transpose(0, 2, 1), split.labels) for split in stored)
    assert_equal(read_mnist(tmp_path), upright)


def test_a_digest_tells_data_apart(tmp_path: Path) -> None:
    train, test = write_folder(tmp_path)
    moved = Digits(train.images, np.roll(train.labels, 1))
    assert len({train.digest(), test.digest(), moved.digest()}) == 3


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train-images-idx3-ubyte", lambda d: b"\x89PNG" + d[4:], "expected the magic number 0x00"),
        ("train-images-idx3-ubyte", lambda d: d[:-1], r"truncated.*\(30, 28, 28\)"),
        ("train-images-idx3-ubyte", lambda d: d[:9], "truncated or damaged"),
        ("train-images-idx3-ubyte", lambda d: b"", "not an IDX file"),
        ("train-images-idx3-ubyte", lambda d: d + b"\0", "truncated or damaged.*got 23537"),
        ("t10k-images-idx3-ubyte", lambda d: idx(np.zeros((20, 8, 8), np.uint8)), r"\(n, 28, 28\)"),
        ("t10k-labels-idx1-ubyte", lambda d: idx(np.arange(19, dtype=np.uint8)), "do not belong"),
        ("t10k-labels-idx1-ubyte", lambda d: idx(np.ones(20, np.uint8)), "each of 0 to 9"),
        (
            "t10k-labels-idx1-ubyte",
            lambda d: idx(np.arange(20, dtype=np.uint8) % 11),
            r"classes \[0, 1.*10\]",
        ),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, change, message: str) -> None:
    write_folder(tmp_path)
    path = tmp_path / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=message) as raised:
        read_mnist(tmp_path)
    assert name in str(raised.value)


@pytest.mark.parametrize("change", [lambda d: d[:-20], lambda d: b"not gzip", lambda d: d[:30]])
def test_a_damaged_compressed_file_is_named(tmp_path: Path, change) -> None:
    write_folder(tmp_path, suffix=".gz")
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte\.gz is damaged or truncated"):
        read_mnist(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a folder with MNIST's four files"):
        read_mnist(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="has none of MNIST's four files"):
        read_mnist(tmp_path)
    write_folder(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no t10k-labels-idx1-ubyte\(\.gz\)"):
        read_mnist(tmp_path)


def test_several_data_sets_in_one_folder(tmp_path: Path) -> None:
    write_folder(tmp_path, prefix="a-")
    write_folder(tmp_path, prefix="b-")
    with pytest.raises(ValueError, match="holds several data sets"):
        read_mnist(tmp_path)


def test_a_cached_file_with_a_wrong_digest(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = tmp_path / "ats" / "mnist"
    cache.mkdir(parents=True)
    write_folder(cache, suffix=".gz")  # well formed, and not MNIST
    expected = "f68b3c2dcbeaaa9fbdd348bbdeb94873"
    with pytest.raises(
        ValueError, match=rf"train-images.*wrong digest: expected md5 {expected}, got .*delete it"
    ):
        read_mnist()


def test_without_a_network(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(mnist, "_MIRRORS", ("http://127.0.0.1:9/",))
    with pytest.raises(OSError, match=r"--mnist DIR.*--digits optdigits"):
        read_mnist(progress=False)


def test_the_cache_is_where_the_user_keeps_caches(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("mnist") == tmp_path / ".cache" / "ats" / "mnist"


def test_the_embedded_digits_look_like_mnist() -> None:
    train, test = read_optdigits()
    assert len(train.images) + len(test.images) == 1797
    assert 0.75 < len(train.images) / 1797 < 0.85
    for split in (train, test):
        assert split.images.shape[1:] == (28, 28)
        assert split.images.dtype == np.uint8
        assert (split.images.max((1, 2)) == 255).all()
        assert split.images[:, 4:-4, 4:-4].any((1, 2)).all()
        frame = split.images.copy()
        frame[:, 4:-4, 4:-4] = 0
        assert not frame.any()
        counts = np.bincount(split.labels)
        assert counts.min() > 0.9 * counts.mean()
    seen = {image.tobytes() for image in train.images}
    assert not any(image.tobytes() in seen for image in test.images)


def test_the_official_files() -> None:
    shared = os.environ.get("ATS_SHARED")
    if shared is None:
        pytest.skip("ATS_SHARED, the folder with the real MNIST, is not set")
    folder = Path(shared) / "data" / "mnist"
    for name, digest in mnist._OFFICIAL_MD5.items():
        check_digest(folder / name, digest, remedy="")
    train, test = read_mnist(folder)
    assert (len(train.labels), len(test.labels)) == (60000, 10000)
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
