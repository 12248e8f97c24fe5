"""From offsets to patches of a dense tensor."""

import math
from collections.abc import Callable, Sequence
from types import ModuleType

import torch
from torch import Tensor

from ats.kernels import kernels_on

Reader = Callable[[Tensor, Tensor, tuple[int, ...]], Tensor]

# Of images that a kernel of ats.kernels.patches reads.
MOST_DIMENSIONS = 3
# Types of the same width that torch can index; their bits are not looked at.
_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


def extract_patches(image: Tensor, offsets: Tensor, patch_size: Sequence[int]) -> Tensor:
    """Patches of an image at given offsets, 0 where they reach over its borders.

    Only the pixels of the patches are read: no padded or converted copy of the image is made.

    Args:
        image: (B, C, \\*S) of any dtype, 1, 2 or 3 spatial dimensions.
        offsets: (B, N, D) integers, the first corner of each patch in pixels; may lie outside.
        patch_size: D extents in pixels.

    Returns:
        (B, N, C, \\*patch_size) of the image's dtype; gradients flow to the image.

    Raises:
        ValueError: offsets of the wrong shape, type, batch or dimension; an empty patch.

    >>> x = torch.arange(5).view(1, 1, 5)
    >>> extract_patches(x, torch.tensor([[[3], [-1]]]), [3])
    tensor([[[[3, 4, 0]],
    <BLANKLINE>
             [[0, 0, 1]]]])
    """
    size = check_patch_request(offsets, patch_size, batch=image.shape[0], dim=image.dim() - 2)
    offsets = offsets.to(image.device)
    read: Reader = _gather
    if not image.requires_grad and not torch.compiler.is_compiling():
        read = _reader(image) or _gather
    return with_bits_as(read(as_signed(image), offsets.long(), size), image.dtype)


def as_signed(pixels: Tensor) -> Tensor:
    """The same bits in a type that torch can index, where it cannot index unsigned integers."""
    return with_bits_as(pixels, _SIGNED.get(pixels.dtype, pixels.dtype))


def with_bits_as(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """The same bits as another type of the same width."""
    # A view, even as the same type, would cut the gradient.
    return pixels if pixels.dtype == dtype else pixels.view(dtype)


def check_patch_request(
    offsets: Tensor, patch_size: Sequence[int], *, batch: int, dim: int
) -> tuple[int, ...]:
    """The patch size as a tuple, once offsets and size fit B images of D dimensions."""
    size = tuple(int(extent) for extent in patch_size)
    if len(size) != dim or min(size, default=0) < 1:
        raise ValueError(
            f"patch_size={size} must have {dim} positive extents, one for each spatial dimension"
        )
    if offsets.dim() != 3 or offsets.shape[2] != dim:
        raise ValueError(
            f"offsets must be (batch, n_patches, {dim}), got {tuple(offsets.shape)}; they are "
            "first corners in pixels, in the order of the image's dimensions"
        )
    if offsets.shape[0] != batch:
        raise ValueError(
            f"offsets are for a batch of {offsets.shape[0]}, the images for one of {batch}; give "
            "the offsets of each image"
        )
    if offsets.is_floating_point() or offsets.dtype == torch.bool:
        raise ValueError(f"offsets must be integers (pixels), got {offsets.dtype}")
    return size


def _reader(image: Tensor) -> Reader | None:
    """What reads patches of such an image fastest, without a gradient."""
    if image.device.type == "cpu":
        return _copy
    kernels = fused_kernels(image, image.dim() - 2)
    return None if kernels is None else kernels.copy_patches


def fused_kernels(pixels: Tensor, dim: int) -> ModuleType | None:
    """The module :mod:`ats.kernels.patches`, if it can read such pixels and works where they are.

    Args:
        pixels: of the images, in any layout.
        dim: spatial dimensions of the images.
    """
    if pixels.device.type != "cuda" or pixels.element_size() > 8 or pixels.requires_grad:
        return None
    if dim > MOST_DIMENSIONS or torch.compiler.is_compiling():
        return None
    kernels = kernels_on(pixels.device)
    return None if kernels is None else kernels.patches


def _copy(image: Tensor, offsets: Tensor, size: tuple[int, ...]) -> Tensor:
    """One copy for each patch, and another one for each that reaches over a border."""
    room = torch.tensor(image.shape[2:]) - torch.tensor(size)
    if min(room.tolist()) < 0 or image.numel() == 0:
        out = image.new_empty(*offsets.shape[:2], image.shape[1], *size)
        across = torch.ones(offsets.shape[:2], dtype=torch.bool)
    else:
        nearest = torch.minimum(offsets.clamp_min(0), room)
        out = _copy_whole(image, nearest, size)
        across = (nearest != offsets).any(2)
    for number, patch in across.nonzero().tolist():
        _copy_part(image[number], offsets[number, patch].tolist(), out[number, patch])
    return out


def _copy_whole(image: Tensor, offsets: Tensor, size: tuple[int, ...]) -> Tensor:
    """Patches that lie inside the image.

    Of a view in which any pixel of the memory begins a patch of one channel, some are selected: one
    call, which copies line by line, and shares the patches among threads.
    """
    strides = image.stride()
    end = 1 + sum((extent - 1) * step for extent, step in zip(image.shape, strides, strict=True))
    span = sum((extent - 1) * step for extent, step in zip(size, strides[2:], strict=True))
    patches = image.as_strided((end - span, *size), (1, *strides[2:]))
    first = (offsets @ torch.tensor(strides[2:])).unsqueeze(2)
    for axis, step in enumerate(strides[:2]):
        number = torch.arange(image.shape[axis]) * step
        first = first + number.reshape(-1, *[1] * (2 - 2 * axis))
    return patches.index_select(0, first.flatten()).reshape(*first.shape, *size)


def _copy_part(image: Tensor, corner: list[int], out: Tensor) -> None:
    """Write what lies inside an image (C, \\*S) into a patch (C, \\*size), and 0 elsewhere."""
    out.zero_()
    inside = [
        (max(start, 0), min(start + extent, limit))
        for start, extent, limit in zip(corner, out.shape[1:], image.shape[1:], strict=True)
    ]
    if all(first < last for first, last in inside):
        read = [slice(first, last) for first, last in inside]
        write = [
            slice(first - start, last - start)
            for (first, last), start in zip(inside, corner, strict=True)
        ]
        out[(slice(None), *write)] = image[(slice(None), *read)]


def _gather(image: Tensor, offsets: Tensor, size: tuple[int, ...]) -> Tensor:
    """The same by indexing: differentiable, traceable, without waiting for a device."""
    shape = image.shape[2:]
    dim = len(size)
    flat = offsets.new_zeros(())
    inside = torch.ones((), dtype=torch.bool, device=image.device)
    for axis, (extent, limit) in enumerate(zip(size, shape, strict=True)):
        pixel = offsets[:, :, axis, None] + torch.arange(extent, device=image.device)
        pixel = pixel.reshape(*offsets.shape[:2], *(extent if a == axis else 1 for a in range(dim)))
        inside = inside & (pixel >= 0) & (pixel < limit)
        flat = flat * limit + pixel.clamp(0, limit - 1)
    batch, n_patches = offsets.shape[:2]
    flat = flat.reshape(batch, 1, -1).expand(-1, image.shape[1], -1)
    values = image.reshape(batch, image.shape[1], math.prod(shape)).gather(2, flat)
    values = values.reshape(batch, image.shape[1], n_patches, *size).movedim(2, 1)
    # Not a product with the mask: NaN at the border would reach outside of it.
    return values.masked_fill(~inside.unsqueeze(2), 0)
