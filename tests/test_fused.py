"""The kernels of a GPU, run by Triton's interpreter, which needs none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

# Triton reads its environment when it is imported: another process.
PROGRAM = """
import torch
from ats import SparseImages, extract_patches
from ats.fused import copy_patches, scatter_patches

generator = torch.Generator().manual_seed(0)
SHAPES = {(40,): (7,), (20, 30): (5, 9), (90, 70): (80, 50), (6, 5): (8, 9), (9, 10, 8): (3, 4, 5)}
for shape, size in SHAPES.items():
    for dtype in (torch.float32, torch.uint8, torch.bfloat16):
        pixels = 200 * torch.rand(2, 3, *shape, generator=generator)
        pixels *= torch.rand(pixels.shape, generator=generator) < 0.3
        image = pixels.to(dtype)
        offsets = torch.randint(-9, 60, (2, 4, len(shape)), generator=generator)
        wanted = extract_patches(image, offsets, size)
        found = copy_patches(image, offsets, size)
        assert found.dtype == dtype and torch.equal(found, wanted), (shape, dtype)
        turned = image.transpose(1, -1).contiguous().transpose(1, -1)
        assert torch.equal(copy_patches(turned, offsets, size), wanted), (shape, dtype)
        images = SparseImages.from_dense(image)
        for indices in (images.indices, images.indices.int()):
            given = indices, images.values, images.indptr, images.shape
            found = scatter_patches(*given, offsets, size)
            assert found.dtype == dtype and torch.equal(found, wanted), (shape, dtype)
nothing = SparseImages.from_dense(torch.zeros(1, 1, 5, 5))
given = nothing.indices, nothing.values, nothing.indptr, nothing.shape
assert not scatter_patches(*given, torch.zeros(1, 2, 2, dtype=torch.int64), (3, 3)).any()
print("equal")
"""


def test_patches_are_those_of_other_ways(tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "equal\n"
