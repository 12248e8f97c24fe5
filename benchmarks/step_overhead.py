#!/usr/bin/env python3
"""Claim: beyond its two networks, a training step of attention sampling costs next to nothing.

The step of ``AttentionSampling`` (prior, softmax, drawing, locating, reading patches, estimator,
forward and backward) against the same two networks, forward and backward, on the same small views
and on patches that are given. Networks, sampling and micro-batches are those of
``scripts/mnist.py``; images are sparse. Both alternate in one process; ratios are medians over
rounds. On a GPU a round is ten steps, between which the host does not wait, as in training.
"""

import argparse
from collections.abc import Callable
from runpy import run_path

import torch
from image_size import SCRIPT, make_batches, non_zeros
from torch import Tensor
from turns import add_device, alternate, report_ratios

from ats import AttentionSampling, AttentionSamplingOutput
from ats.datasets.batch import Batch
from ats.memory import keep_freed_memory
from ats.training.arguments import positive_int
from ats.training.batches import default_micro_batch, image_generators

WANTED = {"cpu": 1.05, "cuda": 1.10}
STEPS = {"cpu": 1, "cuda": 10}


def sampling_of_mnist(device: str) -> AttentionSampling:
    """The networks and settings of ``scripts/mnist.py``, laid out as in training."""
    script = run_path(str(SCRIPT))
    torch.manual_seed(0)
    model = script["build_model"](script["parse"](["dataset", "output"]), 10)
    model.to(device, memory_format=torch.channels_last)
    sampling: AttentionSampling = model.sampling
    return sampling


class Steps:
    """Both steps on the same batches.

    Args:
        side: rows and columns of an image in pixels.
        batch_size: images of a step.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, side: int, batch_size: int, device: str) -> None:
        self.sampling = sampling_of_mnist(device)
        micro_batch = default_micro_batch(batch_size, 1, device)
        self.batches = [
            batch._replace(x_low=batch.x_low.to(device), x_high=non_zeros(batch).to(device))
            for batch in make_batches(side, n_images=batch_size, micro_batch=micro_batch)
        ]
        self.given: list[tuple[Tensor, Tensor]] = []
        for batch in self.batches:
            seen = self._sample(batch)
            patches = seen.patches.flatten(0, 1).detach()
            # As the networks get them from attention sampling, or they would be given other work.
            self.given.append((patches, torch.randn_like(seen.features)))

    def _sample(self, batch: Batch) -> AttentionSamplingOutput:
        generators = image_generators(0, 0, batch.index.tolist())
        seen: AttentionSamplingOutput = self.sampling(
            batch.x_low, batch.x_high, generator=generators
        )
        return seen

    def with_sampling(self) -> None:
        """A step of attention sampling."""
        self.sampling.zero_grad()
        for batch, (_, gradient) in zip(self.batches, self.given, strict=True):
            torch.autograd.backward(self._sample(batch).features, gradient)

    def networks_alone(self) -> None:
        """The same networks on what they are given."""
        self.sampling.zero_grad()
        n_patches = self.sampling.sample.n_patches
        for batch, (patches, gradient) in zip(self.batches, self.given, strict=True):
            logits = self.sampling.attention(batch.x_low)
            features = self.sampling.feature(patches)
            torch.autograd.backward(
                [logits, features],
                [torch.ones_like(logits), gradient.repeat_interleave(n_patches, 0)],
            )


def repeated(function: Callable[[], None], count: int) -> Callable[[], None]:
    """A function that calls another one so often."""

    def call() -> None:
        for _ in range(count):
            function()

    return call


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--batch_sizes", type=positive_int, nargs="+", default=[8, 32], help="images of a step")
    add("--side", type=positive_int, default=1500, help="rows and columns of an image")
    add("--rounds", type=positive_int, default=15, help="rounds that count")
    add("--threads", type=positive_int, help="of torch (default: its own)")
    add_device(parser, "to train")
    args = parser.parse_args(arguments)
    keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    rows = []
    for batch_size in args.batch_sizes:
        steps = Steps(args.side, batch_size, args.device)
        count = STEPS[args.device]
        found = alternate(
            {
                "networks": repeated(steps.networks_alone, count),
                "step": repeated(steps.with_sampling, count),
            },
            args.rounds,
            args.device,
        )
        networks, step = ([value / count for value in values] for values in found.values())
        rows.append((f"batch of {batch_size}", networks, step))
    wanted = WANTED[args.device]
    broken = report_ratios(("networks alone", "attention sampling"), rows, wanted)
    assert not broken, f"a step takes more than {wanted} times its networks: {', '.join(broken)}"


if __name__ == "__main__":
    main()
