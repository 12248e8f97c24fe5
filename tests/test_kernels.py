"""The kernels of a GPU, run by Triton's interpreter, which needs none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

PATCHES = """
import torch
from ats import SparseImages, extract_patches
from ats.kernels.patches import copy_patches, scatter_patches

generator = torch.Generator().manual_seed(0)
SHAPES = {(40,): (7,), (20, 30): (5, 9), (50, 70): (40, 50), (6, 5): (8, 9), (9, 10, 8): (3, 4, 5)}
for shape, size in SHAPES.items():
    for dtype in (torch.float32, torch.uint8, torch.bfloat16)[: 3 if len(shape) == 1 else 1]:
        pixels = 200 * torch.rand(2, 3, *shape, generator=generator)
        pixels *= torch.rand(pixels.shape, generator=generator) < 0.3
        image = pixels.to(dtype)
        offsets = torch.randint(-9, 45, (2, 3, len(shape)), generator=generator)
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


DRAWS = """
import warnings

import torch
from triton.runtime.errors import InterpreterError
from triton.runtime.interpreter import InterpreterOptions, interpreter_builder
from ats.kernels.successive import draw_in_order
from ats.kernels.systematic import walk
from ats.sampling import successive, systematic
from ats.sampling.design import Uniforms, importance_weights
from ats.sampling.runs import Runs

warnings.filterwarnings("ignore", "(divide by zero|invalid value) encountered")
generator = torch.Generator().manual_seed(0)


def noise(columns):
    return torch.rand(3, columns, dtype=torch.float64, generator=generator)


def check_what_follows(found, attention):
    drawn = attention.flatten(1).gather(1, found.indices)
    wanted = importance_weights(drawn, found.ratios)
    assert found.weights.dtype == wanted.dtype
    torch.testing.assert_close(found.weights, wanted, rtol=1e-6, atol=0)
    wanted = torch.stack(torch.unravel_index(found.indices, attention.shape[1:]), 2)
    assert torch.equal(found.positions, wanted)


for shape, n_patches in (((37,), 37), ((7,), 1), ((13, 30), 10), ((3, 4, 5), 7)):
    for spread in (0.1, 4.0):
        maps = spread * torch.randn(3, *shape, generator=generator, dtype=torch.float64)
        maps = maps.flatten(1).softmax(1).reshape(maps.shape)
        # Nothing but one position, and nothing in half of them.
        maps[0] = torch.eye(maps[0].numel())[5].reshape(shape)
        maps[1].flatten()[::2] = 0
        maps[1] /= maps[1].sum()
        for attention in (maps, maps.float()):
            runs = Runs(attention, n_patches)
            context = shape, n_patches, spread, attention.dtype
            points = noise(2)
            mask = (points[:, :1] * systematic.mask_size(runs)).long()
            middle = torch.full((3, 1), systematic.MIDDLE, dtype=torch.float64)
            for given, start in ((points, None), (None, systematic.MIDDLE)):
                begin = middle if given is None else points[:, 1:]
                wanted = systematic.walk(runs, begin, mask * (given is not None), n_patches)
                curve = runs.along_curve()
                found = walk(runs, curve, given, start, n_patches, 1e-3)
                assert torch.equal(found.indices, wanted[0]), context
                torch.testing.assert_close(found.ratios, wanted[1], rtol=1e-5, atol=0)
                check_what_follows(found, attention)
            points = noise(5 * n_patches)
            wanted = successive.draw_in_order(runs, n_patches, Uniforms(points))
            found = draw_in_order(runs, points, n_patches, 1e-3)
            assert torch.equal(found.indices, wanted.indices), context
            torch.testing.assert_close(found.attention, wanted.attention, rtol=1e-6, atol=0)
            torch.testing.assert_close(found.outside, wanted.outside, rtol=1e-6, atol=1e-15)
            ratio = successive.des_raj_weights(wanted.attention, wanted.outside) / wanted.attention
            torch.testing.assert_close(found.ratios, ratio, rtol=1e-5, atol=0)
            check_what_follows(found, attention)
# As if compiled with assertions.
interpreter_builder.options = InterpreterOptions(debug=True)
points = noise(15)
for fault in (1.1, -1.0, float("nan"), float("inf")):
    attention = torch.full((3, 5, 6), 1 / 30)
    attention[1, 0, 0] *= fault
    attention[1, 0, 1] += 1 / 30 - attention[1, 0, 0] if fault < 0 else 0.1
    runs = Runs(torch.full((3, 5, 6), 1 / 30), 3)
    runs.rows = attention.flatten(1)
    for draw in (
        lambda: walk(runs, runs.along_curve(), points, None, 3, 1e-3),
        lambda: draw_in_order(runs, points, 3, 1e-3),
    ):
        try:
            draw()
        except InterpreterError as error:
            assert "attention must be" in str(error), fault
        else:
            raise AssertionError(fault)
print("equal")
"""

SAMPLES = """
import torch
import ats
from ats.kernels import Kernels, patches, runs, successive, systematic, weights
from ats.sampling import DESIGNS, Systematic
from ats.sampling.design import Uniforms
from ats.sampling.runs import Runs

generator = torch.Generator().manual_seed(0)
without = Runs._kernels
for shape in ((40,), (7, 9), (3, 4, 5)):
    logits = 2 * torch.randn(3, *shape, generator=generator).flatten(1)
    numbers = torch.rand(3, 25, dtype=torch.float64, generator=generator)
    factor = torch.randn(3, 5, generator=generator)
    for name, design in {**DESIGNS, "centred": Systematic(centred=True)}.items():
        results = []
        # As on a GPU.
        with_kernels = lambda *_: Kernels(patches, runs, systematic, successive, weights)
        for Runs._kernels in (without, with_kernels):
            attention = logits.softmax(1).reshape(3, *shape).requires_grad_()
            drawn = ats.sample(attention, 5, design=design, generator=Uniforms(numbers))
            if drawn.weights.requires_grad:
                (drawn.weights * factor).sum().backward()
            results.append((*drawn, attention.grad))
        (positions, wanted, gradient), (own_positions, own, own_gradient) = results
        assert torch.equal(own_positions, positions), (shape, name)
        torch.testing.assert_close(own, wanted, msg=name)
        torch.testing.assert_close(own_gradient, gradient, msg=name)
print("equal")
"""

WEIGHTS = """
import torch
from ats.kernels.weights import attach
from ats.sampling import design

generator = torch.Generator().manual_seed(0)
for dtype in (torch.float32, torch.float64):
    for centred in (False, True):
        logits = torch.randn(3, 5, 7, generator=generator, dtype=dtype)
        attention = logits.flatten(1).softmax(1).reshape(logits.shape)
        # One of them twice, and one of a large ratio.
        indices = torch.tensor([[0, 3, 34], [5, 5, 6], [1, 2, 3]])
        ratio = torch.rand(3, 3, generator=generator, dtype=torch.float64)
        attention[2, 0, 1], ratio[2, 0] = 1e-38, 3e38
        wanted, found = (attention.clone().requires_grad_() for _ in range(2))
        drawn = wanted.flatten(1).gather(1, indices)
        weights = design.importance_weights(drawn, ratio, centred)
        own = attach(found, indices, ratio, weights.detach().clone(), centred)
        assert own.dtype == weights.dtype == dtype
        torch.testing.assert_close(own, weights)
        factor = torch.randn(3, 3, generator=generator, dtype=dtype)
        (weights * factor).sum().backward()
        # Changed in place, which the gradient does not see.
        (own.mul_(1.0) * factor).sum().backward()
        torch.testing.assert_close(found.grad, wanted.grad)
print("equal")
"""

COMPILED = """
import warnings

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from ats.kernels import patches, runs, successive, systematic, weights

warnings.filterwarnings("ignore", "TRITON_DEFAULT_FP_FUSION")
POINTERS = {
    **dict.fromkeys(("attention", "rows", "weights", "gradients", "to_drawn"), "*fp32"),
    **dict.fromkeys(("noise", "scratch", "ratios", "drawn", "outside"), "*fp64"),
    **dict.fromkeys(("curve", "indices", "offsets", "indptr", "positions"), "*i64"),
}
SIZES = dict(BLOCK=64, CENTRED=True, DIM=2, DRAWS=8, POINTS=4, RUNS=16, BITS=4, LANES=8, TILE=8)
SIZES |= dict(START=None, TOLERANCE=1e-3, LINES=8, STEPS=8, STRIP=4)
SIZES |= dict(height=5, width=5, n_lines=5, n_pixels=25, n_blocks=1)
TARGET = GPUTarget("cuda", 90, 32)
BITS = dict.fromkeys(("image", "values", "out"), "*i8")
KERNELS = {
    patches._copy: BITS,
    patches._scatter: BITS,
    runs._sum_up: {"out": "*fp64"},
    systematic._walk: {},
    successive._draw_in_order: {},
    weights._weigh_back: {},
}
for kernel, own in KERNELS.items():
    constants, signature = {}, {}
    for parameter in kernel.params:
        name = parameter.name
        if parameter.is_constexpr:
            constants[name], signature[name] = SIZES[name], "constexpr"
        else:
            signature[name] = (POINTERS | own).get(name, "i32")
    source = ASTSource(kernel, signature, constants)
    found = triton.compile(source, target=TARGET, options=runs.CHECKED).asm
    assert found["cubin"], kernel
    checks = kernel in (systematic._walk, successive._draw_in_order)
    assert ("assertfail" in found["ptx"]) == checks, kernel
"""


def printed(program: str, cache: Path, **environment: str) -> str:
    """What a program prints in a process of its own: Triton reads its environment when imported."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment, "TRITON_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_kernels_compile(tmp_path: Path) -> None:
    """The interpreter runs more than the compiler takes."""
    printed(COMPILED, tmp_path)


@pytest.mark.parametrize(
    "program",
    [PATCHES, DRAWS, SAMPLES, WEIGHTS],
    ids=["patches", "draws", "samples", "weights"],
)
def test_kernels_find_what_other_ways_find(program: str, tmp_path: Path) -> None:
    assert printed(program, tmp_path, TRITON_INTERPRET="1") == "equal\n"
