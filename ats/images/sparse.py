"""Images given by their non-zeros."""

import math
from collections.abc import Callable, Sequence
from copy import copy

import torch
from torch import Tensor

from ats.patches import as_signed, check_patch_request, fused_kernels, with_bits_as


class SparseImages:
    """A batch of mostly empty images of one size, never made dense to read patches.

    Args:
        indices: (nnz) integers, flat row-major indices within (C, \\*S), sorted within each image,
            image after image.
        values: (nnz) of any dtype.
        indptr: (B + 1) int64; the non-zeros of image b are at ``indptr[b]:indptr[b + 1]``.
        shape: (C, \\*S).

    Raises:
        ValueError: the three tensors do not fit each other, or the indices are not sorted.
    """

    def __init__(
        self, indices: Tensor, values: Tensor, indptr: Tensor, shape: Sequence[int]
    ) -> None:
        if indices.shape != values.shape or indices.dim() != 1 or indptr.dim() != 1:
            raise ValueError(
                f"indices {tuple(indices.shape)} and values {tuple(values.shape)} must be one list "
                f"of non-zeros, indptr {tuple(indptr.shape)} where each image starts in it"
            )
        if len(shape) < 2:
            raise ValueError(f"shape={tuple(shape)} must be (channels, *spatial)")
        if indices.device.type == "cpu":
            # On a GPU the answer would have to be waited for, and what came there was checked here.
            _check_order(indices, indptr, math.prod(shape))
        self.indices = indices
        self.values = values
        self.indptr = indptr
        self.shape = tuple(shape)

    @classmethod
    def from_dense(cls, pixels: Tensor) -> "SparseImages":
        """The non-zeros of a tensor (B, C, \\*S)."""
        flat = as_signed(pixels).flatten(1)
        image, indices = flat.nonzero(as_tuple=True)
        counts = torch.bincount(image, minlength=flat.shape[0])
        indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return cls(
            indices, with_bits_as(flat[image, indices], pixels.dtype), indptr, pixels.shape[1:]
        )

    def to_dense(self) -> Tensor:
        """All pixels, (B, C, \\*S): for looking at small images."""
        values = as_signed(self.values)
        dense = values.new_zeros(len(self), math.prod(self.shape))
        dense[self._image_of_each(), self.indices.long()] = values
        return with_bits_as(dense.reshape(len(self), *self.shape), self.values.dtype)

    def __len__(self) -> int:
        """Number of images B."""
        return self.indptr.shape[0] - 1

    @property
    def shapes(self) -> Tensor:
        """Spatial extents (B, D) int64."""
        return torch.tensor(self.shape[1:]).expand(len(self), -1)

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "SparseImages":
        """The same images on a device; what travels is their non-zeros."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return self._map(move)

    def pin_memory(self) -> "SparseImages":
        """The same images in page-locked memory, from which copies to a GPU are asynchronous."""
        return self._map(Tensor.pin_memory)

    def patches(self, offsets: Tensor, size: Sequence[int]) -> Tensor:
        """Patches (B, N, C, \\*size) on the images' device, of the values' dtype."""
        extents = check_patch_request(offsets, size, batch=len(self), dim=len(self.shape) - 1)
        offsets = offsets.to(self.values.device).long()
        if (kernels := fused_kernels(self.values, len(extents))) is not None:
            arrays = self.indices, as_signed(self.values), self.indptr
            out = kernels.scatter_patches(*arrays, self.shape, offsets, extents)
        else:
            # How many non-zeros there are in the patches is known on a CPU at once, on a GPU only
            # after waiting for it.
            read = self._by_line if self.values.device.type == "cpu" else self._by_pixel
            out = read(offsets, extents)
        out = out.reshape(*offsets.shape[:2], self.channels, *extents)
        return with_bits_as(out, self.values.dtype)

    def _by_line(self, offsets: Tensor, size: tuple[int, ...]) -> Tensor:
        """Pixels of all lines of all patches.

        Each line is a range of keys, found by bisection among those of the non-zeros.
        """
        first, begin, end = self._lines(offsets, size)
        keys = self._keys()
        low, high = torch.searchsorted(keys, torch.stack([begin, end]))
        count = (high - low).clamp_min(0)
        line = torch.repeat_interleave(count)
        before = count.cumsum(0) - count
        source = torch.arange(line.shape[0], device=line.device) + (low - before)[line]
        values = as_signed(self.values)
        out = values.new_zeros(first.shape[0] * size[-1])
        out[line * size[-1] + keys[source] - first[line]] = values[source]
        return out

    def _by_pixel(self, offsets: Tensor, size: tuple[int, ...]) -> Tensor:
        """The same by bisection for each pixel: more work, all of known size."""
        first, begin, end = (keys.unsqueeze(1) for keys in self._lines(offsets, size))
        pixel = first + torch.arange(size[-1], device=first.device)
        # One that is nobody's, so that there always is a next one.
        keys = torch.nn.functional.pad(self._keys(), (0, 1), value=-1)
        values = torch.nn.functional.pad(as_signed(self.values), (0, 1))
        place = torch.searchsorted(keys[:-1], pixel)
        there = (keys[place] == pixel) & (pixel >= begin) & (pixel < end)
        return values[place].masked_fill(~there, 0)

    def _map(self, function: Callable[[Tensor], Tensor]) -> "SparseImages":
        # Not made anew, which would check the order of them again.
        other = copy(self)
        other.indices, other.values, other.indptr = map(
            function, (self.indices, self.values, self.indptr)
        )
        return other

    def _keys(self) -> Tensor:
        """Keys (nnz) of the non-zeros, ascending, see :meth:`_lines`."""
        return self._image_of_each() * math.prod(self.shape) + self.indices

    def _image_of_each(self) -> Tensor:
        """Image that each non-zero belongs to, (nnz) int64."""
        return torch.repeat_interleave(self.indptr.diff(), output_size=self.indices.shape[0])

    def _lines(self, offsets: Tensor, size: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Keys of the first pixel of every line of every patch, and of its part inside the image.

        A key numbers the pixels of the whole batch. Lines run along the last dimension, in the
        order (B, N, C, size[:-1]); the part of a line outside the image is empty.
        """
        device = offsets.device
        batch, n_patches, dim = offsets.shape
        lines = (batch, n_patches, self.channels, *size[:-1])
        image = torch.arange(batch, device=device).reshape(batch, *[1] * (dim + 1))
        channel = torch.arange(self.channels, device=device).reshape(-1, *[1] * (dim - 1))
        row = image * self.shape[0] + channel
        inside = torch.ones((), dtype=torch.bool, device=device)
        for axis, (extent, limit) in enumerate(zip(size[:-1], self.shape[1:-1], strict=True)):
            start = offsets[:, :, axis].reshape(batch, n_patches, *[1] * dim)
            step = torch.arange(extent, device=device).reshape(-1, *[1] * (dim - 2 - axis))
            inside = inside & (start + step >= 0) & (start + step < limit)
            row = row * limit + start + step
        width = self.shape[-1]
        column = offsets[:, :, -1].reshape(batch, n_patches, *[1] * dim)
        begin = row * width + column.clamp(0, width)
        end = torch.where(inside, row * width + (column + size[-1]).clamp(0, width), begin)
        first = row * width + column
        return tuple(key.expand(lines).reshape(-1) for key in (first, begin, end))  # type: ignore[return-value]


def _check_order(indices: Tensor, indptr: Tensor, n_pixels: int) -> None:
    """Unsorted or misplaced indices would give wrong pixels without any other sign."""
    starts = indptr.tolist()
    if not starts or starts[0] != 0 or starts[-1] != len(indices) or starts != sorted(starts):
        raise ValueError(
            f"indptr must ascend from 0 to the {len(indices)} non-zeros, with one number more than "
            "images"
        )
    first = torch.zeros(len(indices) + 1, dtype=torch.bool)
    first[indptr.long()] = True
    ascending = (indices[1:] > indices[:-1]) | first[1 : len(indices)]
    if len(indices) and not (ascending.all() and indices.min() >= 0 and indices.max() < n_pixels):
        raise ValueError(
            f"indices must ascend within each image, without repeating, between 0 and "
            f"{n_pixels - 1}; sort them, with their values"
        )
