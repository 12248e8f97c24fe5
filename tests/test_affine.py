"""Patches turned around their centre: exact where that can be said, and beside a loop elsewhere."""

import argparse
import math

import pytest
import torch
from torch import Tensor

from ats import AttentionSampling, Classifier, TensorImages, extract_patches
from ats.affine import RandomAffine, TurnedImages, turned
from ats.datasets.batch import Batch
from ats.training.batches import image_generators
from ats.training.build import augmentation
from ats.training.module import TrainingModule
from ats.training.sample_quality import empty_patches
from ats.transforms import ChangedImages, RandomChange

SIZE = (11, 7)


def by_loop(pixels: Tensor, matrix: Tensor, size: tuple[int, int]) -> Tensor:
    """One patch (H, W), pixel by pixel from the definition."""
    (height, width), middle = size, [(extent - 1) / 2 for extent in pixels.shape]
    out = torch.zeros(size, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            place = torch.tensor([row - (height - 1) / 2, column - (width - 1) / 2]).double()
            y, x = (matrix @ place).tolist()
            y, x = y + middle[0], x + middle[1]
            for near_y in (math.floor(y), math.floor(y) + 1):
                for near_x in (math.floor(x), math.floor(x) + 1):
                    if 0 <= near_y < pixels.shape[0] and 0 <= near_x < pixels.shape[1]:
                        share = (1 - abs(y - near_y)) * (1 - abs(x - near_x))
                        out[row, column] += share * pixels[near_y, near_x]
    return out


def test_turned_patches_are_those_of_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, 3, 2, 23, 19, generator=generator, dtype=torch.float64)
    matrices = torch.randn(2, 3, 2, 2, generator=generator, dtype=torch.float64)
    got = turned(pixels, matrices, SIZE)
    for image in range(2):
        for patch in range(3):
            for channel in range(2):
                wanted = by_loop(pixels[image, patch, channel], matrices[image, patch], SIZE)
                torch.testing.assert_close(got[image, patch, channel], wanted)


def test_a_quarter_turn_is_exact() -> None:
    pixels = torch.rand(1, 1, 1, 13, 9, dtype=torch.float64)
    quarter = torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).double()[None, None]
    wanted = torch.rot90(pixels[..., 3:10, 2:7], 1, (3, 4))
    torch.testing.assert_close(turned(pixels, quarter, (5, 7)), wanted)


def generators(count: int) -> list[torch.Generator]:
    return image_generators(5, 2, range(count))


def test_no_change_gives_the_patches_themselves() -> None:
    pixels = torch.randint(0, 256, (3, 2, 37, 53), dtype=torch.uint8)
    still = RandomAffine(degrees=0.0, scale=(1.0, 1.0), shear=0.0)
    x_low, images = still(torch.zeros(3, 2, 5, 5), pixels, generators(3))
    offsets = torch.randint(-9, 45, (3, 6, 2), generator=torch.Generator().manual_seed(1))
    wanted = extract_patches(pixels, offsets, SIZE).float() / 255
    torch.testing.assert_close(images.patches(offsets, SIZE), wanted)
    assert not x_low.any()


@pytest.mark.parametrize("size", [(50, 50), (31, 80), (80, 12)])
def test_nothing_is_made_up(size: tuple[int, int]) -> None:
    # Of a white image every pixel of every patch is white, as far as it lies within the image.
    affine = RandomAffine(degrees=25.0, scale=(0.7, 1.4), shear=0.3)
    _, images = affine(torch.zeros(2, 1, 5, 5), torch.ones(2, 1, 900, 900), generators(2))
    offsets = torch.full((2, 200, 2), 400)
    torch.testing.assert_close(images.patches(offsets, size), torch.ones(2, 200, 1, *size))


def test_what_is_drawn_lies_within_its_bounds() -> None:
    affine = RandomAffine(degrees=15.0, scale=(0.85, 1.18), shear=0.15)
    matrices = affine.matrices([3], 5000)[0]
    size = torch.linalg.det(matrices).sqrt()
    assert 1 / 1.18 - 1e-9 < float(size.min()) < 0.86
    assert 1.16 < float(size.max()) < 1 / 0.85 + 1e-9
    # Columns of pixels are rotated, rows are sheared besides.
    angle = torch.rad2deg(torch.atan2(matrices[:, 0, 1], matrices[:, 1, 1]))
    assert 14.5 < float(angle.abs().max()) < 15 + 1e-9
    shear = (matrices[:, :, 0] * matrices[:, :, 1]).sum(1) / size**2
    assert 0.14 < float(shear.abs().max()) < 0.15 + 1e-9
    assert abs(float(angle.mean())) < 1
    first, again, other = affine.matrices([3, 3, 4], 7)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    # Those of an image do not depend on its batch.
    assert torch.equal(affine.matrices([4], 7)[0], other)


def test_images_do_not_depend_on_their_batch() -> None:
    pixels = torch.randint(0, 256, (3, 1, 90, 80), dtype=torch.uint8)
    offsets = torch.randint(0, 60, (3, 4, 2))
    _, images = RandomAffine()(torch.zeros(3, 1, 5, 5), pixels, generators(3))
    _, alone = RandomAffine()(torch.zeros(1, 1, 5, 5), pixels[2:], generators(3)[2:])
    torch.testing.assert_close(alone.patches(offsets[2:], SIZE), images.patches(offsets, SIZE)[2:])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 8e-3), (torch.float16, 1e-3)])
def test_half_types_are_as_exact_as_they_can_be(dtype: torch.dtype, tolerance: float) -> None:
    pixels = torch.rand(1, 1, 300, 300).to(dtype)
    offsets = torch.randint(0, 240, (1, 9, 2))
    found = []
    for image in (pixels, pixels.double()):
        _, images = RandomAffine()(torch.zeros(1, 1, 5, 5), image, generators(1))
        found.append(images.patches(offsets, (50, 61)))
    assert found[0].dtype == dtype
    torch.testing.assert_close(found[0].double(), found[1], rtol=0, atol=tolerance)


def test_a_patch_without_contrast_is_empty_however_it_is_turned() -> None:
    pixels = torch.full((2, 3, 300, 300), 200, dtype=torch.uint8)
    pixels[1, :, ::3] = 210
    _, images = RandomAffine()(torch.zeros(2, 3, 5, 5), pixels, generators(2))
    patches = images.patches(torch.full((2, 20, 2), 120), (50, 50))
    assert empty_patches(patches, torch.ones(2, 20)).tolist() == [1.0, 0.0]


def test_trainings_turn_and_then_pan() -> None:
    pan = RandomChange(pan=9, probability=1.0)
    pixels = torch.randint(0, 256, (3, 1, 90, 80), dtype=torch.uint8)
    x_low = torch.rand(3, 1, 9, 8)
    arguments = argparse.Namespace(augment="affine")
    change = augmentation(arguments, pan)
    assert change is not None
    got_low, images = change(x_low, pixels, generators(3))
    own = generators(3)
    _, turned_images = RandomAffine()(x_low, pixels, own)
    wanted_low, wanted = pan(x_low, turned_images, own)
    torch.testing.assert_close(got_low, wanted_low)
    offsets = torch.randint(0, 60, (3, 4, 2))
    torch.testing.assert_close(images.patches(offsets, SIZE), wanted.patches(offsets, SIZE))
    assert isinstance(images, ChangedImages)
    assert augmentation(argparse.Namespace(augment="none"), pan) is pan
    assert augmentation(argparse.Namespace(augment="none"), None) is None


def test_training_images_are_turned_and_test_images_are_not() -> None:
    torch.manual_seed(0)
    feature = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(77, 4))
    attention = torch.nn.Conv2d(1, 1, 3, padding=1)
    sampling = AttentionSampling(attention, feature, n_patches=3, patch_size=SIZE)
    module = TrainingModule(
        Classifier(sampling, 4, 3),
        optimizer=torch.optim.Adam,
        regularizer_strength=0.0,
        seed=0,
        augment=augmentation(argparse.Namespace(augment="affine"), None),
    )
    images = TensorImages(torch.randint(0, 256, (2, 1, 90, 80), dtype=torch.uint8))
    index = torch.arange(2)
    batch = Batch(torch.rand(2, 1, 9, 8), images, torch.zeros(2, dtype=torch.int64), index)
    changed, _ = module.train()._inputs(batch)
    assert isinstance(changed.x_high, TurnedImages)
    same, _ = module.eval()._inputs(batch)
    assert same.x_high is images


def test_arguments_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match=r"scale=\(1.2, 0.8\) must be two positive bounds"):
        RandomAffine(scale=(1.2, 0.8))
    with pytest.raises(ValueError, match=r"degrees=-1\.0 must be 0 or more"):
        RandomAffine(degrees=-1.0)
    with pytest.raises(ValueError, match=r"shear=-0\.1 must be 0 or more"):
        RandomAffine(shear=-0.1)
    with pytest.raises(ValueError, match="3 spatial dimensions; patches can be turned in two"):
        RandomAffine()(torch.zeros(1, 1, 5, 5, 5), torch.zeros(1, 1, 9, 9, 9), generators(1))
    with pytest.raises(ValueError, match="generators=2, x_low=1 and x_high=1 must be of one"):
        RandomAffine()(torch.zeros(1, 1, 5, 5), torch.zeros(1, 1, 9, 9), generators(2))
