"""Laws of the sampling designs."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from enumeration import exact_expectation, sample_probability, systematic_expectation
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import ats
from ats.sampling import (
    DESIGNS,
    Average,
    DesignLike,
    DesRaj,
    Murthy,
    Published,
    Replacement,
    Systematic,
    Top,
    importance_weights,
    successive,
)
from ats.sampling.curve import curve_order
from ats.sampling.runs import TINY, Runs, hit
from ats.sampling.successive import Drawn, draw_in_order, leave_one_out_ratio
from ats.sampling.systematic import inclusion_probabilities, lane_count, mask_size, walk

UNBIASED = ("replacement", "des-raj", "murthy", "systematic")
SIZES = [(3, 1), (4, 2), (5, 3), (5, 4), (4, 4)]


def case(n_positions: int, spread: float = 0.4) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, features and an upstream gradient."""
    generator = torch.Generator().manual_seed(n_positions)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    return (spread * draw(n_positions)).requires_grad_(), draw(n_positions, 7), draw(7)


def expectation_of(name: str, attention: Tensor, features: Tensor, n_patches: int) -> Tensor:
    if name == "systematic":
        return systematic_expectation(Systematic, attention, features, n_patches)
    return exact_expectation(DESIGNS[name], attention, features, n_patches, name == "replacement")[
        0
    ]


@pytest.mark.parametrize(("n_positions", "n_patches"), SIZES)
@pytest.mark.parametrize("name", UNBIASED)
def test_value_and_gradients_are_exact(name: str, n_positions: int, n_patches: int) -> None:
    logits, features, upstream = case(n_positions)
    features.requires_grad_()
    exact = (logits.softmax(0) @ features) @ upstream
    wanted = torch.autograd.grad(exact, (logits, features))

    attention = logits.softmax(0)
    value = expectation_of(name, attention, features, n_patches) @ upstream
    got = torch.autograd.grad(value, (logits, features))

    torch.testing.assert_close(value, exact, rtol=0, atol=1e-10)
    torch.testing.assert_close(got[0], wanted[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(got[1], wanted[1], rtol=0, atol=1e-10)


def test_published_gradient_is_biased_and_its_value_is_not() -> None:
    logits, features, upstream = case(4)
    exact = (logits.softmax(0) @ features) @ upstream
    (wanted,) = torch.autograd.grad(exact, logits)
    value = exact_expectation(Published(), logits.softmax(0), features, 2, False)[0] @ upstream
    (got,) = torch.autograd.grad(value, logits)
    torch.testing.assert_close(value, exact, rtol=0, atol=1e-10)
    assert float((got - wanted).norm() / wanted.norm()) > 0.2


def test_centred_replacement_shrinks_the_gradient_by_a_known_factor() -> None:
    logits, features, upstream = case(4)
    (wanted,) = torch.autograd.grad((logits.softmax(0) @ features) @ upstream, logits)
    design = Replacement(centred=True)
    value = exact_expectation(design, logits.softmax(0), features, 3, True)[0] @ upstream
    (got,) = torch.autograd.grad(value, logits)
    torch.testing.assert_close(got, wanted * 2 / 3, rtol=0, atol=1e-10)


def test_centring_removes_what_all_features_share() -> None:
    logits, features, upstream = case(5)
    attention = logits.softmax(0).unsqueeze(0)

    def gradient(shared: float) -> Tensor:
        design = Systematic(start=0.3, centred=True)
        indices, weights = design(attention, 3, None)
        value = (weights[0].unsqueeze(1) * (features + shared)[indices[0]]).sum(0) @ upstream
        return torch.autograd.grad(value, logits, retain_graph=True)[0]

    torch.testing.assert_close(gradient(1000.0), gradient(0.0), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["murthy", "systematic"])
def test_all_positions_give_the_exact_value(name: str) -> None:
    logits, features, _ = case(11, spread=3)
    attention = logits.softmax(0).unsqueeze(0)
    positions, weights = ats.sample(attention, 11, design=name)
    assert sorted(positions.flatten().tolist()) == list(range(11))
    estimate = ats.expectation(features[positions[..., 0]], weights)
    torch.testing.assert_close(estimate, attention @ features, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["murthy", "systematic"])
def test_all_positions_have_the_exact_gradient_where_some_are_zero(name: str) -> None:
    attention = torch.tensor([[0.6, 0.0, 0.4, 0.0]], dtype=torch.float64, requires_grad=True)
    positions, weights = ats.sample(attention, 4, design=name)
    features = torch.tensor([2.0, 3.0, 5.0, 7.0], dtype=torch.float64)
    (weights * features[positions[..., 0]]).sum().backward()
    torch.testing.assert_close(attention.grad, features.unsqueeze(0), rtol=0, atol=1e-12)


@given(
    n_positions=st.integers(1, 40),
    share=st.floats(0, 1),
    spread=st.floats(0, 40),
    name=st.sampled_from(UNBIASED),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=150, deadline=None)
def test_weights_sum_to_one_and_positions_are_distinct(
    n_positions: int, share: float, spread: float, name: str, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    n_patches = 1 + int(share * (n_positions - 1))
    attention = (spread * torch.randn(3, n_positions, generator=generator)).double().softmax(1)
    positions, weights = ats.sample(attention, n_patches, design=name, generator=generator)
    assert positions.shape == (3, n_patches, 1)
    torch.testing.assert_close(weights.sum(1), torch.ones(3).double(), rtol=0, atol=1e-9)
    assert (weights >= 0).all()
    if name != "replacement":
        assert all(len(set(row)) == n_patches for row in positions[..., 0].tolist())


def extreme(kind: str, dtype: torch.dtype) -> Tensor:
    attention = torch.zeros(2, 13, dtype=dtype)
    if kind == "one-hot":
        attention[:, 4] = 1
    elif kind == "nearly one-hot":
        attention += 1e-6 / 12
        attention[:, 4] = 0.999999
    elif kind == "two":
        attention[:, 3:5] = 0.5
    else:
        attention = torch.full((2, 1), 1.0, dtype=dtype)
    return attention


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["one-hot", "nearly one-hot", "two", "single position"])
@pytest.mark.parametrize("name", [*UNBIASED, "published"])
def test_extreme_attention_is_finite(name: str, kind: str, dtype: torch.dtype) -> None:
    attention = extreme(kind, dtype).requires_grad_()
    for n_patches in {1, min(5, attention.shape[1]), attention.shape[1]}:
        positions, weights = ats.sample(attention, n_patches, design=name)
        features = torch.randn(*positions.shape[:2], 3, dtype=dtype)
        value = ats.expectation(features, weights).sum()
        (gradient,) = torch.autograd.grad(value, attention)
        assert torch.isfinite(value)
        # The published gradient divides by the attention, in the type of the attention.
        if name != "published" or kind != "one-hot":
            assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("kind", ["one-hot", "nearly one-hot", "two"])
@pytest.mark.parametrize("name", UNBIASED)
def test_gradients_through_a_softmax_stay_finite(name: str, kind: str) -> None:
    logits = (extreme(kind, torch.float64) + 1e-300).log().requires_grad_()
    _, weights = ats.sample(logits.softmax(1), 5, design=name)
    (gradient,) = torch.autograd.grad((weights * torch.arange(5)).sum(), logits)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", UNBIASED)
def test_ten_million_positions(name: str) -> None:
    attention = torch.full((1, 10_000_000), 1e-7).requires_grad_()
    positions, weights = ats.sample(attention, 10, design=name)
    (gradient,) = torch.autograd.grad(weights.sum(), attention)
    assert torch.isfinite(gradient).all()
    assert gradient.count_nonzero() == len(set(positions.flatten().tolist()))
    assert float(weights.detach().sum()) == pytest.approx(1, abs=1e-6)


def test_inclusion_probabilities_are_proportional_where_they_are_not_certain() -> None:
    attention = torch.tensor([[0.5, 0.2, 0.1, 0.1, 0.06, 0.04]], dtype=torch.float64)
    inclusion = inclusion_probabilities(attention, 3)[0]
    # 0.5 is certain: 3 * 0.5 >= 1; the other two are shared out over 0.5 in proportion: 4 a_i.
    wanted = torch.tensor([1, 0.8, 0.4, 0.4, 0.24, 0.16], dtype=torch.float64)
    torch.testing.assert_close(inclusion, wanted)


@given(spread=st.floats(0, 60), n_patches=st.integers(1, 29), seed=st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_inclusion_probabilities_sum_to_n(spread: float, n_patches: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    attention = (spread * torch.randn(5, 29, generator=generator)).double().softmax(1)
    inclusion = inclusion_probabilities(attention.clamp_min(1e-300), n_patches)
    assert (inclusion > 0).all()
    assert (inclusion <= 1).all()
    assert float((inclusion.sum(1) - n_patches).abs().max()) < 1e-9 * n_patches


@pytest.mark.parametrize(
    ("shape", "n_patches"), [((5,), 3), ((8,), 3), ((5, 7), 2), ((13,), 1), ((3, 2, 3), 4)]
)
@pytest.mark.parametrize("spread", [0.4, 3.0])
def test_every_mask_gives_exact_gradients(
    shape: tuple[int, ...], n_patches: int, spread: float
) -> None:
    logits, features, upstream = case(math.prod(shape), spread)
    exact = (logits.softmax(0) @ features) @ upstream
    wanted = torch.autograd.grad(exact, logits)[0]
    attention = logits.softmax(0).reshape(1, *shape)
    runs = Runs(attention, n_patches)
    inclusion = inclusion_probabilities(attention.detach().flatten(1), n_patches)[0]
    seen = set()
    for mask in range(mask_size(runs)):
        order = order_of(runs, mask)
        assert sorted(order) == list(range(math.prod(shape)))
        seen.add(tuple(order))
        starts, lengths = intervals(inclusion[order])
        every = Runs(attention.expand(len(starts), *shape), n_patches)
        masks = torch.full((len(starts), 1), mask)
        indices, ratio = walk(every, starts.unsqueeze(1), masks, n_patches)
        drawn = attention.flatten()[indices]
        weights = importance_weights(drawn, ratio)
        value = (lengths[:, None, None] * weights.unsqueeze(2) * features[indices]).sum((0, 1))
        got = torch.autograd.grad(value @ upstream, logits, retain_graph=True)[0]
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)
    assert len(seen) > math.prod(shape) // 2


def order_of(runs: Runs, mask: int) -> list[int]:
    """The positions as a walk meets them, written down from the definition."""
    curve = runs.along_curve().tolist()
    width = runs.map_shape[-1]
    found = []
    for number in range(mask_size(runs)):
        run, lane = divmod(number ^ mask, lane_count(runs))
        if run < len(curve) and lane < runs.length:
            line, place = divmod(curve[run], -(-width // runs.length))
            column = place * runs.length + lane
            found += [line * width + column] if column < width else []
    return found


def intervals(inclusion: Tensor) -> tuple[Tensor, Tensor]:
    """Starts between which nothing changes, one for each interval, and the intervals' lengths."""
    ends = torch.cat([torch.zeros(1), inclusion.cumsum(0).remainder(1), torch.ones(1)]).double()
    ends = ends.sort().values
    lengths = ends.diff()
    real = lengths > 1e-13
    return ((ends[:-1] + ends[1:]) / 2)[real], lengths[real]


@pytest.mark.parametrize("length", [1, 2, 8])
@pytest.mark.parametrize("shape", [(7,), (5, 11), (3, 4, 6), (40, 3)])
def test_curve_visits_every_run_once(shape: tuple[int, ...], length: int) -> None:
    order = curve_order(shape, length, torch.device("cpu"))
    assert sorted(order.tolist()) == list(range(math.prod(shape[:-1]) * -(-shape[-1] // length)))


def test_curve_keeps_boxes_together() -> None:
    order = curve_order((32, 48), 4, torch.device("cpu"))
    # The first 16 runs of 4 positions are the first box of 8 x 8.
    corner = torch.stack(torch.unravel_index(order[:16] * 4, (32, 48)), -1)
    assert int(corner.max()) < 8
    order = curve_order((4, 4, 4), 1, torch.device("cpu"))
    corner = torch.stack(torch.unravel_index(order[:8], (4, 4, 4)), -1)
    assert int(corner.max()) == 1


@given(
    shape=st.lists(st.integers(1, 11), min_size=1, max_size=3),
    n_patches=st.integers(1, 9),
    spread=st.floats(0, 60),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=100, deadline=None)
def test_runs_hold_all_of_the_attention(
    shape: list[int], n_patches: int, spread: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    n_positions = math.prod(shape)
    attention = (spread * torch.randn(3, n_positions, generator=generator)).double().softmax(1)
    runs = Runs(attention.reshape(3, *shape), n_patches)
    every = torch.arange(runs.n_runs).expand(3, -1)
    first, values = runs.look(every)
    torch.testing.assert_close(values.sum(2), runs.mass(), rtol=1e-12, atol=0)
    # Behind the end of a short run there is nothing.
    inside = values[0].flatten() > 0
    indices = (first[0, :, None] + torch.arange(runs.length)).flatten()
    assert indices[inside].tolist() == list(range(n_positions))
    torch.testing.assert_close(values.flatten(1)[:, inside], runs.probabilities(), rtol=0, atol=0)
    count = min(n_patches, n_positions)
    where, found = runs.largest(count)
    wanted = runs.probabilities().topk(count, dim=1).values
    assert torch.equal(found, wanted)
    assert torch.equal(runs.probabilities().gather(1, where), wanted)


def test_points_hit_intervals_of_positive_length() -> None:
    mass = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]], dtype=torch.float64)
    points = torch.tensor([[0.0, 0.2, 0.25, 0.7, 1.0]], dtype=torch.float64)
    found, share = hit(mass, points)
    assert found.tolist() == [[1, 1, 3, 3, 4]]
    wanted = torch.tensor([[0.0, 0.8, 0.0, 0.9, 1.0]]).double()
    torch.testing.assert_close(share, wanted, rtol=0, atol=1e-7)


@pytest.mark.parametrize("design", ["systematic", "deterministic"])
def test_flat_attention_is_covered_in_both_dimensions(design: str) -> None:
    # Row by row, K / N = 18 rows would put all positions of a draw into one column.
    attention = torch.full((50, 180, 180), 1 / 180**2)
    generator = torch.Generator().manual_seed(0)
    positions = ats.sample(attention, 10, design=design, generator=generator).positions
    for axis in range(2):
        columns = [len(set((draw[:, axis] // 45).tolist())) for draw in positions]
        assert min(columns) >= 3


def test_systematic_inclusion_frequencies() -> None:
    attention = torch.tensor([0.55, 0.02, 0.2, 0.03, 0.15, 0.05]).double()
    rows = 20_000
    generator = torch.Generator().manual_seed(3)
    positions, _ = ats.sample(
        attention.expand(rows, -1), 3, design="systematic", generator=generator
    )
    share = torch.bincount(positions.flatten(), minlength=6) / rows
    wanted = inclusion_probabilities(attention.unsqueeze(0), 3)[0]
    assert float((share - wanted).abs().max()) < 5 * math.sqrt(0.25 / rows)


@pytest.mark.parametrize("name", ["des-raj", "murthy"])
def test_later_rounds_keep_the_law_of_draws_one_by_one(name: str) -> None:
    # In most images neither the first nor the second round finds three positions.
    attention = torch.tensor([0.97, 0.015, 0.009, 0.004, 0.002], dtype=torch.float64)
    rows = 100_000
    generator = torch.Generator().manual_seed(0)
    drawn = ats.sample(attention.expand(rows, -1), 3, design=name, generator=generator).positions
    found = Counter(tuple(row) for row in drawn[..., 0].tolist())
    chi2, degrees, rest = 0.0, 0, 0.0
    for sample in itertools.permutations(range(5), 3):
        expected = rows * sample_probability(attention, sample, False)
        if expected < 5:
            rest += found[sample] - expected
            continue
        chi2 += (found[sample] - expected) ** 2 / expected
        degrees += 1
    # Five standard deviations of chi-squared; next to nothing is so rare that it is not in it.
    assert chi2 < degrees + 5 * math.sqrt(2 * degrees)
    assert degrees > 20
    assert abs(rest) < 30


def test_leave_one_out_ratio_with_many_patches() -> None:
    # Where all q are equal, P(S) = int_0^inf e^-t (1 - e^-qt)^N dt = B(1 + N, 1 / q) / q.
    for n_patches, n_positions in ((1, 7), (10, 400), (50, 1000), (200, 211)):
        drawn = torch.full((1, n_patches), 1 / n_positions, dtype=torch.float64)
        outside = torch.full((1, 1), 1 - n_patches / n_positions, dtype=torch.float64)
        got = leave_one_out_ratio(drawn, outside)
        # By symmetry every weight is 1 / N.
        torch.testing.assert_close(
            got * drawn, torch.full_like(got, 1 / n_patches), rtol=1e-12, atol=0
        )


def test_one_generator_for_each_image_makes_draws_independent_of_the_batch() -> None:
    # So concentrated that the successive designs need more rounds in some images than in others.
    generator = torch.Generator().manual_seed(0)
    logits = 6 * torch.randn(5, 600, generator=generator)
    attention = logits.softmax(1).reshape(5, 30, 20)
    for name in (*UNBIASED, "published"):

        def generators(rows: range) -> list[torch.Generator]:
            return [torch.Generator().manual_seed(row) for row in rows]

        whole = ats.sample(attention, 4, design=name, generator=generators(range(5)))
        part = ats.sample(attention[2:4], 4, design=name, generator=generators(range(2, 4)))
        assert torch.equal(whole.positions[2:4], part.positions)
        assert torch.equal(whole.weights[2:4], part.weights)
    with pytest.raises(ValueError, match="2 generators for a batch of 5"):
        ats.sample(attention, 4, generator=generators(range(2)))


def test_rounds_that_an_image_does_not_need_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(0)
    attention = (6 * torch.randn(50, 900, generator=generator)).softmax(1)

    def draw() -> Drawn:
        return draw_in_order(Runs(attention, 6), 6, torch.Generator().manual_seed(1))

    def every_row(indices: Tensor) -> Tensor:
        return torch.arange(len(indices))

    alone = draw()
    # None: as where the host does not wait to hear which images are done.
    for unfinished in (lambda _: None, every_row):
        monkeypatch.setattr(successive, "unfinished", unfinished)
        for found, wanted in zip(draw(), alone, strict=True):
            assert torch.equal(found, wanted)


def test_deterministic_designs_repeat() -> None:
    attention = torch.rand(3, 13).softmax(1)
    for name in ("deterministic", "top"):
        first, second = (ats.sample(attention, 4, design=name) for _ in range(2))
        assert torch.equal(first.positions, second.positions)
    top = ats.sample(attention, 4, design=Top())
    assert torch.equal(top.positions[..., 0], attention.topk(4).indices)
    torch.testing.assert_close(top.weights.sum(1), torch.ones(3))


def maps_of_fractions() -> Iterator[tuple[Tensor, int]]:
    """Maps (B, K) of few different values, and N, whose sums are fractions of small numbers."""
    yield torch.eye(101), 11
    halves = torch.zeros(1, 40)
    halves[0, 0] = halves[0, -1] = 0.5
    yield halves, 1
    generator = torch.Generator().manual_seed(0)
    for n_patches in (1, 2, 5, 8):
        counts = torch.randint(5, (200, 10), generator=generator)
        counts[:, 0] += 1
        yield counts / counts.sum(1, keepdim=True), n_patches


def test_deterministic_positions_are_never_missed_nor_taken_twice_at_ties() -> None:
    for attention, n_patches in maps_of_fractions():
        positions, weights = ats.sample(attention, n_patches, design="deterministic")
        torch.testing.assert_close(weights.sum(1), torch.ones(len(attention)))
        for row in positions[..., 0].tolist():
            assert len(set(row)) == n_patches
        certain = inclusion_probabilities(attention.double().clamp_min(TINY), n_patches) == 1
        taken = torch.zeros_like(certain).scatter(1, positions[..., 0], True)
        assert bool(taken[certain].all())


@pytest.mark.parametrize("design", ["deterministic", "top", Systematic(start=0.5)], ids=str)
@pytest.mark.parametrize(("n_patches", "n_positions"), [(9, 18), (13, 52), (21, 42), (35, 210)])
def test_an_image_s_answer_does_not_depend_on_its_batch(
    design: DesignLike, n_patches: int, n_positions: int
) -> None:
    # Of a flat map every other boundary is a tie with 1/2, where the last bit of a sum counts.
    attention = torch.full((32, n_positions), 1 / n_positions, dtype=torch.float64)
    alone = ats.sample(attention[:1], n_patches, design=design)
    for rows in (2, 32):
        batch = ats.sample(attention[:rows], n_patches, design=design)
        assert torch.equal(batch.positions, alone.positions.expand(rows, -1, -1))
        assert torch.equal(batch.weights, alone.weights.expand(rows, -1))


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 5), (3, 1, 2, 2)])
def test_positions_are_coordinates(shape: tuple[int, ...]) -> None:
    attention = torch.arange(1, math.prod(shape) + 1).double().softmax(0).reshape(1, *shape)
    positions = ats.sample(attention, math.prod(shape), design="top").positions[0]
    # The largest is the last one.
    wanted = list(itertools.product(*map(range, shape)))[::-1]
    assert [tuple(position) for position in positions.tolist()] == wanted


def test_average_of_draws() -> None:
    attention = torch.rand(3, 13).double().softmax(1)
    positions, weights = ats.sample(attention, 4, design=Average(Murthy(), 5))
    assert positions.shape == (3, 20, 1)
    torch.testing.assert_close(weights.sum(1), torch.ones(3).double())
    # Of a design of one's own, which does not say whether it repeats positions.
    own = Average(first, 2)
    assert not own.distinct
    twice = ats.sample(attention, 4, design=own).positions
    assert torch.equal(twice[:, :4], twice[:, 4:])
    with pytest.raises(ValueError, match="draws=0"):
        Average(DesRaj(), 0)


def first(attention: Tensor, n_patches: int, generator: object) -> tuple[Tensor, Tensor]:
    """A design of one's own."""
    indices = torch.arange(n_patches).expand(attention.shape[0], -1)
    drawn = attention.flatten(1).gather(1, indices)
    return indices, importance_weights(drawn, torch.ones(indices.shape))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda indices, weights: (indices / 2, weights), "indices of torch.float32 and weights"),
        (lambda indices, weights: (indices + 2, weights), "from 2 to 4; keep them from 0 to 3"),
        (lambda indices, weights: (indices - 1, weights), "from -1 to 1; keep them from 0 to 3"),
        (lambda indices, weights: (indices[:, :2], weights), r"\(2, 2\) and weights of shape"),
        (lambda indices, weights: (indices[0], weights[0]), r"make both \(images, patches\)"),
        (lambda indices, weights: (indices[:1], weights[:1]), r"\(1, 3\) for 2 images"),
        (lambda indices, weights: (indices[:, :0], weights[:, :0]), r"\(2, 0\) for 2 images"),
        (lambda indices, weights: (indices, weights > 0), "weights of torch.bool; make them"),
    ],
)
def test_what_a_user_s_design_draws_is_checked(spoil: Any, message: str) -> None:
    def spoilt(attention: Tensor, n_patches: int, generator: object) -> tuple[Tensor, Tensor]:
        return spoil(*first(attention, n_patches, generator))

    with pytest.raises(ValueError, match=message):
        ats.sample(torch.full((2, 4), 0.25), 3, design=spoilt)


@pytest.mark.parametrize("design", [None, 3, Systematic])
def test_what_is_no_design(design: Any) -> None:
    with pytest.raises(ValueError, match="is no design; take a name, or an instance"):
        ats.sample(torch.full((2, 4), 0.25), 3, design=design)


@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 0, 4)])
def test_no_attention_at_all(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="is empty; skip such a batch"):
        ats.sample(torch.zeros(shape), 3)


def test_a_user_can_supply_a_design() -> None:
    attention = torch.rand(2, 3, 5).double()
    attention /= attention.sum((1, 2), keepdim=True)
    positions, weights = ats.sample(attention, 6, design=first)
    assert positions[0, 5].tolist() == [1, 0]
    torch.testing.assert_close(weights, attention.flatten(1)[:, :6])


def test_half_precision_attention_gives_float32_weights() -> None:
    attention = torch.full((2, 16), 1 / 16, dtype=torch.bfloat16).requires_grad_()
    _, weights = ats.sample(attention, 3)
    assert weights.dtype == torch.float32
    weights[:, 0].sum().backward()
    assert attention.grad is not None
    assert attention.grad.dtype == torch.bfloat16


ATTENTION = torch.full((2, 3, 3), 1 / 9)


@pytest.mark.parametrize(
    ("attention", "n_patches", "design", "message"),
    [
        (ATTENTION, 12, "systematic", r"n_patches=12 exceeds the 9 positions of a \(3, 3\)"),
        (ATTENTION, 12, "published", "lower it, or sample with replacement"),
        (ATTENTION, 0, "replacement", "n_patches=0 must be a whole number of at least 1"),
        (ATTENTION, 2.0, "systematic", "n_patches=2.0 must be a whole number"),
        (ATTENTION.numpy(), 2, "systematic", "must be a torch.Tensor, got <class 'numpy.ndarray'>"),
        (ATTENTION, 3, "sistematic", "design='sistematic' is unknown; take one of replacement"),
        (ATTENTION * 2, 3, "systematic", "attention must sum to 1 in each image, got 2"),
        (ATTENTION * torch.nan, 3, "systematic", "attention contains NaN"),
        (ATTENTION - 0.2 * torch.eye(3), 3, "systematic", "negative values"),
        (torch.ones(2, 3, 3).long(), 3, "systematic", "must be floating point"),
        (torch.ones(2), 1, "systematic", "at least one map dimension"),
        (ATTENTION, 1, Systematic(centred=True), "leaves no gradient"),
    ],
)
def test_errors_name_the_argument_and_the_remedy(
    attention: Tensor, n_patches: int, design: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ats.sample(attention, n_patches, design=design)  # type: ignore[arg-type]


@pytest.mark.parametrize("design", [*UNBIASED, "published"])
def test_a_seed_is_no_generator(design: str) -> None:
    with pytest.raises(ValueError, match=r"generator=0 must be .* of a seed make torch.Generator"):
        ats.sample(ATTENTION, 2, design=design, generator=0)  # type: ignore[arg-type]


def test_a_whole_number_of_another_kind() -> None:
    assert ats.sample(ATTENTION, np.int64(2)).positions.shape == (2, 2, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("design", [*DESIGNS, first, Average(first, 2)])
def test_every_design_refuses_what_is_no_attention(design: DesignLike) -> None:
    with pytest.raises(ValueError, match="negative values"):
        ats.sample(torch.tensor([[1.5, -0.5]]), 1, design=design)
    with pytest.raises(ValueError, match="attention must sum to 1 in each image, got 2"):
        ats.sample(2 * ATTENTION, 2, design=design)


def test_zeros_are_equally_likely_however_the_map_is_cut() -> None:
    # Runs of two positions and of one.
    attention = torch.tensor([1.0, 0, 0, 0, 0, 0]).reshape(1, 2, 3).expand(20_000, 2, 3)
    assert Runs(attention, 4).length == 2
    generator = torch.Generator().manual_seed(0)
    positions, _ = ats.sample(attention, 4, design="des-raj", generator=generator)
    second = positions[:, 1, 0] * 3 + positions[:, 1, 1]
    counts = torch.bincount(second, minlength=6)[1:] / len(second)
    torch.testing.assert_close(counts, torch.full((5,), 0.2), rtol=0, atol=0.015)


def test_more_patches_than_positions_with_replacement() -> None:
    assert ats.sample(ATTENTION, 12, design="replacement").positions.shape == (2, 12, 2)


def test_expectation_checks_its_shapes() -> None:
    with pytest.raises(ValueError, match="one weight for each patch"):
        ats.expectation(torch.rand(2, 3, 4), torch.rand(2, 4))
