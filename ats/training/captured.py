"""Training steps on a GPU as a CUDA graph: the host starts all their operations at once.

A step is some hundred small operations, each of which takes the host longer to start than the
device to compute. Captured once and replayed, they follow each other without it.
"""

import contextlib
import gc
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ats.affine import TurnedImages
from ats.datasets.batch import Batch
from ats.images import Images, SparseImages, TensorImages, as_images
from ats.nn import AttentionSampling, AttentionSamplingOutput
from ats.patches import fused_kernels
from ats.sampling import DESIGNS, Generators, Uniforms
from ats.transforms import DerivedImages

# Room for batches with more non-zeros than the first one.
ROOM = 1.3


class Terms(NamedTuple):
    """What a step computes.

    Attributes:
        objective: what is minimised, ().
        loss: its loss (), without regularisers.
        error: ().
        entropy: of the attention, ().
        logits: (B, T).
        quality: sums of :func:`ats.training.sample_quality.image_sums` (6,), of training images.
        seen: of the sampling.
    """

    objective: Tensor
    loss: Tensor
    error: Tensor
    entropy: Tensor
    logits: Tensor
    quality: Tensor
    seen: AttentionSamplingOutput


Compute = Callable[[Batch, Generators], Terms]


class CapturedStep:
    """A computation of terms, captured at its first batch and replayed for those that are like it.

    Images are to be tensors or non-zeros on the device, as they are or turned.

    Args:
        model: whose parameters the terms depend on.
        compute: from a batch and the source of randomness to the terms; nothing of it may wait for
            the device.
    """

    def __init__(self, model: nn.Module, compute: Compute) -> None:
        self.model = model
        self.compute = compute
        self.columns: list[int] = []
        self.graphed: Callable[..., Terms] | None = None
        self.examples: list[Tensor] = []
        self.kind: tuple[object, ...] = ()
        self.broken = False

    def __call__(self, batch: Batch, generators: Sequence[torch.Generator]) -> Terms | None:
        """The terms of a batch, or None if it cannot be computed in this way."""
        if self.broken or not _can_be_captured(self.model, batch):
            return None
        if self.graphed is None:
            self._capture(batch)
        if self.graphed is None or kind_of(batch.x_high) != self.kind:
            return None
        tensors = self._tensors(batch, self._numbers(batch, generators))
        if not fit(tensors, self.examples):
            return None
        terms = self.graphed(*tensors)
        return terms_without_gradient(terms)._replace(objective=terms.objective)

    def _capture(self, batch: Batch) -> None:
        """Try to capture the computation."""
        counted = Counted(len(batch.target), batch.target.device)
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        amp: dict[str, Any] = {
            "dtype": torch.get_autocast_dtype("cuda"),
            "enabled": torch.is_autocast_enabled("cuda"),
        }
        try:
            # Once as it is: kernels are compiled, what is kept is made, numbers are counted. And
            # backwards, since compiling leaves references to what it is done for, and with them
            # to nodes of autograd that would spoil the capture.
            with torch.autocast("cuda", cache_enabled=False, **amp):
                self._go_through(batch, counted)
            self.columns = counted.columns
            step = Step(self.model, self.compute, batch)
            # The graph reads these, whatever becomes of the batch.
            examples = [t.clone() for t in self._tensors(batch, counted.numbers(), room=ROOM)]
            _expect_other_streams()
            with _no_garbage(), torch.autocast("cuda", cache_enabled=False, **amp):
                graphed: Any = torch.cuda.make_graphed_callables(
                    step, tuple(examples), allow_unused_input=True
                )
            self.graphed, self.examples = graphed, examples
            self.kind = kind_of(batch.x_high)
        except Exception as error:
            # Whatever cannot be captured can be computed step by step.
            self.broken = True
            # What ends the capture complains of an earlier error, which is the one to know.
            cause = error.__context__ or error
            warnings.warn(f"steps are not captured as a CUDA graph: {cause}", stacklevel=2)
        finally:
            # What was computed meanwhile is no training.
            for buffer, former in buffers:
                buffer.copy_(former)

    def _go_through(self, batch: Batch, numbers: Uniforms) -> None:
        """Compute the terms and their gradients, and forget both."""
        objective = self.compute(batch, numbers).objective
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        torch.autograd.grad(objective, parameters, allow_unused=True)

    def _numbers(self, batch: Batch, generators: Sequence[torch.Generator]) -> Tensor:
        """What generators give to the computation, in its order."""
        # A generator gives the same numbers at once as one part after another.
        drawn = torch.empty(len(generators), sum(self.columns), dtype=torch.float64)
        for row, generator in zip(drawn.unbind(), generators, strict=True):
            torch.rand(len(row), dtype=row.dtype, generator=generator, out=row)
        return sent(drawn, batch.target.device)

    def _tensors(self, batch: Batch, numbers: Tensor, room: float = 1.0) -> list[Tensor]:
        """All that a step depends on; see :meth:`Step.forward`."""
        images, tensors = unturned(batch.x_high), [batch.x_low, batch.target, numbers]
        if isinstance(turned := batch.x_high, TurnedImages):
            count = cast("AttentionSampling", self.model.sampling).sample.n_patches
            matrices = turned.transform.matrices(turned.seeds, count).float()
            tensors.append(sent(matrices, batch.target.device))
        pixels = pixels_of(images)
        if isinstance(images, SparseImages):
            length = len(self.examples[-1]) if self.examples else math.ceil(room * len(pixels[-1]))
            pixels[1:] = [padded(tensor, length) for tensor in pixels[1:]]
        return [*tensors, *pixels]


@contextlib.contextmanager
def _no_garbage() -> Iterator[None]:
    """Collect what is left of former graphs now: freed later, it would spoil the capture."""
    # Weights that were cast hold on to nodes of autograd.
    torch.clear_autocast_cache()
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _expect_other_streams() -> None:
    """Do not warn of nodes of autograd that were made on another stream, from now on.

    The graph was captured on one of its own, and holds on to the nodes of the parameters: every
    later step, replayed or not, goes through these. Torch waits for the right stream all the same.
    """
    warn = getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", None)
    if warn is not None:
        warn(False)


class Step(nn.Module):
    """A computation of terms as a function of tensors alone.

    Args:
        model: whose parameters it depends on.
        compute: it.
        batch: what stands for all that are like it.
    """

    def __init__(self, model: nn.Module, compute: Compute, batch: Batch) -> None:
        super().__init__()
        self.model = model
        self.compute = compute
        images = as_images(batch.x_high)
        self.shapes = images.shapes.to(batch.target.device)
        self.transform = images.transform if isinstance(images, TurnedImages) else None
        images = unturned(images)
        self.sparse_shape = images.shape if isinstance(images, SparseImages) else None

    def forward(self, x_low: Tensor, target: Tensor, numbers: Tensor, *others: Tensor) -> Terms:
        """Terms of small views, targets, numbers for the draws, matrices if turned, and pixels."""
        matrices = None
        if self.transform is not None:
            matrices, *others = others  # type: ignore[assignment]
        images: Images
        if self.sparse_shape is None:
            images = TensorImages(*others)
        else:
            indptr, indices, values = others
            images = SparseImages(indices, values, indptr, self.sparse_shape)
        if self.transform is not None:
            images = TurnedImages(images, (), self.transform, matrices)
        batch = Batch(x_low, OnDevice(images, self.shapes), target, index=target)
        terms = self.compute(batch, Uniforms(numbers))
        return terms_without_gradient(terms)._replace(objective=terms.objective)


class OnDevice(DerivedImages):
    """Images whose extents are known on their device."""

    def __init__(self, images: Images, shapes: Tensor) -> None:
        super().__init__(images)
        self.own_shapes = shapes

    @property
    def shapes(self) -> Tensor:
        """Spatial extents (B, D) int64."""
        return self.own_shapes

    def patches(self, offsets: Tensor, size: Sequence[int]) -> Tensor:
        """Those of the images."""
        return self.images.patches(offsets, size)


class Counted(Uniforms):
    """Numbers that are drawn when they are asked for, and how many were."""

    def __init__(self, n_images: int, device: torch.device) -> None:
        super().__init__(torch.empty(n_images, 0, dtype=torch.float64, device=device))
        self.columns: list[int] = []
        self.drawn: list[Tensor] = []

    def take(self, columns: int) -> Tensor:
        """So many new ones."""
        self.columns.append(columns)
        # The device's own generator would have to be told of the capture.
        drawn = torch.rand(len(self._numbers), columns, dtype=torch.float64)
        self.drawn.append(drawn.to(self._numbers.device))
        return self.drawn[-1]

    def numbers(self) -> Tensor:
        """All of them, (B, M)."""
        return torch.cat([self._numbers, *self.drawn], 1)


def unturned(images: Any) -> Any:
    """The images that are turned, or images that are not as they are."""
    return images.images if isinstance(images, TurnedImages) else images


def pixels_of(images: Any) -> list[Tensor]:
    """The tensors that images are made of."""
    if isinstance(images, SparseImages):
        return [images.indptr, images.indices, images.values]
    return [images if isinstance(images, Tensor) else images.pixels]


def terms_without_gradient(terms: Terms) -> Terms:
    """The same numbers."""
    seen = AttentionSamplingOutput(*(tensor.detach() for tensor in terms.seen))
    measures = {name: getattr(terms, name).detach() for name in terms._fields[:-1]}
    return Terms(seen=seen, **measures)


def kind_of(images: Any) -> tuple[object, ...]:
    """What images must have in common for a step to be that of others, beside their tensors."""
    if isinstance(images, TurnedImages):
        return (TurnedImages, images.transform, *kind_of(images.images))
    # Subclasses may answer in another way.
    kind = TensorImages if type(images) is Tensor else type(images)
    return kind, images.shape if isinstance(images, SparseImages) else None


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device, which is not waited for."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def padded(tensor: Tensor, length: int) -> Tensor:
    """A list that is as long, or longer where it was."""
    return F.pad(tensor, (0, max(length - len(tensor), 0)))


def fit(tensors: Sequence[Tensor], examples: Sequence[Tensor]) -> bool:
    """Whether tensors are like those that were captured."""
    return len(tensors) == len(examples) and all(
        own.shape == other.shape and own.dtype == other.dtype
        for own, other in zip(tensors, examples, strict=True)
    )


def _can_be_captured(model: nn.Module, batch: Batch) -> bool:
    """Whether nothing of a step has to be known on the host."""
    images = unturned(batch.x_high)
    sampling = getattr(model, "sampling", None)
    return (
        batch.target.device.type == "cuda"
        and batch.drawn is None
        and batch.content_shape is None
        and batch.places is None
        and type(batch.x_high) in (SparseImages, TensorImages, Tensor, TurnedImages)
        and type(images) in (SparseImages, TensorImages, Tensor)
        and all(tensor.device == batch.target.device for tensor in pixels_of(images))
        # Without the kernel, non-zeros are read by their number.
        and (
            type(images) is not SparseImages
            or fused_kernels(images.values, images.shapes.shape[1]) is not None
        )
        and isinstance(sampling, AttentionSampling)
        # A design of one's own may ask the host for more.
        and type(sampling.sample.design) in {type(design) for design in DESIGNS.values()}
    )
