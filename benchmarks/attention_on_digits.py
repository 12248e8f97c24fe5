"""What a network trained on Megapixel MNIST misses: digits that it does not look at, or misreads.

Takes a finished run of ``scripts/mnist.py``. The places of the digits, of which it has never been
told, are drawn again from the seed of the data set. It prints the test error with so many patches,
the error with one patch on each digit and nothing else, how much attention lies on digits, and
which digits have next to none.

With ``--epochs`` the run's attention network is trained anew besides, alone and on the true places:
as well as it could ever look. What it still loses is lost by its architecture, or for want of data.

    python benchmarks/attention_on_digits.py runs/mnist --epochs 3
"""

import argparse
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch
from digit_places import (
    Places,
    add_mnist,
    attention_on_digits,
    digit_places,
    lost_digits,
)
from finished_run import Run, read_run
from torch import Tensor
from torch.utils.data import DataLoader

from ats.datasets.batch import Batch, collate
from ats.datasets.megapixel_mnist import MegapixelMNIST
from ats.datasets.mnist import SIZE
from ats.datasets.progress import progress_bar
from ats.memory import keep_freed_memory
from ats.nn import AttentionSampling, glorot_uniform_, unit_float
from ats.training.arguments import not_negative_int, positive_int

BATCH = 16
LEARNING_RATE = 0.002


@torch.no_grad()
def errors(run: Run, test: MegapixelMNIST, places: Places, n_patches: int) -> tuple[float, float]:
    """Test error with so many patches, and given the places."""
    sampling = run.model.sampling
    size = sampling.sample.patch_size
    wrong = misread = 0
    for batch in shown("test images", batches(test)):
        logits, _ = run.model(batch.x_low, batch.x_high, n_patches=n_patches)
        offsets = places.corners[batch.index] + SIZE // 2 - torch.tensor(size) // 2
        patches = unit_float(batch.x_high.patches(offsets, size))
        features = sampling.feature(patches.flatten(0, 1)).unflatten(0, offsets.shape[:2])
        given = run.model.logits(features.mean(1))
        wrong += int((logits.argmax(1) != batch.target).sum())
        misread += int((given.argmax(1) != batch.target).sum())
    return wrong / len(test), misread / len(test)


def looks(sampling: AttentionSampling, batch: Batch, places: Places) -> Tensor:
    """Attention (B, 5) on the digits of a batch."""
    attention = sampling.attend(unit_float(batch.x_low))
    return attention_on_digits(sampling.sample, attention, batch, places.corners[batch.index])


@torch.no_grad()
def all_looks(sampling: AttentionSampling, test: MegapixelMNIST, places: Places) -> Tensor:
    """Attention (n, 5) on the digits of all images."""
    return torch.cat([looks(sampling, batch, places) for batch in batches(test)])


def batches(data: MegapixelMNIST, *, shuffle: bool = False) -> DataLoader[Batch]:
    """The images of a split, some at a time."""
    return DataLoader(data, BATCH, shuffle=shuffle, collate_fn=collate)  # type: ignore[arg-type]


def shown(name: str, parts: DataLoader[Batch]) -> Iterator[Batch]:
    """The batches, with a progress bar."""
    with progress_bar(name, len(parts), unit="batch", shown=True) as bar:
        for batch in parts:
            yield batch
            bar.update()


def train_on_places(
    sampling: AttentionSampling, data: MegapixelMNIST, places: Places, epochs: int
) -> None:
    """Train the attention network alone, from scratch, to look at all digits alike."""
    glorot_uniform_(sampling.attention)
    optimizer = torch.optim.Adam(sampling.attention.parameters(), lr=LEARNING_RATE)
    images = batches(data, shuffle=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=epochs * len(images), cycle_momentum=False
    )
    for batch in chain.from_iterable(
        shown(f"epoch {epoch + 1}/{epochs} on places", images) for epoch in range(epochs)
    ):
        mass = looks(sampling, batch, places)
        # Minus the logarithm: none may be left out. So little is added that there is a pull, too,
        # where there is no attention at all.
        loss = -(mass + 1e-6).log().mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", type=Path, help="folder of a run of mnist.py")
    add("dataset", type=Path, nargs="?", help="folder of its data set, where that has moved")
    add("--n_patches", type=positive_int, default=50, help="patches of an image (default: 50)")
    add("--epochs", type=not_negative_int, default=0, help="of training on places (default: 0)")
    add_mnist(parser)
    args = parser.parse_args(arguments)
    keep_freed_memory()
    try:
        run = read_run(args.run, args.dataset)
        test = run.test
        if not isinstance(test, MegapixelMNIST):
            raise ValueError(f"run {args.run} is not one of mnist.py")
        places = digit_places(test, train=False, mnist=args.mnist)
    except (OSError, ValueError) as error:
        sys.exit(f"attention_on_digits.py: error: {error}")
    wrong, given = errors(run, test, places, args.n_patches)
    print(f"test error with {args.n_patches} patches {wrong:.4f}, given the places {given:.4f}")
    sampling = run.model.sampling
    print(lost_digits(all_looks(sampling, test, places), places))
    if args.epochs:
        torch.manual_seed(0)
        data = MegapixelMNIST(run.args.dataset, train=True)
        own = digit_places(data, train=True, mnist=args.mnist)
        train_on_places(sampling, data, own, args.epochs)
        print(f"\nAttention trained on true places, {args.epochs} epochs:")
        print(lost_digits(all_looks(sampling, test, places), places))


if __name__ == "__main__":
    main()
