#!/usr/bin/env python3
"""Claim: on a CPU, steps that keep the memory of the steps before are much faster.

A training step of attention sampling with the networks of ``scripts/speed_limits.py`` (5 patches of
100x100 of 8 images of 800x1360) and of ``ats train`` (10 patches of 256x256), each in two processes
that take turns: one as torch runs by itself, and one as the commands of this library do, whose
freed memory stays with the process (``ats.memory``; glibc alone). What the faster one peaks higher
is printed, too.
"""

import argparse
import time

import torch
from turns import MEBIBYTE, Memory, Step, Worker, median_ratio, resident_bytes, serve, take_turns

from ats import AttentionSampling
from ats.memory import keep_freed_memory
from ats.networks import (
    residual_features,
    small_attention,
    small_features,
    speed_limits_attention,
)
from ats.training.arguments import positive_int

N_IMAGES = 8
TIME_RATIO = 0.8
MEMORY_RATIO = 1.4
LABELS = {"street": "`speed_limits.py`", "folder": "`ats train`"}


def street() -> tuple[AttentionSampling, tuple[int, int], tuple[int, int]]:
    """The networks of ``scripts/speed_limits.py``; extents of small views and images."""
    sampling = AttentionSampling(
        speed_limits_attention(),
        residual_features(),
        n_patches=5,
        patch_size=(100, 100),
        receptive_field=9,
    )
    return sampling, (240, 408), (800, 1360)


def folder() -> tuple[AttentionSampling, tuple[int, int], tuple[int, int]]:
    """The networks of ``ats train``; extents of small views and images."""
    sampling = AttentionSampling(
        small_attention(), small_features(), n_patches=10, patch_size=(256, 256)
    )
    return sampling, (256, 256), (2000, 2000)


TASKS = {"street": street, "folder": folder}


def work(task: str, *, keep: bool) -> None:
    """Take steps when told to."""
    if keep:
        keep_freed_memory()
    imported = resident_bytes("VmRSS")
    torch.manual_seed(0)
    sampling, low_shape, high_shape = TASKS[task]()
    sampling.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    low = torch.rand(N_IMAGES, 3, *low_shape)
    high = torch.randint(0, 256, (N_IMAGES, 3, *high_shape), dtype=torch.uint8)

    def step() -> Step:
        start, cpu_start = time.perf_counter(), time.process_time()
        sampling.zero_grad()
        torch.autograd.backward(sampling(low, high).features.sum())
        return Step(time.perf_counter() - start, time.process_time() - cpu_start)

    serve(step, lambda: Memory(imported, resident_bytes("VmHWM")))


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--rounds", type=positive_int, default=9, help="counted steps")
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.task:
        work(args.task, keep=args.keep)
        return
    print("| networks of | time, kept over fresh | peak memory, kept over fresh |\n|---|--:|--:|")
    broken = []
    for task, label in LABELS.items():
        command = [__file__, "--task", task]
        with Worker(command) as fresh, Worker([*command, "--keep"]) as kept:
            take_turns([fresh, kept], args.rounds)
            seconds = [[step.seconds for step in one.steps[1:]] for one in (fresh, kept)]
            peaks = [one.memory().peak / MEBIBYTE for one in (fresh, kept)]
        time_ratio, memory_ratio = median_ratio(seconds[1], seconds[0]), peaks[1] / peaks[0]
        print(
            f"| {label} | {time_ratio:.2f} "
            f"| {peaks[1]:.0f} over {peaks[0]:.0f} MiB, {memory_ratio:.2f} |"
        )
        if time_ratio > TIME_RATIO or memory_ratio > MEMORY_RATIO:
            broken.append(label)
    assert not broken, f"keeping memory does not pay for {' and '.join(broken)}"


if __name__ == "__main__":
    main()
