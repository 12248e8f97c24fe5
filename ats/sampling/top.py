"""Designs for prediction that are biased or cost more draws."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ats.sampling.design import Design, DesignFunction, Generators
from ats.sampling.runs import Runs


@final
@dataclass(frozen=True)
class Top(Design):
    """The N positions of the largest attention, which is renormalised over them.

    Deterministic and biased towards the largest: for prediction, not for training.
    """

    def draw(self, runs: Runs, n_patches: int, generator: Generators) -> tuple[Tensor, Tensor]:
        """Take the largest; all have the ratio 1 / sum of their attention."""
        indices, top = runs.largest(n_patches)
        return indices, torch.ones_like(top) / top.sum(1, keepdim=True)


@final
@dataclass(frozen=True)
class Average:
    """The mean of several independent draws of another design: draws x N patches an image.

    Args:
        design: what is drawn repeatedly: a :class:`Design`, or any callable like one.
        draws: how often.
    """

    design: DesignFunction
    draws: int

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"draws={self.draws} must be at least 1")

    @property
    def distinct(self) -> bool:
        """Positions may repeat between draws, not within one where the design forbids it."""
        return getattr(self.design, "distinct", False)

    def __call__(
        self, attention: Tensor, n_patches: int, generator: Generators
    ) -> tuple[Tensor, Tensor]:
        """Indices and weights (B, draws * N) of attention (B, \\*map)."""
        drawn = [self.design(attention, n_patches, generator) for _ in range(self.draws)]
        indices, weights = zip(*drawn, strict=True)
        return torch.cat(indices, 1), torch.cat(weights, 1) / self.draws
