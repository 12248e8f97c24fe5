"""Where pixels come from: batches of images that can be asked for patches."""

from ats.images.array import ArrayImages
from ats.images.joined import JoinedImages
from ats.images.pasted import Overlay, PastedImages
from ats.images.protocol import Images
from ats.images.sparse import SparseImages
from ats.images.tensor import TensorImages, as_images

__all__ = [
    "ArrayImages",
    "Images",
    "JoinedImages",
    "Overlay",
    "PastedImages",
    "SparseImages",
    "TensorImages",
    "as_images",
]
