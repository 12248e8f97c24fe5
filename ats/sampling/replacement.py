"""Sampling with replacement."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ats.sampling.design import Design, Generators, uniform


@final
@dataclass(frozen=True)
class Replacement(Design):
    """N independent draws from the attention, each of weight 1/N (Hansen and Hurwitz, 1943).

    Centred, the expected gradient is (N-1)/N of the exact one and points the same way.
    """

    @property
    def distinct(self) -> bool:
        """Positions may repeat."""
        return False

    def draw(
        self, probabilities: Tensor, n_patches: int, generator: Generators
    ) -> tuple[Tensor, Tensor]:
        """Invert the cumulated distribution at N uniforms."""
        cumulated = probabilities.cumsum(1)
        points = uniform(probabilities, n_patches, generator) * cumulated[:, -1:]
        # Uniforms rounded up to 1 would fall behind the last position.
        last = probabilities.shape[1] - 1
        indices = torch.searchsorted(cumulated, points, right=True).clamp_max(last)
        return indices, 1 / (n_patches * probabilities.gather(1, indices))
