"""Positions drawn ahead from a stale attention: unbiased for the present one."""

import threading
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn

import ats
from ats.images import TensorImages
from ats.nn import AttentionSampling

DESIGNS = ["replacement", "des-raj", "murthy", "systematic"]


class Slow(TensorImages):
    """Images whose reading waits until it is let go."""

    def __init__(self, pixels: Tensor) -> None:
        super().__init__(pixels)
        self.started = threading.Event()
        self.released = threading.Event()

    def patches(self, offsets: Tensor, size: Sequence[int]) -> Tensor:
        self.started.set()
        assert self.released.wait(10)
        return super().patches(offsets, size)


def make(design: object = "systematic") -> AttentionSampling:
    torch.manual_seed(0)
    attention = nn.Sequential(nn.Conv1d(1, 3, 3, padding=1), nn.Tanh(), nn.Conv1d(3, 1, 1))
    feature = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.Tanh())
    model = AttentionSampling(attention, feature, n_patches=3, patch_size=(4,), design=design)  # type: ignore[arg-type]
    for parameter in model.attention.parameters():
        parameter.data *= 3
    return model.double()


def pixels() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    high = torch.rand(1, 1, 32, dtype=torch.float64)
    return high.reshape(1, 1, 8, 4).mean(3), high


def exact(model: AttentionSampling, low: Tensor, high: Tensor) -> Tensor:
    attention = model.attend(low)[0]
    return (attention[:, None] * model.feature(high.reshape(8, 1, 4))).sum(0)


@pytest.mark.parametrize("design", DESIGNS)
def test_estimates_and_gradients_stay_unbiased(design: str) -> None:
    """Drawn with old weights, weighed with new ones: five standard errors of the exact values."""
    model = make(design)
    low, high = pixels()
    draws = 4000
    many_low, many_high = low.expand(draws, -1, -1), high.expand(draws, -1, -1)
    drawn = model.draw(many_low, many_high, generator=torch.Generator().manual_seed(2))
    stale = model.attend(low).detach()
    with torch.no_grad():
        for parameter in model.attention.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    assert (model.attend(low) - stale).abs().max() > 0.05
    direction = torch.tensor([1.0, -2.0], dtype=torch.float64)
    wanted = exact(model, low, high)
    attention = model.attend(low)
    features = model.feature(high.reshape(8, 1, 4)).detach()
    # Gradient to each position's attention: f_i . g.
    expected = features @ direction
    fixed = attention.expand(draws, -1).detach().requires_grad_()
    model.attend = lambda x_low, content_shape=None: fixed  # type: ignore[method-assign]
    seen = model(many_low, many_high, drawn=drawn)
    estimates = seen.features
    error = estimates.std(0) / draws**0.5
    assert ((estimates.mean(0) - wanted).abs() <= 5 * error + 1e-12).all()
    (per_draw,) = torch.autograd.grad((estimates @ direction).sum(), fixed)
    error = per_draw.std(0) / draws**0.5
    assert ((per_draw.mean(0) - expected).abs() <= 5 * error + 1e-12).all()


@pytest.mark.parametrize("design", [*DESIGNS, ats.sampling.DEFAULT_DESIGN])
def test_unchanged_attention_gives_what_drawing_at_once_gives(design: object) -> None:
    model = make(design)
    low, high = pixels()
    at_once = model(low, high, generator=torch.Generator().manual_seed(4))
    drawn = model.draw(low, high, generator=torch.Generator().manual_seed(4))
    later = model(low, high, drawn=drawn)
    assert torch.equal(later.offsets, at_once.offsets)
    assert torch.equal(later.patches, at_once.patches)
    assert torch.allclose(later.weights, at_once.weights)
    first, second = (
        torch.autograd.grad(seen.features.square().sum(), list(model.parameters()))
        for seen in (at_once, later)
    )
    for one, other in zip(first, second, strict=True):
        assert torch.allclose(one, other)


def test_reading_goes_on_in_the_background() -> None:
    model = make()
    low, high = pixels()
    images = Slow(high)
    drawn = model.draw(low, images)
    assert images.started.wait(10)
    assert not drawn.patches.done()
    images.released.set()
    assert model(low, images, drawn=drawn).features.shape == (1, 2)


def test_an_error_while_reading_comes_where_the_patches_are_needed() -> None:
    class Broken(TensorImages):
        def patches(self, offsets: Tensor, size: Sequence[int]) -> Tensor:
            raise OSError("disk on fire")

    model = make()
    low, high = pixels()
    drawn = model.draw(low, Broken(high))
    with pytest.raises(OSError, match="disk on fire"):
        model(low, Broken(high), drawn=drawn)


def test_each_batch_is_drawn_for_before_the_one_before_it_is_used() -> None:
    events: list[str] = []

    def batches() -> Iterator[int]:
        yield from range(3)

    def draw(batch: int) -> ats.Drawn:
        events.append(f"draw {batch}")
        return batch  # type: ignore[return-value]

    for batch, drawn in ats.read_ahead(batches(), draw):
        assert drawn == batch
        events.append(f"use {batch}")
    assert events == ["draw 0", "draw 1", "use 0", "draw 2", "use 1", "use 2"]
    assert list(ats.read_ahead([], draw)) == []


def test_published_cannot_be_drawn_ahead() -> None:
    model = make("published")
    low, high = pixels()
    with pytest.raises(ValueError, match="cannot draw ahead"):
        model.draw(low, high)
