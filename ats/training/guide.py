"""Attention pulled to objects whose place is known because they were put there."""

from collections.abc import Sequence

import torch
from torch import Tensor


def guide_loss(attention: Tensor, offsets: Tensor, size: Sequence[int], places: Tensor) -> Tensor:
    """Minus the logarithm of the attention that looks at the object of each image, (B,).

    A position looks at an object if the object's centre lies in the middle half of its patch in
    every dimension, so that little of the object is cut off.

    Args:
        attention: (B, \\*map).
        offsets: (B, K, D) of the patches of all positions.
        size: D extents of a patch.
        places: (B, D) centres of the objects in pixels; NaN in images of which none is known.

    Returns:
        (B,) at least 0, and 0 where no place is known; gradients flow to the attention.
    """
    extents = torch.tensor(list(size), device=offsets.device)
    share = (places.unsqueeze(1) - offsets) / extents
    looks = ((share >= 0.25) & (share < 0.75)).all(2)
    mass = (attention.flatten(1) * looks).sum(1)
    # An object at the border may be in the middle of no patch.
    known = looks.any(1)
    # So little is added that there is a pull, too, where there is no attention at all.
    loss: Tensor = -torch.log(mass + 1e-12).masked_fill(~known, 0.0)
    return loss
