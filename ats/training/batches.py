"""Which images make up which batch, the same on any number of devices and after any restart."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Sampler

from ats.ahead import Drawn, read_ahead
from ats.datasets.batch import Batch
from ats.threads import Threads


class EpochBatches(Sampler[list[int]]):
    """Batches of indices, shuffled by the seed and the epoch alone.

    A global batch is dealt out to the devices, and by each device cut into micro-batches, between
    which gradients are accumulated. An incomplete last batch is left out of a shuffled epoch, since
    another order comes with the next one, and kept otherwise.

    Args:
        n_images: size of the data set.
        batch_size: images of a global batch.
        micro_batch: images that one device holds at a time.
        seed: None keeps the order of the data set.
        rank: number of this device.
        world_size: number of devices.

    Raises:
        ValueError: the batch cannot be divided, or the data set is smaller than one batch, or than
            the number of devices.
    """

    def __init__(
        self,
        n_images: int,
        *,
        batch_size: int,
        micro_batch: int,
        seed: int | None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size % (world_size * micro_batch):
            raise ValueError(
                f"batch_size={batch_size} must be a multiple of devices x micro_batch = "
                f"{world_size} x {micro_batch}; change one of them"
            )
        if seed is not None and n_images < batch_size:
            raise ValueError(
                f"batch_size={batch_size} exceeds the {n_images} images of the training set; "
                "lower it"
            )
        if n_images < world_size:
            raise ValueError(
                f"devices={world_size} cannot share {n_images} test images; take fewer devices, or "
                "a larger test set"
            )
        self.n_images = n_images
        self.batch_size = batch_size
        self.micro_batch = micro_batch
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

    @property
    def sampler(self) -> "EpochBatches":
        """Itself: where a Lightning trainer looks for :meth:`set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Take the order of that epoch from the next iteration on."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Micro-batches of this device in an epoch."""
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[list[int]]:
        """Indices of one micro-batch after another."""
        order = np.arange(self.n_images)
        last = self.n_images
        if self.seed is not None:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.n_images)
            last -= self.n_images % self.batch_size
        for start in range(0, last, self.batch_size):
            own = order[start : start + self.batch_size][self.rank :: self.world_size]
            for first in range(0, len(own), self.micro_batch):
                yield own[first : first + self.micro_batch].tolist()


# One is enough to be a batch ahead.
_LOADING = Threads(1, "ats-load")


class PinningLoader(DataLoader[Batch]):
    """A loader that fetches the next batch in a thread, and hands out page-locked memory.

    For a GPU, which computes meanwhile: fetching a batch takes the host about as long as all else
    that a step asks of it. Memory is locked by the thread that asks for the batch, since no other
    one may while a step is captured (:mod:`ats.training.captured`). The data set is asked for a
    batch while patches of the one before may still be read.
    """

    def __iter__(self) -> Any:
        """Batches in page-locked memory."""
        batches = super().__iter__()
        fetched = _LOADING.executor().submit(next, batches, None)
        while (batch := fetched.result()) is not None:
            fetched = _LOADING.executor().submit(next, batches, None)
            yield pinned(batch)


def pinned(batch: Batch) -> Batch:
    """A batch in page-locked memory, from which copies to a GPU are asynchronous."""
    fields = batch._asdict().items()
    return batch._replace(**{n: v.pin_memory() for n, v in fields if hasattr(v, "pin_memory")})


class AheadLoader(DataLoader[Batch]):
    """A loader whose batches are drawn for, and their patches read, one step before they are used.

    Args:
        draw: starts reading for a batch.
        arguments: those of the loader.
    """

    def __init__(self, *arguments: Any, draw: Callable[[Batch], Drawn], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.draw = draw

    def __iter__(self) -> Any:
        """Batches with what was drawn for them."""
        for batch, drawn in read_ahead(super().__iter__(), self.draw):
            yield batch._replace(drawn=drawn)


def default_micro_batch(batch_size: int, devices: int, accelerator: str) -> int:
    """The largest even share of a device's batch that suits its memory.

    On a CPU eight images at a time: their activations stay in its caches, which is faster than a
    whole batch. Elsewhere the whole batch.
    """
    share = max(batch_size // devices, 1)
    if accelerator != "cpu":
        return share
    sizes = [size for size in range(1, share + 1) if share % size == 0]
    small = max(size for size in sizes if size <= 8)
    # A share without such a divisor is better taken whole than one by one.
    return small if small >= min(4, share) else min(size for size in sizes if size > 8)


def normalises_batches(network: nn.Module) -> bool:
    """Whether the network uses statistics of a batch, so that micro-batches change its result."""
    return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in network.modules())


def image_generators(seed: int, epoch: int, indices: Sequence[int]) -> list[torch.Generator]:
    """One generator for each image, so that its draws depend on nothing but seed, epoch and index.

    The same positions are then drawn on one device or several, before a restart or after.
    """
    return [torch.Generator().manual_seed(_mix(seed, epoch, int(index))) for index in indices]


def _mix(*numbers: int) -> int:
    """A well-mixed 63-bit seed: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    mask = (1 << 64) - 1
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state >> 1
