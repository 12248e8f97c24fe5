"""From an attention map to the positions that are looked at, and the weights of what is seen."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ats.sampling.checks import check_attention, check_n_patches, check_type
from ats.sampling.design import (
    Design,
    DesignFunction,
    Generators,
    Uniforms,
    importance_weights,
)
from ats.sampling.peaks import Peaks
from ats.sampling.replacement import Replacement
from ats.sampling.runs import Runs
from ats.sampling.successive import DesRaj, Murthy, Published
from ats.sampling.systematic import MIDDLE, Systematic
from ats.sampling.top import Average, Top

__all__ = [
    "DEFAULT_DESIGN",
    "DESIGNS",
    "Average",
    "DesRaj",
    "Design",
    "DesignFunction",
    "DesignLike",
    "Generators",
    "Murthy",
    "Peaks",
    "Published",
    "Replacement",
    "Runs",
    "Sample",
    "Systematic",
    "Top",
    "Uniforms",
    "expectation",
    "importance_weights",
    "resolve_design",
    "sample",
]

DesignLike = str | DesignFunction

# What the names of designs stand for.
DESIGNS: dict[str, DesignFunction] = {
    "replacement": Replacement(),
    "des-raj": DesRaj(),
    "murthy": Murthy(),
    "systematic": Systematic(),
    "published": Published(),
    "deterministic": Systematic(start=MIDDLE),
    "top": Top(),
}

DEFAULT_DESIGN = Systematic(centred=True)
"""Decided by learning curves; see the results page of the documentation."""


class Sample(NamedTuple):
    """Positions (B, N, D) int64 in the attention map, and weights (B, N)."""

    positions: Tensor
    weights: Tensor


def sample(
    attention: Tensor,
    n_patches: int,
    *,
    design: DesignLike = DEFAULT_DESIGN,
    generator: Generators = None,
) -> Sample:
    """Draw N positions of each attention map, with weights that make sums over them unbiased.

    For any features f of the K positions, sum_s w_s f_s has the expectation
    Phi = sum_i a_i f_i, and the expected gradients to attention and features are those of Phi.
    Exceptions: ``published`` and centred designs, the default among them, have a biased gradient to
    the attention, ``deterministic`` and ``top`` have no randomness to take an expectation of.

    Args:
        attention: (B, \\*map) with 1, 2, 3 or more map dimensions; non-negative rows of sum 1.
        n_patches: N, at most the number of positions unless the design repeats them.
        design: a name of :data:`DESIGNS`, a :class:`Design`, or any callable like one.
        generator: one generator, or one for each image, whose draws then do not depend on the
            rest of the batch.

    Returns:
        Positions (B, N, D) int64 and weights (B, N); gradients flow from the weights to the
        attention, where kernels draw on a GPU once, without gradients of their own.

    Raises:
        ValueError: attention is no tensor of floating point, empty, not finite, negative or does
            not sum to 1; N is not positive, not whole or exceeds the positions; the generator is
            none, or not one for each image; the design is unknown, or one of the caller's own that
            draws something else than int64 indices and floating-point weights of shape (B, N), or,
            if a callable on a CPU, indices beyond the positions. What the tensors hold is not
            looked at in what torch.compile has traced.

    >>> a = torch.softmax(torch.zeros(2, 5, 7).flatten(1), 1).view(2, 5, 7)
    >>> positions, weights = sample(a, 3)
    >>> positions.shape, weights.sum(1)
    (torch.Size([2, 3, 2]), tensor([1., 1.]))

    References:
        Katharopoulos and Fleuret, Processing Megapixel Images with Deep Attention-Sampling Models,
        2019, section 3. Kool, van Hoof and Welling, Estimating Gradients for Discrete Random
        Variables by Sampling without Replacement, 2020. Tille, Sampling Algorithms, 2006.
    """
    function = resolve_design(design)
    check_type(attention)
    map_shape = tuple(attention.shape[1:])
    if attention.dim() and not attention.numel():
        raise ValueError(f"attention of shape {tuple(attention.shape)} is empty; skip such a batch")
    _check_count(n_patches, map_shape, distinct=getattr(function, "distinct", False))
    positions = None
    if isinstance(function, Design):
        indices, weights, positions = function.draw_weighed(attention, n_patches, generator)
    else:
        # All others check it on their way.
        if not isinstance(function, Published):
            check_attention(attention)
        indices, weights = function(attention, n_patches, generator)
        _check_range(indices, math.prod(map_shape), design)
    _check_drawn(indices, weights, len(attention), design)
    return Sample(_coordinates(indices, map_shape) if positions is None else positions, weights)


def expectation(features: Tensor, weights: Tensor) -> Tensor:
    """Sum_s w_s f_s over the sample: the estimate of the attention-weighted mean of all features.

    Args:
        features: (B, N, \\*F).
        weights: (B, N) from :func:`sample`.

    Returns:
        (B, \\*F); gradients flow to both.

    Raises:
        ValueError: the leading dimensions differ.
    """
    if features.shape[:2] != weights.shape:
        raise ValueError(
            f"features {tuple(features.shape)} and weights {tuple(weights.shape)} must agree in "
            "(batch, n_patches): give one weight for each patch"
        )
    return (weights.reshape(weights.shape + (1,) * (features.dim() - 2)) * features).sum(1)


def resolve_design(design: DesignLike) -> DesignFunction:
    """The design of that name, or the given callable itself."""
    if isinstance(design, str):
        if design not in DESIGNS:
            raise ValueError(f"design={design!r} is unknown; take one of {', '.join(DESIGNS)}")
        return DESIGNS[design]
    if isinstance(design, type) or not callable(design):
        raise ValueError(f"design={design!r} is no design; take a name, or an instance of a design")
    return design


def _coordinates(indices: Tensor, map_shape: tuple[int, ...]) -> Tensor:
    """Positions (B, N, D) of indices (B, N): torch.unravel_index in a third of the time."""
    coordinates = []
    for extent in map_shape[:0:-1]:
        coordinates.append(indices % extent)
        indices = indices // extent
    return torch.stack([indices, *reversed(coordinates)], -1)


def _check_drawn(indices: Tensor, weights: Tensor, n_images: int, design: DesignLike) -> None:
    """Refuse what a design of the caller's own gives, if it is no draw for each image."""
    if indices.dtype != torch.int64 or not weights.is_floating_point():
        raise ValueError(
            f"design={design!r} gives indices of {indices.dtype} and weights of {weights.dtype}; "
            "make them torch.int64 and floating point"
        )
    shape = tuple(indices.shape)
    if len(shape) != 2 or shape[0] != n_images or not shape[1] or shape != tuple(weights.shape):
        raise ValueError(
            f"design={design!r} gives indices of shape {shape} and weights of shape "
            f"{tuple(weights.shape)} for {n_images} images; make both (images, patches)"
        )


def _check_range(indices: Tensor, positions: int, design: DesignLike) -> None:
    """Refuse indices beyond the positions, unless the host would have to wait for them."""
    if indices.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if not ((indices >= 0) & (indices < positions)).all():
        raise ValueError(
            f"design={design!r} gives indices from {indices.min()} to {indices.max()}; keep them "
            f"from 0 to {positions - 1}"
        )


def _check_count(n_patches: int, map_shape: tuple[int, ...], *, distinct: bool) -> None:
    if not map_shape:
        raise ValueError("attention must be (batch, *map), with at least one map dimension")
    check_n_patches(n_patches)
    positions = math.prod(map_shape)
    if distinct and n_patches > positions:
        raise ValueError(
            f"n_patches={n_patches} exceeds the {positions} positions of a {map_shape} attention "
            "map; lower it, or sample with replacement, in prediction as well"
        )
