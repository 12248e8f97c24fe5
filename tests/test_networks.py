"""What is normalised in the networks of this library, and over what."""

import torch
from torch import nn
from torch.nn import functional as F

from ats.networks import LayerNorm2d, halved_attention, residual_features
from ats.nn import glorot_uniform_


def test_layer_norm_of_pixels() -> None:
    norm = LayerNorm2d(6)
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    x = torch.randn(2, 6, 5, 7)
    wanted = torch.stack(
        [
            F.layer_norm(x[:, :, row, column], (6,), norm.weight, norm.bias)
            for row in range(5)
            for column in range(7)
        ],
        dim=-1,
    ).reshape(x.shape)
    torch.testing.assert_close(norm(x), wanted)
    half = norm(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half, norm(x.bfloat16().float()).bfloat16())


def test_pale_things_are_seen_as_bright_ones_are() -> None:
    torch.manual_seed(0)
    attention = glorot_uniform_(halved_attention(1)).eval()
    bright = torch.rand(3, 1, 12, 12)
    with torch.no_grad():
        seen, pale = attention(bright), attention(bright * 0.2)
        # A network of convolutions and ReLU alone would say a fifth.
        torch.testing.assert_close(pale, seen, rtol=0.05, atol=0.02 * float(seen.abs().max()))


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
