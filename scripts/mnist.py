#!/usr/bin/env python3
"""Train attention sampling on Megapixel MNIST."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ats.training.arguments import (
    add_training_arguments,
    folder,
    parse_with_recipe,
    patch_extents,
    positive_int,
)

if TYPE_CHECKING:
    from ats import Classifier

# What is left of a smaller patch by the feature network's convolutions is nothing.
SMALLEST_PATCH = 13
# Beyond this many pixels a side, pictures are drawn on the small view.
LARGEST_DRAWN = 4000


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("dataset", help="folder made by make_mnist.py")
    parser.add_argument("output", type=folder, help="folder for the results")
    parser.add_argument(
        "--patch_size", type=patch_extents, default="50x50", help="HEIGHTxWIDTH of a patch, pixels"
    )
    parser.add_argument("--n_patches", type=positive_int, default=10, help="patches of an image")
    parser.add_argument("--batch_size", type=positive_int, default=128, help="images of a batch")
    add_training_arguments(parser)
    return parse_with_recipe(parser, arguments)


def build_model(args: argparse.Namespace, n_classes: int, channels: int = 1) -> Classifier:
    """The network of the 2019 experiment.

    Raises:
        ValueError: patches too small for it.
    """
    if min(args.patch_size) < SMALLEST_PATCH:
        raise ValueError(
            f"patch_size={args.patch_size} must be at least {SMALLEST_PATCH} x {SMALLEST_PATCH} "
            "pixels, which the convolutions of the feature network take away"
        )
    from torch import nn

    from ats import AttentionSampling, L2Normalize
    from ats.nn import Classifier, glorot_uniform_
    from ats.training.build import sampling_arguments

    attention = nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding="same"),
        nn.Tanh(),
        nn.Conv2d(8, 8, 3, padding="same"),
        nn.Tanh(),
        nn.Conv2d(8, 1, 3, padding="same"),
    )
    feature = nn.Sequential(
        nn.Conv2d(channels, 32, 7),
        nn.ReLU(inplace=True),
        nn.Conv2d(32, 32, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(32, 32, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(32, 32, 3),
        nn.ReLU(inplace=True),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        L2Normalize(),
    )
    sampling = AttentionSampling(attention, feature, smoothing=1e-5, **sampling_arguments(args))
    model = Classifier(sampling, 32, n_classes, scale=args.feature_scale or None)
    glorot_uniform_(model)
    return model


def main(arguments: list[str] | None = None) -> None:
    """Train and report."""
    args = parse(arguments)
    import torch

    from ats.datasets.megapixel_mnist import MegapixelMNIST
    from ats.training.report import print_parameters, run_script

    def train() -> dict[str, float]:
        from ats.training.run import fit

        data = MegapixelMNIST(args.dataset, train=True)
        test = MegapixelMNIST(args.dataset, train=False)
        print_parameters(data.parameters)
        torch.manual_seed(args.seed)
        model = build_model(args, data.n_classes, data.channels)
        image = test[0]
        small = max(test.high_shape) <= LARGEST_DRAWN
        pixels = test.pixels(0) if small else image.x_low[0]
        classes = [str(digit) for digit in range(data.n_classes)]
        return fit(model, data, test, args, data.parameters, classes, picture=(image, pixels))

    run_script("mnist.py", train)


if __name__ == "__main__":
    main()
