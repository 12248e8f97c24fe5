"""``ats info``: what a file says about its image."""

import argparse

from ats.images import open_image


def info(args: argparse.Namespace) -> None:
    """Print reader, type, channels, and extents of each level."""
    for name in args.image:
        reader = open_image(name, axes=args.axes)
        layout = reader.layout
        print(name)
        print(f"  reader: {type(reader).__name__}")
        print(f"  channels: {layout.channels} of {layout.dtype}")
        if layout.mpp is not None:
            print(f"  microns per pixel: {layout.mpp[0]:.4g} down, {layout.mpp[1]:.4g} across")
        for number, shape in enumerate(layout.shapes):
            factor = layout.shapes[0][0] / shape[0]
            print(f"  level {number}: {' x '.join(map(str, shape))} pixels, 1/{factor:.4g}")
