"""Classifiers that count what patches vote for."""

import pytest
import torch
from torch import nn

import ats
from ats.sampling import Average
from ats.votes import ABSTENTIONS, Shares, Votes, VotingClassifier


@pytest.mark.parametrize("scale", [None, 3.0])
def test_votes_are_probabilities_of_scaled_directions(scale: float | None) -> None:
    torch.manual_seed(0)
    votes, x = Votes(4, 2, scale=scale), torch.randn(5, 4)
    directions = x / x.norm(dim=1, keepdim=True) * (scale or 1.0)
    wanted = torch.softmax(directions @ votes.linear.weight.T + votes.linear.bias, 1)
    torch.testing.assert_close(votes(x), wanted)
    torch.testing.assert_close(votes(7 * x), wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert votes(x).dtype == torch.float32


def test_abstentions_take_nothing_from_the_others() -> None:
    found = torch.tensor([[0.5, 0.25, 0.25]])
    none = torch.tensor([[0.0, 0.0, 1.0]])
    shares = Shares(2)
    wanted = torch.tensor([[0.5, 0.25]]) / (0.75 + ABSTENTIONS)
    torch.testing.assert_close(shares(found), wanted)
    # Three patches in four show nothing.
    wanted = torch.tensor([[0.5, 0.25]]) / (0.75 + 4 * ABSTENTIONS)
    torch.testing.assert_close(shares(0.25 * found + 0.75 * none), wanted)
    torch.testing.assert_close(shares(none), torch.zeros(1, 2))
    # Negative weights make no shares beyond all bounds.
    assert shares(torch.tensor([[-ABSTENTIONS, 0.0, 1 + ABSTENTIONS]])).abs().max() < 2


class Brightness(nn.Module):
    """Two features: how bright a patch is, and how dark."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.flatten(1).mean(1)
        return torch.stack([mean, 1 - mean], 1)


def voting(**options: object) -> VotingClassifier:
    torch.manual_seed(0)
    feature = nn.Sequential(Brightness(), Votes(2, 3))
    attention = nn.Conv2d(1, 1, 1)
    sampling = ats.AttentionSampling(
        attention,
        feature,
        n_patches=4,
        patch_size=(4, 4),
        **options,  # type: ignore[arg-type]
    )
    return VotingClassifier(sampling, 3, scale=5.0)


def test_features_must_be_votes() -> None:
    classifier = voting()
    low, high = torch.rand(1, 1, 8, 8), torch.rand(1, 1, 40, 40)
    for feature, found in ((Brightness(), 2), (nn.Sequential(Brightness(), Votes(2, 5)), 6)):
        classifier.sampling.feature = feature
        with pytest.raises(ValueError, match=rf"yields {found} numbers, votes for 3 classes and"):
            classifier(low, high)


def test_an_image_is_what_most_of_it_votes_for() -> None:
    model = voting()
    low, high = torch.rand(6, 1, 5, 5), torch.rand(6, 1, 40, 40)
    logits, seen = model(low, high)
    assert logits.shape == (6, 3)
    assert seen.patch_features.shape == (6, 4, 4)
    mean = (seen.weights.unsqueeze(2) * seen.patch_features).sum(1)
    counted = mean[:, :3].sum(1, keepdim=True) + ABSTENTIONS
    torch.testing.assert_close(logits, 5 * mean[:, :3] / counted)
    nn.functional.cross_entropy(logits, torch.arange(6) % 3).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_more_draws_come_closer_to_the_exact_votes() -> None:
    model = voting(inference=Average(ats.sampling.Systematic(), 200)).eval()
    low, high = torch.rand(2, 1, 5, 5), torch.rand(2, 1, 40, 40)
    with torch.no_grad():
        exact = model.logits(ats.exact_expectation(model.sampling, low, high).features)
        logits, _ = model(low, high, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(logits, exact, rtol=0, atol=0.02)
