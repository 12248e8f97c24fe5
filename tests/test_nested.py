"""Nested sampling: exact by enumeration, and its patches where they should be."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ats
from ats.images.regions import RegionImages
from ats.nested import NestedSampling
from ats.nn import AttentionSampling

DESIGNS = ["replacement", "des-raj", "murthy", "systematic"]


class Logits(nn.Module):
    """The mean of each cell of an image in K cells along its last axis, stretched."""

    def __init__(self, cells: int, factor: float) -> None:
        super().__init__()
        self.cells = cells
        self.factor = nn.Parameter(torch.tensor(factor, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * nn.functional.adaptive_avg_pool1d(x, self.cells)


class Feature(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack(
            [(x.mean((1, 2))[:, None] * self.weight).sin().sum(1), x.amax((1, 2))], 1
        )


# A signal of 96 pixels: 4 regions of 24, of which each has 3 patches of 8.
CELLS, PARTS, PIXELS = 4, 3, 96


def model(design: Any = "murthy", n_regions: int = 2, n_patches: int = 2) -> NestedSampling:
    inner = AttentionSampling(
        Logits(PARTS, 2.0), Feature(), n_patches=n_patches, patch_size=(8,), design=design
    )
    return NestedSampling(
        Logits(CELLS, 3.0), inner, n_regions=n_regions, region_size=(6,), design=design
    )


def pixels(batch: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """The same signal at full, quarter and eighth resolution."""
    torch.manual_seed(3)
    high = torch.rand(batch, 1, PIXELS, dtype=torch.float64)
    return high.reshape(batch, 1, -1, 8).mean(3), high.reshape(batch, 1, -1, 4).mean(3), high


def exact(net: NestedSampling) -> Tensor:
    """Sum over all regions and all patches within each."""
    low, middle, high = pixels()
    outer = net.outer.attend(low)[0]
    total = torch.zeros(2, dtype=torch.float64)
    for region in range(CELLS):
        inner = net.inner
        assert isinstance(inner, AttentionSampling)
        within = inner.attend(middle[..., 6 * region : 6 * region + 6])[0]
        for part in range(PARTS):
            start = 24 * region + 8 * part
            total = (
                total
                + outer[region] * within[part] * inner.feature(high[..., start : start + 8])[0]
            )
    return total


class Fixed:
    """A design that draws given indices; the weights are those of the design it stands for.

    The ratios come from the design's own formula for the ordered sample.
    """

    def __init__(self, rows: list[tuple[int, ...]]) -> None:
        self.rows = rows

    def __call__(self, attention: Tensor, n_patches: int, generator: Any) -> tuple[Tensor, Tensor]:
        from ats.sampling.successive import des_raj_weights

        indices = torch.tensor(self.rows)
        rows = attention.flatten(1)
        drawn = rows.gather(1, indices)
        outside = rows.detach().scatter(1, indices, 0.0).sum(1, keepdim=True)
        return indices, drawn * (des_raj_weights(drawn.detach(), outside) / drawn.detach())


def probability(attention: Tensor, order: tuple[int, ...]) -> float:
    left, value = 1.0, 1.0
    for position in order:
        value *= float(attention[position]) / left
        left -= float(attention[position])
    return value


def test_value_and_gradients_are_exact_over_every_sample() -> None:
    """All ordered samples of regions, and of patches within each of them."""
    net = model()
    wanted = exact(net)
    direction = torch.tensor([0.3, -1.7], dtype=torch.float64)
    gradients = torch.autograd.grad((wanted * direction).sum(), list(net.parameters()))
    low, middle, high = pixels()
    with torch.no_grad():
        outer = net.outer.attend(low)[0]
        within = [net.inner.attend(middle[..., 6 * r : 6 * r + 6])[0] for r in range(CELLS)]
    mean = torch.zeros(2, dtype=torch.float64)
    total = 0.0
    for regions in itertools.permutations(range(CELLS), 2):
        for first in itertools.permutations(range(PARTS), 2):
            for second in itertools.permutations(range(PARTS), 2):
                net.outer.sample.design = Fixed([regions])
                net.inner.sample.design = Fixed([first, second])
                chance = (
                    probability(outer, regions)
                    * probability(within[regions[0]], first)
                    * probability(within[regions[1]], second)
                )
                total += chance
                seen = net(low, [middle, high])
                mean = mean + chance * seen.features[0]
    assert abs(total - 1) < 1e-12
    assert torch.allclose(mean, wanted, rtol=0, atol=1e-10)
    sampled = torch.autograd.grad((mean * direction).sum(), list(net.parameters()))
    for got, true in zip(sampled, gradients, strict=True):
        assert torch.allclose(got, true, rtol=0, atol=1e-10)


@pytest.mark.parametrize("design", DESIGNS)
def test_draws_have_the_exact_mean(design: str) -> None:
    """The designs themselves, at random: five standard errors."""
    net = model(design)
    low, middle, high = (part.expand(2000, -1, -1) for part in pixels())
    seen = net(low, [middle, high], generator=torch.Generator().manual_seed(5))
    error = seen.features.std(0) / 2000**0.5
    assert ((seen.features.mean(0) - exact(net)).abs() <= 5 * error + 1e-9).all()


def test_everything_drawn_is_the_exact_sum() -> None:
    net = model("systematic", n_regions=CELLS, n_patches=PARTS)
    low, middle, high = pixels()
    seen = net(low, [middle, high])
    assert torch.allclose(seen.features[0], exact(net), atol=1e-12)


def test_patches_lie_within_their_regions() -> None:
    net = model()
    low, middle, high = pixels(3)
    seen = net(low, [middle, high], generator=[torch.Generator().manual_seed(i) for i in range(3)])
    assert seen.offsets.shape == (3, 2, 1)
    assert torch.equal(seen.corners[-1], seen.offsets * 4)
    places = seen.inner.offsets.reshape(3, 2, 2, 1) + seen.corners[-1].unsqueeze(2)
    expected = ats.extract_patches(high, places.reshape(3, 4, 1), (8,))
    assert torch.equal(seen.inner.patches.reshape(3, 4, 1, 8), expected)
    alone = net(
        *(
            part[1:2] if isinstance(part, Tensor) else [p[1:2] for p in part]
            for part in (low, [middle, high])
        ),
        generator=[torch.Generator().manual_seed(1)],
    )
    assert torch.equal(alone.offsets[0], seen.offsets[1])
    assert torch.allclose(alone.features[0], seen.features[1])


def test_three_levels_of_regions() -> None:
    torch.manual_seed(0)
    low, middle, high = pixels()
    fine = high.repeat_interleave(4, 2)
    innermost = AttentionSampling(Logits(2, 1.0), Feature(), n_patches=2, patch_size=(16,))
    inner = NestedSampling(Logits(PARTS, 2.0), innermost, n_regions=PARTS, region_size=(8,))
    net = NestedSampling(Logits(CELLS, 3.0), inner, n_regions=CELLS, region_size=(6,))
    seen = net(low, [middle, high, fine])
    assert seen.features.shape == (1, 2)
    assert isinstance(seen.inner, ats.NestedSamplingOutput)
    assert seen.inner.inner.patches.shape == (CELLS * PARTS, 2, 1, 16)
    places = (
        seen.corners[-1].flatten()[:, None, None]
        + seen.inner.corners[-1].reshape(CELLS, PARTS, 1)
        + seen.inner.inner.offsets.reshape(CELLS, PARTS, 2)
    )
    expected = ats.extract_patches(fine, places.reshape(1, -1, 1), (16,))
    assert torch.equal(seen.inner.inner.patches.reshape(1, -1, 1, 16), expected)


def test_wrong_arguments_say_what_is_wrong() -> None:
    low, _, high = pixels()
    with pytest.raises(ValueError, match="at least two resolutions"):
        model()(low, [high])
    regions = RegionImages(
        ats.TensorImages(high), torch.zeros(1, 2, 1, dtype=torch.int64), torch.tensor([[24]])
    )
    with pytest.raises(ValueError, match="the regions are 1 x 2"):
        regions.patches(torch.zeros(3, 1, 1, dtype=torch.int64), (8,))
