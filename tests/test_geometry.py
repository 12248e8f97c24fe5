"""Positions to offsets."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import ats


def test_patches_are_centred_on_their_positions() -> None:
    positions = torch.tensor([[[0, 0], [6, 10]]])
    offsets = ats.patch_offsets(
        positions, map_shape=(7, 11), low_shape=(7, 11), high_shape=(70, 110), patch_size=(4, 6)
    )
    # The centres are 5 and 65, 5 and 105.
    assert offsets.tolist() == [[[3, 2], [63, 102]]]


def test_one_shape_for_each_image_equals_each_image_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    positions = torch.randint(0, 5, (3, 7, 2), generator=generator)
    high = torch.tensor([[101, 53], [997, 31], [10**6, 10**5]])
    low = torch.tensor([[23, 17], [29, 19], [31, 13]])
    common = {"map_shape": (5, 5), "patch_size": (8, 9), "receptive_field": 3}
    together = ats.patch_offsets(positions, low_shape=low, high_shape=high, **common)
    for number in range(3):
        alone = ats.patch_offsets(
            positions[number : number + 1],
            low_shape=low[number].tolist(),
            high_shape=high[number].tolist(),
            **common,
        )
        assert torch.equal(together[number : number + 1], alone)


POSITIONS = torch.zeros(2, 3, 2).long()
SHAPES: dict[str, Sequence[int] | Tensor] = {
    "map_shape": (5, 5),
    "low_shape": (20, 20),
    "high_shape": (100, 100),
    "patch_size": (8, 8),
}


@pytest.mark.parametrize(
    ("positions", "change", "message"),
    [
        (POSITIONS.float(), {}, "positions must be integers"),
        (POSITIONS[0], {}, r"got torch.int64 \(3, 2\)"),
        (POSITIONS, {"patch_size": (8,)}, r"patch_size=\(8,\) must have one extent for each of"),
        (POSITIONS, {"patch_size": (8, 0)}, r"patch_size=\(8, 0\) must be positive"),
        (POSITIONS, {"high_shape": torch.ones(3, 2)}, r"high_shape has shape \(3, 2\)"),
        (POSITIONS, {"receptive_field": 20}, "receptive_field=20 leaves nothing"),
        (POSITIONS, {"receptive_field": -1}, "receptive_field=-1 must be 0 or more"),
    ],
)
def test_errors(positions: Tensor, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ats.patch_offsets(positions, **{**SHAPES, **change})  # type: ignore[arg-type]
