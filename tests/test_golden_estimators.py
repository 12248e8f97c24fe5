"""The expectation of sampled features and its gradients, beside those of the 2019 program."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from golden import assert_close, load, prefixes, tensor
from torch import Tensor

import ats
from ats.sampling import importance_weights
from ats.sampling.runs import TINY
from ats.sampling.successive import des_raj_weights, published_weights

Weighting = Callable[[Tensor, Tensor, Tensor], Tensor]

RECORDED = {
    f"{attention}/repl{replacement}/{features}"
    for attention in ("rand", "uniform", "smoothed", "peaky")
    for replacement in (0, 1)
    for features in ("f1/wnone", "f1/wuniform", "f1/wrand", "f2/wnone", "f2/wuniform")
} - {f"smoothed/repl0/f1/w{mixture}" for mixture in ("none", "uniform", "rand")}
CASES = sorted(RECORDED)
WITHOUT_REPLACEMENT = [case for case in CASES if "repl0" in case]
UNEQUAL = [case for case in WITHOUT_REPLACEMENT if case.endswith("wrand")]

# Of the largest value of each array: a few units in the last place. The gradient to the attention
# has 1 - sum(a) over a_k, where the original cancels: it is left with 1e-5 in `smoothed`. Ours is
# taken in float64 whatever the input.
VALUE = {torch.float64: 1e-15, torch.float32: 3e-7}
GRADIENT = {torch.float64: 1e-15, torch.float32: 3e-7}
CANCELLED = {torch.float64: 2e-11, torch.float32: 1e-2}


class Result(NamedTuple):
    """Value and gradients of the estimate."""

    out: Tensor
    grad_attention: Tensor
    grad_features: Tensor


def published(drawn: Tensor, outside: Tensor, mixture: Tensor) -> Tensor:
    """The 2019 weights and gradient."""
    return published_weights(drawn.double(), outside, mixture).to(drawn.dtype)


def unbiased(drawn: Tensor, outside: Tensor, mixture: Tensor) -> Tensor:
    """Des Raj's weights with the gradient of the expectation."""
    a = drawn.detach().double().clamp_min(TINY)
    return importance_weights(drawn, des_raj_weights(a, outside, mixture) / a)


def replacement(drawn: Tensor, outside: Tensor, mixture: Tensor) -> Tensor:
    """Hansen and Hurwitz' weights, of which ``mixture`` is the value."""
    return importance_weights(drawn, mixture / drawn.detach().double())


def evaluate(case: str, dtype: torch.dtype, weighting: Weighting) -> Result:
    """Our value and gradients at the recorded sample."""
    arrays = load("expected")
    group = "/".join(case.split("/")[:2])
    attention = tensor(arrays[f"{group}/full_attention"]).to(dtype)
    samples = tensor(arrays[f"{group}/samples"]).long()
    drawn = attention.gather(1, samples).requires_grad_()
    features = tensor(arrays[f"{case}/in/features"]).to(dtype).requires_grad_()
    mixture = torch.full_like(drawn, 1 / drawn.shape[1], dtype=torch.float64)
    if f"{case}/in/weights" in arrays:
        mixture = tensor(arrays[f"{case}/in/weights"]).to(dtype).double()
    outside = attention.double().scatter(1, samples, 0.0).sum(1, keepdim=True)
    weights = weighting(drawn, outside, mixture)
    out = ats.expectation(features, weights)
    upstream = tensor(arrays[f"{case}/in/upstream"]).to(dtype)
    return Result(out, *torch.autograd.grad(out, (drawn, features), upstream))


def recorded(case: str, dtype: torch.dtype) -> Result:
    """What the 2019 program computed there."""
    arrays = load("expected")
    precision = str(dtype).removeprefix("torch.")
    return Result(*(tensor(arrays[f"{case}/{precision}/{name}"]) for name in Result._fields))


def test_every_recorded_case_is_compared() -> None:
    arrays = load("expected")
    assert {key for key in prefixes(arrays, 4) if "/w" in key} == RECORDED


@pytest.mark.parametrize("case", CASES)
def test_recorded_attention_is_that_of_the_sample(case: str) -> None:
    arrays = load("expected")
    group = "/".join(case.split("/")[:2])
    attention = tensor(arrays[f"{group}/full_attention"])
    samples = tensor(arrays[f"{group}/samples"]).long()
    assert torch.equal(attention.gather(1, samples), tensor(arrays[f"{case}/in/attention"]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", CASES)
def test_value_and_attention_gradient_are_the_recorded_ones(case: str, dtype: torch.dtype) -> None:
    ours = evaluate(case, dtype, published if "repl0" in case else replacement)
    theirs = recorded(case, dtype)
    assert ours.out.dtype == ours.grad_attention.dtype == dtype
    assert_close(ours.out, theirs.out, relative=VALUE[dtype])
    tolerance = (CANCELLED if "smoothed/repl0" in case else GRADIENT)[dtype]
    assert_close(ours.grad_attention, theirs.grad_attention, relative=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", sorted(RECORDED - set(UNEQUAL)))
def test_feature_gradient_is_the_recorded_one(case: str, dtype: torch.dtype) -> None:
    ours = evaluate(case, dtype, published if "repl0" in case else replacement)
    assert ours.grad_features.dtype == dtype
    assert_close(ours.grad_features, recorded(case, dtype).grad_features, relative=VALUE[dtype])


@pytest.mark.parametrize("weighting", [published, unbiased])
@pytest.mark.parametrize("case", UNEQUAL)
def test_feature_gradient_of_unequal_mixtures_is_ours(case: str, weighting: Weighting) -> None:
    """The recorded feature gradient is that of the value only if the N estimates weigh the same.

    The value is linear in the features, so that the gradient's product with them is the value's
    with the upstream gradient. Ours is; the 2019 program multiplies a_k with (N - k) m_k in place
    of the sum of the later m_j.
    """
    arrays = load("expected")
    features = tensor(arrays[f"{case}/in/features"])
    upstream = tensor(arrays[f"{case}/in/upstream"])
    ours = evaluate(case, torch.float64, weighting).grad_features
    theirs = recorded(case, torch.float64)
    wanted = (theirs.out * upstream).sum(1)
    assert_close((ours * features).sum((1, 2)), wanted, relative=1e-14)
    assert ((theirs.grad_features * features).sum((1, 2)) - wanted).abs().max() > 0.01
    a, m = tensor(arrays[f"{case}/in/attention"]), tensor(arrays[f"{case}/in/weights"])
    left = 1 - a.cumsum(1) + a
    weights = m * (left + torch.arange(a.shape[1] - 1, -1, -1) * a)
    assert_close(theirs.grad_features, weights.unsqueeze(2) * upstream.unsqueeze(1), relative=1e-14)


@pytest.mark.parametrize("case", WITHOUT_REPLACEMENT)
def test_unbiased_weights_have_another_attention_gradient(case: str) -> None:
    """The same value and features gradient; d out / d a_k is (w_k / a_k) f_k, not the recorded."""
    arrays = load("expected")
    ours = evaluate(case, torch.float64, unbiased)
    twin = evaluate(case, torch.float64, published)
    theirs = recorded(case, torch.float64)
    assert_close(ours.out, theirs.out, relative=VALUE[torch.float64])
    assert_close(ours.grad_features, twin.grad_features, relative=VALUE[torch.float64])

    attention = tensor(arrays[f"{case}/in/attention"])
    features = tensor(arrays[f"{case}/in/features"])
    # sum_s w_s f_s is linear in f, so a_k d out / d a_k = w_k f_k . g = f_k . (d out / d f_k).
    wanted = (features * ours.grad_features).flatten(2).sum(2) / attention
    assert_close(ours.grad_attention, wanted, relative=1e-14)
    # As gradients to log a, which rare positions do not dominate, they are far apart.
    scaled, published_one = attention * ours.grad_attention, attention * theirs.grad_attention
    assert (scaled - published_one).norm() > 0.1 * scaled.norm()


def test_a_missing_file_fails_where_the_folder_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ATS_SHARED", str(tmp_path))
    with pytest.raises(pytest.fail.Exception, match=r"expected\.npz is missing"):
        load("expected")
    monkeypatch.delenv("ATS_SHARED")
    with pytest.raises(pytest.skip.Exception, match="ATS_SHARED"):
        load("expected")
