"""The handwritten digits that scikit-learn carries, in MNIST's shape."""

import numpy as np
from numpy.typing import NDArray

from ats.datasets.mnist import N_CLASSES, SIZE, Digits

_INNER = 20  # MNIST's digits fill 20 x 20 pixels in the middle of 28 x 28
_TRAIN_FRACTION = 0.8


def read_optdigits() -> tuple[Digits, Digits]:
    """Training and test images: of each class the first four fifths, and the rest.

    The 1,797 images of 8 x 8 pixels with values 0 to 16 are enlarged bilinearly to 20 x 20
    in the middle of 28 x 28 with values 0 to 255. No image is in both splits.

    Raises:
        ImportError: scikit-learn or scikit-image is not installed.

    References:
        Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
        Repository, 1998.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the embedded digits come with scikit-learn: pip install 'attention-sampling[train]'"
        ) from error
    bunch = load_digits()
    images, labels = _enlarge(bunch.images), bunch.target.astype(np.int64)
    is_train = np.zeros(len(labels), bool)
    for label in range(N_CLASSES):
        members = np.flatnonzero(labels == label)
        is_train[members[: round(_TRAIN_FRACTION * len(members))]] = True
    train, test = (Digits(images[part], labels[part]) for part in (is_train, ~is_train))
    return train, test


def _enlarge(images: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Images (n, 8, 8) in 0..16 as (n, 28, 28) uint8, each using the full range."""
    from skimage.transform import resize

    channels_last = images.transpose(1, 2, 0)
    inner: NDArray[np.float64] = resize(channels_last, (_INNER, _INNER), order=1)  # type: ignore[no-untyped-call]
    inner /= inner.max(axis=(0, 1))
    margin = (SIZE - _INNER) // 2
    enlarged = np.zeros((len(images), SIZE, SIZE), np.uint8)
    enlarged[:, margin:-margin, margin:-margin] = np.round(255 * inner).transpose(2, 0, 1)
    return enlarged
