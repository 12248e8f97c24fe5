#!/bin/sh
# Set up, make a data set from the handwritten digits that scikit-learn carries, and train on it.
set -eu
cd "$(dirname "$0")"
EXTRAS=train
. ./setup.sh
python scripts/make_mnist.py data/optdigits --digits optdigits --no_noise \
    --width 500 --height 500 --scale 0.2 --n_train 2000 --n_test 500
python scripts/mnist.py data/optdigits runs/optdigits --patch_size 40x40 \
    --batch_size 16 --epochs 5 "$@"
