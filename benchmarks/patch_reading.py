#!/usr/bin/env python3
"""Claim: reading patches of a tensor costs little more than moving their bytes once.

``ats.extract_patches`` of 10 images of 3x1024x1024, 32 patches of 128x128 each, against a copy of
a tensor of the output's size (on a GPU that of 256 MiB, for its bandwidth), and against indexing
with tensors of rows and columns. On a GPU also 128 images of 1500x1500 bytes with 10 patches of
50x50. In pairs that alternate in one process; ratios are medians over rounds.

Before each, 256 MiB of other memory are written to, as a training step does between two batches,
so that no cache holds the images. On a CPU the process keeps the memory that it once had: the first
touch of fresh memory takes the system several times as long as any of the copies, in all alike. On
a GPU times are those of the device, without the host's for calling.
"""

import argparse
import itertools
import statistics
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from turns import MEBIBYTE, add_device, alternate, alternate_on_gpu, median_ratio

from ats import extract_patches
from ats.memory import keep_freed_memory
from ats.training.arguments import positive_int


class Case(NamedTuple):
    """What is read: images (B, C, H, W), and N patches of each."""

    shape: tuple[int, int, int, int]
    n_patches: int
    extent: int


LARGE = Case((10, 3, 1024, 1024), 32, 128)
SMALL = Case((128, 1, 1500, 1500), 10, 50)
MEMCPY_RATIO = 2.0
INDEXING_RATIO = 10.0
BANDWIDTH_SHARE = 0.7


class Found(NamedTuple):
    """Medians over rounds.

    Attributes:
        label: of the case.
        seconds: of reading.
        copy_ratio: to a copy of as many bytes.
        indexing_ratio: of indexing to reading.
    """

    label: str
    seconds: float
    copy_ratio: float
    indexing_ratio: float


def by_indexing(image: Tensor, offsets: Tensor, extent: int) -> Tensor:
    """Patches (B, N, h, w, C) by indexing with tensors, the usual way; all must lie inside."""
    along = torch.arange(extent, device=image.device)
    rows, columns = (offsets[..., axis, None] + along for axis in (0, 1))
    number = torch.arange(len(image), device=image.device)[:, None, None, None]
    return image[number, :, rows[..., :, None], columns[..., None, :]]


def measure(case: Case, dtype: torch.dtype, device: str, rounds: int, label: str) -> Found:
    """Read, copy and index in turns."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, case.shape, generator=generator, dtype=torch.uint8)
    image = image.to(device, dtype)
    room = torch.tensor(case.shape[2:]) - case.extent + 1
    where = torch.rand(case.shape[0], case.n_patches, 2, generator=generator)
    offsets = (where * room).long().to(device)
    size = (case.extent, case.extent)
    patches = extract_patches(image, offsets, size)
    indexed = by_indexing(image, offsets, case.extent).movedim(4, 2)
    assert torch.equal(patches, indexed)
    n_bytes = patches.numel() * patches.element_size()
    other = torch.ones(256 * MEBIBYTE, dtype=torch.uint8, device=device)
    # On a CPU out of the same memory, each time another part of it; the bandwidth of a GPU shows on
    # large copies alone.
    copied = n_bytes if device == "cpu" else other.numel()
    memory = image.flatten().view(torch.uint8) if device == "cpu" else other
    parts = itertools.cycle(torch.split(memory, copied))
    read = partial(extract_patches, image, offsets, size)
    index = partial(by_indexing, image, offsets, case.extent)
    in_turns = alternate_on_gpu if device == "cuda" else alternate

    def disturb() -> None:
        # On a GPU as often as the host needs to call what is measured meanwhile.
        for _ in range(8 if device == "cuda" else 1):
            other.neg_()

    beside_copy = in_turns(
        {"copy": lambda: next(parts).clone(), "read": read}, rounds, before=disturb
    )
    beside_index = in_turns({"index": index, "read": read}, rounds, before=disturb)
    seconds = statistics.median(beside_copy["read"])
    copy_ratio = median_ratio(beside_copy["read"], beside_copy["copy"]) * copied / n_bytes
    return Found(
        label, seconds, copy_ratio, median_ratio(beside_index["index"], beside_index["read"])
    )


def on_cpu(rounds: int) -> tuple[list[Found], list[str]]:
    """Each type, with one thread and with two."""
    keep_freed_memory()
    rows, broken = [], []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for dtype in (torch.float32, torch.uint8):
            label = f"{str(dtype).removeprefix('torch.')}, threads: {threads}"
            row = measure(LARGE, dtype, "cpu", rounds, label)
            rows.append(row)
            if row.copy_ratio > MEMCPY_RATIO:
                broken.append(f"{label}: {row.copy_ratio:.2f} copies")
            if row.indexing_ratio < INDEXING_RATIO:
                broken.append(f"{label}: indexing takes {row.indexing_ratio:.1f} times as long")
    return rows, broken


def on_gpu(rounds: int) -> tuple[list[Found], list[str]]:
    """The large case, which is to reach the device's bandwidth, and that of Megapixel MNIST."""
    rows = [
        measure(LARGE, torch.float32, "cuda", rounds, "large, float32"),
        measure(LARGE, torch.uint8, "cuda", rounds, "large, uint8"),
        measure(SMALL, torch.uint8, "cuda", rounds, "128 x 1500 x 1500, uint8"),
    ]
    share = 1 / rows[0].copy_ratio
    broken = [] if share >= BANDWIDTH_SHARE else [f"{share:.0%} of the bandwidth of a copy"]
    broken += [f"{row.label}: slower than indexing" for row in rows if row.indexing_ratio < 1]
    return rows, broken


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--rounds", type=positive_int, default=31, help="rounds that count")
    add_device(parser, "the images are")
    args = parser.parse_args(arguments)
    rows, broken = (on_cpu if args.device == "cpu" else on_gpu)(args.rounds)
    print("| | reading | over a copy of its bytes | indexing over reading |\n|---|--:|--:|--:|")
    for row in rows:
        print(
            f"| {row.label} | {1e3 * row.seconds:.2f} ms | {row.copy_ratio:.2f} "
            f"| {row.indexing_ratio:.1f} |"
        )
    assert not broken, f"reading patches is slower than claimed: {'; '.join(broken)}"


if __name__ == "__main__":
    main()
