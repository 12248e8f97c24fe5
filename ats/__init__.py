"""Attention sampling: learn from images that are too big to look at."""

from ats.entropy import entropy
from ats.geometry import patch_offsets
from ats.images import ArrayImages, Images, SparseImages, TensorImages, as_images
from ats.nn import (
    AttentionSampling,
    AttentionSamplingOutput,
    Classifier,
    Expectation,
    L2Normalize,
    SamplePatches,
    SampleSoftmax,
)
from ats.patches import extract_patches
from ats.prior import local_contrast
from ats.sampling import Sample, expectation, sample

__version__ = "0.1.0"

__all__ = [
    "ArrayImages",
    "AttentionSampling",
    "AttentionSamplingOutput",
    "Classifier",
    "Expectation",
    "Images",
    "L2Normalize",
    "Sample",
    "SamplePatches",
    "SampleSoftmax",
    "SparseImages",
    "TensorImages",
    "as_images",
    "entropy",
    "expectation",
    "extract_patches",
    "local_contrast",
    "patch_offsets",
    "sample",
]
