#!/usr/bin/env python3
"""Train attention sampling on Megapixel MNIST."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ats.training.arguments import (
    add_training_arguments,
    folder,
    parse_with_recipe,
    patch_extents,
    positive_int,
)

if TYPE_CHECKING:
    from torch import nn

    from ats import Classifier

# What is left of a smaller patch by the published network's convolutions is nothing.
SMALLEST_PATCH = 13
# What a recipe changes of the defaults of this script, besides those that scripts share.
FAST: dict[str, object] = {
    "attention": "halved",
    "features": "residual",
    "classifier": "votes",
    "weight_decay": 0.1,
}
RECIPES = {"fast": {**FAST, "epochs": 15}, "peaks": {**FAST, "n_patches": 25}}
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
    parser.add_argument(
        "--attention",
        choices=("published", "halved"),
        default="published",
        help="attention network: that of 2019, or one that is strided, wider and sees more, in "
        "less time",
    )
    parser.add_argument(
        "--features",
        choices=("published", "residual"),
        default="published",
        help="feature network: that of 2019, which sees 13 x 13 pixels of a patch at once, or a "
        "residual one, which sees 39 x 39, is standardised and takes half the time",
    )
    parser.add_argument(
        "--classifier",
        choices=("linear", "votes"),
        default="linear",
        help="what decides: a linear layer on the mean of the features, as in 2019, or the count "
        "of what patches vote for, where those without a digit abstain",
    )
    parser.add_argument(
        "--start",
        type=Path,
        default=None,
        help="weights_EEE.safetensors of a run to start from, such as one on smaller images",
    )
    add_training_arguments(parser, votes=True)
    args = parse_with_recipe(parser, arguments, own=RECIPES)
    if args.design == "peaks" and args.start is None:
        option = "recipe" if args.recipe == "peaks" else "design"
        parser.error(
            f"--{option} peaks leaves the attention as it is, and is for weights that were trained "
            f"before: give them by --start, or take another {option}"
        )
    if "peaks" in (args.design, args.inference) and args.classifier != "votes":
        option = "inference" if args.inference == "peaks" else "design"
        parser.error(
            f"--{option} peaks makes every patch count as much, also those that show nothing, from "
            f"which only votes can abstain: take --classifier votes, or another {option}"
        )
    return args


def published_attention(channels: int) -> nn.Sequential:
    """The attention network of the 2019 experiment, from (B, C, H, W) to logits (B, 1, H, W)."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding="same"),
        nn.Tanh(),
        nn.Conv2d(8, 8, 3, padding="same"),
        nn.Tanh(),
        nn.Conv2d(8, 1, 3, padding="same"),
    )


def published_features(channels: int) -> nn.Sequential:
    """The feature network of the 2019 experiment, from (B, C, H, W) to (B, 32)."""
    from torch import nn

    from ats import L2Normalize

    return nn.Sequential(
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


def build_model(args: argparse.Namespace, n_classes: int, channels: int = 1) -> Classifier:
    """The network of the 2019 experiment, or what the arguments put in place of its parts.

    Raises:
        ValueError: patches too small for it.
    """
    from ats import AttentionSampling
    from ats.networks import halved_attention, residual_features
    from ats.nn import Classifier, glorot_uniform_
    from ats.training.build import sampling_arguments
    from ats.votes import Votes, VotingClassifier

    small = args.features == "published"
    if small and min(args.patch_size) < SMALLEST_PATCH:
        raise ValueError(
            f"patch_size={args.patch_size} must be at least {SMALLEST_PATCH} x {SMALLEST_PATCH} "
            "pixels, which the convolutions of the feature network take away; or take "
            "--features residual"
        )
    attention = published_attention if args.attention == "published" else halved_attention
    votes = args.classifier == "votes"
    if small:
        width, features = 32, published_features(channels)
    else:
        width = 64
        features = residual_features(
            channels, width, (2, 2, 2), standardize=True, normalize=not votes
        )
    scale = args.feature_scale or None
    if votes:
        features.append(Votes(width, n_classes, scale=scale))
    sampling = AttentionSampling(
        attention(channels),
        features,
        smoothing=1e-5,
        **sampling_arguments(args),
    )
    model = (
        VotingClassifier(sampling, n_classes, scale=scale)
        if votes
        else Classifier(sampling, width, n_classes, scale=scale)
    )
    glorot_uniform_(model)
    return model


def main(arguments: list[str] | None = None) -> None:
    """Train and report."""
    args = parse(arguments)
    from ats.training.report import run_script

    def train() -> dict[str, float]:
        import torch

        from ats.datasets.megapixel_mnist import MegapixelMNIST
        from ats.training.folder import weights_to_begin_with
        from ats.training.report import print_parameters
        from ats.training.run import fit
        from ats.training.start import check_start, start_from

        data = MegapixelMNIST(args.dataset, train=True)
        test = MegapixelMNIST(args.dataset, train=False)
        print_parameters(data.parameters)
        torch.manual_seed(args.seed)
        model = build_model(args, data.n_classes, data.channels)
        start = weights_to_begin_with(Path(args.output), args.start)
        if start is not None:
            check_start(start, {"prior": args.prior})
            start_from(model, start)
        image = test[0]
        small = max(test.high_shape) <= LARGEST_DRAWN
        pixels = test.pixels(0) if small else image.x_low[0]
        classes = [str(digit) for digit in range(data.n_classes)]
        return fit(model, data, test, args, data.parameters, classes, picture=(image, pixels))

    run_script("mnist.py", train)


if __name__ == "__main__":
    main()
