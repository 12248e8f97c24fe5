"""Positions that are apart, which count rather than weigh."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ats.sampling.design import Generators


@final
@dataclass(frozen=True)
class Peaks:
    """The largest attention, then the largest of what is not near it, and so on.

    Each position stands for the attention m_s near it that no earlier one stands for; weights are
    m_s^power / sum_t m_t^power. With a power of 1/5, what has a hundredth of the attention of
    another thing still has 0.4 of its weight: whether something is there comes to count for
    more than how strongly attention expects it. For classifiers in which patches that show nothing
    abstain, such as :class:`ats.VotingClassifier`.

    Deterministic and biased, without a gradient to the attention: for prediction, and for the last
    epochs of a training, in which the attention stays as it is, so that the rest learns from what
    it is then given.

    Args:
        spacing: distance below which positions are near each other, in positions, one for all
            dimensions of the map, one for each (D), or (B, D). None is that below which patches
            overlap, and 1 where no patches are known.
        power: of the attention, in [0, 1].

    Raises:
        ValueError: the power is not in [0, 1], or the spacing, unless it is a tensor, not positive.
    """

    spacing: float | Sequence[float] | Tensor | None = None
    power: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.power <= 1:
            raise ValueError(f"power={self.power} must lie in [0, 1]")
        # A tensor may be on a GPU, which is not waited for.
        if self.spacing is None or isinstance(self.spacing, Tensor):
            return
        each = self.spacing if isinstance(self.spacing, Sequence) else [self.spacing]
        if not all(spacing > 0 for spacing in each):
            raise ValueError(f"spacing={self.spacing} must be above 0 in every dimension")

    def __call__(
        self, attention: Tensor, n_patches: int, generator: Generators
    ) -> tuple[Tensor, Tensor]:
        """Indices and weights (B, N) of attention (B, \\*map); weight 0 where nothing is left."""
        left = attention.detach().to(torch.promote_types(attention.dtype, torch.float32))
        spacing = self._spacing(left)
        indices, masses = [], []
        for _ in range(n_patches):
            index = left.flatten(1).argmax(1)
            near = _near(index, left.shape, spacing) & (left > 0)
            masses.append((left * near).flatten(1).sum(1))
            indices.append(index)
            left = left.masked_fill(near, 0.0)
        mass = torch.stack(masses, 1)
        weights = torch.where(mass > 0, mass**self.power, 0.0)
        return torch.stack(indices, 1), weights / weights.sum(1, keepdim=True)

    def _spacing(self, attention: Tensor) -> Tensor:
        """(B or 1, D)."""
        spacing = 1.0 if self.spacing is None else self.spacing
        if not isinstance(spacing, Tensor):
            spacing = torch.tensor(spacing, dtype=torch.float32)
        spacing = spacing.to(attention.device, torch.float32, non_blocking=True)
        return spacing.expand(*spacing.shape[:-1], attention.dim() - 1).reshape(
            -1, attention.dim() - 1
        )


def _near(index: Tensor, shape: torch.Size, spacing: Tensor) -> Tensor:
    """Whether the positions of maps (B, \\*map) are near one of each, given by its index (B)."""
    near = torch.ones((), dtype=torch.bool, device=index.device)
    for axis in reversed(range(1, len(shape))):
        ones = [1] * (len(shape) - 1)
        along = ones.copy()
        along[axis - 1] = -1
        coordinate = torch.arange(shape[axis], device=index.device).reshape(1, *along)
        distance = (coordinate - (index % shape[axis]).reshape(-1, *ones)).abs()
        near = near & (distance < spacing[:, axis - 1].reshape(-1, *ones))
        index = index // shape[axis]
    return near
