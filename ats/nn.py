"""Modules: state around the functions of this library."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ats import sampling
from ats.ahead import Drawn, in_background
from ats.geometry import Shape, content_positions, patch_offsets, position_step
from ats.images import Images, as_images
from ats.prior import log_prior
from ats.sampling import DesignLike, Generators, Peaks, importance_weights
from ats.sampling.checks import check_n_patches
from ats.sampling.runs import TINY

PRIOR_FLOOR = 1e-3
"""Prior of the emptiest position relative to the largest: rarely sampled, never ruled out."""


class AttentionSamplingOutput(NamedTuple):
    """What attention sampling saw.

    Attributes:
        features: (B, \\*F) estimate of the attention-weighted mean.
        attention: (B, \\*map).
        patches: (B, N, C, \\*patch) as the feature network saw them.
        positions: (B, N, D) in the attention map.
        offsets: (B, N, D) in pixels of the full-resolution image.
        weights: (B, N) of the patches.
        patch_features: (B, N, \\*F) of which ``features`` is the weighted sum.
    """

    features: Tensor
    attention: Tensor
    patches: Tensor
    positions: Tensor
    offsets: Tensor
    weights: Tensor
    patch_features: Tensor


class SampleSoftmax(nn.Module):
    """Softmax over a whole attention map, mixed with a little of the uniform distribution.

    a = (1 - s) softmax(logits) + s / K over all K positions of an image. Positions that are ruled
    out have a = 0 and do not count.

    Args:
        smoothing: s in [0, 1].

    Raises:
        ValueError: smoothing outside [0, 1].
    """

    def __init__(self, smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= smoothing <= 1:
            raise ValueError(f"smoothing={smoothing} must lie in [0, 1]")
        self.smoothing = smoothing

    def forward(self, logits: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Attention (B, \\*map), at least float32, of logits (B, \\*map).

        Args:
            logits: of each position.
            allowed: (B, \\*map) bool, False where a position is ruled out; all are allowed if None.
        """
        rows = logits.flatten(1)
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        share: Tensor | float = 1 / rows.shape[1]
        if allowed is not None:
            open_rows = allowed.flatten(1)
            rows = rows.masked_fill(~open_rows, -torch.inf)
            share = open_rows.to(rows.dtype) / open_rows.sum(1, keepdim=True)
        rows = rows.softmax(1)
        if self.smoothing:
            rows = (1 - self.smoothing) * rows + self.smoothing * share
        return rows.reshape(logits.shape)


class SamplePatches(nn.Module):
    """Draw positions of an attention map and read the patches there.

    In ``train()`` mode positions are drawn by ``design``, in ``eval()`` mode by ``inference``.

    Args:
        n_patches: patches N of an image.
        patch_size: D extents in pixels of the full-resolution image.
        receptive_field: see :func:`ats.patch_offsets`.
        design: how to draw in training.
        inference: how to draw in evaluation; ``deterministic`` (the systematic design from a fixed
            start), ``top``, any other design, ``ats.sampling.Average(design, draws)``, or
            ``ats.sampling.Peaks()``, whose positions are then so far apart that patches do not
            overlap.
    """

    def __init__(
        self,
        *,
        n_patches: int,
        patch_size: Sequence[int],
        receptive_field: int = 0,
        design: DesignLike = sampling.DEFAULT_DESIGN,
        inference: DesignLike = "deterministic",
    ) -> None:
        super().__init__()
        if min(patch_size, default=0) < 1:
            raise ValueError(f"patch_size={tuple(patch_size)} must be positive in every dimension")
        check_n_patches(n_patches)
        self.n_patches = n_patches
        self.patch_size = tuple(patch_size)
        self.receptive_field = receptive_field
        self.design = sampling.resolve_design(design)
        self.inference = sampling.resolve_design(inference)

    def forward(
        self,
        attention: Tensor,
        x_low: Tensor,
        x_high: Images | Tensor,
        *,
        generator: Generators = None,
        n_patches: int | None = None,
        content_shape: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Patches, weights, positions and offsets.

        Args:
            attention: (B, \\*map).
            x_low: (B, C, \\*low); only its extents count.
            x_high: full-resolution images, a tensor (B, C, \\*high) or :class:`ats.Images`.
            generator: source of randomness.
            n_patches: in place of the module's own.
            content_shape: (B, D) extents of that part of each small view that shows the image.

        Returns:
            Patches (B, N, C, \\*patch) as stored, weights (B, N), positions and offsets (B, N, D).

        Raises:
            ValueError: batch sizes or dimensions differ, or sampling is impossible.
        """
        positions, weights, offsets = self.locate(
            attention,
            x_low,
            shape_of(x_high, x_low),
            generator=generator,
            n_patches=n_patches,
            content_shape=content_shape,
        )
        return as_images(x_high).patches(offsets, self.patch_size), weights, positions, offsets

    def locate(
        self,
        attention: Tensor,
        x_low: Tensor,
        high_shape: Shape,
        *,
        generator: Generators = None,
        n_patches: int | None = None,
        content_shape: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Positions (B, N, D), weights (B, N) and offsets (B, N, D), without reading any pixel.

        Args:
            attention: (B, \\*map).
            x_low: (B, C, \\*low); only its extents count.
            high_shape: extents of the images in pixels, D for all or (B, D), one row for each.
            generator: source of randomness.
            n_patches: in place of the module's own.
            content_shape: (B, D) extents of that part of each small view that shows the image.
        """
        if attention.shape[0] != x_low.shape[0]:
            raise ValueError(
                f"attention has {attention.shape[0]} maps, x_low {x_low.shape[0]} small views; "
                "give one small view for each map"
            )
        design = self.design if self.training else self.inference
        if isinstance(design, Peaks):
            design = self.spaced(design, attention, x_low, high_shape, content_shape)
        positions, weights = sampling.sample(
            attention,
            self.n_patches if n_patches is None else n_patches,
            design=design,
            generator=generator,
        )
        offsets = patch_offsets(
            positions,
            map_shape=attention.shape[1:],
            low_shape=x_low.shape[2:],
            high_shape=high_shape,
            patch_size=self.patch_size,
            receptive_field=self.receptive_field,
            content_shape=content_shape,
        )
        return positions, weights, offsets

    def spaced(
        self,
        peaks: Peaks,
        attention: Tensor,
        x_low: Tensor,
        high_shape: Shape,
        content_shape: Tensor | None = None,
    ) -> Peaks:
        r"""Peaks so far apart that patches do not overlap, unless they say how far themselves.

        Args:
            peaks: a design.
            attention: (B, \*map), as the others in :meth:`locate`.
            x_low: (B, C, \*low).
            high_shape: extents of the images.
            content_shape: extents of the images in the small views.
        """
        if peaks.spacing is not None:
            return peaks
        step = position_step(
            map_shape=attention.shape[1:],
            low_shape=x_low.shape[2:],
            high_shape=high_shape,
            receptive_field=self.receptive_field,
            content_shape=content_shape,
            like=attention,
        )
        return replace(peaks, spacing=step.new_tensor(self.patch_size) / step)


class Expectation(nn.Module):
    """:func:`ats.expectation` as a module."""

    def forward(self, features: Tensor, weights: Tensor) -> Tensor:
        """(B, \\*F) of features (B, N, \\*F) and weights (B, N)."""
        return sampling.expectation(features, weights)


class L2Normalize(nn.Module):
    """Scale each row to length 1: x / sqrt(max(sum x^2, 1e-12)) along one dimension."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """The same shape, at least float32."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return x * x.square().sum(self.dim, keepdim=True).clamp_min(1e-12).rsqrt()


class AttentionSampling(nn.Module):
    """Features of N patches of an image, averaged by an attention that says where to look.

    The attention network sees the small view; positions are drawn from its softmax, patches are
    read there at full resolution, and the feature network sees those alone. The result estimates
    the attention-weighted mean of the features of all positions, and so do its gradients.

    Args:
        attention: network from (B, C, \\*low) to logits (B, 1, \\*map) or (B, \\*map).
        feature: network from (B * N, C, \\*patch) to (B * N, \\*F).
        n_patches: patches N of an image.
        patch_size: D extents in pixels of the full-resolution image.
        receptive_field: of the attention network, in pixels of the small view; 0 if its
            convolutions keep the size ("same" padding).
        smoothing: share of the uniform distribution in the attention.
        design: how positions are drawn in training; see :data:`ats.sampling.DESIGNS`.
        prior: function of the small view that says where there is anything to see, such as
            :func:`ats.local_contrast`; (B, \\*low), not negative. Its logarithm joins the logits.
        inference: how positions are drawn in evaluation; see :class:`SamplePatches`.

    References:
        Katharopoulos and Fleuret, Processing Megapixel Images with Deep Attention-Sampling Models,
        2019.
    """

    def __init__(
        self,
        attention: nn.Module,
        feature: nn.Module,
        *,
        n_patches: int,
        patch_size: Sequence[int],
        receptive_field: int = 0,
        smoothing: float = 0.0,
        design: DesignLike = sampling.DEFAULT_DESIGN,
        prior: Callable[[Tensor], Tensor] | None = None,
        inference: DesignLike = "deterministic",
    ) -> None:
        super().__init__()
        self.attention = attention
        self.feature = feature
        self.prior = prior
        self.softmax = SampleSoftmax(smoothing)
        self.sample = SamplePatches(
            n_patches=n_patches,
            patch_size=patch_size,
            receptive_field=receptive_field,
            design=design,
            inference=inference,
        )
        self.expectation = Expectation()

    def forward(
        self,
        x_low: Tensor,
        x_high: Images | Tensor,
        *,
        generator: Generators = None,
        n_patches: int | None = None,
        content_shape: Tensor | None = None,
        drawn: Drawn | None = None,
    ) -> AttentionSamplingOutput:
        """Look at the small view, then at N patches.

        Unsigned integers of 8 and 16 bits are scaled to [0, 1], on the small view and on patches;
        patches then take the type of the small view.

        Args:
            x_low: (B, C, \\*low) small views.
            x_high: full-resolution images, a tensor (B, C, \\*high) or :class:`ats.Images`.
            generator: source of randomness, one or one for each image.
            n_patches: in place of the module's own, such as more for a prediction.
            content_shape: (B, D) extents of that part of each small view, from its first pixel on,
                that shows the image; no position is drawn from the rest. All of it by default. See
                :func:`ats.images.pad_small_views`.
            drawn: by :meth:`draw` for these images, in place of drawing and reading now.

        Raises:
            ValueError: the logits have another shape than the documented ones, or the arguments
                do not fit each other.
        """
        x_low = unit_float(x_low)
        attention = self.attend(x_low, content_shape)
        if drawn is None:
            patches, weights, positions, offsets = self.sample(
                attention,
                x_low,
                x_high,
                generator=generator,
                n_patches=n_patches,
                content_shape=content_shape,
            )
        else:
            positions, offsets, patches = drawn.positions, drawn.offsets, drawn.patches.result()
            centred = getattr(self.sample.design, "centred", False)
            weights = importance_weights(at_positions(attention, positions), drawn.ratio, centred)
        patches = unit_float(patches.to(x_low.device, non_blocking=True)).to(x_low.dtype)
        features = self.feature(patches.flatten(0, 1))
        features = features.unflatten(0, weights.shape)
        return AttentionSamplingOutput(
            features=self.expectation(features, weights),
            attention=attention,
            patches=patches,
            positions=positions,
            offsets=offsets,
            weights=weights,
            patch_features=features,
        )

    @torch.no_grad()
    def draw(
        self,
        x_low: Tensor,
        x_high: Images | Tensor,
        *,
        generator: Generators = None,
        content_shape: Tensor | None = None,
    ) -> Drawn:
        """Draw positions from the attention of now, and begin to read their patches.

        Given to :meth:`forward` later, when the networks have changed, the estimate is unbiased all
        the same. Arguments are those of :meth:`forward`.

        Raises:
            ValueError: the design is no :class:`ats.sampling.Design`, so that its weights belong to
                the attention that it drew from.
        """
        if not isinstance(self.sample.design, sampling.Design):
            raise ValueError(
                f"design={self.sample.design} cannot draw ahead, since its weights are not those "
                "of importance sampling; take a design of ats.sampling.Design, such as systematic"
            )
        x_low = unit_float(x_low)
        attention = self.attend(x_low, content_shape)
        positions, weights, offsets = self.sample.locate(
            attention,
            x_low,
            shape_of(x_high, x_low),
            generator=generator,
            content_shape=content_shape,
        )
        ratio = weights.double() / at_positions(attention, positions).double().clamp_min(TINY)
        images, size = as_images(x_high), self.sample.patch_size
        patches = in_background(lambda: images.patches(offsets, size))
        return Drawn(positions, ratio, offsets, patches)

    def attend(self, x_low: Tensor, content_shape: Tensor | None = None) -> Tensor:
        """Attention (B, \\*map) of small views (B, C, \\*low), 0 on padding."""
        logits: Tensor = self.attention(x_low)
        if logits.dim() == x_low.dim():
            if logits.shape[1] != 1:
                raise ValueError(
                    f"the attention network returned {tuple(logits.shape)}; it must return one "
                    "logit for each position, (batch, 1, *map) or (batch, *map)"
                )
            logits = logits.squeeze(1)
        if logits.dim() != x_low.dim() - 1:
            raise ValueError(
                f"the attention network returned {tuple(logits.shape)} for a small view "
                f"{tuple(x_low.shape)}; it must return (batch, 1, *map) or (batch, *map)"
            )
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.prior is not None:
            prior = self.prior(x_low)
            margin = self.sample.receptive_field
            logits = logits + log_prior(prior, tuple(logits.shape[1:]), margin, PRIOR_FLOOR)
        allowed = None
        if content_shape is not None:
            allowed = content_positions(
                logits.shape[1:],
                x_low.shape[2:],
                content_shape.to(logits.device),
                self.sample.receptive_field,
            )
        attention: Tensor = self.softmax(logits, allowed)
        return attention


class Classifier(nn.Module):
    """A linear classifier on the features of attention sampling.

    Args:
        sampling: what yields features (B, F).
        n_features: F.
        n_classes: number of classes.
        scale: start of a learnable factor on the features. Normalised features give a linear layer
            a narrow range of logits, which slows training; about 10 opens it, as in cosine
            classifiers. None leaves it out.
        normalize: bring the average to length 1 first. With features that were not normalised one
            by one, and are long where they found something, a small object among many patches that
            show nothing is then as plain as one that fills them all.
    """

    def __init__(
        self,
        sampling: AttentionSampling,
        n_features: int,
        n_classes: int,
        *,
        scale: float | None = 10.0,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        self.sampling = sampling
        self.normalize: nn.Module = L2Normalize() if normalize else nn.Identity()
        self.scale = None if scale is None else nn.Parameter(torch.tensor(float(scale)))
        self.linear: nn.Module = nn.Linear(n_features, n_classes)

    def forward(
        self,
        x_low: Tensor,
        x_high: Images | Tensor,
        *,
        generator: Generators = None,
        n_patches: int | None = None,
        content_shape: Tensor | None = None,
        drawn: Drawn | None = None,
    ) -> tuple[Tensor, AttentionSamplingOutput]:
        """Logits (B, n_classes), and what was seen; arguments as of the sampling."""
        seen = self.sampling(
            x_low,
            x_high,
            generator=generator,
            n_patches=n_patches,
            content_shape=content_shape,
            drawn=drawn,
        )
        return self.logits(seen.features), seen

    def logits(self, features: Tensor) -> Tensor:
        """Logits (B, n_classes) of features (B, F), such as :func:`ats.exact_expectation`."""
        features = self.normalize(features)
        logits: Tensor = self.linear(features if self.scale is None else features * self.scale)
        return logits


def unit_float(x: Tensor) -> Tensor:
    """Pixels as floating point, unsigned integers of 8 and 16 bits scaled to [0, 1]."""
    if x.is_floating_point():
        return x
    largest = {torch.uint8: 255.0, torch.uint16: 65535.0}.get(x.dtype, 1.0)
    return x.to(torch.get_default_dtype()) / largest


def glorot_uniform_(network: nn.Module) -> nn.Module:
    """Start every convolution and linear layer from Glorot's uniform distribution and zero bias."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network


def at_positions(attention: Tensor, positions: Tensor) -> Tensor:
    """Attention (B, N) at positions (B, N, D) of maps (B, \\*map)."""
    flat = positions.new_zeros(())
    for axis, extent in enumerate(attention.shape[1:]):
        flat = flat * extent + positions[..., axis]
    return attention.flatten(1).gather(1, flat)


def shape_of(x_high: Images | Tensor, x_low: Tensor) -> Shape:
    """Extents of images that must be as many, and have as many dimensions, as their small views."""
    shapes = as_images(x_high).shapes
    if len(shapes) != x_low.shape[0]:
        raise ValueError(
            f"x_low holds {x_low.shape[0]} small views, x_high {len(shapes)} images; give one "
            "small view for each image"
        )
    if shapes.shape[1] != x_low.dim() - 2:
        raise ValueError(
            f"x_low has {x_low.dim() - 2} spatial dimensions, x_high {shapes.shape[1]}; "
            "both must show the same image"
        )
    return tuple(x_high.shape[2:]) if isinstance(x_high, Tensor) else shapes
