"""Attention sampling against the same network on whole images, on real street scenes.

For each method and seed: a training from scratch on the few real scenes alone (``plain``), or one
in six stages (``composites``): tiny composites with large signs and then with small ones, to
learn to read, in seconds per thousand; larger ones, to learn to find; whole composites together
with the real scenes, twice; and the real scenes alone. ``short`` has a quarter of the whole
composites. One table of test accuracy, pointing, time and memory; ``cost`` measures the last two
alone. Runs go one after another; the command can be stopped and given again, and goes on where it
was.

    python benchmarks/street_scenes.py data/gtsdb runs/street --seeds 3
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from clock import Clock, parse_and_pass_on

from ats.datasets.german_signs import ANNOTATIONS
from ats.files import file_digest, write_json
from ats.training.arguments import positive_int
from ats.training.history import Row, read_history
from ats.training.start import latest_weights

ROOT = Path(__file__).parent.parent
SPEED_LIMITS = (str(ROOT / "scripts" / "speed_limits.py"),)
WHOLE = (str(ROOT / "benchmarks" / "whole_image.py"), "--network")


class Method(NamedTuple):
    """What is compared.

    Attributes:
        command: script with its own arguments.
        n_patches: of attention sampling.
    """

    command: tuple[str, ...]
    n_patches: int | None = None


ATTENTION = (*SPEED_LIMITS, "--attention", "strided", "--normalize", "image", "--scale", "0.5")
METHODS = {
    "attention, 5 patches": Method(ATTENTION, 5),
    "attention, 10 patches": Method(ATTENTION, 10),
    "whole image, scale 0.3": Method((*WHOLE, "small")),
    "whole image, full size": Method((*WHOLE, "full")),
}


class Stage(NamedTuple):
    """A part of a training.

    Attributes:
        name: for its folder.
        options: of every method.
        sampling: of attention sampling alone, in place of the method's number of patches.
        again: how often a stage of its kind came before, so that its composites are new.
    """

    name: str
    options: str
    sampling: str = ""
    again: int = 0


SMALL = "--train_on composites --composite_size 64x64 --batch_size 16"
# At this scale the attention map has a single position.
ONE = "--patch_size 64x64 --n_patches 1 --scale 0.3"
# No composite is seen twice.
COSINE = "--epochs 1 --schedule cosine --warmup 0.02"
PLAIN = (Stage("plain", "--epochs 40"),)
READ_AND_FIND = (
    Stage("1-read", f"{SMALL} --composites 16000 --composite_heights 28-60 --epochs 4", ONE),
    Stage(
        "2-read",
        f"{SMALL} --composites 12000 --composite_heights 16-56 --epochs 3 --decrease_lr_at 2",
        ONE,
    ),
    Stage(
        "3-find",
        "--train_on composites --composite_size 320x320 --composites 16000 "
        f"--composite_heights 16-90 {COSINE}",
        "--n_patches 3 --guide 1",
    ),
)


def both(images: str, rate: float, again: int = 0) -> Stage:
    """A stage on composites and real scenes together."""
    return Stage(
        f"{4 + again}-both",
        f"--train_on both {images} --average 0.998 --lr {rate} {COSINE}",
        "--n_patches 10 --guide 0.5",
        again,
    )


ALL, HALF = "--composites 9600 --repeat 8", "--composites 4800 --repeat 4"
REAL = "--epochs 4 --lr 0.0001 --average 0.99"
COMPOSITES = (*READ_AND_FIND, both(ALL, 0.001), both(ALL, 0.0005, 1), Stage("6-real", REAL))
SHORT = (*READ_AND_FIND, both(HALF, 0.001), Stage("5-real", REAL))
# Time and memory alone: whole scenes, drawn in the first epoch and trained on in both.
COST = (Stage("cost", "--train_on composites --composites 40 --epochs 2"),)
TRAININGS = {"plain": PLAIN, "composites": COMPOSITES, "short": SHORT, "cost": COST}
LIMITS = "30,50,70,80,100,120"
# Options that methods and stages differ in.
OWN = {
    word
    for text in (
        *(" ".join(method.command) for method in METHODS.values()),
        *(f"{stage.options} {stage.sampling}" for stages in TRAININGS.values() for stage in stages),
    )
    for word in text.split()
    if word.startswith("--")
} | {"--n_patches"}


class Cost(NamedTuple):
    """What a run took.

    Attributes:
        peak: largest resident memory in bytes of the processes that it took; 0 where that is
            unknown.
        seconds: from their start to their end.
    """

    peak: int
    seconds: float


def run(
    command: list[str], options: list[str], start: Path | None, folder: Path, clock: Clock
) -> tuple[list[Row], Cost]:
    """The table of a run and its cost, trained to its end if it is not there yet.

    Args:
        command: script and data, wherever they are.
        options: of the training.
        start: weights to start from.
        folder: of the run.
        clock: runs it.

    Raises:
        SystemExit: it failed, or the folder holds a run of other options, weights or data.
    """
    record = folder / "cost.json"
    found = recorded(record, identity_of(command, options, start))
    if not found["finished"]:
        weights = ["--start", str(start)] if start else []
        train_on([*command, *options, *weights, "--resume"], folder, found, clock)
    return read_history(folder / "history.csv"), Cost(found["peak"], found["seconds"])


def identity_of(command: list[str], options: list[str], start: Path | None) -> dict[str, Any]:
    """What makes a run this one: options, weights by content, and the data set."""
    return {
        "options": options,
        "start": start and file_digest(start),
        # Of the data set, wherever it lies: which images it has, and what they show.
        "data": file_digest(Path(command[1]) / ANNOTATIONS),
    }


def recorded(record: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """What a run's record says, that of a run not begun where there is none.

    Raises:
        SystemExit: it is that of another run.
    """
    nothing = Cost(0, 0.0)._asdict() | {"finished": False}
    found: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {}
    found = found or nothing | identity
    if {name: found.get(name) for name in identity} != identity:
        raise SystemExit(
            f"{record.parent} holds a run of other options than {' '.join(identity['options'])} "
            f"({' '.join(found.get('options', []))}), from other weights or on other data; give "
            "another output folder, or delete that one"
        )
    return found


def train_on(command: list[str], folder: Path, found: dict[str, Any], clock: Clock) -> None:
    """Train to the end, and record what that took besides what is found there, however it ends."""
    record, table = folder / "cost.json", folder / "history.csv"
    before = len(read_history(table))
    began, refused = time.perf_counter(), False
    try:
        clock.run(command)
        found["finished"] = True
    except SystemExit:
        # Perhaps for its options, which then are not those of what is there.
        refused = not record.exists()
        raise
    finally:
        # One that was at its end already, such as after a kill of this program alone, took little.
        if len(read_history(table)) > before:
            found["peak"] = max(found["peak"], clock.peak)
        found["seconds"] += time.perf_counter() - began
        if not refused:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(record, found)


def train(
    name: str, seed: int, args: argparse.Namespace, extra: list[str], clock: Clock
) -> tuple[list[Row], Cost]:
    """Every stage of a training, each from the weights of the one before; the last one's result."""
    method = METHODS[name]
    script, *own = method.command
    start: Path | None = None
    result: tuple[list[Row], Cost] | None = None
    for stage in TRAININGS[args.training]:
        # Until they differ in the number of patches, the methods with attention are one.
        shared = method.n_patches and stage.sampling
        family = "attention" if shared else name.replace(", ", "-").replace(" ", "-")
        folder = args.output / f"{family}-{seed}" / stage.name
        options = [*own, "--batch_size", "8", *stage.options.split()]
        options += ["--seed", str(1000 * stage.again + seed)]
        if method.n_patches:
            options += (stage.sampling or f"--n_patches {method.n_patches}").split()
        data = [str(args.dataset), str(folder), "--source", "gtsdb", "--limits", LIMITS]
        result = run([script, *data], [*options, *extra], start, folder, clock)
        start = latest_weights(folder)
    assert result is not None
    return result


def row_of(method: str, runs: list[tuple[list[Row], Cost]]) -> str:
    """A line of the table: means over seeds."""
    last = [rows[-1] for rows, _ in runs]
    accuracy = [1 - row["test_error"] for row in last]
    pointing = [row["test_pointing"] for row in last]
    images = np.median([rows[-1]["images_per_second"] for rows, _ in runs])
    seconds = np.median([rows[-1]["seconds"] for rows, _ in runs])
    peaks = [cost.peak for _, cost in runs]
    peak = f"{max(peaks) / 2**20:.0f}" if all(peaks) else "–"
    pointed = f"{np.mean(pointing):.2f}" if method.startswith("attention") else "–"
    each = ", ".join(f"{value:.2f}" for value in accuracy)
    return (
        f"| {method} | {np.mean(accuracy):.2f} ({each}) | {pointed} | {seconds:.1f} "
        f"| {1000 / images:.0f} | {peak} |"
    )


def main(arguments: list[str] | None = None) -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("dataset", type=Path, help="folder of the German Traffic Sign Detection Benchmark")
    add("output", type=Path, help="folder for the runs")
    add("--training", choices=TRAININGS, default="composites", help="see above")
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="all by default")
    add("--seeds", type=positive_int, default=3, help="number of seeds (default: 3)")
    args, extra = parse_and_pass_on(parser, arguments, OWN)
    if not (args.dataset / ANNOTATIONS).is_file():
        parser.error(f"dataset {args.dataset} lacks {ANNOTATIONS}; give the benchmark's folder")
    clock = Clock(None)
    results: dict[str, list[tuple[list[Row], Cost]]] = {
        # Once each, however often they are named.
        name: []
        for name in args.methods
    }
    # Seed by seed, so that a command that is stopped early has compared all methods.
    try:
        for seed in range(args.seeds):
            for method in results:
                results[method].append(train(method, seed, args, extra, clock))
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        raise SystemExit(130) from None
    print(
        "| method | test accuracy (each seed) | pointing | seconds an epoch | ms an image "
        "| peak MiB |"
    )
    print("|---|--:|--:|--:|--:|--:|")
    for method, runs in results.items():
        print(row_of(method, runs))


if __name__ == "__main__":
    main()
