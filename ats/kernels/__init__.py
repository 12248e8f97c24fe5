"""Kernels of Triton for a GPU, and whether they work there."""

import functools
import warnings
from types import ModuleType
from typing import NamedTuple

import torch


class Kernels(NamedTuple):
    """Modules with kernels that work on a device."""

    patches: ModuleType
    runs: ModuleType
    systematic: ModuleType
    successive: ModuleType
    weights: ModuleType


@functools.cache
def kernels_on(device: torch.device) -> Kernels | None:
    """The kernels, once one has run on that GPU; None where none can.

    Triton comes with torch for CUDA, but it asks the system for a C compiler.
    """
    try:
        from ats.kernels import patches, runs, successive, systematic, weights

        patches.copy_patches(
            torch.zeros(1, 1, 1, device=device),
            torch.zeros(1, 1, 1, dtype=torch.int64, device=device),
            (1,),
        )
    except Exception as error:
        # Whatever an import, a compiler or a driver raises: there is another way.
        warnings.warn(
            f"patches are drawn and read in many passes in place of one, as Triton does not work "
            f"here: {error}; it needs the triton package and a C compiler",
            stacklevel=2,
        )
        return None
    return Kernels(patches, runs, systematic, successive, weights)
