"""Networks for :class:`ats.AttentionSampling`: small ones, and those of 2019 for street scenes."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ats.nn import L2Normalize


def speed_limits_attention(channels: int = 3) -> nn.Sequential:
    """Attention logits of the 2019 speed-limits experiment, one for each 8 x 8 pixels.

    Convolutions 3x3 without padding of 8, 16, 32 and 1 channels, ReLU between them, and max pooling
    over 8 x 8. Its receptive field is 9: give ``receptive_field=9`` to the sampling.

    Args:
        channels: C of the small view.

    Returns:
        Network from (B, C, H, W) to logits (B, 1, (H - 8) // 8, (W - 8) // 8).

    >>> import torch
    >>> speed_limits_attention()(torch.zeros(2, 3, 72, 96)).shape
    torch.Size([2, 1, 8, 11])

    References:
        Katharopoulos and Fleuret, Processing Megapixel Images with Deep Attention-Sampling Models,
        2019, section 4.3 and its program, scripts/speed_limits.py.
    """
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 16, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(32, 1, 3),
        nn.MaxPool2d(8),
    )


def strided_attention(channels: int = 3, width: int = 64) -> nn.Sequential:
    """Attention logits that see 39 x 39 pixels of the small view, one for each 8 x 8 of them.

    Halved in its first two layers and once more in the middle, it costs a third of
    :func:`speed_limits_attention`, which sees 9 x 9 pixels with a position; normalised within each
    image. Give ``receptive_field=7`` to the sampling: so much is lost at the borders.

    Args:
        channels: C of the small view.
        width: channels of its last layers, a multiple of 16.

    Returns:
        Network from (B, C, H, W) to logits (B, 1, (H - 7) // 8, (W - 7) // 8).

    >>> import torch
    >>> strided_attention()(torch.zeros(2, 3, 72, 97)).shape
    torch.Size([2, 1, 8, 11])
    """
    layers: list[nn.Module] = []
    plan = ((width // 4, 2), (width // 2, 2), (width // 2, 1), (width, 2), (width, 1))
    for wide, stride in plan:
        layers += [
            nn.Conv2d(channels, wide, 3, stride=stride, padding=2 - stride),
            GroupNorm(4, wide),
            nn.ReLU(inplace=True),
        ]
        channels = wide
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 1))


def halved_attention(channels: int = 3, width: int = 16) -> nn.Sequential:
    """Attention logits that see 11 x 11 pixels of the small view, one for each 2 x 2 of them.

    They are centred on the first of the 2 x 2 pixels, about half a pixel from where the patch is
    read.

    Args:
        channels: C of the small view.
        width: channels of its hidden layers.

    Returns:
        Network from (B, C, H, W) to logits (B, 1, ceil(H / 2), ceil(W / 2)).

    >>> import torch
    >>> halved_attention(1)(torch.zeros(2, 1, 36, 49)).shape
    torch.Size([2, 1, 18, 25])
    """
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, 1, 1),
    )


def small_attention(channels: int = 3, width: int = 16) -> nn.Sequential:
    """Attention logits of small views, one for each 4 x 4 pixels; sizes are kept otherwise.

    Args:
        channels: C of the small view.
        width: channels of its last layer but one.

    Returns:
        Network from (B, C, H, W) to logits (B, 1, H // 4, W // 4).

    >>> import torch
    >>> small_attention(5)(torch.zeros(2, 5, 32, 49)).shape
    torch.Size([2, 1, 8, 12])
    """
    return nn.Sequential(
        nn.Conv2d(channels, width // 2, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(width // 2, width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, 1, 1),
    )


def small_features(channels: int = 3, width: int = 32) -> nn.Sequential:
    """Features of length 1 from four convolutions that each halve the patch.

    Normalised within each patch, so that patches of a batch do not change each other's features.

    Args:
        channels: C of the patches.
        width: channels of every layer, a multiple of 8.

    Returns:
        Network from (B, C, H, W) to (B, width).

    >>> import torch
    >>> small_features(5)(torch.rand(2, 5, 64, 48)).shape
    torch.Size([2, 32])
    """
    layers: list[nn.Module] = []
    for before in (channels, width, width, width):
        layers += [
            nn.Conv2d(before, width, 3, stride=2, padding=1),
            GroupNorm(8, width),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), L2Normalize())


class GroupNorm(nn.GroupNorm):
    """Group norm whose gradient in bfloat16 is not slowed down by the layout ``channels_last``.

    On a processor torch's own takes ten times as long there as on contiguous images, and the whole
    attention network a quarter longer.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The same shape and layout."""
        last = torch.channels_last
        slow = x.device.type == "cpu" and x.dtype == torch.bfloat16
        if slow and x.is_contiguous(memory_format=last):
            return super().forward(x.contiguous()).contiguous(memory_format=last)
        return super().forward(x)


class Standardize(nn.Module):
    """Pixels minus their mean over their standard deviation, channel by channel.

    Args:
        mean: of each channel.
        std: of each channel.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """The same shape (B, C, \\*S)."""
        ones = [1] * (x.dim() - 2)
        mean, std = (value.to(x.dtype).reshape(-1, *ones) for value in self.buffers())
        return (x - mean) / std


def residual_features(
    channels: int = 3,
    width: int = 32,
    strides: Sequence[int] = (1, 2, 2, 2),
    *,
    momentum: float = 0.1,
    normalize: bool = True,
    standardize: bool = False,
) -> nn.Sequential:
    """Features of length 1 from a pre-activation residual network.

    A convolution 3x3 with the first stride, a :class:`PreActivation` block for each of the others,
    batch norm, ReLU, the mean over all pixels, and L2 normalisation.

    Args:
        channels: C of the patches.
        width: channels of every layer.
        strides: of the first convolution and of each block.
        momentum: share of a batch in the running statistics of batch norm. The 2019 program has
            0.01. Since they begin at a variance of 1, a network is then evaluated with useless
            statistics for its first hundreds of steps.
        normalize: to length 1; else features are as long as what they found is plain.
        standardize: bring each feature to mean 0 and variance 1 over the patches of a batch first.
            Means of what a ReLU lets through are positive all over, and point in one direction
            whatever the patches show; without what they share, a linear classifier learns sooner.
            Needs two patches a batch at least, in training.

    Returns:
        Network from (B, C, H, W) to (B, width).

    Raises:
        ValueError: no strides.

    >>> import torch
    >>> residual_features(width=7)(torch.rand(2, 3, 13, 11)).shape
    torch.Size([2, 7])

    References:
        Katharopoulos and Fleuret, Processing Megapixel Images with Deep Attention-Sampling Models,
        2019, section 4.3. He et al., Identity Mappings in Deep Residual Networks, 2016, section 4.
    """
    if not strides:
        raise ValueError("strides=() must hold at least that of the first convolution")
    first, *rest = strides
    return nn.Sequential(
        SameConv2d(channels, width, 3, first),
        *(PreActivation(width, stride, momentum) for stride in rest),
        _batch_norm(width, momentum),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        *([nn.BatchNorm1d(width, momentum=momentum, affine=False)] if standardize else []),
        *([L2Normalize()] if normalize else []),
    )


class PreActivation(nn.Module):
    """A residual block whose normalisation and ReLU come before its convolutions.

    y = conv1x1(h) + conv3x3(relu(norm(conv3x3(h)))) with h = relu(norm(x)); the stride is in both
    convolutions that see h.

    Args:
        width: channels of input and output.
        stride: of the block.
        momentum: see :func:`residual_features`.
    """

    def __init__(self, width: int, stride: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.shortcut = SameConv2d(width, width, 1, stride)
        self.norm1 = _batch_norm(width, momentum)
        self.conv1 = SameConv2d(width, width, 3, stride)
        self.norm2 = _batch_norm(width, momentum)
        self.conv2 = SameConv2d(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, ceil(H / stride), ceil(W / stride)) of (B, width, H, W)."""
        h = F.relu(self.norm1(x))
        residual: Tensor = self.conv2(F.relu(self.norm2(self.conv1(h))))
        shortcut: Tensor = self.shortcut(h)
        total: Tensor = shortcut + residual
        return total


class SameConv2d(nn.Conv2d):
    """A convolution without bias whose output has ceil(extent / stride) pixels, as TensorFlow pads.

    Where an odd number of pixels must be added, the odd one is at the bottom and at the right;
    torch's own padding is symmetrical.
    """

    def __init__(self, channels: int, width: int, extent: int, stride: int = 1) -> None:
        super().__init__(channels, width, extent, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, ceil(H / stride), ceil(W / stride)) of (B, channels, H, W)."""
        padding = []
        for limit, extent, stride in zip(x.shape[2:], self.kernel_size, self.stride, strict=True):
            total = max((math.ceil(limit / stride) - 1) * stride + extent - limit, 0)
            padding.append((total // 2, total - total // 2))
        (top, bottom), (left, right) = padding
        if top != bottom or left != right:
            x = F.pad(x, [left, right, top, bottom])
            top = left = 0
        # Margins that are alike are the convolution's own, which copies nothing for them.
        return F.conv2d(x, self.weight, None, self.stride, (top, left))


def _batch_norm(width: int, momentum: float) -> nn.BatchNorm2d:
    """With the epsilon of Keras, whose momentum is the share of the old statistics instead."""
    return nn.BatchNorm2d(width, eps=1e-3, momentum=momentum)
