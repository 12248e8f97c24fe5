"""The attention-weighted mean of the features of all positions: computed, not estimated."""

from typing import NamedTuple

import torch
from torch import Tensor

from ats.geometry import patch_offsets
from ats.images import Images, as_images
from ats.nn import AttentionSampling, shape_of, unit_float


class ExactOutput(NamedTuple):
    """The expectation that attention sampling estimates, and what it took.

    Attributes:
        features: (B, \\*F) attention-weighted mean.
        attention: (B, \\*map).
        n_positions: (B,) int64, positions that were looked at.
        left_out: (B,) float64, attention of all the others.
    """

    features: Tensor
    attention: Tensor
    n_positions: Tensor
    left_out: Tensor


@torch.no_grad()
def exact_expectation(
    sampling: AttentionSampling,
    x_low: Tensor,
    x_high: Images | Tensor,
    *,
    tolerance: float = 1e-4,
    chunk: int = 128,
    content_shape: Tensor | None = None,
) -> ExactOutput:
    """Phi = sum_i a_i f_i over the positions of largest attention, which hold nearly all of it.

    Positions are taken from the largest attention down until the others hold at most
    ``tolerance``. Their attention is divided by its sum 1 - r, as the weights of a sample sum to 1:
    what all features share is then exact, and the error is r times the difference of the two means
    of the features, of the positions that were left out and of those that were not. With
    ``tolerance=0`` every position with any attention is looked at.

    For a prediction, without gradient. Memory depends on ``chunk``, time on how many positions that
    is, which differs from image to image.

    Args:
        sampling: in ``eval()`` mode.
        x_low: (B, C, \\*low) small views.
        x_high: full-resolution images, a tensor (B, C, \\*high) or :class:`ats.Images`.
        tolerance: in [0, 1), attention of an image that may be left out.
        chunk: patches that are held at a time, at least one of each image.
        content_shape: see :class:`ats.AttentionSampling`.

    Raises:
        ValueError: the sampling is in ``train()`` mode, where its features may depend on what else
            is in a chunk; a tolerance or a chunk out of range.

    >>> network = torch.nn.Sequential(torch.nn.Flatten(2), torch.nn.AdaptiveAvgPool1d(2))
    >>> sampling = AttentionSampling(torch.nn.Identity(), network, n_patches=3, patch_size=(5, 5))
    >>> x_low, x_high = torch.zeros(1, 1, 4, 7), torch.ones(1, 1, 40, 70)
    >>> found = exact_expectation(sampling.eval(), x_low, x_high)
    >>> found.features.shape, found.n_positions
    (torch.Size([1, 1, 2]), tensor([28]))
    """
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance={tolerance} must be at least 0 and below 1")
    x_low = unit_float(x_low)
    attention = sampling.attend(x_low, content_shape)
    kept, left_out = largest_attention(attention, tolerance)
    features = weighted_features(
        sampling, kept.unsqueeze(1), x_low, x_high, chunk=chunk, content_shape=content_shape
    )
    n_positions = (kept > 0).flatten(1).sum(1)
    return ExactOutput(features.squeeze(1), attention, n_positions, left_out)


def largest_attention(attention: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """The largest attention of each map, divided by its sum, where the rest is at most a tolerance.

    Args:
        attention: (B, \\*map) of sum 1.
        tolerance: in [0, 1).

    Returns:
        (B, \\*map) float64, 0 where attention is left out; and how much of it that is, (B,).

    >>> largest_attention(torch.tensor([[0.5, 0.125, 0.375]]).double(), 0.2)
    (tensor([[0.5714, 0.0000, 0.4286]], dtype=torch.float64), tensor([0.1250], dtype=torch.float64))
    """
    values, order = attention.flatten(1).double().sort(dim=1, descending=True)
    # Summed from the small end: 1 minus the largest would cancel.
    from_here = values.flip(1).cumsum(1).flip(1)
    kept = from_here > tolerance
    # A sum that rounding took to just below 1 must not leave everything out.
    kept[:, 0] = True
    left_out = (values * ~kept).sum(1)
    values = values * kept
    values = values / values.sum(1, keepdim=True)
    return torch.zeros_like(values).scatter(1, order, values).reshape(attention.shape), left_out


@torch.no_grad()
def weighted_features(
    sampling: AttentionSampling,
    weights: Tensor,
    x_low: Tensor,
    x_high: Images | Tensor,
    *,
    chunk: int = 128,
    content_shape: Tensor | None = None,
) -> Tensor:
    """Sum_i w_ri f_i for several maps r of weights, each position that any of them wants read once.

    Several samples of one image, each as the map of its weights, so cost no more patches than they
    have positions in all.

    Args:
        sampling: in ``eval()`` mode.
        weights: (B, R, \\*map); positions of weight 0 in all R maps of an image are not looked at.
        x_low: (B, C, \\*low) small views.
        x_high: full-resolution images, a tensor (B, C, \\*high) or :class:`ats.Images`.
        chunk: patches that are held at a time, at least one of each image.
        content_shape: see :class:`ats.AttentionSampling`.

    Returns:
        (B, R, \\*F), of float32 or the wider type of the features, summed in float64.

    Raises:
        ValueError: the sampling is in ``train()`` mode; no positive chunk; no weight at all.
    """
    if sampling.training:
        raise ValueError("the sampling is in train() mode; call its eval() for a prediction")
    if chunk < 1:
        raise ValueError(f"chunk={chunk} must be at least 1")
    rows = weights.flatten(2).double()
    wanted = (rows != 0).any(1)
    counts = wanted.sum(1, keepdim=True)
    longest = int(counts.max())
    if longest == 0:
        raise ValueError("weights are all 0; give at least one position in one image")
    order = wanted.byte().argsort(dim=1, descending=True, stable=True)[:, :longest]
    rows = rows.gather(2, order.unsqueeze(1).expand(-1, rows.shape[1], -1))
    offsets = patch_offsets(
        torch.stack(torch.unravel_index(order, weights.shape[2:]), -1),
        map_shape=weights.shape[2:],
        low_shape=x_low.shape[2:],
        high_shape=shape_of(x_high, x_low),
        patch_size=sampling.sample.patch_size,
        receptive_field=sampling.sample.receptive_field,
        content_shape=content_shape,
    )
    inside = torch.arange(longest, device=rows.device) < counts
    images, x_low = as_images(x_high), unit_float(x_low)
    total = torch.zeros((), dtype=torch.float64, device=rows.device)
    step = max(1, chunk // len(rows))
    for start in range(0, longest, step):
        at = slice(start, start + step)
        features = _features(sampling, images, offsets[:, at], inside[:, at], x_low)
        total = total + torch.einsum("brn,bn...->br...", rows[:, :, at], features.double())
    return total.to(torch.promote_types(features.dtype, torch.float32))


def _features(
    sampling: AttentionSampling, images: Images, offsets: Tensor, inside: Tensor, x_low: Tensor
) -> Tensor:
    """Features (B, N, \\*F) of the patches that are inside (B, N), and 0 for the others."""
    size = sampling.sample.patch_size
    # Images of a batch want different numbers of patches. Off the image, nothing is read.
    nowhere = -torch.tensor(size, device=offsets.device)
    patches = images.patches(torch.where(inside.unsqueeze(2), offsets, nowhere), size)
    patches = unit_float(patches.to(x_low.device)[inside]).to(x_low.dtype)
    found: Tensor = sampling.feature(patches)
    features = found.new_zeros(*inside.shape, *found.shape[1:])
    features[inside] = found
    return features
