"""The command line that the training scripts share."""

import argparse
import math
from collections.abc import Callable, Iterable
from typing import TypeVar

Number = TypeVar("Number", int, float)

TRAINING_DESIGNS = ("replacement", "des-raj", "murthy", "systematic", "published", "peaks")
_FAST: dict[str, object] = {
    "batch_size": 8,
    "epochs": 30,
    "schedule": "cosine",
    "warmup": 0.5,
    "average": 0.998,
    "augment": "affine",
}
# What a recipe changes of the defaults.
RECIPES: dict[str, dict[str, object]] = {
    "default": {},
    "fast": _FAST,
    "peaks": {
        **_FAST,
        "epochs": 3,
        "lr": 0.0003,
        "design": "peaks",
        "inference": "peaks",
        "regularizer_strength": 0.0,
    },
    "published": {"design": "published", "centring": False, "prior": "none", "feature_scale": 0.0},
}


def add_training_arguments(parser: argparse.ArgumentParser, *, votes: bool = False) -> None:
    """Options of every training script beside those of its experiment.

    Args:
        parser: of the script.
        votes: whether its classifier can vote, without which peaks are of no use.
    """
    add = parser.add_argument

    def offered(names: Iterable[str]) -> list[str]:
        return [name for name in names if votes or name != "peaks"]

    peaks = (
        "peaks: a few epochs after fast, with --start, in which the network learns from what it is "
        "then measured with, patches that do not overlap; "
    )
    add("--optimizer", choices=("sgd", "adam"), default="adam", help="optimizer")
    add("--lr", type=positive_float, default=0.001, help="learning rate")
    add(
        "--schedule",
        choices=("constant", "cosine"),
        default="constant",
        help="learning rate over the run: as it is, or down to nothing along half a cosine",
    )
    add(
        "--warmup",
        type=not_negative_float,
        default=0.0,
        help="epochs, or a part of one, over which the learning rate rises from nothing",
    )
    add("--momentum", type=not_negative_float, default=0.9, help="momentum of sgd")
    add(
        "--weight_decay",
        type=not_negative_float,
        default=0.0,
        help="decoupled decay of the kernels of feature network and classifier, with adam: in a "
        "step they shrink by so much times the learning rate",
    )
    add("--clipnorm", type=positive_float, default=1.0, help="bound on the global gradient norm")
    add(
        "--regularizer_strength",
        type=not_negative_float,
        default=0.0001,
        help="strength of the entropy regulariser of the attention",
    )
    add("--epochs", type=positive_int, default=500, help="passes over the training set")
    add(
        "--recipe",
        choices=offered(RECIPES),
        default="default",
        help="fast: good results within 30 epochs (small batches, warm-up, a cosine schedule, "
        "averaged weights, affine augmentation, and in mnist.py other networks, voting "
        f"and weight decay); {peaks if votes else ''}published: the settings of the 2019 program "
        "(its biased gradient, no prior, no feature scale); options given beside it hold",
    )
    add(
        "--design",
        choices=offered(TRAINING_DESIGNS),
        default="systematic",
        help="sampling design" + ("; peaks is none, but what --inference says" if votes else ""),
    )
    add(
        "--centring",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="centre the attention gradient",
    )
    add(
        "--prior",
        choices=("contrast", "none"),
        default="contrast",
        help="prior of the attention: local contrast of the small view, or none",
    )
    add(
        "--feature_scale",
        type=not_negative_float,
        default=10.0,
        help="start of the learnable scale on the features, 0 for none",
    )
    add(
        "--augment",
        choices=("none", "affine"),
        default="none",
        help="affine: what each training patch shows is rotated, scaled and sheared a little",
    )
    add(
        "--average",
        type=decay,
        default=0.0,
        help="decay of the average of the weights over steps, which is then measured and kept; "
        "0.999 is the mean of about the last thousand, 0 for none",
    )
    add(
        "--inference",
        choices=offered(("deterministic", "top", "peaks", "sampled")),
        default="deterministic",
        help="how positions are chosen for the test set"
        + ("; peaks are apart and count rather than weigh" if votes else ""),
    )
    _add_machine_arguments(parser)


def _add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--seed", type=not_negative_int, default=0, help="seed of initialisation, order and draws")
    add("--precision", choices=("32", "bf16", "16"), default="32", help="floating-point precision")
    add("--accelerator", choices=("auto", "cpu", "gpu"), default="auto", help="what to train on")
    add("--devices", type=positive_int, default=1, help="number of devices, trained on with DDP")
    add(
        "--micro_batch",
        type=micro_batch,
        default="auto",
        help="images that a device holds at a time, which changes memory and not the result, but "
        "for the statistics of batch norm; auto is at most 8 on a CPU and a device's whole share "
        "elsewhere",
    )
    add(
        "--workers",
        type=not_negative_int,
        default=0,
        help="processes that read data, 0 for none besides",
    )
    add("--resume", action="store_true", help="go on with the run in the output folder")


def parse_with_recipe(
    parser: argparse.ArgumentParser,
    arguments: list[str] | None = None,
    own: dict[str, dict[str, object]] | None = None,
) -> argparse.Namespace:
    """Parse; a recipe changes the defaults, and what is given beside it holds.

    Args:
        parser: with the arguments of :func:`add_training_arguments`.
        arguments: in place of those of the command line.
        own: what recipes change in this script besides, or otherwise.
    """
    given = parser.parse_args(arguments)
    defaults = RECIPES[given.recipe] | (own or {}).get(given.recipe, {})
    if given.optimizer != "adam":
        # What a recipe has for Adam is not for others.
        defaults.pop("weight_decay", None)
    parser.set_defaults(**defaults)
    args = parser.parse_args(arguments)
    if args.momentum != parser.get_default("momentum") and args.optimizer != "sgd":
        parser.error(f"--momentum needs --optimizer sgd, not {args.optimizer}")
    if args.weight_decay and args.optimizer != "adam":
        parser.error(f"--weight_decay needs --optimizer adam, not {args.optimizer}")
    return args


def _number(kind: Callable[[str], Number], text: str) -> Number:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of this kind") from None


def folder(text: str) -> str:
    """A path that is not empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must name a folder")
    return text


def positive_int(text: str) -> int:
    """A whole number of at least 1."""
    value = _number(int, text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return value


def micro_batch(text: str) -> int | None:
    """A whole number of at least 1, or None for ``auto``."""
    return None if text == "auto" else positive_int(text)


def not_negative_int(text: str) -> int:
    """A whole number of at least 0."""
    value = _number(int, text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text} must be at least 0, and of 63 bits")
    return value


def positive_float(text: str) -> float:
    """A finite number above 0."""
    value = _number(float, text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} must be a finite number above 0")
    return value


def not_negative_float(text: str) -> float:
    """A finite number of at least 0."""
    value = _number(float, text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} must be a finite number of at least 0")
    return value


def decay(text: str) -> float:
    """A number from 0 to below 1."""
    value = not_negative_float(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"{text} must be below 1")
    return value


def patch_extents(text: str) -> tuple[int, int]:
    """``50x40`` as height and width in pixels."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} must be HEIGHTxWIDTH in pixels, such as 50x50")
    return int(parts[0]), int(parts[1])
