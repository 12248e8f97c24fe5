"""What is normalised in the networks of this library, and over what."""

import torch
from torch.nn import functional as F

from ats.networks import residual_features
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
