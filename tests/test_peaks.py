"""For prediction: positions that are apart, which count rather than weigh."""

import pytest
import torch

import ats
from ats.sampling import Peaks


def test_the_largest_of_what_is_not_near() -> None:
    attention = torch.tensor([[1.0, 5.0, 20.0, 6.0, 3.0, 30.0, 25.0, 8.0, 2.0]]) / 100
    positions, weights = ats.sample(attention, 3, design=Peaks(spacing=2, power=1.0))
    # 25 is near 30, and 5 near 20, so that 3 is the next; each stands for what is left around it.
    assert positions[0, :, 0].tolist() == [5, 2, 7]
    torch.testing.assert_close(weights, torch.tensor([[0.58, 0.31, 0.10]]) / 0.99)
    _, weights = ats.sample(attention, 3, design=Peaks(spacing=2, power=0.5))
    root = torch.tensor([[0.58, 0.31, 0.10]]).sqrt()
    torch.testing.assert_close(weights, root / root.sum())
    _, weights = ats.sample(attention, 3, design=Peaks(spacing=2, power=0.0))
    torch.testing.assert_close(weights, torch.full((1, 3), 1 / 3))


@pytest.mark.parametrize("spacing", [0, -1.0, float("nan"), (2.0, 0.0)])
def test_a_spacing_is_positive(spacing: object) -> None:
    with pytest.raises(ValueError, match=r"spacing=.* must be above 0 in every dimension"):
        Peaks(spacing=spacing)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(30,), (12, 17), (5, 6, 7)], ids=str)
def test_they_are_apart(shape: tuple[int, ...]) -> None:
    spacing = [2.5, 3.0, 1.5][: len(shape)]
    generator = torch.Generator().manual_seed(0)
    attention = torch.randn(4, *shape, generator=generator).flatten(1).softmax(1).view(4, *shape)
    positions, weights = ats.sample(attention, 5, design=Peaks(spacing))
    torch.testing.assert_close(weights.sum(1), torch.ones(4))
    distance = (positions.unsqueeze(2) - positions.unsqueeze(1)).abs()
    apart = (distance >= torch.tensor(spacing)).any(3)
    assert (apart | torch.eye(5, dtype=torch.bool)).all()
    # An image does not depend on its batch, which may have spacings of its own.
    alone = ats.sample(attention[2:3], 5, design=Peaks(spacing))
    assert torch.equal(alone.positions[0], positions[2])
    own = torch.tensor(spacing).repeat(4, 1) * torch.tensor([1.0, 2.0, 1.0, 3.0]).unsqueeze(1)
    several = ats.sample(attention, 5, design=Peaks(own))
    assert torch.equal(several.positions[2], positions[2])
    assert not torch.equal(several.positions[3], positions[3])


def test_where_nothing_is_left_weights_are_0() -> None:
    attention = torch.tensor([[0.0, 0.7, 0.0, 0.3, 0.0], [0.2, 0.2, 0.2, 0.2, 0.2]])
    _, weights = ats.sample(attention, 4, design=Peaks(spacing=2, power=0.0))
    wanted = torch.tensor([[1 / 2, 1 / 2, 0, 0], [1 / 3, 1 / 3, 1 / 3, 0]])
    torch.testing.assert_close(weights, wanted)


def test_patches_do_not_overlap() -> None:
    attention = torch.nn.Conv2d(1, 1, 3, padding="same")
    feature = torch.nn.Sequential(torch.nn.AdaptiveMaxPool2d(1), torch.nn.Flatten())
    sampling = ats.AttentionSampling(
        attention, feature, n_patches=9, patch_size=(30, 20), inference=Peaks()
    ).eval()
    images = torch.rand(2, 1, 200, 300)
    seen = sampling(images[:, :, ::5, ::5], images)
    distance = (seen.offsets.unsqueeze(2) - seen.offsets.unsqueeze(1)).abs()
    apart = (distance >= torch.tensor([30, 20])).any(3)
    assert (apart | torch.eye(9, dtype=torch.bool)).all()
    # In training the design is another one.
    assert not torch.equal(sampling.train()(images[:, :, ::5, ::5], images).offsets, seen.offsets)


def test_powers_lie_between_0_and_1() -> None:
    for power in (-0.1, 1.1):
        with pytest.raises(ValueError, match=f"power={power} must lie in"):
            Peaks(power=power)
