#!/usr/bin/env python3
"""Make a Megapixel MNIST data set."""

import argparse
import sys


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Make a Megapixel MNIST data set: large black images with five digits, three "
        "of which are of one class. The same arguments always give the same files, and a run "
        "that was interrupted is completed by running it again.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("output_directory", help="folder to write the data set into")
    parser.add_argument("--n_train", type=int, default=5000, help="images for training")
    parser.add_argument("--n_test", type=int, default=1000, help="images for testing")
    parser.add_argument("--width", type=int, default=1500, help="columns of an image in pixels")
    parser.add_argument("--height", type=int, default=1500, help="rows of an image in pixels")
    parser.add_argument(
        "--scale",
        type=float,
        default=0.12,
        help="size of the small view over the size of the image",
    )
    noise = parser.add_mutually_exclusive_group()
    noise.add_argument("--n_noise", type=int, default=50, help="stamps of noise on an image")
    noise.add_argument("--no_noise", action="store_true", help="leave them out")
    parser.add_argument("--dataset_seed", type=int, default=0, help="seed of the data set")
    parser.add_argument(
        "--json_only",
        action="store_true",
        help="write parameters.json alone",
    )
    parser.add_argument(
        "--mnist",
        metavar="DIR",
        help="folder with four files in MNIST's format, such as Fashion-MNIST's; without it "
        "MNIST is taken from the cache of the user, or downloaded into it",
    )
    parser.add_argument(
        "--digits",
        choices=("mnist", "optdigits"),
        default="mnist",
        help="optdigits are the handwritten digits that scikit-learn carries, which need no "
        "network",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Make the data set; the exit status."""
    arguments = parse_arguments(argv)
    # Imported here so that help and mistakes in the arguments are answered at once.
    from ats.datasets.make_megapixel_mnist import make_megapixel_mnist
    from ats.training.report import exit_status

    def make() -> None:
        parameters = make_megapixel_mnist(
            arguments.output_directory,
            n_train=arguments.n_train,
            n_test=arguments.n_test,
            width=arguments.width,
            height=arguments.height,
            scale=arguments.scale,
            n_noise=0 if arguments.no_noise else arguments.n_noise,
            dataset_seed=arguments.dataset_seed,
            digits=arguments.digits,
            mnist=arguments.mnist,
            json_only=arguments.json_only,
        )
        for name, split in parameters["splits"].items():
            print(f"{name}: {split['n_images']} images in {split['file']}, {split['bytes']} bytes")

    stopped = "the same command again completes the data set"
    return exit_status(make, name="make_mnist.py", stopped=stopped)


if __name__ == "__main__":
    sys.exit(main())
