#!/bin/sh
# Set up, then everything that a change must pass: style, types, documentation, tests.
set -eu
cd "$(dirname "$0")"
EXTRAS=cli,docs,test
. ./setup.sh
ruff check .
ruff format --check .
mypy
sphinx-build -W --keep-going -q -b html docs docs/_build/html
# Two at a time, a file to each: most tests wait for processes of their own.
pytest -n 2 --dist loadfile "$@"
