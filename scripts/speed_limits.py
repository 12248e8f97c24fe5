#!/usr/bin/env python3
"""Train attention sampling on street scenes, to read the speed limit."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ats.training.arguments import (
    add_training_arguments,
    folder,
    not_negative_float,
    parse_with_recipe,
    patch_extents,
    positive_float,
    positive_int,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ats import Classifier
    from ats.datasets.joined import LabelledBatches
    from ats.datasets.scenes import Scenes, SceneSource

    Build = Callable[[argparse.Namespace, int, tuple[int, int]], Classifier]

# Test images of which pictures are kept.
EXAMPLES = 8
# The attention network takes 8 pixels away and has a position for 8 x 8 of the others.
SMALLEST_VIEW = 16
# What can be drawn.
SMALLEST_SIGN = 4
# Signs of composites stand in this part of the scene's height, from the top.
ROWS = (0.15, 0.75)
# Composites of an epoch, and the heights of their signs in pixels.
COMPOSITES, HEIGHTS = 2000, (16, 130)
# Their state, from 0, as new, to 1, as in bad photographs: about that of real ones.
WEAR = 0.6


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("dataset", type=Path, help="folder of the data set; sts and synthetic are put there")
    add("output", type=folder, help="folder for the results")
    add(
        "--source",
        choices=("sts", "gtsdb", "synthetic"),
        default="sts",
        help="Swedish Traffic Signs, which are downloaded; German Traffic Sign Detection "
        "Benchmark; or drawn scenes, which are made",
    )
    add(
        "--limits",
        type=speed_limits,
        default=None,
        help="speed limits to tell apart, such as 50,70,80; by default those of the source",
    )
    add("--scale", type=positive_float, default=0.3, help="scale of the small view")
    add("--patch_size", type=patch_extents, default="100x100", help="HEIGHTxWIDTH of a patch")
    add("--n_patches", type=positive_int, default=5, help="patches of an image")
    add(
        "--attention",
        choices=("published", "strided"),
        default="published",
        help="attention network: that of 2019, or one that is strided, wider and sees more",
    )
    add(
        "--normalize",
        choices=("patches", "image"),
        default="patches",
        help="what is brought to length 1: the features of each patch, as in 2019, or their "
        "average, in which a small sign then counts as much as a large one",
    )
    add("--batch_size", type=positive_int, default=32, help="images of a batch")
    add(
        "--decrease_lr_at",
        type=positive_int,
        default=250,
        help="epochs after which the learning rate is a tenth",
    )
    add(
        "--train_on",
        choices=("scenes", "composites", "both"),
        default="scenes",
        help="real scenes; drawn signs pasted onto training scenes without a limit; or both",
    )
    add("--composites", type=positive_int, default=COMPOSITES, help="composites of an epoch")
    add("--repeat", type=positive_int, default=1, help="times that an epoch has each real scene")
    add(
        "--composite_size",
        type=patch_extents,
        default=None,
        help="HEIGHTxWIDTH of composites, cut out around their signs, with --train_on composites; "
        "by default whole scenes",
    )
    add(
        "--composite_heights",
        type=heights,
        default="{}-{}".format(*HEIGHTS),
        help="SMALLEST-LARGEST height in pixels of the signs of composites",
    )
    add(
        "--guide",
        type=not_negative_float,
        default=0.0,
        help="pull of the attention to the pasted signs of composites, whose places are known "
        "since they were put there; no place of a real sign is ever used",
    )
    add("--start", type=Path, default=None, help="weights_EEE.safetensors of a run to start from")
    add("--cache", type=Path, default=None, help="folder for decoded images, or the user's cache")
    add("--cache_gib", type=positive_float, default=16, help="bound on the decoded images, GiB")
    add_training_arguments(parser)
    args = parse_with_recipe(parser, arguments)
    if args.composite_size and args.train_on != "composites":
        parser.error(
            f"--composite_size needs images of one size: take --train_on composites, not "
            f"{args.train_on}"
        )
    if args.guide and args.train_on == "scenes":
        parser.error(
            "--guide needs pasted signs, whose places are known: take --train_on composites or both"
        )
    if Path(args.output).resolve() == args.dataset.resolve():
        parser.error(f"output {args.output} is the folder of the data set; choose another one")
    if args.repeat > 1 and args.train_on == "composites":
        parser.error("--repeat needs real scenes: take --train_on scenes or both")
    unused = {"composites": COMPOSITES, "composite_heights": HEIGHTS}
    for option, default in unused.items():
        if args.train_on == "scenes" and getattr(args, option) != default:
            parser.error(f"--{option} needs composites: take --train_on composites or both")
    return args


def speed_limits(text: str) -> list[str]:
    """``50,70`` as a list."""
    limits = [part.strip() for part in text.split(",")]
    if not all(limit.isdecimal() for limit in limits) or len(set(limits)) < len(limits):
        raise argparse.ArgumentTypeError(f"{text!r} must be different limits, such as 50,70,80")
    # Whatever the order, the same limits are the same classes to --start from.
    return sorted(limits, key=int)


def heights(text: str) -> tuple[int, int]:
    """``20-50`` as the smallest and the largest height of a sign."""
    parts = text.split("-")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} must be SMALLEST-LARGEST, such as 16-130")
    smallest, largest = map(int, parts)
    if not SMALLEST_SIGN <= smallest <= largest:
        raise argparse.ArgumentTypeError(
            f"{text!r} must begin at {SMALLEST_SIGN} pixels or more, and not end below that"
        )
    return smallest, largest


def build_model(
    args: argparse.Namespace, n_classes: int, shape: tuple[int, int] | None = None
) -> Classifier:
    """The network of the 2019 experiment, for images of a height and width.

    Raises:
        ValueError: small views too small for it.
    """
    from ats import AttentionSampling
    from ats.datasets.decoded import small_shape
    from ats.networks import residual_features, speed_limits_attention, strided_attention
    from ats.nn import Classifier, glorot_uniform_
    from ats.training.build import sampling_arguments

    for size in filter(None, (shape, args.composite_size)):
        low = small_shape(size, args.scale)
        if min(low) < SMALLEST_VIEW:
            raise ValueError(
                f"scale={args.scale} makes small views of {low[0]} x {low[1]} pixels of images of "
                f"{size[0]} x {size[1]}, of which the attention network needs {SMALLEST_VIEW} x "
                f"{SMALLEST_VIEW}; raise it, or take larger images"
            )
    published = args.attention == "published"
    sampling = AttentionSampling(
        speed_limits_attention() if published else strided_attention(),
        residual_features(
            momentum=0.01 if args.recipe == "published" else 0.1,
            normalize=args.normalize == "patches",
        ),
        receptive_field=9 if published else 7,
        smoothing=1e-4,
        **sampling_arguments(args),
    )
    model = Classifier(
        sampling,
        32,
        n_classes,
        scale=args.feature_scale or None,
        normalize=args.normalize == "image",
    )
    glorot_uniform_(model)
    return model


def training_set(
    args: argparse.Namespace, source: SceneSource, read: partial[Scenes]
) -> LabelledBatches:
    """Real scenes, composites, or both."""
    from ats.datasets.composites import Composites
    from ats.datasets.drawn_signs import draw_limit
    from ats.datasets.joined import Joined
    from ats.datasets.scenes import EMPTY
    from ats.datasets.sources import GROUNDS

    parts: list[LabelledBatches] = []
    if args.train_on != "composites":
        parts += [read(source.scenes(train=True), source.classes)] * args.repeat
    if args.train_on != "scenes":
        backgrounds = read(source.backgrounds(), [EMPTY, "OTHER"])
        draw = partial(draw_limit, ground=GROUNDS[args.source], wear=WEAR)
        parts.append(
            Composites(
                backgrounds,
                source.classes,
                args.composites,
                draw=draw,
                heights=args.composite_heights,
                rows=ROWS,
                size=args.composite_size,
                seed=args.seed,
            )
        )
    return parts[0] if len(parts) == 1 else Joined(parts)


def largest_pan(shape: tuple[int, int]) -> int:
    """100 pixels, but in small images less, which would lose many signs by it."""
    return min(100, min(shape) // 8)


def main(arguments: list[str] | None = None, build: Build = build_model) -> None:
    """Train and report; ``build`` makes another network than that of the experiment."""
    args = parse(arguments)
    from ats.training.report import run_script

    def train() -> dict[str, float]:
        import torch

        from ats.datasets.scenes import Scenes, balanced_weights
        from ats.datasets.sources import SOURCES
        from ats.training.classes import ClassTable, scene_parameters
        from ats.training.confusion import Confusion
        from ats.training.examples import Examples, strided
        from ats.training.folder import check_output, weights_to_begin_with
        from ats.training.pointing import Pointing
        from ats.training.report import print_parameters
        from ats.training.run import fit
        from ats.training.start import check_start, start_from
        from ats.transforms import RandomChange

        output = Path(args.output)
        # Before anything is fetched, made or read, which may take long.
        check_output(output, resume=args.resume)
        source = SOURCES[args.source](args.dataset, args.limits)
        start = weights_to_begin_with(output, args.start)
        if start is not None:
            same = {name: getattr(args, name) for name in ("normalize", "prior")}
            check_start(start, same, source.classes)
        max_bytes = int(min(args.cache_gib * 2**30, 2**62))
        read = partial(Scenes, scale=args.scale, cache=args.cache, max_bytes=max_bytes)
        data = training_set(args, source, read)
        test = read(source.scenes(train=False), source.classes)
        classes = source.classes
        parameters = scene_parameters(data.targets, test, source)
        print_parameters(parameters)
        torch.manual_seed(args.seed)
        model = build(args, len(classes), test.high_shape)
        if start is not None:
            start_from(model, start)
        chosen = strided(len(test), EXAMPLES)
        names = [test.scenes[index].path.name for index in chosen]
        shown = next((n for n, scene in enumerate(test.scenes) if scene.boxes), 0)
        return fit(
            model,
            data,
            test,
            args,
            parameters,
            classes,
            picture=(test[shown], test.pixels(shown)),
            callbacks=[
                ClassTable(output, data.targets, test.targets, classes),
                Confusion(output, classes),
                Pointing([scene.boxes for scene in test.scenes]),
                Examples(output, test, chosen, names, classes),
            ],
            class_weights=balanced_weights(data.targets, classes),
            attention_decay=1e-5,
            guide=args.guide,
            augment=RandomChange(pan=largest_pan(args.composite_size or test.high_shape)),
        )

    run_script("speed_limits.py", train)


if __name__ == "__main__":
    main()
