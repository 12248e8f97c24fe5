"""Attention sampling against the same network on whole images, on real street scenes.

For each method and seed: a training from scratch on the few real scenes alone (``plain``), and a
training on composites together with the real scenes, gone on with on the real scenes alone
(``composites``). One table of test accuracy, pointing, time and memory. Runs go one after another;
the command can be stopped and given again, and goes on where it was.

    python benchmarks/street_scenes.py data/gtsdb runs/street --seeds 3
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ats.files import write_json
from ats.training.history import Row, read_history

ROOT = Path(__file__).parent.parent
SPEED_LIMITS = (str(ROOT / "scripts" / "speed_limits.py"),)
WHOLE = (str(ROOT / "benchmarks" / "whole_image.py"), "--network")
METHODS = {
    "attention, 5 patches": (*SPEED_LIMITS, "--n_patches", "5"),
    "attention, 10 patches": (*SPEED_LIMITS, "--n_patches", "10"),
    "whole image, scale 0.3": (*WHOLE, "small"),
    "whole image, full size": (*WHOLE, "full"),
}
LIMITS = "30,50,70,80,100,120"


class Cost(NamedTuple):
    """What a run took.

    Attributes:
        peak: largest resident memory of the process in bytes.
        seconds: from its start to its end.
    """

    peak: int
    seconds: float


def run(command: list[str], folder: Path) -> tuple[list[Row], Cost]:
    """The table of a run and its cost, trained to its end if it is not there yet."""
    record = folder / "cost.json"
    if not record.exists():
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, *command, "--resume"])
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{' '.join(command)} failed")
        # Linux counts kilobytes.
        write_json(record, Cost(usage.ru_maxrss * 1024, time.perf_counter() - start)._asdict())
    return read_history(folder / "history.csv"), Cost(**json.loads(record.read_text()))


def train(
    method: str, seed: int, args: argparse.Namespace, extra: list[str]
) -> tuple[list[Row], Cost]:
    """A plain training, or one on composites and then on real scenes."""
    name = f"{method.replace(', ', '-').replace(' ', '-')}-{seed}"
    given = ["--source", "gtsdb", "--limits", LIMITS, "--seed", str(seed), *extra]

    def command(folder: Path, *options: str) -> list[str]:
        script, *others = METHODS[method]
        return [script, *others, str(args.dataset), str(folder), *given, *options]

    if args.training == "plain":
        folder = args.output / f"plain-{name}"
        return run(command(folder, "--epochs", str(args.epochs)), folder)
    first, second = args.output / f"first-{name}", args.output / f"second-{name}"
    composites = ("--train_on", "both", "--composites", str(args.composites))
    epochs = args.pretraining_epochs
    run(command(first, *composites, "--epochs", str(epochs)), first)
    start = str(first / f"weights_{epochs - 1:03d}.safetensors")
    return run(command(second, "--start", start, "--epochs", str(args.epochs)), second)


def row_of(method: str, runs: list[tuple[list[Row], Cost]]) -> str:
    """A line of the table: means over seeds."""
    last = [rows[-1] for rows, _ in runs]
    accuracy = [1 - row["test_error"] for row in last]
    pointing = [row["test_pointing"] for row in last]
    seconds = np.median([row["seconds"] for rows, _ in runs for row in rows])
    peak = max(cost.peak for _, cost in runs) / 2**20
    pointed = f"{np.mean(pointing):.2f}" if method.startswith("attention") else "–"
    each = ", ".join(f"{value:.2f}" for value in accuracy)
    return (
        f"| {method} | {np.mean(accuracy):.2f} ({each}) | {pointed} | {seconds:.1f} | {peak:.0f} |"
    )


def main(arguments: list[str] | None = None) -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("dataset", type=Path, help="folder of the German Traffic Sign Detection Benchmark")
    add("output", type=Path, help="folder for the runs")
    add("--training", choices=("plain", "composites"), default="composites")
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    add("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    add("--composites", type=int, default=4000, help="composites of an epoch (default: 4000)")
    add("--pretraining_epochs", type=int, default=4, help="epochs on composites (default: 4)")
    add("--epochs", type=int, default=20, help="epochs on real scenes (default: 20)")
    args, extra = parser.parse_known_args(arguments)
    results: dict[str, list[tuple[list[Row], Cost]]] = {name: [] for name in args.methods}
    # Seed by seed, so that a command that is stopped early has compared all methods.
    for seed in range(args.seeds):
        for method in args.methods:
            results[method].append(train(method, seed, args, extra))
    print("| method | test accuracy (each seed) | pointing | seconds an epoch | peak MiB |")
    print("|---|--:|--:|--:|--:|")
    for method, runs in results.items():
        print(row_of(method, runs))


if __name__ == "__main__":
    main()
