# Sourced: a virtual environment in .venv with this project and the extras in EXTRAS.
if [ ! -e .venv/bin/python ]; then
    "${PYTHON:-python3.11}" -m venv .venv
fi
. .venv/bin/activate
python -m pip install --quiet --disable-pip-version-check \
    --constraint constraints.txt --editable ".[$EXTRAS]"
