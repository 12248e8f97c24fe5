"""More than two resolutions: regions are sampled, and patches within each of them."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ats.images import Images, as_images
from ats.images.regions import RegionImages
from ats.nn import AttentionSampling, AttentionSamplingOutput, Expectation, unit_float
from ats.sampling import Generators, Uniforms


class NestedSamplingOutput(NamedTuple):
    """What nested sampling saw.

    Attributes:
        features: (B, \\*F) estimate of the mean that both attentions weight.
        attention: (B, \\*map) of the small views.
        regions: (B, R, C, \\*region) as the inner sampling saw them.
        positions: (B, R, D) in the attention map.
        offsets: (B, R, D) of the regions in pixels of the coarsest of the images.
        weights: (B, R) of the regions.
        inner: what was seen within each region, with B * R in place of B; its offsets are relative
            to the region.
        corners: (B, R, D) of the regions in pixels of each finer image.
    """

    features: Tensor
    attention: Tensor
    regions: Tensor
    positions: Tensor
    offsets: Tensor
    weights: Tensor
    inner: "AttentionSamplingOutput | NestedSamplingOutput"
    corners: tuple[Tensor, ...]


class NestedSampling(nn.Module):
    """Attention sampling within regions that attention sampling chose.

    R regions are drawn from the attention on the small view. Each is read at a middle resolution,
    where the inner sampling finds its own attention b_r and draws N positions from it. With weights
    w_r and v_rj,

        sum_r w_r sum_j v_rj f_rj

    is unbiased for sum_r a_r sum_j b_rj f_rj, since the inner draws are independent of the outer
    one; so are its gradients, where both designs' are. The inner sampling may be nested itself.

    Args:
        attention: network from small views (B, C, \\*low) to logits (B, 1, \\*map) or (B, \\*map).
        inner: sampling within a region, whose small view is the region at the middle resolution.
        n_regions: regions R of an image.
        region_size: D extents of a region in pixels of the middle resolution.
        options: further arguments of :class:`ats.AttentionSampling` for the outer draw:
            ``receptive_field``, ``smoothing``, ``design``, ``prior``, ``inference``.
    """

    def __init__(
        self,
        attention: nn.Module,
        inner: "AttentionSampling | NestedSampling",
        *,
        n_regions: int,
        region_size: Sequence[int],
        **options: Any,
    ) -> None:
        super().__init__()
        self.outer = AttentionSampling(
            attention, nn.Identity(), n_patches=n_regions, patch_size=region_size, **options
        )
        self.inner = inner
        self.expectation = Expectation()

    def forward(
        self,
        x_low: Tensor,
        images: Sequence[Images | Tensor],
        *,
        generator: Generators = None,
        n_patches: int | None = None,
        content_shape: Tensor | None = None,
    ) -> NestedSamplingOutput:
        """Look at the small view, then into R regions, then at N patches of each.

        Args:
            x_low: (B, C, \\*low) small views.
            images: the same images at the finer resolutions, coarsest first: one for the regions of
                each nested sampling, and the last for the patches.
            generator: source of randomness, one or one for each image.
            n_patches: in place of the innermost sampling's own.
            content_shape: see :class:`ats.AttentionSampling`.

        Raises:
            ValueError: too few resolutions, or arguments that do not fit each other.
        """
        if len(images) < 2:
            raise ValueError(
                f"images={len(images)} must be at least two resolutions: one for the regions, and "
                "one for the patches within them"
            )
        x_low = unit_float(x_low)
        middle, *finer = map(as_images, images)
        attention = self.outer.attend(x_low, content_shape)
        regions, weights, positions, offsets = self.outer.sample(
            attention, x_low, middle, generator=generator, content_shape=content_shape
        )
        regions = unit_float(regions.to(x_low.device, non_blocking=True)).to(x_low.dtype)
        size = self.outer.sample.patch_size
        within = [RegionImages.at(image, offsets, size, middle.shapes) for image in finer]
        nested = isinstance(self.inner, NestedSampling)
        seen = cast(
            "AttentionSamplingOutput | NestedSamplingOutput",
            self.inner(
                regions.flatten(0, 1),
                within if nested else within[-1],
                generator=_for_regions(generator, weights.shape[1]),
                n_patches=n_patches,
            ),
        )
        features = self.expectation(
            seen.features.reshape(*weights.shape, *seen.features.shape[1:]), weights
        )
        corners = tuple(part.corners for part in within)
        return NestedSamplingOutput(
            features, attention, regions, positions, offsets, weights, seen, corners
        )


def _for_regions(generator: Generators, n_regions: int) -> Generators:
    """An image's generator for each of its regions, which draw from it one after another."""
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    if isinstance(generator, Uniforms):
        raise ValueError("generator must draw anew for each region; give generators, not numbers")
    return [own for own in generator for _ in range(n_regions)]
