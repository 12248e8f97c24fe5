#!/usr/bin/env python3
"""Claim: what starts with ``ats`` starts about as soon as torch itself.

Processes in turns: ``import torch``, ``import ats``, and the help of ``scripts/mnist.py``.
"""

import argparse
import statistics
import subprocess
import sys
from functools import partial

from image_size import SCRIPT
from turns import alternate, median_ratio

from ats.training.arguments import positive_int

IMPORT_RATIO = 1.1
SECONDS_OF_HELP = 1.5


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--rounds", type=positive_int, default=11, help="rounds that count")
    args = parser.parse_args(arguments)
    commands = {
        "import torch": ["-c", "import torch"],
        "import ats": ["-c", "import ats"],
        "mnist.py -h": [str(SCRIPT), "-h"],
    }
    seconds = alternate(
        {
            name: partial(
                subprocess.run, [sys.executable, *command], check=True, stdout=subprocess.DEVNULL
            )
            for name, command in commands.items()
        },
        args.rounds,
    )
    print("| | seconds | over `import torch` |\n|---|--:|--:|")
    for name, values in seconds.items():
        ratio = median_ratio(values, seconds["import torch"])
        print(f"| `{name}` | {statistics.median(values):.2f} | {ratio:.2f} |")
    ratio = median_ratio(seconds["import ats"], seconds["import torch"])
    assert ratio <= IMPORT_RATIO, f"import ats takes {ratio:.2f} times as long as torch"
    pairs = zip(seconds["mnist.py -h"], seconds["import torch"], strict=True)
    more = statistics.median(own - other for own, other in pairs)
    assert more < SECONDS_OF_HELP, f"mnist.py -h takes {more:.2f} s more than import torch"


if __name__ == "__main__":
    main()
