"""What is normalised in the networks of this library, and over what."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ats.networks import GroupNorm, SameConv2d, residual_features
from ats.nn import glorot_uniform_


def test_standardised_features() -> None:
    torch.manual_seed(0)
    patches = torch.rand(40, 1, 16, 16)
    plain, standard = (
        glorot_uniform_(residual_features(1, 8, (2, 2), normalize=False, standardize=given))
        for given in (False, True)
    )
    with torch.no_grad():
        positive, features = plain(patches), standard(patches)
    assert positive.min() >= 0
    torch.testing.assert_close(features.mean(0), torch.zeros(8), rtol=0, atol=1e-5)
    torch.testing.assert_close(features.var(0, correction=0), torch.ones(8), rtol=0.02, atol=0)
    # Normalised to length 1, directions differ by far more.
    alike, apart = (F.normalize(x, dim=1) for x in (positive, features))
    assert (apart @ apart.T).mean() < 0.1
    assert (alike @ alike.T).mean() > 0.9


def test_group_norm_in_bfloat16_and_channels_last() -> None:
    torch.manual_seed(0)
    plain, ours = nn.GroupNorm(4, 16), GroupNorm(4, 16)
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(3, 16, 11, 9, dtype=torch.bfloat16)
    slope = torch.randn(3, 16, 11, 9)
    last = x.clone(memory_format=torch.channels_last)
    results = []
    for module, given in ((plain, x), (ours, last)):
        given.requires_grad_()
        out = module.bfloat16()(given)
        (out * slope).sum().backward()
        results.append((out, given.grad, module.weight.grad))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)
    assert results[1][0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("shape", "stride", "kernel", "margins"),
    [
        ((8, 9), 1, 3, (1, 1, 1, 1)),
        # Of an even extent and every second pixel the odd one is at the end.
        ((8, 8), 2, 3, (0, 1, 0, 1)),
        ((8, 9), 2, 3, (1, 1, 0, 1)),
        ((9, 9), 2, 3, (1, 1, 1, 1)),
        ((8, 9), 2, 1, (0, 0, 0, 0)),
        ((7, 6), 3, 3, (0, 0, 1, 1)),
    ],
)
def test_convolutions_pad_as_tensorflow_does(
    shape: tuple[int, int], stride: int, kernel: int, margins: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    module = SameConv2d(2, 3, kernel, stride)
    x = torch.randn(1, 2, *shape)
    expected = F.conv2d(F.pad(x, margins), module.weight, stride=stride)
    assert expected.shape[2:] == tuple(-(-extent // stride) for extent in shape)
    torch.testing.assert_close(module(x), expected)
