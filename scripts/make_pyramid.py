#!/usr/bin/env python3
"""Make an image of any size, with smaller copies of itself, in constant memory."""

import argparse
import sys

from ats.training.arguments import not_negative_int, positive_int
from ats.training.report import exit_status


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Make an image of coloured discs on black, of any size, as a tiled TIFF or as "
        "OME-Zarr with smaller copies of itself. What is black takes no place on the disk.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("output", help="file NAME.tif or folder NAME.zarr")
    add("--width", type=positive_int, default=100_000, help="columns in pixels")
    add("--height", type=positive_int, default=100_000, help="rows in pixels")
    add("--seed", type=not_negative_int, default=0, help="seed of places, sizes and colours")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Make the image; the exit status."""
    args = parse(arguments)
    from ats.datasets.pyramids import Tissue, write_pyramid

    kind = "zarr" if args.output.rstrip("/").endswith(".zarr") else "tiff"
    return exit_status(
        lambda: write_pyramid(args.output, Tissue((args.height, args.width), args.seed), kind=kind),
        name="make_pyramid.py",
        stopped="nothing was kept",
    )


if __name__ == "__main__":
    sys.exit(main())
