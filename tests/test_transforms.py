"""Changing the image and then sampling equals sampling with changed offsets and patches."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ats import ArrayImages, AttentionSampling, SparseImages, extract_patches
from ats.images import JoinedImages, TensorImages
from ats.nn import unit_float
from ats.training.batches import image_generators
from ats.transforms import Change, ChangedImages, RandomChange, change_small_views

EXTENTS = {1: (61,), 2: (37, 53), 3: (11, 17, 13)}


def changed_whole(pixels: Tensor, gain: float, bias: float, pan: list[int]) -> Tensor:
    """The obvious way: one image (C, \\*S), every pixel moved in full resolution."""
    out = torch.zeros(pixels.shape, dtype=torch.float64)
    for index in np.ndindex(*pixels.shape[1:]):
        source = tuple(i - t for i, t in zip(index, pan, strict=True))
        inside = all(0 <= s < limit for s, limit in zip(source, pixels.shape[1:], strict=True))
        if inside:
            out[(slice(None), *index)] = pixels[(slice(None), *source)].double() * gain + bias
    return out


def random_change(dim: int, batch: int, seed: int, largest: int = 9) -> Change:
    generator = torch.Generator().manual_seed(seed)
    gain = torch.rand(batch, generator=generator, dtype=torch.float64) * 0.4 + 0.8
    bias = torch.rand(batch, generator=generator, dtype=torch.float64) * 0.2 - 0.1
    pan = torch.randint(-largest, largest + 1, (batch, dim), generator=generator)
    return Change(gain, bias, pan, pan)


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.uint8])
def test_patches_are_those_of_the_changed_image(dim: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(dim)
    pixels = torch.randint(0, 256, (3, 2, *EXTENTS[dim]), generator=generator).to(dtype)
    change = random_change(dim, 3, seed=dim)
    size = (7, 5, 3)[:dim]
    # Over every border, and beyond them.
    spans = [
        torch.randint(-9, extent + 9, (3, 40, 1), generator=generator) for extent in EXTENTS[dim]
    ]
    offsets = torch.cat(spans, 2)
    got = ChangedImages(pixels, change).patches(offsets, size)
    whole = torch.stack(
        [
            changed_whole(unit_float(image), float(gain), float(bias), pan.tolist())
            for image, gain, bias, pan in zip(pixels, *change[:3], strict=True)
        ]
    )
    wanted = extract_patches(whole, offsets, size)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(got.double(), wanted, rtol=0, atol=tolerance)
    assert (wanted == 0).any()
    assert (wanted != 0).any()


def test_every_source_of_pixels_can_be_changed() -> None:
    pixels = torch.randint(0, 256, (2, 3, 19, 23), dtype=torch.uint8)
    change = random_change(2, 2, seed=5)
    offsets = torch.randint(-5, 20, (2, 11, 2))
    wanted = ChangedImages(pixels, change).patches(offsets, (5, 7))
    for images in (SparseImages.from_dense(pixels), ArrayImages(list(pixels.numpy()))):
        got = ChangedImages(images, change).patches(offsets, (5, 7))
        assert torch.equal(got, wanted)


def area_means(pixels: Tensor, step: int) -> Tensor:
    """Small view of one image (C, H, W), its areas averaged."""
    return torch.nn.functional.avg_pool2d(pixels[None], step)[0]


def test_the_small_view_is_that_of_the_changed_image() -> None:
    pixels = torch.rand(4, 3, 40, 60, dtype=torch.float64)
    pan_low = torch.tensor([[3, -4], [-8, 0], [0, 11], [9, -20]])
    change = random_change(2, 4, seed=3)._replace(pan=pan_low * 5, pan_low=pan_low)
    low = torch.stack([area_means(image, 5) for image in pixels])
    got = change_small_views(low, change)
    for image, view, gain, bias, pan in zip(pixels, got, *change[:3], strict=True):
        whole = changed_whole(image, float(gain), float(bias), pan.tolist())
        torch.testing.assert_close(view, area_means(whole, 5), rtol=0, atol=1e-12)


def test_a_network_sees_the_changed_image() -> None:
    pixels = torch.rand(2, 3, 60, 80, dtype=torch.float64)
    low = torch.stack([area_means(image, 5) for image in pixels])
    change = random_change(2, 2, seed=8)
    change = change._replace(pan=change.pan * 5, pan_low=change.pan)
    feature = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 9 * 9, 4)).double()
    attention = torch.nn.Conv2d(3, 1, 3, padding="same").double()
    model = AttentionSampling(attention, feature, n_patches=20, patch_size=(9, 9)).eval()
    whole = torch.stack(
        [
            changed_whole(image, float(gain), float(bias), pan.tolist())
            for image, gain, bias, pan in zip(pixels, *change[:3], strict=True)
        ]
    )
    wanted = model(torch.stack([area_means(image, 5) for image in whole]), whole)
    got = model(change_small_views(low, change), ChangedImages(pixels, change))
    for name in ("features", "attention", "patches", "offsets"):
        torch.testing.assert_close(getattr(got, name), getattr(wanted, name), rtol=0, atol=1e-10)


def test_draws_keep_their_bounds_and_probabilities() -> None:
    drawn = [
        RandomChange().draw((800, 1360), (240, 408), generator)
        for generator in image_generators(0, 0, range(4000))
    ]
    gain, bias, pan, pan_low = (np.array(part) for part in zip(*drawn, strict=True))
    assert ((gain >= 0.8) & (gain <= 1.2)).all()
    assert ((bias >= -0.1) & (bias <= 0.1)).all()
    assert np.abs(pan).max() == 100
    assert set(np.unique(pan)) == set(range(-100, 101, 10))
    np.testing.assert_array_equal(pan_low * 10, pan * 3)
    # Standard error .006; a pan is drawn as 0 in both dimensions once in 441 times.
    assert np.mean((gain == 1) & (bias == 0)) == pytest.approx(0.2, abs=0.025)
    assert np.mean((pan == 0).all(1)) == pytest.approx(0.2, abs=0.025)
    assert np.mean(gain[gain != 1]) == pytest.approx(1, abs=0.01)


def test_extents_without_a_common_step_are_rounded() -> None:
    for generator in image_generators(1, 0, range(50)):
        *_, pan, pan_low = RandomChange(probability=1).draw((1361,), (408,), generator)
        assert abs(pan[0]) <= 100
        assert abs(pan_low[0] - pan[0] * 408 / 1361) <= 0.5


def test_no_probability_changes_nothing() -> None:
    pixels = torch.rand(2, 1, 12, 14)
    low = torch.rand(2, 1, 6, 7)
    change = RandomChange(probability=0)
    view, images = change(low, pixels, image_generators(0, 0, [0, 1]))
    assert torch.equal(view, low)
    offsets = torch.tensor([[[-1, 3]], [[5, 9]]])
    assert torch.equal(images.patches(offsets, (4, 4)), extract_patches(pixels, offsets, (4, 4)))


def test_a_pan_beyond_the_image_leaves_nothing() -> None:
    change = Change(torch.ones(1), torch.zeros(1), torch.tensor([[50]]), torch.tensor([[50]]))
    assert change_small_views(torch.ones(1, 1, 20), change).sum() == 0
    patches = ChangedImages(torch.ones(1, 1, 20), change).patches(torch.tensor([[[0]]]), [20])
    assert patches.sum() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"probability": 1.5}, r"probability=1.5 must lie in \[0, 1\]"),
        ({"pan": -1}, "pan=-1 must"),
        ({"pan": 20.5}, "pan=20.5 must be a whole number"),
        ({"gain": (math.nan, 0.8)}, r"gain=\(nan, 0.8\) must be finite bounds"),
        ({"bias": (0.1, -0.1)}, r"bias=\(0.1, -0.1\) must be finite bounds, the lower one first"),
    ],
)
def test_bounds_are_checked(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomChange(**arguments)  # type: ignore[arg-type]


def test_images_of_several_sizes_are_refused() -> None:
    high = JoinedImages([TensorImages(torch.rand(1, 1, n, 20)) for n in (20, 40)])
    with pytest.raises(ValueError, match=r"several sizes \(\[20, 20\] and others\)"):
        RandomChange()(torch.rand(2, 1, 8, 4), high, image_generators(0, 0, [0, 1]))


def test_one_generator_for_each_image() -> None:
    with pytest.raises(ValueError, match="generators=1, x_low=2 and x_high=2"):
        RandomChange()(torch.rand(2, 1, 4), torch.rand(2, 1, 8), image_generators(0, 0, [0]))


def test_gradients_flow_to_the_pixels() -> None:
    pixels = torch.rand(1, 1, 9, requires_grad=True)
    change = Change(
        torch.tensor([2.0]), torch.tensor([0.5]), torch.tensor([[3]]), torch.tensor([[3]])
    )
    ChangedImages(pixels, change).patches(torch.tensor([[[2]]]), [4]).sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.flatten().tolist() == [2, 2, 2, 0, 0, 0, 0, 0, 0]
    assert math.isfinite(float(pixels.grad.sum()))
