"""Where pixels come from: batches of images that can be asked for patches."""

from ats.images.array import ArrayImages
from ats.images.files import FileImages
from ats.images.joined import JoinedImages
from ats.images.opening import open_image, register_reader
from ats.images.pasted import Overlay, PastedImages
from ats.images.protocol import Images
from ats.images.reader import ImageError, Layout, Reader
from ats.images.regions import RegionImages
from ats.images.small import pad_small_views, read_small_view, small_extents
from ats.images.sparse import SparseImages
from ats.images.tensor import TensorImages, as_images

__all__ = [
    "ArrayImages",
    "FileImages",
    "ImageError",
    "Images",
    "JoinedImages",
    "Layout",
    "Overlay",
    "PastedImages",
    "Reader",
    "RegionImages",
    "SparseImages",
    "TensorImages",
    "as_images",
    "open_image",
    "pad_small_views",
    "read_small_view",
    "register_reader",
    "small_extents",
]
