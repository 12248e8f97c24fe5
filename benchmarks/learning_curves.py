"""Learning curves of every sampling design: what decides the library's default.

Trains ``scripts/mnist.py`` once for each design and seed on a data set of
``scripts/make_mnist.py``, all else at its default, and keeps the tables and one figure. Runs go one
after another; the command can be stopped and given again, and goes on where it was.

    python benchmarks/learning_curves.py data/mnist-500 runs/designs --epochs 10 --seeds 3
"""

import argparse
import subprocess
import sys
from pathlib import Path

from clock import parse_and_pass_on

from ats.plots import save_learning_curves
from ats.training.arguments import positive_int
from ats.training.history import Row, mean_of, read_history

SCRIPT = Path(__file__).parent.parent / "scripts" / "mnist.py"
DESIGNS = {
    "replacement": ("replacement", "--no-centring"),
    "des-raj": ("des-raj", "--no-centring"),
    "murthy": ("murthy", "--no-centring"),
    "systematic": ("systematic", "--no-centring"),
    "murthy, centred": ("murthy", "--centring"),
    "systematic, centred": ("systematic", "--centring"),
    "published": ("published", "--no-centring"),
}


def train(dataset: Path, output: Path, label: str, seed: int, extra: list[str]) -> list[Row]:
    """The table of one run, trained to its end if it is not there yet."""
    design, centring = DESIGNS[label]
    folder = output / f"{label.replace(', ', '-')}-{seed}"
    given = ["--design", design, centring, "--seed", str(seed), "--resume", *extra]
    subprocess.run([sys.executable, SCRIPT, dataset, folder, *given], check=True)
    return read_history(folder / "history.csv")


def main(arguments: list[str] | None = None) -> None:
    """Train what is missing, print a table and draw the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path, help="folder made by make_mnist.py")
    parser.add_argument("output", type=Path, help="folder for the runs")
    parser.add_argument(
        "--seeds", type=positive_int, default=3, help="number of seeds (default: 3)"
    )
    parser.add_argument("--designs", nargs="+", choices=DESIGNS, default=list(DESIGNS))
    args, extra = parse_and_pass_on(parser, arguments, ("--design", "--centring", "--no-centring"))
    curves: dict[str, list[Row]] = {}
    # Seed by seed, so that a run that is stopped early has compared all designs.
    tables: dict[str, list[list[Row]]] = {label: [] for label in args.designs}
    for seed in range(args.seeds):
        for label in args.designs:
            tables[label].append(train(args.dataset, args.output, label, seed, extra))
            curves = {name: mean_of(rows) for name, rows in tables.items() if rows}
            save_learning_curves(args.output / "designs.png", curves)
    print("| design | training loss | test error | test error of each seed |\n|---|--:|--:|---|")
    for label, rows in curves.items():
        each = ", ".join(f"{table[-1]['test_error']:.3f}" for table in tables[label])
        last = rows[-1]
        print(f"| {label} | {last['train_loss']:.3f} | {last['test_error']:.3f} | {each} |")


if __name__ == "__main__":
    main()
