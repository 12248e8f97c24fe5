#!/usr/bin/env python3
"""Claim: attention sampling trains in a fraction of the time and memory of whole images.

A training step of ``scripts/mnist.py`` on one image, against the same feature network on all of its
pixels, from 1500x1500 on until memory ends. Each network and side has a process of its own; the two
of a side take turns. Memory is the peak of the process (of what torch allocated on a GPU), less
what it had when everything was imported.
"""

import argparse
import resource
import statistics
import time
from pathlib import Path

import torch
from image_size import CELLS, STAMP, Training, non_zeros
from torch.nn import functional as F
from turns import MEBIBYTE, Memory, Step, Worker, add_device, median_ratio, serve, take_turns

from ats.memory import keep_freed_memory
from ats.training.arguments import positive_int

# At the smallest side.
TIME_RATIO = 10.0
MEMORY_RATIO = 10.0


class WholeTraining(Training):
    """A step of the feature network, with the same head and optimizer, on whole images."""

    def step(self) -> Step:
        """One step on the whole batch."""
        self._wait()
        start, cpu_start = time.perf_counter(), time.process_time()
        self.optimizer.zero_grad()
        model = self.module.model
        for batch in self.batches:
            pixels = non_zeros(batch).to_dense().to(self.device).float() / 255
            features = model.sampling.feature(pixels) * model.scale
            logits = model.linear(features)
            loss = F.cross_entropy(logits, batch.target.to(self.device)) / len(self.batches)
            torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.clipnorm)
        self.optimizer.step()
        self._wait()
        return Step(time.perf_counter() - start, time.process_time() - cpu_start)


NETWORKS = {"attention": Training, "whole": WholeTraining}


def work(args: argparse.Namespace) -> None:
    """Answer for what standard input asks, within nine tenths of the machine's memory."""
    keep_freed_memory()
    if args.device == "cpu":
        limit = available_memory() * 9 // 10
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    (side,) = args.sides
    training = NETWORKS[args.network](side, batch_size=1, device=args.device)
    serve(training.step, training.memory)


def available_memory() -> int:
    """Bytes that Linux could give to a new process."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo does not say MemAvailable")


def more(memory: Memory) -> float:
    """MiB beyond what was there when everything was imported."""
    return (memory.peak - memory.imported) / MEBIBYTE


def compare(side: int, args: argparse.Namespace) -> tuple[float, float] | None:
    """Print a line; ratios of time and memory, or None where whole images do not fit."""
    command = [__file__, "--sides", str(side), "--device", args.device, "--network"]
    with Worker([*command, "attention"]) as attention, Worker([*command, "whole"]) as whole:
        try:
            take_turns([attention, whole], args.rounds)
        except RuntimeError:
            # Whatever ends the other one is no want of memory.
            if attention.process.poll() is not None:
                raise SystemExit("attention sampling came to no end; why stands above") from None
            print(f"| {side} | | does not fit | | | | |", flush=True)
            return None
        seconds = [[step.seconds for step in one.steps[1:]] for one in (attention, whole)]
        memory = [more(one.memory()) for one in (attention, whole)]
    time_ratio = median_ratio(seconds[1], seconds[0])
    memory_ratio = memory[1] / memory[0]
    own, other = (statistics.median(values) for values in seconds)
    print(
        f"| {side} | {own:.3f} s | {other:.3f} s | {time_ratio:.0f} | {memory[0]:.0f} MiB "
        f"| {memory[1]:.0f} MiB | {memory_ratio:.0f} |",
        flush=True,
    )
    return time_ratio, memory_ratio


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    sides = [1500, 2000, 3000, 4000, 6000, 8000, 12000]
    add("--sides", type=positive_int, nargs="+", default=sides, help="pixels")
    add("--rounds", type=positive_int, default=5, help="counted steps, after one to warm up")
    add_device(parser, "to train")
    add("--network", choices=NETWORKS, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if min(args.sides) < CELLS * STAMP:
        parser.error(f"sides={min(args.sides)}: take {CELLS * STAMP} pixels or more")
    if args.network:
        work(args)
        return
    print(
        "| side | attention | whole image | ratio | attention, memory | whole image, memory "
        "| ratio |\n|--:|--:|--:|--:|--:|--:|--:|"
    )
    found = []
    for side in args.sides:
        ratios = compare(side, args)
        if ratios is None:
            break
        found.append(ratios)
    assert found, "not even the smallest image fits into memory"
    time_ratio, memory_ratio = found[0]
    assert time_ratio >= TIME_RATIO, f"time: {time_ratio:.1f} at {args.sides[0]}"
    assert memory_ratio >= MEMORY_RATIO, f"memory: {memory_ratio:.1f} at {args.sides[0]}"


if __name__ == "__main__":
    main()
