"""Train the feature network of ``scripts/speed_limits.py`` on whole images, for comparison.

The data, the augmentation, the training and what is written are those of the script, whose
arguments this one takes; there is no attention. ``--network small`` sees the small view,
``--network full`` the image in full resolution.

    python benchmarks/whole_image.py --network small data/gtsdb runs/small --source gtsdb
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from runpy import run_path
from typing import Any

from clock import refuse
from torch import Tensor, nn

from ats import AttentionSampling, Classifier
from ats.images import as_images
from ats.networks import residual_features
from ats.nn import glorot_uniform_

SCRIPT = Path(__file__).parent.parent / "scripts" / "speed_limits.py"
# Arguments of the script that a network without attention has no use for.
UNUSED = (
    "--patch_size",
    "--n_patches",
    "--attention",
    "--normalize",
    "--design",
    "--centring",
    "--no-centring",
    "--prior",
    "--inference",
    "--guide",
)


class OnePosition(nn.Module):
    """An attention map with a single position, whatever the small view shows."""

    def forward(self, x_low: Tensor) -> Tensor:
        """Logits (B, 1, 1, 1) of small views (B, C, h, w)."""
        return x_low.new_zeros(len(x_low), 1, 1, 1)


class WholeImageClassifier(Classifier):
    """A classifier whose only patch is the whole image, of whatever size the batch has."""

    def forward(self, x_low: Tensor, x_high: Any, **options: Any) -> Any:
        """Logits, and what was seen."""
        self.sampling.sample.patch_size = tuple(as_images(x_high).shapes[0].tolist())
        return super().forward(x_low, x_high, **options)


class SmallViewClassifier(WholeImageClassifier):
    """The same for small views: it never asks for a pixel of the full resolution."""

    def forward(self, x_low: Tensor, x_high: Any, **options: Any) -> Any:
        """Logits, and what was seen."""
        logits, seen = super().forward(x_low, x_low, **options)
        if not self.training:
            # Whoever looks at what was seen counts in pixels of the image.
            shape = tuple(as_images(x_high).shapes[0].tolist())
            self.sampling.sample.patch_size = shape
            seen = seen._replace(
                patches=nn.functional.interpolate(seen.patches[:, 0], shape)[:, None]
            )
        return logits, seen


def build_whole(
    args: argparse.Namespace, n_classes: int, shape: tuple[int, int], *, small: bool
) -> Classifier:
    """The feature network on one patch that is the whole image, or its small view."""
    sampling = AttentionSampling(OnePosition(), residual_features(), n_patches=1, patch_size=shape)
    kind = SmallViewClassifier if small else WholeImageClassifier
    model = kind(sampling, 32, n_classes, scale=args.feature_scale or None)
    glorot_uniform_(model)
    return model


def main(arguments: list[str] | None = None) -> None:
    """Train as the script does."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("--network", choices=("small", "full"))
    given, rest = parser.parse_known_args(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(rest):
        parser.print_help()
    elif given.network is None:
        parser.error("give --network small or full")
    refuse(parser, rest, UNUSED, "is of attention sampling, and there is none here")
    run_path(str(SCRIPT))["main"](rest, partial(build_whole, small=given.network == "small"))


if __name__ == "__main__":
    main()
