"""Sampling with replacement."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from ats.sampling.design import Design, Generators, uniform
from ats.sampling.runs import Runs, hit, hit_within


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

    def draw(self, runs: Runs, n_patches: int, generator: Generators) -> tuple[Tensor, Tensor]:
        """Invert the cumulated distribution at N uniforms."""
        mass = runs.mass()
        run, share = hit(mass, uniform(mass, n_patches, generator))
        first, values = runs.look(run)
        lane, drawn = hit_within(values, share)
        return first + lane, 1 / (n_patches * drawn)
