"""Softmax, entropy and normalisation beside the 2019 program's; what its resizing does instead."""

import numpy as np
import pytest
import torch
from golden import Arrays, assert_close, load, prefixes, tensor
from torch.nn import functional as F

import ats

# Of the largest value of each array: some units in the last place of float32 (6e-8).
VALUE = 3e-7

SOFTMAX = [(x, s) for x in ("normal", "spread") for s in ("0", "1e-05", "0.0001", "0.5")]
ENTROPY = [
    (attention, strength, eps)
    for attention in ("rand", "onehot_row0")
    for strength, eps in (("1", "1e-06"), ("0.0001", "1e-06"), ("-0.05", "1e-06"), ("1", "0.001"))
]
RESIZED = ("down", "down_int", "up", "speed03", "same")


@pytest.fixture
def layers() -> Arrays:
    return load("layers")


def test_every_recorded_case_is_compared(layers: Arrays) -> None:
    parts = prefixes(layers, 3)
    softmax = {f"sample_softmax/{x}/smooth{smoothing}" for x, smoothing in SOFTMAX}
    entropies = {f"entropy/{a}/strength{strength}_eps{eps}" for a, strength, eps in ENTROPY}
    assert {part for part in parts if "smooth" in part} == softmax
    assert {part for part in parts if "strength" in part} == entropies
    assert {part.split("/")[1] for part in parts if part.startswith("resize")} == set(RESIZED)
    assert prefixes(layers, 1) == {"sample_softmax", "entropy", "l2", "resize"}


@pytest.mark.parametrize(("x", "smoothing"), SOFTMAX)
def test_softmax_is_the_recorded_one(layers: Arrays, x: str, smoothing: str) -> None:
    group = f"sample_softmax/{x}"
    logits = tensor(layers[f"{group}/x"][..., 0]).requires_grad_()
    attention = ats.SampleSoftmax(float(smoothing))(logits)
    upstream = tensor(layers[f"{group}/upstream"])
    (gradient,) = torch.autograd.grad(attention, logits, upstream)
    wanted = tensor(layers[f"{group}/smooth{smoothing}/grad_x"][..., 0])
    assert_close(attention, tensor(layers[f"{group}/smooth{smoothing}/y"]), relative=VALUE)
    # The gradient a (g - a . g) cancels where one position has nearly all attention; what is lost
    # is relative to a and g, of order 1, not to what is left.
    assert_close(gradient, wanted, relative=VALUE, absolute=1e-7)


def test_softmax_runs_over_all_values_of_an_image(layers: Arrays) -> None:
    """Two channels are no two maps: together they sum to 1."""
    logits = tensor(layers["sample_softmax/channels2/x"])
    # Recorded with a smoothing of 1e-4.
    attention = ats.SampleSoftmax(1e-4)(logits)
    assert_close(attention, tensor(layers["sample_softmax/channels2/y"]), relative=VALUE)
    assert_close(attention.flatten(1).sum(1), torch.ones(2), relative=VALUE)


@pytest.mark.parametrize(("attention", "strength", "eps"), ENTROPY)
def test_entropy_loss_is_the_recorded_one(
    layers: Arrays, attention: str, strength: str, eps: str
) -> None:
    group = f"entropy/{attention}"
    a = tensor(layers[f"{group}/attention"]).requires_grad_()
    loss = -float(strength) * ats.entropy(a, eps=float(eps)).mean()
    (gradient,) = torch.autograd.grad(loss, a)
    recorded = f"{group}/strength{strength}_eps{eps}"
    assert_close(loss, tensor(layers[f"{recorded}/loss"]), relative=VALUE)
    assert_close(gradient, tensor(layers[f"{recorded}/grad"]), relative=VALUE)


def test_normalisation_is_the_recorded_one(layers: Arrays) -> None:
    x = tensor(layers["l2/x"]).requires_grad_()
    y = ats.L2Normalize()(x)
    (gradient,) = torch.autograd.grad(y, x, tensor(layers["l2/upstream"]))
    # Row by row, because the gradients of tiny rows are a million times as large.
    for row in range(len(x)):
        assert_close(y[row], tensor(layers["l2/y"])[row], relative=VALUE)
        assert_close(gradient[row], tensor(layers["l2/grad_x"])[row], relative=VALUE)


def test_normalisation_of_tiny_rows_is_not_that_of_torch(layers: Arrays) -> None:
    """The recorded bound is on the squared length, torch's on the length."""
    x = tensor(layers["l2/x"])
    tiny = (x.norm(dim=1) < 1e-6) & (x.norm(dim=1) > 1e-12)
    assert tiny.any()
    ours, theirs = ats.L2Normalize()(x)[tiny], F.normalize(x[tiny])
    assert (ours.norm(dim=1) < 0.9).all()
    assert (theirs.norm(dim=1) > 0.9).all()


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
def test_recorded_resizing_to_the_same_size_is_the_identity_as_is_ours(
    layers: Arrays, kind: str
) -> None:
    """The one size at which the two agree in all pixels."""
    pytest.importorskip("skimage")
    from ats.datasets.stamps import shrink

    x = layers["resize/same/x"]
    np.testing.assert_array_equal(layers[f"resize/same/{kind}"], x)
    square = x[:, :5, :5, 0]
    np.testing.assert_array_equal(shrink(square, 1.0), (255 * square).astype(np.uint8))


def test_recorded_resizing_skips_pixels_where_ours_averages(layers: Arrays) -> None:
    """TF1 interpolates between the nearest pixels alone: halving an image drops half of its lines.

    Lines that are bright in pairs vanish or fill a quarter-sized image then, depending
    on where it begins to read. Ours is antialiased and becomes grey, so that no pixel of the other
    recorded sizes is compared.
    """
    pytest.importorskip("skimage")
    from ats.datasets.stamps import shrink

    x = layers["resize/down_int/x"]
    np.testing.assert_array_equal(layers["resize/down_int/bilinear"], x[:, ::2, ::2])
    bright = np.isin(np.arange(44) % 4, (0, 3)).astype(np.float32)
    lines = np.tile(bright[:, None], (1, 1, 44))
    inner = shrink(lines, 0.25)[:, 2:-2, 2:-2]
    # What a Gaussian of sigma 1.5 leaves of a period of 4 is 0.06 of the amplitude.
    assert np.abs(inner.astype(float) / 255 - 0.5).max() < 0.05
