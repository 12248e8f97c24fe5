"""Entropy of attention maps."""

from torch import Tensor


def entropy(attention: Tensor, *, eps: float = 0.0) -> Tensor:
    """Entropy -sum_i a_i log(a_i + eps) of each attention map, in nats.

    A position of exactly zero attention contributes nothing and has a finite gradient.

    Args:
        attention: (B, \\*map), rows of sum 1.
        eps: added within the logarithm; the 2019 program used 1e-6.

    Returns:
        (B,), between 0 and the logarithm of the number of positions; gradients flow to the
        attention.

    >>> import torch
    >>> entropy(torch.full((1, 2, 2), 0.25)).exp()
    tensor([4.0000])
    """
    rows = attention.flatten(1)
    tiny = 1e-30 if rows.element_size() >= 4 else 1e-7
    return -(rows * (rows + eps).clamp_min(tiny).log()).sum(1)
