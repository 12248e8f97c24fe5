"""Reading patches: of tensors, arrays and non-zeros, all against a padded copy."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import ats
from ats.patches import _gather, as_signed

CASES = [
    ((17,), (5,)),
    ((13, 11), (4, 5)),
    ((7, 5, 11), (3, 2, 4)),
    ((1, 1), (1, 1)),
    ((5, 3), (9, 7)),
]
DTYPES = [torch.float32, torch.float64, torch.uint8, torch.uint16, torch.int64, torch.bool]


def make(shape: tuple[int, ...], channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Images with many zeros, and offsets inside, across and outside the borders."""
    generator = torch.Generator().manual_seed(sum(shape) + channels)
    pixels = torch.randint(0, 200, (3, channels, *shape), generator=generator)
    pixels *= torch.rand(pixels.shape, generator=generator) < 0.4
    if dtype == torch.bool:
        pixels = pixels > 50
    corners = [torch.randint(-12, extent + 3, (3, 24), generator=generator) for extent in shape]
    return pixels.to(dtype), torch.stack(corners, -1)


def slowly(image: Tensor, offsets: Tensor, size: tuple[int, ...]) -> Tensor:
    """One pixel after another."""
    out = torch.zeros(*offsets.shape[:2], image.shape[1], *size, dtype=torch.int64)
    wide = image.long()
    for b, n in itertools.product(range(offsets.shape[0]), range(offsets.shape[1])):
        for pixel in itertools.product(*map(range, size)):
            at = [int(o) + p for o, p in zip(offsets[b, n], pixel, strict=True)]
            if all(0 <= a < s for a, s in zip(at, image.shape[2:], strict=True)):
                out[(b, n, slice(None), *pixel)] = wide[(b, slice(None), *at)]
    return out


@pytest.mark.parametrize(("shape", "size"), CASES)
def test_patches_of_tensors(shape: tuple[int, ...], size: tuple[int, ...]) -> None:
    image, offsets = make(shape, 2, torch.int64)
    assert torch.equal(ats.extract_patches(image, offsets, size), slowly(image, offsets, size))


@pytest.mark.parametrize(("shape", "size"), CASES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_source_reads_the_same(
    shape: tuple[int, ...], size: tuple[int, ...], channels: int, dtype: torch.dtype
) -> None:
    image, offsets = make(shape, channels, dtype)
    wanted = ats.extract_patches(image, offsets, size)
    assert wanted.dtype == dtype
    assert torch.equal(_gather(as_signed(image), offsets, size).view(dtype), wanted)
    sparse = ats.SparseImages.from_dense(image)
    assert torch.equal(sparse.to_dense(), image)
    assert torch.equal(sparse.patches(offsets, size), wanted)
    arrays = ats.ArrayImages([one.numpy() for one in image])
    assert torch.equal(arrays.patches(offsets, size), wanted)


@pytest.mark.parametrize(("shape", "size"), CASES[:3])
def test_gradient_to_the_image(shape: tuple[int, ...], size: tuple[int, ...]) -> None:
    image, offsets = make(shape, 2, torch.float64)
    image.requires_grad_()
    offsets = offsets[:, :3]
    assert torch.autograd.gradcheck(lambda x: ats.extract_patches(x, offsets, size), image)


@pytest.mark.parametrize("size", [(3, 4), (9, 2), (1, 1)])
def test_views_of_a_tensor(size: tuple[int, int]) -> None:
    """Whatever their strides: transposed, cut out, and one image for all."""
    image = torch.arange(7 * 11 * 3).reshape(7, 11, 3).permute(2, 1, 0)
    image = image[None, :, 1:].expand(3, -1, -1, -1)
    offsets = torch.randint(-4, 11, (3, 40, 2))
    assert torch.equal(ats.extract_patches(image, offsets, size), slowly(image, offsets, size))


def test_nan_at_the_border_stays_there() -> None:
    image = torch.full((1, 1, 3, 3), torch.nan)
    offsets = torch.tensor([[[-2, -2]]])
    for patch in (ats.extract_patches(image, offsets, (2, 2)), _gather(image, offsets, (2, 2))):
        assert torch.equal(patch, torch.zeros(1, 1, 1, 2, 2))


def test_arrays_of_different_sizes_are_mapped_not_read(tmp_path: Path) -> None:
    shapes = [(3, 11, 7), (3, 5, 13)]
    generator = np.random.default_rng(0)
    paths = []
    for number, shape in enumerate(shapes):
        paths.append(tmp_path / f"{number}.npy")
        np.save(paths[-1], generator.integers(0, 255, shape, dtype=np.uint8))
    images = ats.ArrayImages.open(paths)
    assert images.shapes.tolist() == [[11, 7], [5, 13]]
    assert images.channels == 3
    assert all(isinstance(array, np.memmap) for array in images.arrays)
    offsets = torch.tensor([[[-1, 2], [9, 5]], [[3, 11], [0, 0]]])
    got = images.patches(offsets, (4, 3))
    for number, path in enumerate(paths):
        dense = torch.from_numpy(np.load(path)).unsqueeze(0)
        wanted = ats.extract_patches(dense, offsets[number : number + 1], (4, 3))
        assert torch.equal(got[number : number + 1], wanted)


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        ats.ArrayImages.open([tmp_path / "evil.npy"])


def test_sparse_images_larger_than_any_memory() -> None:
    side = 10**7
    corner = torch.tensor([[[side - 3, side - 2], [4, 5]]])
    indices = torch.tensor([4 * side + 6, (side - 1) * side + side - 1])
    images = ats.SparseImages(indices, torch.tensor([7, 9]), torch.tensor([0, 2]), (1, side, side))
    patches = images.patches(corner, (3, 2))[0, :, 0]
    assert patches[0].tolist() == [[0, 0], [0, 0], [0, 9]]
    assert patches[1].tolist() == [[0, 7], [0, 0], [0, 0]]


@pytest.mark.parametrize("read", ["_by_line", "_by_pixel"])
def test_gradient_to_the_non_zeros(read: str) -> None:
    values = torch.rand(4, dtype=torch.float64, requires_grad=True)
    images = ats.SparseImages(
        torch.tensor([1, 8, 3, 20]), values, torch.tensor([0, 2, 4]), (1, 4, 6)
    )
    offsets = torch.tensor([[[-1, 0], [0, 1]], [[0, 2], [3, 1]]])
    (gradient,) = torch.autograd.grad(getattr(images, read)(offsets, (3, 2)).sum(), values)
    # How many of the two patches each non-zero lies in.
    assert gradient.tolist() == [2, 1, 1, 1]


def test_an_image_without_any_non_zero() -> None:
    images = ats.SparseImages.from_dense(torch.zeros(2, 1, 5, 7))
    offsets = torch.zeros(2, 3, 2).long()
    assert torch.equal(images.patches(offsets, (2, 2)), torch.zeros(2, 3, 1, 2, 2))
    assert not images._by_pixel(offsets, (2, 2)).any()


@pytest.mark.parametrize(("shape", "size"), CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_non_zeros_are_read_on_a_gpu_as_on_a_cpu(
    shape: tuple[int, ...], size: tuple[int, ...], dtype: torch.dtype
) -> None:
    pixels, offsets = make(shape, 2, dtype)
    images = ats.SparseImages.from_dense(pixels)
    got = images._by_pixel(offsets, size).reshape(-1)
    wanted = ats.extract_patches(pixels, offsets, size).reshape(-1)
    assert torch.equal(as_signed(got), as_signed(wanted))


IMAGE = torch.zeros(2, 1, 5, 7)
OFFSETS = torch.zeros(2, 3, 2).long()


@pytest.mark.parametrize(
    ("offsets", "size", "message"),
    [
        (OFFSETS, (0, 3), r"patch_size=\(0, 3\) must have 2 positive extents"),
        (OFFSETS, (3,), r"patch_size=\(3,\) must have 2 positive extents"),
        (OFFSETS[..., :1], (3, 3), r"offsets must be \(batch, n_patches, 2\), got \(2, 3, 1\)"),
        (OFFSETS[0], (3, 3), r"offsets must be \(batch, n_patches, 2\), got \(3, 2\)"),
        (OFFSETS[:1], (3, 3), "offsets are for a batch of 1, the images for one of 2"),
        (OFFSETS.float(), (3, 3), "offsets must be integers"),
    ],
)
def test_errors(offsets: Tensor, size: tuple[int, ...], message: str) -> None:
    sources = (
        ats.TensorImages(IMAGE),
        ats.SparseImages.from_dense(IMAGE),
        ats.ArrayImages(list(IMAGE.numpy())),
    )
    for images in sources:
        with pytest.raises(ValueError, match=message):
            images.patches(offsets, size)


@pytest.mark.parametrize(
    ("indices", "indptr", "message"),
    [
        ([3, 1, 2], [0, 2, 3], "indices must ascend within each image"),
        ([1, 1, 2], [0, 2, 3], "without repeating"),
        ([1, 3, 35], [0, 2, 3], "between 0 and 34"),
        ([-1, 3, 4], [0, 2, 3], "between 0 and 34"),
        ([1, 3, 2], [0, 2, 4], "indptr must ascend from 0 to the 3 non-zeros"),
        ([1, 3, 2], [1, 2, 3], "indptr must ascend"),
        ([1, 3, 2], [0, 4, 3], "indptr must ascend"),
    ],
)
def test_non_zeros_out_of_order(indices: list[int], indptr: list[int], message: str) -> None:
    values = torch.ones(3)
    with pytest.raises(ValueError, match=message):
        ats.SparseImages(torch.tensor(indices), values, torch.tensor(indptr), (1, 5, 7))
    images = ats.SparseImages(
        torch.tensor([1, 3, 2]), values, torch.tensor([0, 2, 3, 3]), (1, 5, 7)
    )
    assert images.to_dense().flatten(1).sum(1).tolist() == [2, 1, 0]


def test_arrays_of_the_other_byte_order() -> None:
    array = np.arange(35, dtype=">u2").reshape(1, 5, 7)
    patches = ats.ArrayImages([array]).patches(torch.tensor([[[1, 2]]]), (2, 2))
    assert patches.flatten().tolist() == [9, 10, 16, 17]


def test_sources_check_what_they_are_given() -> None:
    with pytest.raises(ValueError, match="missing channel or batch dimension"):
        ats.TensorImages(torch.zeros(5, 7))
    with pytest.raises(ValueError, match="one list of non-zeros"):
        ats.SparseImages(torch.zeros(3), torch.zeros(4), torch.zeros(2), (1, 5, 7))
    with pytest.raises(ValueError, match=r"must be \(channels, \*spatial\)"):
        ats.SparseImages(torch.zeros(3), torch.zeros(3), torch.zeros(2), (5,))
    with pytest.raises(ValueError, match="all of one number of channels"):
        ats.ArrayImages([np.zeros((1, 5, 5)), np.zeros((3, 5, 5))])
    with pytest.raises(ValueError, match="got list"):
        ats.as_images([IMAGE])  # type: ignore[arg-type]
