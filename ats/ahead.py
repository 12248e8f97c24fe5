"""Draw positions and read patches one step ahead, while the step before them is computed."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import NamedTuple, TypeVar

from torch import Tensor

from ats.threads import Threads

T = TypeVar("T")

_THREAD = Threads(1, "ats-ahead")


class Drawn(NamedTuple):
    """Positions that were drawn from an attention map, and their patches, perhaps still being read.

    Attributes:
        positions: (B, N, D) in the attention map.
        ratio: (B, N) float64 importance ratios r_s: for any y, sum_s r_s y_s has the expectation
            sum_i y_i. So they are as good for any other attention map as for that one.
        offsets: (B, N, D) in pixels of the full-resolution image.
        patches: (B, N, C, \\*patch), to come.
    """

    positions: Tensor
    ratio: Tensor
    offsets: Tensor
    patches: "Future[Tensor]"


def in_background(read: Callable[[], Tensor]) -> "Future[Tensor]":
    """What a function returns, computed by a thread of this process kept for that."""
    return _THREAD.executor().submit(read)


def read_ahead(batches: Iterable[T], draw: Callable[[T], Drawn]) -> Iterator[tuple[T, Drawn]]:
    """Each batch with what was drawn for it, the next one drawn before each is handed out.

    The positions of a batch then come from the attention of one step before. Their weights are
    those of the present attention all the same, so that estimates and gradients stay unbiased
    (importance sampling); what is lost is a little of the design's precision.

    Args:
        batches: what is trained on.
        draw: starts reading for a batch: calls :meth:`ats.AttentionSampling.draw`.

    Yields:
        A batch, and what to give to :class:`ats.AttentionSampling` as ``drawn``.
    """
    waiting: tuple[T, Drawn] | None = None
    for batch in batches:
        following = (batch, draw(batch))
        if waiting is not None:
            yield waiting
        waiting = following
    if waiting is not None:
        yield waiting
