"""``python -m ats``: the command line."""

import sys

from ats.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
