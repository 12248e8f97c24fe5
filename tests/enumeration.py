"""Exact expectations of random designs, by enumeration of every sample that they can draw."""

import itertools
import math

import torch
from torch import Tensor

from ats.sampling import DesignFunction


def ordered_samples(n_positions: int, n_patches: int, repeat: bool) -> list[tuple[int, ...]]:
    """Every ordered sample."""
    if repeat:
        return list(itertools.product(range(n_positions), repeat=n_patches))
    return list(itertools.permutations(range(n_positions), n_patches))


def sample_probability(attention: Tensor, sample: tuple[int, ...], repeat: bool) -> float:
    """Probability of an ordered sample, drawn one after another."""
    probability, left = 1.0, 1.0
    for position in sample:
        probability *= float(attention[position]) / left
        if not repeat:
            left -= float(attention[position])
    return probability


def representatives(
    design: DesignFunction, attention: Tensor, n_patches: int, repeat: bool, rows: int
) -> tuple[Tensor, Tensor, Tensor]:
    """One draw of every ordered sample, its weights, and how often it came in that many draws.

    Weights follow from the sample alone, so that one draw of each stands for all of them. What is
    enumerated is thus what the public design returns, nothing inside it.
    """
    with torch.no_grad():
        indices, _ = design(attention.expand(rows, -1), n_patches, torch.Generator().manual_seed(1))
    wanted = ordered_samples(attention.shape[0], n_patches, repeat)
    code = (indices * attention.shape[0] ** torch.arange(n_patches)).sum(1)
    first: dict[int, int] = {}
    for row, value in enumerate(code.tolist()):
        first.setdefault(value, row)
    keys = [sum(p * attention.shape[0] ** k for k, p in enumerate(s)) for s in wanted]
    missing = [s for s, key in zip(wanted, keys, strict=True) if key not in first]
    assert not missing, f"{len(missing)} of {len(wanted)} samples never came in {rows} draws"
    # The same draws again, now with gradients: the generator makes them repeat.
    again, weights = design(attention.expand(rows, -1), n_patches, torch.Generator().manual_seed(1))
    assert torch.equal(again, indices)
    chosen = torch.tensor([first[key] for key in keys])
    counts = torch.bincount(code, minlength=max(keys) + 1)[torch.tensor(keys)]
    return indices[chosen], weights[chosen], counts


def exact_expectation(
    design: DesignFunction, attention: Tensor, features: Tensor, n_patches: int, repeat: bool
) -> tuple[Tensor, Tensor]:
    """Expectation (F) over every sample of a design, and the observed counts."""
    rows = 20_000 if repeat else 5_000
    indices, weights, counts = representatives(design, attention, n_patches, repeat, rows)
    samples = ordered_samples(attention.shape[0], n_patches, repeat)
    detached = attention.detach()
    probability = torch.tensor(
        [sample_probability(detached, sample, repeat) for sample in samples], dtype=torch.float64
    )
    assert math.isclose(float(probability.sum()), 1.0, abs_tol=1e-12)
    estimates = (weights.unsqueeze(-1) * features[indices]).sum(1)
    expected = counts.sum() * probability
    chi2 = ((counts - expected) ** 2 / expected).sum() / (len(samples) - 1)
    # One draw in a hundred thousand would be further off than this by chance.
    assert chi2 < 1 + 5 * math.sqrt(2 / (len(samples) - 1)) + 20 / len(samples), float(chi2)
    return (probability.unsqueeze(1) * estimates).sum(0), counts


def systematic_expectation(
    make: type, attention: Tensor, features: Tensor, n_patches: int, centred: bool = False
) -> Tensor:
    """Integral over the start u: the sample is constant between the fractions of the cumulation."""
    from ats.sampling.systematic import inclusion_probabilities

    # Without a mask, a map of one dimension is walked through in its own order.
    row = attention.detach().unsqueeze(0)
    cumulated = inclusion_probabilities(row, n_patches).cumsum(1)[0]
    ends = torch.cat([torch.zeros(1), torch.remainder(cumulated, 1), torch.ones(1)]).double()
    ends = ends.sort().values
    total = torch.zeros(features.shape[1], dtype=torch.float64)
    for begin, end in itertools.pairwise(ends.tolist()):
        if end - begin > 1e-14:
            design = make(start=(begin + end) / 2, centred=centred)
            indices, weights = design(attention.unsqueeze(0), n_patches, None)
            total = total + (end - begin) * (weights[0].unsqueeze(1) * features[indices[0]]).sum(0)
    return total
