"""Arrays recorded from the 2019 program, for the tests that compare with it.

They lie in the folder ``golden`` of the one that the environment variable ATS_SHARED names; its
README says what each array is. Without that variable, tests that ask for them are skipped.
"""

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

Arrays = Mapping[str, NDArray[Any]]


def load(name: str) -> Arrays:
    """All arrays of ``golden/name.npz``; skips the test where no folder is named."""
    shared = os.environ.get("ATS_SHARED")
    if not shared:
        pytest.skip("ATS_SHARED does not name the folder that holds golden/")
    return _read(Path(shared) / "golden" / f"{name}.npz")


def prefixes(arrays: Arrays, depth: int) -> set[str]:
    """The first ``depth`` parts of the keys, to see that a table of cases leaves none out."""
    return {"/".join(key.split("/")[:depth]) for key in arrays}


def tensor(array: NDArray[Any]) -> Tensor:
    """A tensor of its own with the array's values and dtype."""
    return torch.from_numpy(np.array(array, order="C"))


def channels_first(array: NDArray[Any], leading: int = 1) -> Tensor:
    """Channels moved from the last dimension to behind the leading ones: NHWC to NCHW."""
    return tensor(np.moveaxis(array, -1, leading))


def torch_layout(array: NDArray[Any]) -> Tensor:
    """A Keras weight as torch keeps it: HWIO to OIHW, (in, out) to (out, in), vectors as is."""
    last_two_first = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
    return tensor(array.transpose(last_two_first[array.ndim]))


def assert_close(
    actual: Tensor, wanted: Tensor, *, relative: float, absolute: float = 0.0, name: str = ""
) -> None:
    """Largest error within a share of the largest wanted value, plus an absolute tolerance."""
    assert actual.shape == wanted.shape, name
    assert actual.isfinite().all(), name
    error = (actual.double() - wanted.double()).abs().max().item()
    largest = wanted.double().abs().max().item()
    assert error <= relative * largest + absolute, (
        f"{name}: error {error:.3g} where the largest value is {largest:.3g}, that is "
        f"{error / max(largest, 1e-300):.3g} of it"
    )


@functools.cache
def _read(path: Path) -> Arrays:
    if not path.is_file():
        pytest.fail(f"ATS_SHARED is set, but {path} is missing", pytrace=False)
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}
