"""Scripts and benchmarks, which are no package: run, or loaded to be looked into."""

import csv
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[1]


def load(path: str) -> SimpleNamespace:
    """What a file such as ``scripts/mnist.py`` defines."""
    return SimpleNamespace(**runpy.run_path(str(ROOT / path)))


def command(script: str, *arguments: str | Path) -> list[str]:
    """The command line of a script."""
    return [sys.executable, str(ROOT / "scripts" / script), *map(str, arguments)]


def run(
    script: str, *arguments: str | Path, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a script to its end, which is a good one unless told otherwise."""
    done = subprocess.run(command(script, *arguments), capture_output=True, text=True, cwd=ROOT)
    if check:
        assert done.returncode == 0, done.stderr
    return done


def make_digits(folder: Path, *, n_train: int, n_test: int) -> Path:
    """The folder with a small data set of the embedded digits, 230 x 200 pixels, without noise."""
    sizes = (
        "--n_train",
        str(n_train),
        "--n_test",
        str(n_test),
        "--width",
        "200",
        "--height",
        "230",
    )
    run("make_mnist.py", folder, "--digits", "optdigits", "--no_noise", *sizes, "--scale", "0.2")
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    """Lines of a table."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
