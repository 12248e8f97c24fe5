"""Where in the small view there is anything to see."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def local_contrast(x_low: Tensor, window: int = 5) -> Tensor:
    """Standard deviation of the small view within a window around each of its pixels.

    Channels are averaged as variances. Used as a prior, it keeps the first patches off the empty
    parts of an image, whatever the image shows.

    Args:
        x_low: (B, C, \\*low) with 1, 2 or 3 spatial dimensions.
        window: odd extent of the window in pixels of the small view.

    Returns:
        (B, \\*low), not negative; gradients flow to the small view, but not from where it is flat.

    Raises:
        ValueError: the window is even or not positive.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window={window} must be odd and positive")
    x = x_low.float()
    # Centred first: the mean of squares minus the squared mean cancels where pixels are bright.
    x = x - x.mean(tuple(range(2, x.dim())), keepdim=True)
    # The mean over channels and that over a window commute, so that squares are one channel.
    means = _box_mean(torch.cat([x.square().mean(1, keepdim=True), x], 1), window)
    variance = (means[:, 0] - means[:, 1:].square().mean(1)).clamp_min(0)
    if not variance.requires_grad:
        return torch.sqrt(variance)
    # The square root has no derivative at 0, and its limit would make every gradient infinite.
    flat = variance <= 0
    contrast: Tensor = variance.masked_fill(flat, 1).sqrt().masked_fill(flat, 0)
    return contrast


def _box_mean(x: Tensor, window: int) -> Tensor:
    """Mean over a cubic window of (B, C, \\*low), of the pixels inside the image only.

    One axis after another, and along each as a sum of shifted images: three times as fast on a CPU
    as the pooling of torch.
    """
    half = window // 2
    if x.device.type == "cuda" and x.dim() <= 5 and min(x.shape[2:]) >= window:
        # Many small operations would take longer there.
        pools: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
        pooled: Tensor = pools[x.dim() - 3](x, window, 1, half, count_include_pad=False)
        return pooled
    inside: Tensor | int = 1
    for axis in range(2, x.dim()):
        extent = x.shape[axis]
        total = x.clone()
        for shift in range(1, half + 1):
            length = max(extent - shift, 0)
            first, last = ((axis, start, length) for start in (0, extent - length))
            total.narrow(*first).add_(x.narrow(*last))
            total.narrow(*last).add_(x.narrow(*first))
        place = torch.arange(extent, device=x.device)
        along = (place + half).clamp_max(extent - 1) - (place - half).clamp_min(0) + 1
        inside = inside * along.reshape(-1, *[1] * (x.dim() - 1 - axis))
        x = total
    return x / inside


def log_prior(
    prior: Tensor, map_shape: tuple[int, ...], receptive_field: int, floor: float
) -> Tensor:
    """Logarithm of a prior, brought to the positions of an attention map.

    Args:
        prior: (B, \\*low), not negative; relative values within an image matter alone.
        map_shape: extents of the attention map.
        receptive_field: margin that the attention network's convolutions consumed, in pixels.
        floor: prior of the emptiest position relative to the largest, in (0, 1]: nothing is ruled
            out, and an image without any contrast has a flat prior.

    Returns:
        (B, \\*map), at most about 0.
    """
    margin = receptive_field // 2
    for axis in range(1, prior.dim()):
        prior = prior.narrow(axis, margin, prior.shape[axis] - receptive_field)
    if tuple(prior.shape[1:]) != map_shape:
        pools = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)
        prior = pools[len(map_shape) - 1](prior.unsqueeze(1), map_shape).squeeze(1)
    peak = prior.flatten(1).amax(1).clamp_min(torch.finfo(prior.dtype).tiny)
    relative = prior / peak.reshape(-1, *[1] * len(map_shape))
    return torch.log(relative * (1 - floor) + floor)
