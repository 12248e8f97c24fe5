#!/usr/bin/env python3
"""Claim: bfloat16 trains faster than float32, along the same loss curve.

Training steps of ``scripts/mnist.py`` on 1500x1500 images, from the same weights and on the same
batches, with and without autocast, in turns. Most processors do not compute in bfloat16: without
AVX512-BF16 or AMX on x86, or BF16 on Arm, it is slower than float32, and nothing is asserted of
its speed.
"""

import argparse
import statistics
from collections.abc import Callable
from itertools import cycle

import numpy as np
import torch
from image_size import Training
from turns import add_device, alternate, median_ratio

from ats.memory import keep_freed_memory
from ats.training.arguments import positive_int
from ats.training.processor import multiplies_bfloat16

SPEED_UP = 1.5
# The two round differently; by how much the mean loss over a quarter of the steps may differ.
TOLERANCE = 0.05


class Trained:
    """A training, one step a call.

    Args:
        batch_size: images of a step.
        n_batches: different batches, over and over.
        device: ``cpu`` or ``cuda``.
        bfloat16: whether to compute in bfloat16.

    Attributes:
        losses: of each step.
    """

    def __init__(self, batch_size: int, n_batches: int, device: str, *, bfloat16: bool) -> None:
        self.training = Training(
            1500, batch_size=batch_size * n_batches, micro_batch=batch_size, device=device
        )
        self.batches = cycle(self.training.batches)
        self.autocast = torch.autocast(device, torch.bfloat16, enabled=bfloat16)
        self.losses: list[float] = []

    def step(self) -> None:
        """Train on the next batch."""
        self.training.batches = [next(self.batches)]
        with self.autocast:
            self.training.step()
        self.losses.append(self.training.loss)


def quarters(losses: list[float]) -> list[float]:
    """Mean loss of each quarter of the steps."""
    return [float(part.mean()) for part in np.array_split(losses, 4)]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--batch_size", type=positive_int, default=8, help="images of a step")
    add("--n_batches", type=positive_int, default=40, help="different batches")
    add("--rounds", type=positive_int, default=158, help="steps that count")
    add_device(parser, "to train")
    args = parser.parse_args(arguments)
    keep_freed_memory()
    size = (args.batch_size, args.n_batches, args.device)
    trained = {
        "float32": Trained(*size, bfloat16=False),
        "bfloat16": Trained(*size, bfloat16=True),
    }
    steps: dict[str, Callable[[], object]] = {name: one.step for name, one in trained.items()}
    seconds = alternate(steps, args.rounds, args.device)
    print("| | ms a step | mean loss of each quarter of the steps |\n|---|--:|---|")
    curves = {name: quarters(one.losses) for name, one in trained.items()}
    for name, values in seconds.items():
        curve = " ".join(f"{loss:.3f}" for loss in curves[name])
        print(f"| {name} | {1e3 * statistics.median(values):.1f} | {curve} |")
    speed_up = median_ratio(seconds["float32"], seconds["bfloat16"])
    print(f"\nbfloat16 is {speed_up:.2f} times as fast")
    if args.device == "cpu" and multiplies_bfloat16():
        assert speed_up >= SPEED_UP, f"bfloat16 is only {speed_up:.2f} times as fast"
    for own, other in zip(curves["bfloat16"], curves["float32"], strict=True):
        assert abs(own / other - 1) <= TOLERANCE, f"a loss of {own:.3f} in place of {other:.3f}"


if __name__ == "__main__":
    main()
