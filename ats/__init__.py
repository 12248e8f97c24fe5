"""Attention sampling: learn from images that are too big to look at."""

from ats.ahead import Drawn, read_ahead
from ats.entropy import entropy
from ats.exact import ExactOutput, exact_expectation
from ats.geometry import patch_offsets
from ats.images import (
    ArrayImages,
    FileImages,
    Images,
    SparseImages,
    TensorImages,
    as_images,
    open_image,
)
from ats.nested import NestedSampling, NestedSamplingOutput
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
from ats.votes import Votes, VotingClassifier

__version__ = "0.1.0"

__all__ = [
    "ArrayImages",
    "AttentionSampling",
    "AttentionSamplingOutput",
    "Classifier",
    "Drawn",
    "ExactOutput",
    "Expectation",
    "FileImages",
    "Images",
    "L2Normalize",
    "NestedSampling",
    "NestedSamplingOutput",
    "Sample",
    "SamplePatches",
    "SampleSoftmax",
    "SparseImages",
    "TensorImages",
    "Votes",
    "VotingClassifier",
    "as_images",
    "entropy",
    "exact_expectation",
    "expectation",
    "extract_patches",
    "local_contrast",
    "open_image",
    "patch_offsets",
    "read_ahead",
    "sample",
]
