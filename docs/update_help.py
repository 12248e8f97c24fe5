#!/usr/bin/env python3
"""Write the help texts of the scripts and of ``ats train`` to ``docs/help``, for the pages."""

import os
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
SCRIPTS = ("make_mnist.py", "mnist.py", "speed_limits.py")
COMMAND = "ats_train"


def help_text(script: str) -> str:
    """What ``script -h`` prints on a terminal of 100 columns."""
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    command = [sys.executable, str(DOCS.parent / "scripts" / script), "-h"]
    if script == COMMAND:
        command = [sys.executable, "-m", "ats", "train", "-h"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def help_file(script: str) -> Path:
    """Where the help of a script is kept."""
    return DOCS / "help" / f"{Path(script).stem}.txt"


def main() -> None:
    """Write one file for each of them."""
    for script in (*SCRIPTS, COMMAND):
        help_file(script).write_text(help_text(script), encoding="utf-8")


if __name__ == "__main__":
    main()
