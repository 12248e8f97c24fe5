#!/usr/bin/env python3
"""Claim: all that training does around its steps costs next to nothing.

``scripts/mnist.py`` on Megapixel MNIST of 1500x1500 pixels made of the embedded digits: images a
second of its epochs, as it reports them, over those of bare steps (forward, loss, what is measured
of the attention, backward, clipping, Adam; on a GPU captured, as in training) on the same images,
which are in memory already. After every epoch of the one come as many steps of the other, in one
process; ratios are medians over epochs, without the first one.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from runpy import run_path
from typing import Any

import lightning
import torch
from image_size import SCRIPT, non_zeros
from turns import add_device, median_ratio

import ats
from ats.datasets.megapixel_mnist import MegapixelMNIST
from ats.memory import keep_freed_memory
from ats.training.arguments import positive_int
from ats.training.batches import EpochBatches, default_micro_batch, image_generators
from ats.training.build import make_optimizer
from ats.training.captured import CapturedStep
from ats.training.history import read_history
from ats.training.module import TrainingModule
from ats.training.run import fit

WANTED = {"cpu": 0.95, "cuda": 0.90}


class BareSteps(lightning.Callback):
    """After each epoch, as many steps of another network, with nothing around them.

    Attributes:
        seconds: of all steps after each epoch.
    """

    def __init__(self, model: ats.Classifier, data: MegapixelMNIST, args: Any, device: str) -> None:
        model.to(torch.device(device), memory_format=torch.channels_last)  # type: ignore[call-overload]
        make = make_optimizer(args)
        self.module = TrainingModule(
            model, optimizer=make, regularizer_strength=args.regularizer_strength, seed=args.seed
        )
        self.captured = CapturedStep(model, self.module._terms) if device == "cuda" else None
        self.optimizer = make(model.parameters())
        self.args = args
        micro = default_micro_batch(args.batch_size, 1, device)
        self.per_step = args.batch_size // micro
        batches = EpochBatches(
            len(data), batch_size=args.batch_size, micro_batch=micro, seed=args.seed
        )
        self.batches = []
        for indices in batches:
            batch = data.__getitems__(indices)
            self.batches.append(
                batch._replace(
                    x_low=batch.x_low.to(device),
                    x_high=non_zeros(batch).to(device),
                    target=batch.target.to(device),
                )
            )
        self.device = device
        self.seconds: list[float] = []

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Take the steps."""
        self._wait()
        start = time.perf_counter()
        self.module.train()
        for number, batch in enumerate(self.batches, 1):
            generators = image_generators(self.args.seed, 0, batch.index.tolist())
            terms = self.captured(batch, generators) if self.captured else None
            if terms is None:
                terms = self.module._terms(batch, generators)
            torch.autograd.backward(terms.objective / self.per_step)
            if number % self.per_step == 0:
                torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.args.clipnorm)
                self.optimizer.step()
                self.optimizer.zero_grad()
        self._wait()
        self.seconds.append(time.perf_counter() - start)

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def make_data(folder: Path, n_images: int) -> None:
    """Megapixel MNIST with as many training images."""
    script = SCRIPT.with_name("make_mnist.py")
    counts = ["--n_train", str(n_images), "--n_test", "8"]
    command = [sys.executable, str(script), str(folder), "--digits", "optdigits", *counts]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def measure(given: argparse.Namespace, folder: Path) -> tuple[list[float], list[float]]:
    """Seconds of each epoch of training, and of as many bare steps after each."""
    make_data(folder / "data", given.n_train)
    script = run_path(str(SCRIPT))
    accelerator = "cpu" if given.device == "cpu" else "gpu"
    options = ["--epochs", str(given.epochs + 1), "--accelerator", accelerator]
    options += ["--batch_size", str(given.batch_size)]
    args = script["parse"]([str(folder / "data"), str(folder / "run"), *options])
    data, test = (MegapixelMNIST(folder / "data", train=train) for train in (True, False))
    model, other = (script["build_model"](args, data.n_classes) for _ in range(2))
    bare = BareSteps(other, data, args, given.device)
    classes = [str(digit) for digit in range(data.n_classes)]
    with contextlib.redirect_stdout(sys.stderr):
        fit(model, data, test, args, data.parameters, classes, callbacks=[bare])
    rows = read_history(folder / "run" / "history.csv")
    return [row["seconds"] for row in rows[1:]], bare.seconds[1:]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--n_train", type=positive_int, default=512, help="images of an epoch")
    add("--batch_size", type=positive_int, default=128, help="images of a step")
    add("--epochs", type=positive_int, default=6, help="epochs that count")
    add_device(parser, "to train")
    args = parser.parse_args(arguments)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        whole, bare = measure(args, Path(folder))
    share = median_ratio(bare, whole)
    rates = [args.n_train / statistics.median(seconds) for seconds in (bare, whole)]
    print("| bare steps | `mnist.py` | ratio | at least |\n|--:|--:|--:|--:|")
    wanted = WANTED[args.device]
    print(f"| {rates[0]:.1f} images/s | {rates[1]:.1f} images/s | {share:.3f} | {wanted:g} |")
    assert share >= wanted, f"training reaches {share:.3f} of the speed of its steps"


if __name__ == "__main__":
    main()
