#!/usr/bin/env python3
"""Reading patches one step ahead hides slow storage.

Training steps on the image of ``scripts/make_pyramid.py``, of 100,000 x 100,000 pixels, through a
reader that sleeps before every patch, as a far-away store would. Compared with the same steps on
patches that are there at once, with and without :func:`ats.read_ahead`; in turns within one
process, medians over rounds.

What it asserts: read ahead, a step takes at most 1.2 times as long as from memory. Without, the
waits add up.

    python benchmarks/read_ahead.py data/pyramids/100000.tif
"""

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import ats
from ats.datasets.pyramids import Tissue, write_pyramid
from ats.images import FileImages, Images, Layout, Reader, read_small_view, small_extents
from ats.memory import keep_freed_memory
from ats.networks import residual_features, small_attention
from ats.nn import unit_float

LIMIT = 1.2
SMALL_SIDE = 256


class SlowReader(Reader):
    """Another reader behind a wait.

    Args:
        reader: that reads.
        wait: seconds before every patch.
    """

    def __init__(self, reader: Reader, wait: float) -> None:
        super().__init__(reader.path)
        self.reader = reader
        self.wait = wait

    @property
    def layout(self) -> Layout:
        """That of the reader."""
        return self.reader.layout

    def read(self, offset: Sequence[int], size: Sequence[int], level: int = 0) -> NDArray[Any]:
        """Wait and read."""
        time.sleep(self.wait)
        return self.reader.read(offset, size, level)

    def _open(self) -> Any:
        raise NotImplementedError

    def _describe(self, handle: Any) -> Layout:
        raise NotImplementedError

    def _read(self, handle: Any, first: Any, extents: Any, level: int) -> NDArray[Any]:
        raise NotImplementedError


class InMemory:
    """Images of the same shape, whose patches are there at once."""

    def __init__(self, images: FileImages, n_patches: int, size: Sequence[int]) -> None:
        self.shapes = images.shapes
        self.channels = images.channels
        zeros = torch.zeros(len(self.shapes), n_patches, 2, dtype=torch.int64)
        self._patches = images.patches(zeros, size)

    def patches(self, offsets: Tensor, size: Sequence[int]) -> Tensor:
        """The same patches every time."""
        return self._patches.clone()


class Steps:
    """Training steps on one image."""

    def __init__(self, reader: Reader, args: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.sampling = ats.AttentionSampling(
            small_attention(),
            residual_features(),
            n_patches=args.n_patches,
            patch_size=(args.patch, args.patch),
            prior=ats.local_contrast,
        )
        self.model = ats.Classifier(self.sampling, 32, 2).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(self.model.parameters())
        view = read_small_view(reader, small_extents(reader.shape, SMALL_SIDE))
        self.x_low = unit_float(torch.from_numpy(view)[None])
        self.slow = FileImages([SlowReader(reader, args.wait)])
        fast = FileImages([reader])
        self.memory = InMemory(fast, args.n_patches, self.sampling.sample.patch_size)
        self.count: int = args.steps

    def run(self, images: Images, *, ahead: bool) -> float:
        """Seconds a step, over so many."""
        start = time.perf_counter()
        for drawn in self._drawn(images) if ahead else [None] * self.count:
            logits, _ = self.model(self.x_low, images, drawn=drawn)
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor([1]))
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        return (time.perf_counter() - start) / self.count

    def _drawn(self, images: Images) -> Iterator[Any]:
        batches = range(self.count)
        for _, drawn in ats.read_ahead(batches, lambda _: self.sampling.draw(self.x_low, images)):
            yield drawn


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and check."""
    parser = argparse.ArgumentParser(
        description="Reading patches one step ahead hides slow storage.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("image", type=Path, help="TIFF of scripts/make_pyramid.py, made where it is missing")
    add("--side", type=int, default=100_000, help="pixels of it")
    add("--wait", type=float, default=0.05, help="seconds before every patch")
    add("--n_patches", type=int, default=16, help="patches of a step")
    add("--patch", type=int, default=128, help="rows and columns of a patch")
    add("--steps", type=int, default=20, help="of a round")
    add("--rounds", type=int, default=5, help="of which the medians are taken")
    args = parser.parse_args(arguments)
    keep_freed_memory()
    if not args.image.exists():
        args.image.parent.mkdir(parents=True, exist_ok=True)
        write_pyramid(args.image, Tissue((args.side, args.side)), kind="tiff")
    steps = Steps(ats.open_image(args.image), args)
    kinds: dict[str, tuple[Images, bool]] = {
        "from memory": (steps.memory, False),
        "slow": (steps.slow, False),
        "slow, read ahead": (steps.slow, True),
    }
    steps.run(steps.memory, ahead=False)
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(args.rounds):
        for name, (images, ahead) in kinds.items():
            times[name].append(steps.run(images, ahead=ahead))
    ratios = {
        name: statistics.median(np.divide(own, times["from memory"]).tolist())
        for name, own in times.items()
    }
    print("| patches | step | over memory |\n|---|--:|--:|")
    for name, own in times.items():
        print(f"| {name} | {statistics.median(own) * 1000:.0f} ms | {ratios[name]:.2f} |")
    ahead = ratios["slow, read ahead"]
    assert ahead <= LIMIT, f"read ahead, a step takes {ahead:.2f} times as long as from memory"


if __name__ == "__main__":
    main()
