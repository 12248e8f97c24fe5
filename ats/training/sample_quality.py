"""How well a sample of patches stands for its image."""

import torch
from torch import Tensor

from ats.nn import AttentionSamplingOutput, at_positions


@torch.no_grad()
def image_sums(seen: AttentionSamplingOutput, *, repeats: bool) -> Tensor:
    """Sums over a batch (6,): of the four means, of the variances, of squared estimates.

    Args:
        seen: of the batch.
        repeats: whether the design may draw a position twice.
    """
    weights = seen.weights.double()
    if repeats:
        included = torch.zeros_like(weights)
    else:
        drawn = at_positions(seen.attention, seen.positions).double()
        # A patch of weight 0 fills the place of a position that a small image lacks.
        included = torch.where(weights == 0, 1.0, drawn / weights.abs()).clamp_max(1.0)
    columns = (
        effective_positions(seen.attention),
        largest_weight(seen.positions, weights),
        repeated_patches(seen.positions, weights),
        empty_patches(seen.patches, weights),
        estimator_variance(seen.patch_features, weights, included),
        seen.features.flatten(1).float().square().sum(1),
    )
    return torch.stack([column.double().sum() for column in columns])


def effective_positions(attention: Tensor) -> Tensor:
    """Effective number of positions 1 / sum_i a_i^2 of each attention map (B, \\*map), (B,).

    The inverse participation ratio: K equally likely positions count as K. So do they for the
    exponential of the entropy, from which a thin veil over the many positions of a large map hides
    that nearly all attention is in one place; and the entropy has a column of its own.

    References:
        Hill, Diversity and Evenness: A Unifying Notation and Its Consequences, 1973, order 2.
    """
    length: Tensor = torch.linalg.vector_norm(attention.flatten(1), dim=1)
    return length.pow(-2)


def largest_weight(positions: Tensor, weights: Tensor) -> Tensor:
    """Share of the largest weight in all weights of an image, (B,).

    The weights of a position that was drawn repeatedly are added up.

    Args:
        positions: (B, N, D).
        weights: (B, N).
    """
    size = weights.abs()
    together = _same(positions).to(size.dtype) @ size.unsqueeze(2)
    return together.amax((1, 2)) / size.sum(1).clamp_min(1e-30)


def repeated_patches(positions: Tensor, weights: Tensor) -> Tensor:
    """Share of the patches of an image whose position had been drawn already, (B,).

    Args:
        positions: (B, N, D).
        weights: (B, N); patches of weight 0 do not count.
    """
    return _share(_same(positions).tril(-1).any(2), weights)


def empty_patches(patches: Tensor, weights: Tensor) -> Tensor:
    """Share of the patches of an image whose pixels are all equal up to rounding, (B,).

    Args:
        patches: (B, N, C, \\*patch); each channel may have its own value.
        weights: (B, N); patches of weight 0 do not count.
    """
    pixels = patches.flatten(3)
    largest = pixels.amax(3)
    # Patches that were interpolated differ by rounding where the image does not.
    rounding = 8 * torch.finfo(pixels.dtype).eps * largest.abs().clamp_min(1)
    return _share((largest - pixels.amin(3) <= rounding).all(2), weights)


def estimator_variance(features: Tensor, weights: Tensor, included: Tensor) -> Tensor:
    """Estimate of the variance of each estimate, summed over its features, (B,).

    With z_s = w_s f_s, the probabilities pi_s that s is in the sample, and the shares
    c_s = (1 - pi_s) / sum_t (1 - pi_t),

        sum_s (1 - pi_s) norm(z_s - sum_t c_t z_t)^2 / (1 - sum_s c_s^2).

    Where pi_s = 0 this is N / (N - 1) sum_s norm(z_s - mean)^2, the unbiased estimate of Hansen and
    Hurwitz for draws with replacement. Without replacement it is Deville's for fixed sizes, in
    which patches that were certain to be drawn have no part. For ``systematic`` and ``murthy`` it
    is right within some ten per cent, unless neighbours have similar features, which makes the
    systematic design better than it says; for ``des-raj`` it is up to several times too large where
    attention is concentrated.

    Args:
        features: (B, N, \\*F) of the patches.
        weights: (B, N).
        included: (B, N) pi in [0, 1], the inverse of the importance ratio; 0 with replacement.

    Returns:
        (B,) at least 0; exactly that if at most one patch was left to chance.

    References:
        Hansen and Hurwitz, On the Theory of Sampling from Finite Populations, 1943. Deville,
        Estimation de la variance pour les enquetes en deux phases, 1993. Matei and Tille,
        Evaluation of Variance Approximations and Estimators in Maximum Entropy Sampling with
        Unequal Probability and Fixed Sample Size, 2005.
    """
    left = 1 - included
    share = left / left.sum(1, keepdim=True).clamp_min(1e-30)
    # Features may be many, and are not copied into a wider type than they need.
    dtype = torch.promote_types(features.dtype, torch.float32)
    terms = weights.to(dtype).unsqueeze(2) * features.reshape(*weights.shape, -1)
    centre = (share.to(dtype).unsqueeze(2) * terms).sum(1, keepdim=True)
    squares = (terms - centre).square().sum(2)
    # 1 - sum_s c_s^2, which would cancel where one patch has nearly all of the chance.
    freedom = (share * (1 - share)).sum(1)
    return (left * squares).sum(1) / freedom.clamp_min(1e-30)


def _same(positions: Tensor) -> Tensor:
    """Whether patches s and t of an image have the same position, (B, N, N)."""
    return (positions.unsqueeze(2) == positions.unsqueeze(1)).all(3)


def _share(which: Tensor, weights: Tensor) -> Tensor:
    """Share of these patches (B, N) among those that weigh something."""
    counted = weights != 0
    return (which & counted).sum(1) / counted.sum(1).clamp_min(1)
