#!/usr/bin/env python3
"""Time and memory of a training step do not depend on the size of the images.

The step is that of ``scripts/mnist.py``: its network and defaults, forward, loss, backward over
micro-batches, clipping, Adam. Images carry the same stamps at the same relative places, 5 digits
and 50 pieces of noise of 28x28 pixels, so that images of all sides have as many non-zeros and the
same small view; only their sides differ. They are made as non-zeros; a dense image never exists.

Each side has a process of its own. The processes live throughout and take turns, so that a machine
that slows down does so for all of them; ratios are medians over rounds of the time of a side over
that of the first side in the same round. Memory is the peak of the resident process (Linux'
``VmHWM``), or the peak of what torch allocated on a GPU.

What it asserts: the peak stays below 2 GB on a CPU, and time and memory of every side are those of
the first within 10 %. Of the peak, and not only of its growth: 10 % of either is less than a single
dense image of 15,000x15,000 bytes.
"""

import argparse
import contextlib
import statistics
import time
import warnings
from pathlib import Path
from runpy import run_path
from typing import NamedTuple

import torch
from torch import Tensor
from turns import MEBIBYTE, Memory, Step, Worker, add_device, resident_bytes, serve, take_turns

from ats import SparseImages
from ats.datasets.batch import Batch
from ats.memory import keep_freed_memory
from ats.training.arguments import positive_int
from ats.training.batches import default_micro_batch, image_generators
from ats.training.build import make_optimizer
from ats.training.captured import CapturedStep

SCRIPT = Path(__file__).parents[1] / "scripts" / "mnist.py"
STAMP = 28
N_STAMPS = 55  # 5 digits and 50 pieces of noise
CELLS = 50  # stamps stand in different cells of a grid, so that none hides another at any side
INK = 0.1  # share of a stamp that is not black: 19 % of a digit, 8 % of a piece of noise
SMALL_SIDE = 180  # small views of 1500x1500 images at the default scale
MEMORY_LIMIT = 2e9
TOLERANCE = 0.10


def non_zeros(batch: Batch) -> SparseImages:
    """The images of a batch that :func:`make_batches` made."""
    assert isinstance(batch.x_high, SparseImages)
    return batch.x_high


def make_batches(side: int, *, n_images: int, micro_batch: int, seed: int = 0) -> list[Batch]:
    """Micro-batches of sparse images, the same ones at every side.

    Args:
        side: rows and columns of an image in pixels, at least CELLS * STAMP.
        n_images: images of all micro-batches together.
        micro_batch: images of each.
        seed: of stamps, places and classes.

    Raises:
        ValueError: the images are too small for stamps that do not overlap.
    """
    if side < CELLS * STAMP:
        raise ValueError(f"side={side} must be at least {CELLS * STAMP} pixels")
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for first in range(0, n_images, micro_batch):
        count = min(micro_batch, n_images - first)
        cells = torch.rand(count, CELLS**2, generator=generator).topk(N_STAMPS).indices
        stamps = torch.randint(1, 256, (count, N_STAMPS, STAMP, STAMP), generator=generator)
        stamps[torch.rand(stamps.shape, generator=generator) > INK] = 0
        target = torch.randint(10, (count,), generator=generator)
        high = sparse_images(stamps, cells, side)
        index = torch.arange(first, first + count)
        batches.append(Batch(small_views(stamps, cells), high, target, index))
    return batches


def sparse_images(stamps: Tensor, cells: Tensor, side: int) -> SparseImages:
    """Images of stamps (B, S, 28, 28) in the cells (B, S), from their non-zeros alone."""
    image, stamp, row, column = stamps.nonzero(as_tuple=True)
    cell = cells[image, stamp]
    row = cell // CELLS * side // CELLS + row
    column = cell % CELLS * side // CELLS + column
    order = (image * side**2 + row * side + column).argsort()
    # The type that a data set file has.
    dtype = torch.int32 if side**2 < 2**31 else torch.int64
    indices = (row * side + column)[order].to(dtype)
    values = stamps[stamps != 0][order].to(torch.uint8)
    counts = torch.bincount(image, minlength=len(stamps))
    indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return SparseImages(indices, values, indptr, (1, side, side))


def small_views(stamps: Tensor, cells: Tensor) -> Tensor:
    """Small views (B, 1, h, w) in [0, 1]: 3x3 pixels of each stamp's mean values."""
    views = torch.zeros(len(stamps), SMALL_SIDE, SMALL_SIDE)
    means = torch.nn.functional.adaptive_avg_pool2d(stamps.float() / 255, 3)
    near = torch.arange(3)
    first = torch.stack([cells // CELLS, cells % CELLS]) * SMALL_SIDE // CELLS
    image = torch.arange(len(stamps)).reshape(-1, 1, 1, 1)
    rows, columns = first[..., None, None]
    views[image, rows + near[:, None], columns + near] = means
    return views.unsqueeze(1)


class Training:
    """The training step of ``scripts/mnist.py`` on images of one side.

    Args:
        side: rows and columns of an image in pixels.
        batch_size: images of a step.
        micro_batch: images at a time; by default what training takes.
        device: ``cpu`` or ``cuda``.

    Attributes:
        batches: micro-batches of a step.
        loss: of the last step, their mean.
    """

    loss: float

    def __init__(
        self, side: int, *, batch_size: int, micro_batch: int | None = None, device: str = "cpu"
    ) -> None:
        from ats.training.module import TrainingModule

        script = run_path(str(SCRIPT))
        args = script["parse"](["dataset", "output", "--batch_size", str(batch_size)])
        self.device = torch.device(device)
        self.imported = self._resident("VmRSS")
        torch.manual_seed(0)
        model = script["build_model"](args, 10).to(self.device, memory_format=torch.channels_last)
        self.module = TrainingModule(
            model,
            optimizer=make_optimizer(args),
            regularizer_strength=args.regularizer_strength,
            seed=args.seed,
        )
        self.clipnorm: float = args.clipnorm
        self.optimizer = self.module.configure_optimizers()
        accelerator = "cpu" if self.device.type == "cpu" else "gpu"
        micro = micro_batch or default_micro_batch(batch_size, 1, accelerator)
        self.batches = make_batches(side, n_images=batch_size, micro_batch=micro)
        on_gpu = self.device.type == "cuda"
        self.captured = CapturedStep(model, self.module._terms) if on_gpu else None

    @property
    def n_nonzeros(self) -> int:
        """Non-zeros of all images."""
        return sum(len(non_zeros(batch).values) for batch in self.batches)

    def step(self) -> Step:
        """One step on the whole batch."""
        self._wait()
        start, cpu_start = time.perf_counter(), time.process_time()
        self.optimizer.zero_grad()
        losses = []
        for number, batch in enumerate(self.batches):
            loss = self._objective(self._moved(batch), number)
            torch.autograd.backward(loss / len(self.batches))
            losses.append(loss.detach())
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.clipnorm)
        self.optimizer.step()
        self._wait()
        self.loss = float(torch.stack(losses).mean())
        return Step(time.perf_counter() - start, time.process_time() - cpu_start)

    def _objective(self, batch: Batch, number: int) -> Tensor:
        """What a micro-batch minimises."""
        # As training has it: gradients of a graph cannot be added up.
        if self.captured is not None and len(self.batches) == 1:
            generators = image_generators(self.module.seed, 0, batch.index.tolist())
            terms = self.captured(batch, generators)
            assert terms is not None, "the step was not captured"
            return terms.objective
        with warnings.catch_warnings():
            # There is no Lightning trainer here whose log the module could write to.
            warnings.simplefilter("ignore")
            objective: Tensor = self.module.training_step(batch, number)["loss"]
            return objective

    def memory(self) -> Memory:
        """Bytes used so far."""
        return Memory(self.imported, self._resident("VmHWM"))

    def _moved(self, batch: Batch) -> Batch:
        x_low, target = batch.x_low.to(self.device), batch.target.to(self.device)
        return Batch(x_low, non_zeros(batch).to(self.device), target, batch.index)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _resident(self, entry: str) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        return resident_bytes(entry)


def work(args: argparse.Namespace) -> None:
    """Answer for what standard input asks, line by line."""
    keep_freed_memory()
    (side,) = args.sides
    training = Training(
        side, batch_size=args.batch_size, micro_batch=args.micro_batch, device=args.device
    )
    serve(training.step, training.memory, n_nonzeros=training.n_nonzeros)


class Row(NamedTuple):
    """One side: bytes, seconds of each step after the first, and ratios to the first side."""

    side: int
    n_nonzeros: int
    memory: Memory
    steps: list[Step]
    time_ratios: list[float]
    cpu_ratio: float
    memory_ratio: float


def measure(args: argparse.Namespace) -> list[Row]:
    """Let the processes of all sides take turns."""
    options = ["--batch_size", str(args.batch_size), "--device", args.device]
    if args.micro_batch:
        options += ["--micro_batch", str(args.micro_batch)]
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(Worker([__file__, "--worker", "--sides", str(side), *options]))
            for side in args.sides
        ]
        take_turns(workers, args.rounds)
        return rows_of(args.sides, workers)


def rows_of(sides: list[int], workers: list[Worker]) -> list[Row]:
    """Results of each worker; the first step, which warms up, does not count."""
    rows = []
    first = workers[0].steps[1:]
    peak = workers[0].memory().peak
    for side, worker in zip(sides, workers, strict=True):
        steps, memory = worker.steps[1:], worker.memory()
        pairs = list(zip(steps, first, strict=True))
        ratios = [own.seconds / other.seconds for own, other in pairs]
        cpu_ratio = statistics.median(own.cpu_seconds / other.cpu_seconds for own, other in pairs)
        row = (side, int(worker.about["n_nonzeros"]), memory, steps, ratios, cpu_ratio)
        rows.append(Row(*row, memory_ratio=memory.peak / peak))
    return rows


def report(rows: list[Row], device: str) -> str:
    """The results as a Markdown table."""
    lines = [
        "| side | non-zeros | dense image | peak memory | of it since import | step | CPU time "
        "| memory ratio | time ratio (range of rounds) | CPU time ratio |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        seconds = statistics.median(step.seconds for step in row.steps)
        cpu = statistics.median(step.cpu_seconds for step in row.steps)
        ratio = statistics.median(row.time_ratios)
        cells = (
            f"{row.side}",
            f"{row.n_nonzeros}",
            f"{row.side**2 / MEBIBYTE:.1f} MiB",
            f"{row.memory.peak / MEBIBYTE:.0f} MiB",
            f"{(row.memory.peak - row.memory.imported) / MEBIBYTE:.0f} MiB",
            f"{seconds:.3f} s",
            f"{cpu:.3f} s",
            f"{row.memory_ratio:.3f}",
            f"{ratio:.3f} ({min(row.time_ratios):.3f} to {max(row.time_ratios):.3f})",
            f"{row.cpu_ratio:.3f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    memory = rows[0].memory
    if device == "cpu":
        lines += [
            "",
            f"{memory.imported / memory.peak:.0%} of the peak is Python with torch and Lightning, "
            "before there is a model or an image.",
        ]
    return "\n".join(lines)


def broken_claims(rows: list[Row], device: str) -> list[str]:
    """What ought to hold and does not."""
    broken = []
    for row in rows:
        if device == "cpu" and row.memory.peak >= MEMORY_LIMIT:
            broken.append(f"side {row.side}: the process peaked at {row.memory.peak / 1e9:.2f} GB")
        if abs(row.memory_ratio - 1) > TOLERANCE:
            broken.append(f"side {row.side}: memory ratio {row.memory_ratio:.3f}")
        ratio = statistics.median(row.time_ratios)
        if abs(ratio - 1) > TOLERANCE:
            broken.append(
                f"side {row.side}: time ratio {ratio:.3f}, in rounds from "
                f"{min(row.time_ratios):.3f} to {max(row.time_ratios):.3f}, of CPU time "
                f"{row.cpu_ratio:.3f}; where rounds differ much, the machine is busy"
            )
    return broken


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Time and memory of a training step against the size of the images.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--sides",
        type=positive_int,
        nargs="+",
        default=[1500, 15000, 150_000, 1_500_000],
        help="pixels",
    )
    add("--batch_size", type=positive_int, default=128, help="images of a step")
    add("--micro_batch", type=positive_int, help="images at a time (default: that of training)")
    add("--rounds", type=positive_int, default=7, help="counted steps of a side, after one to warm")
    add_device(parser, "to train")
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and check."""
    args = parse(arguments)
    if args.worker:
        work(args)
        return
    rows = measure(args)
    print(report(rows, args.device))
    broken = broken_claims(rows, args.device)
    assert not broken, "time or memory depend on the size of the images\n" + "\n".join(broken)


if __name__ == "__main__":
    main()
