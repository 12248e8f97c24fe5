"""Draw the figures of the results page anew from the tables in ``docs/results``."""

from pathlib import Path

from ats.plots import save_learning_curves
from ats.training.history import Row, mean_of, read_history

DOCS = Path(__file__).parent
FIGURES = {
    "optdigits-500": ("Embedded digits 500 x 500, no noise, 2,000 images", ("default",)),
    "mnist-500": ("Megapixel MNIST 500 x 500, no noise, 5,000 images", ("default", "published")),
    "drawn-scenes": ("Drawn street scenes 360 x 480, 800 images", ("default",)),
    "mnist-1500": ("Megapixel MNIST 1500 x 1500 with noise, 2,500 images", ("default",)),
}


def main() -> None:
    """One figure for each experiment, a line for each run whose table is there."""
    for name, (title, runs) in FIGURES.items():
        tables = {run: read_history(DOCS / "results" / f"{name}-{run}.csv") for run in runs}
        found = {run: rows for run, rows in tables.items() if rows}
        if found:
            save_learning_curves(DOCS / "figures" / f"{name}.png", found, title)
    designs: dict[str, list[list[Row]]] = {}
    for path in sorted((DOCS / "results" / "designs").glob("*.csv")):
        designs.setdefault(path.stem.rpartition("-")[0], []).append(read_history(path))
    means = {name: mean_of(tables) for name, tables in designs.items()}
    title = "Designs: 500 x 500, no noise, 1,000 images, mean of two seeds"
    save_learning_curves(DOCS / "figures" / "designs.png", means, title)


if __name__ == "__main__":
    main()
