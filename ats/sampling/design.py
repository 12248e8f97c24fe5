"""What a sampling design is, and how its draws become weights that carry the gradient."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, final

import torch
from torch import Generator, Tensor

from ats.sampling.runs import Runs


class Uniforms:
    """Numbers that were drawn before, handed out in place of new ones.

    What is captured as a CUDA graph cannot ask the generators of the host.

    Args:
        numbers: (B, M) float64 in [0, 1), on the device of the attention.
    """

    def __init__(self, numbers: Tensor) -> None:
        self._numbers = numbers
        self._taken = 0

    def take(self, columns: int) -> Tensor:
        """The next numbers (B, columns)."""
        first, self._taken = self._taken, self._taken + columns
        if self._taken > self._numbers.shape[1]:
            raise ValueError(
                f"numbers={tuple(self._numbers.shape)} are too few for a draw that takes "
                f"{self._taken} an image; give as many"
            )
        return self._numbers[:, first : self._taken]


Generators = Generator | Sequence[Generator] | Uniforms | None
"""One generator for a whole batch, or one for each of its images, or torch's own, or numbers."""

DesignFunction = Callable[[Tensor, int, Generators], tuple[Tensor, Tensor]]
"""Attention (B, \\*map), N and a generator to indices (B, N) in flat maps and weights (B, N)."""


class Weighed(NamedTuple):
    """What was drawn.

    Attributes:
        indices: (B, N) int64 in flat maps.
        weights: (B, N).
        positions: (B, N, D) int64 in the maps, where they came along.
    """

    indices: Tensor
    weights: Tensor
    positions: Tensor | None = None


@dataclass(frozen=True)
class Design(ABC):
    """How positions are drawn from attention maps, as a callable on them.

    A subclass says in :meth:`draw` which positions it takes and with which importance ratios; the
    weights and their gradient follow from those. Any callable with the signature of
    :meth:`__call__` can stand in for a design.

    Args:
        centred: subtract the estimate itself from each feature in the gradient to the attention.
            Removes the noise that all features share, which is most of it while attention is still
            diffuse, at a bias of order 1/N; see :func:`importance_weights`.
    """

    centred: bool = False
    # Whether kernels of a GPU, if there are any in the runs, sum up and check the attention.
    fused: ClassVar[bool] = False

    @property
    def distinct(self) -> bool:
        """Whether a draw never repeats a position, so that N cannot exceed their number."""
        return True

    @final
    def __call__(
        self, attention: Tensor, n_patches: int, generator: Generators
    ) -> tuple[Tensor, Tensor]:
        """Indices (B, N) int64 in flat maps, and weights (B, N), for attention (B, \\*map)."""
        drawn = self.draw_weighed(attention, n_patches, generator)
        return drawn.indices, drawn.weights

    @final
    def draw_weighed(self, attention: Tensor, n_patches: int, generator: Generators) -> Weighed:
        """The same, with the positions where kernels of a GPU find them on their way."""
        if self.centred and n_patches == 1 and attention[0].numel() > 1:
            raise ValueError(
                "centred=True with n_patches=1 leaves no gradient to the attention: the one "
                "feature is its own estimate; take n_patches >= 2, or centred=False (--no-centring)"
            )
        runs = Runs(attention, n_patches, fused=self.fused)
        if runs.kernels is not None:
            found = self.draw_by_kernels(runs, n_patches, generator)
            if found is not None:
                weights = runs.kernels.weights.attach(
                    attention, found.indices, found.ratios, found.weights, self.centred
                )
                return Weighed(found.indices, weights, found.positions)
        indices, ratio = self.draw(runs, n_patches, generator)
        drawn = attention.flatten(1).gather(1, indices)
        return Weighed(indices, importance_weights(drawn, ratio, self.centred))

    def draw_by_kernels(self, runs: Runs, n_patches: int, generator: Generators) -> Any:
        """The same as :meth:`draw`, with what follows from it, by kernels of a GPU.

        Returns:
            Something with ``indices`` and ``ratios``, and with ``weights`` and ``positions``; None
            where kernels do not do all of it.
        """
        return None

    @abstractmethod
    def draw(self, runs: Runs, n_patches: int, generator: Generators) -> tuple[Tensor, Tensor]:
        """Draw N positions of every map.

        Args:
            runs: of the attention, without gradient; ``runs.probabilities()`` is all of it, (B, K).
            n_patches: N.
            generator: source of randomness.

        Returns:
            Indices (B, N) int64 and importance ratios (B, N) float64, such that for any y the
            expectation of sum_s ratio_s * y_s is sum_i y_i.
        """


def importance_weights(attention: Tensor, ratio: Tensor, centred: bool = False) -> Tensor:
    """Weights w_s = a_s * ratio_s whose gradient to the attention is that of the design.

    Since the derivative of Phi = sum_i a_i f_i to a_i is f_i, and sum_s ratio_s y_s is unbiased for
    sum_i y_i whatever y is, holding the ratio constant makes the gradient unbiased.

    Centred, the gradient to a_s is ratio_s (f_s - Phi^) . g in place of ratio_s f_s . g. It is the
    derivative of the self-normalised weights w_s / sum_t w_t, taken where that sum is 1.

    Args:
        attention: (B, N) at the sampled positions.
        ratio: (B, N) importance ratios, constant.
        centred: centre the gradient.

    Returns:
        (B, N), of float32 or the wider type of ``attention``; gradients flow to ``attention``.
    """
    dtype = torch.promote_types(attention.dtype, torch.float32)
    # The product is taken in float64: a ratio can exceed float32 where attention is next to zero.
    weights = attention.double() * ratio
    if centred:
        total = weights.sum(1, keepdim=True)
        weights = weights - weights.detach() * (total - total.detach())
    return weights.to(dtype)


def uniform(rows: Tensor, columns: int, generator: Generators) -> Tensor:
    """Float64 uniforms in [0, 1), (B, columns), on the device of ``rows`` (B, ...).

    With one generator per image, an image's numbers do not depend on the batch that it is in.
    """
    shape = (rows.shape[0], columns)
    if isinstance(generator, Uniforms):
        return generator.take(columns)
    if generator is None:
        return torch.rand(shape, dtype=torch.float64, device=rows.device)
    if isinstance(generator, Generator):
        noise = torch.rand(shape, dtype=torch.float64, device=generator.device, generator=generator)
        return noise.to(rows.device, non_blocking=True)
    if not isinstance(generator, Sequence):
        raise ValueError(
            f"generator={generator!r} must be a torch.Generator, or a sequence of one for each "
            "image; of a seed make torch.Generator().manual_seed(seed)"
        )
    if len(generator) != shape[0]:
        raise ValueError(
            f"generator has {len(generator)} generators for a batch of {shape[0]} images; "
            "give one for each image, or a single one"
        )
    noise = torch.stack(
        [torch.rand(columns, dtype=torch.float64, device=g.device, generator=g) for g in generator]
    )
    return noise.to(rows.device, non_blocking=True)
