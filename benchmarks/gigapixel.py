#!/usr/bin/env python3
"""A training step on images in files does not depend on their size, up to 10^6 x 10^6 pixels.

The images are made by ``scripts/make_pyramid.py``, as TIFF and as OME-Zarr, where they are missing;
``formula`` is one of which no pixel exists until it is asked for. The small view
is read once, from a coarse level, as ``ats train`` does it; each step reads 10 patches of 256x256
from the finest, and trains the networks that ``ats train`` has by default on them.

Each image has a process of its own; they take turns. What it asserts: the peak of every process
stays below 1 GB, and time and memory are those of the first side of the same kind within 10 %.

    python benchmarks/gigapixel.py data/pyramids
"""

import argparse
import contextlib
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from turns import MEBIBYTE, Memory, Step, Worker, resident_bytes, serve, take_turns

from ats import AttentionSampling, Classifier, FileImages, local_contrast, open_image
from ats.datasets.pyramids import Tissue, factors, write_pyramid
from ats.images import Layout, Reader, read_small_view, small_extents
from ats.memory import keep_freed_memory
from ats.networks import small_attention, small_features
from ats.nn import unit_float

MEMORY_LIMIT = 1e9
TOLERANCE = 0.10
SMALL_SIDE = 512
KINDS = {"tiff": "tif", "zarr": "zarr", "formula": "formula"}


class Nothing:
    """What a formula has open."""

    def close(self) -> None:
        """Nothing to do."""


class FormulaReader(Reader):
    """An image that is computed where it is read; ``SIDE.formula`` is its path."""

    def _open(self) -> Nothing:
        return Nothing()

    @property
    def image(self) -> Tissue:
        """The formula."""
        side = int(Path(self.path).stem)
        return Tissue((side, side))

    def _describe(self, handle: Nothing) -> Layout:
        image = self.image
        rows, columns = image.shape
        shapes = tuple((rows // factor, columns // factor) for factor in factors(image.shape))
        return Layout(shapes, 3, np.dtype(np.uint8))

    def _read(
        self, handle: Nothing, first: tuple[int, ...], extents: tuple[int, ...], level: int
    ) -> NDArray[Any]:
        out = np.zeros((3, *extents), np.uint8)
        tile = self.image.tile((first[0], first[1]), (extents[0], extents[1]), 2**level)
        return out if tile is None else np.ascontiguousarray(tile.transpose(2, 0, 1))


class Training:
    """Training steps on one image."""

    def __init__(self, path: str) -> None:
        self.reader = FormulaReader(path) if path.endswith("formula") else open_image(path)
        self.imported = resident_bytes("VmRSS")
        # Once, as ``ats train`` does it, and not in every step.
        view = read_small_view(self.reader, small_extents(self.reader.shape, SMALL_SIDE))
        self.x_low = unit_float(torch.from_numpy(view)[None])
        torch.manual_seed(0)
        sampling = AttentionSampling(
            small_attention(),
            small_features(),
            n_patches=10,
            patch_size=(256, 256),
            prior=local_contrast,
        )
        self.model = Classifier(sampling, 32, 2).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(self.model.parameters())

    def step(self) -> Step:
        """One step, reading patches included."""
        start, cpu_start = time.perf_counter(), time.process_time()
        logits, _ = self.model(self.x_low, FileImages([self.reader]))
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor([1]))
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return Step(time.perf_counter() - start, time.process_time() - cpu_start)

    def memory(self) -> Memory:
        """Bytes used so far."""
        return Memory(self.imported, resident_bytes("VmHWM"))


def image_path(folder: Path, kind: str, side: int) -> str:
    """Where the image is, after it was made if it was missing."""
    path = folder / f"{side}.{KINDS[kind]}"
    if kind != "formula" and not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_pyramid(path, Tissue((side, side)), kind=kind)
    return str(path)


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for every kind and side."""
    places = {
        (kind, side): image_path(args.folder, kind, side)
        for kind in args.kinds
        for side in args.sides + (args.formula_sides if kind == "formula" else [])
    }
    with contextlib.ExitStack() as stack:
        workers = {
            place: stack.enter_context(Worker([__file__, str(args.folder), "--worker", path]))
            for place, path in places.items()
        }
        take_turns(list(workers.values()), args.rounds)
        return [
            row_of(kind, side, worker, workers[kind, args.sides[0]])
            for (kind, side), worker in workers.items()
        ]


def row_of(kind: str, side: int, worker: Worker, first: Worker) -> dict[str, Any]:
    """Results of a worker, beside those of the first side."""
    pairs = list(zip(worker.steps[1:], first.steps[1:], strict=True))
    peak = worker.memory().peak
    return {
        "kind": kind,
        "side": side,
        "seconds": statistics.median(own.seconds for own, _ in pairs),
        "time_ratio": statistics.median(own.seconds / other.seconds for own, other in pairs),
        "cpu_ratio": statistics.median(own.cpu_seconds / other.cpu_seconds for own, other in pairs),
        "peak": peak,
        "memory_ratio": peak / first.memory().peak,
    }


def report(rows: list[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| image | side | step | time ratio | CPU time ratio | peak memory | memory ratio |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['kind']} | {row['side']:,} | {row['seconds'] * 1000:.0f} ms "
            f"| {row['time_ratio']:.3f} | {row['cpu_ratio']:.3f} "
            f"| {row['peak'] / MEBIBYTE:.0f} MiB | {row['memory_ratio']:.3f} |"
        )
    return "\n".join(lines)


def broken_claims(rows: list[dict[str, Any]]) -> list[str]:
    """What ought to hold and does not."""
    broken = []
    for row in rows:
        name = f"{row['kind']} of {row['side']} pixels"
        if row["peak"] >= MEMORY_LIMIT:
            broken.append(f"{name}: the process peaked at {row['peak'] / 1e9:.2f} GB")
        for ratio in ("time_ratio", "memory_ratio"):
            if row[ratio] > 1 + TOLERANCE:
                broken.append(f"{name}: {ratio} {row[ratio]:.3f}")
    return broken


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Time and memory of a training step on images in files of any size.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("folder", type=Path, help="where the images are, or are made")
    add("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="of the images")
    add("--sides", type=int, nargs="+", default=[10_000, 100_000], help="pixels")
    add("--formula_sides", type=int, nargs="*", default=[1_000_000], help="of the formula besides")
    add("--rounds", type=int, default=9, help="counted steps, after one to warm up")
    add("--worker", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and check."""
    args = parse(arguments)
    if args.worker:
        keep_freed_memory()
        training = Training(args.worker)
        serve(training.step, training.memory)
        return
    rows = measure(args)
    print(report(rows))
    broken = broken_claims(rows)
    assert not broken, "time or memory depend on the size of the images\n" + "\n".join(broken)


if __name__ == "__main__":
    main()
