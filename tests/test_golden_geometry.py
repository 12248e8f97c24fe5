"""Positions to offsets to patches, beside the 2019 program's."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from golden import channels_first, load, prefixes, tensor
from numpy.typing import NDArray
from torch import Tensor

import ats
from ats.patches import _SIGNED, _gather

WITH_PATCHES = (
    "d1_even",
    "d1_rf",
    "d3_even",
    "low_eq_high",
    "rect_nonint",
    "rect_same",
    "rf0_pool",
    "rf3_same_level",
    "rf9_pool",
    "sq_same_even",
    "sq_same_odd",
    "up_low_gt_high",
)
WITH_OFFSETS_ALONE = ("mnist_1500", "mnist_500", "mnist_odd_patch", "speed_limits")
DIMENSIONS = ("d1", "d2", "d2one", "d3")
DTYPES = ("float32", "float64", "uint8", "uint16")


def indexed(image: Tensor, offsets: Tensor, size: Sequence[int]) -> Tensor:
    """The traceable path, which an eager call on the CPU does not take."""
    signed = _SIGNED.get(image.dtype, image.dtype)
    return _gather(image.view(signed), offsets, tuple(size)).view(image.dtype)


def from_arrays(image: Tensor, offsets: Tensor, size: Sequence[int]) -> Tensor:
    return ats.ArrayImages(list(image.numpy())).patches(offsets, size)


def from_non_zeros(image: Tensor, offsets: Tensor, size: Sequence[int]) -> Tensor:
    """Non-zeros found by numpy: torch finds none among uint16."""
    flat = image.flatten(1).numpy()
    rows, indices = np.nonzero(flat)
    indptr = np.searchsorted(rows, np.arange(len(flat) + 1))
    images = ats.SparseImages(
        tensor(indices), tensor(flat[rows, indices]), tensor(indptr), image.shape[1:]
    )
    return images.patches(offsets, size)


READERS: dict[str, Callable[[Tensor, Tensor, Sequence[int]], Tensor]] = {
    "eager": ats.extract_patches,
    "indexed": indexed,
    "tensor": lambda image, offsets, size: ats.as_images(image).patches(offsets, size),
    "array": from_arrays,
    "sparse": from_non_zeros,
}


def assert_same_bits(actual: Tensor, wanted: NDArray[Any]) -> None:
    """Equal in shape, dtype and every bit, with the channels of ``wanted`` behind (B, N)."""
    expected = np.ascontiguousarray(np.moveaxis(wanted, -1, 2))
    found = actual.contiguous().numpy()
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


def test_every_recorded_case_is_compared() -> None:
    assert prefixes(load("from_tensors"), 1) == {*WITH_PATCHES, *WITH_OFFSETS_ALONE}
    recorded = prefixes(load("extract_patches"), 2)
    found = {f"{dim}/{name}" for dim in DIMENSIONS for name in (*DTYPES, "offsets", "size")}
    assert recorded == found


def offsets_of(name: str, *, per_image: bool = False) -> Tensor:
    """Ours for the recorded positions; with one shape an image instead of one for the batch."""
    arrays = load("from_tensors")
    positions = tensor(arrays[f"{name}/samples"]).long()
    low: Any = arrays[f"{name}/low_shape"].tolist()
    high: Any = arrays[f"{name}/high_shape"].tolist()
    if per_image:
        low, high = (torch.tensor(shape).expand(len(positions), -1) for shape in (low, high))
    return ats.patch_offsets(
        positions,
        map_shape=arrays[f"{name}/sample_space"].tolist(),
        low_shape=low,
        high_shape=high,
        patch_size=arrays[f"{name}/patch_size"].tolist(),
        receptive_field=int(arrays[f"{name}/receptive_field"]),
    )


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("name", [*WITH_PATCHES, *WITH_OFFSETS_ALONE])
def test_offsets_are_the_recorded_ones(name: str, per_image: bool) -> None:
    wanted = tensor(load("from_tensors")[f"{name}/offsets"]).long()
    assert torch.equal(offsets_of(name, per_image=per_image), wanted)


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize("name", WITH_PATCHES)
def test_patches_at_positions_are_the_recorded_ones(
    name: str, reader: Callable[[Tensor, Tensor, Sequence[int]], Tensor]
) -> None:
    arrays = load("from_tensors")
    image = channels_first(arrays[f"{name}/x_high"])
    size = arrays[f"{name}/patch_size"].tolist()
    assert_same_bits(reader(image, offsets_of(name), size), arrays[f"{name}/patches"])


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_patches_reaching_outside_are_the_recorded_ones(
    dimension: str, dtype: str, reader: Callable[[Tensor, Tensor, Sequence[int]], Tensor]
) -> None:
    arrays = load("extract_patches")
    image = channels_first(arrays[f"{dimension}/{dtype}/x"])
    offsets = tensor(arrays[f"{dimension}/offsets"]).long()
    size = arrays[f"{dimension}/size"].tolist()
    assert_same_bits(reader(image, offsets, size), arrays[f"{dimension}/{dtype}/patches"])
