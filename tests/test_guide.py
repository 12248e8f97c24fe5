"""Attention pulled to objects of known places: beside loops, and through an augmented batch."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_scenes import make_composites, scenes  # noqa: F401  # a fixture

from ats import AttentionSampling, Classifier
from ats.datasets.joined import Joined
from ats.datasets.scenes import EMPTY, Scenes
from ats.training.guide import guide_loss
from ats.training.module import TrainingModule
from ats.transforms import RandomChange

SIZE = (40, 24)


def looks(offset: list[int], place: list[float]) -> bool:
    """Whether a place lies in the middle half of a patch, written down from the definition."""
    return all(
        start + extent / 4 <= centre < start + 3 * extent / 4
        for start, extent, centre in zip(offset, SIZE, place, strict=True)
    )


def test_the_loss_is_that_of_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    attention = torch.rand(5, 7, 3, generator=generator, dtype=torch.float64).flatten(1).softmax(1)
    offsets = torch.randint(-20, 60, (5, 21, 2), generator=generator)
    places = offsets[:, 4] + torch.tensor([13, 10], dtype=torch.float64)
    places[3] = torch.nan
    places[4] = 1000.0
    attention.requires_grad_()
    got = guide_loss(attention.reshape(5, 7, 3), offsets, SIZE, places)
    (gradient,) = torch.autograd.grad(got.sum(), attention)
    got = got.detach()
    for image in range(5):
        seen = [looks(offset, places[image].tolist()) for offset in offsets[image].tolist()]
        assert any(seen) == (image < 3)
        mass = float(attention[image].detach()[torch.tensor(seen)].sum())
        wanted = -math.log(mass + 1e-12) if any(seen) else 0.0
        assert float(got[image]) == pytest.approx(wanted, abs=1e-12)
        slope = -torch.tensor(seen).double() / (mass or 1.0)
        torch.testing.assert_close(gradient[image], slope)


def test_there_is_a_pull_where_there_is_no_attention() -> None:
    attention = torch.tensor([[1.0, 0.0]], requires_grad=True)
    offsets = torch.tensor([[[0, 0], [100, 100]]])
    loss = guide_loss(attention, offsets, SIZE, torch.tensor([[120.0, 112.0]]))
    (gradient,) = torch.autograd.grad(loss.sum(), attention)
    assert float(gradient[0, 1]) < -1e6


def test_composites_know_where_their_object_is(scenes: Scenes) -> None:  # noqa: F811
    composites = make_composites(scenes, size=(100, 90))
    places = composites.__getitems__(list(range(30))).places
    assert places is not None
    for index in range(30):
        boxes = composites.boxes(index)
        if composites.classes[index % 3] == EMPTY:
            assert not boxes
            assert torch.isnan(places[index]).all()
        else:
            top, left, bottom, right = boxes[0]
            assert places[index].tolist() == [(top + bottom) / 2, (left + right) / 2]


def test_joined_sets_know_what_their_parts_know(scenes: Scenes) -> None:  # noqa: F811
    composites = make_composites(scenes)
    joined = Joined([scenes, composites])
    assert Joined([scenes]).__getitems__([0, 1]).places is None
    places = joined.__getitems__([1, len(scenes) + 1]).places
    assert places is not None
    assert torch.isnan(places[0]).all()
    torch.testing.assert_close(places[1:], composites[1].places)


def module(scenes: Scenes, guide: float, augment: Any) -> TrainingModule:  # noqa: F811
    torch.manual_seed(0)
    attention = torch.nn.Sequential(torch.nn.Conv2d(3, 1, 3, padding=1), torch.nn.AvgPool2d(4))
    feature = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5), torch.nn.AdaptiveAvgPool2d(1))
    features = torch.nn.Sequential(feature, torch.nn.Flatten())
    sampling = AttentionSampling(attention, features, n_patches=3, patch_size=SIZE)
    return TrainingModule(
        Classifier(sampling, 4, 3),
        optimizer=torch.optim.Adam,
        regularizer_strength=0.0,
        seed=0,
        augment=augment,
        guide=guide,
    )


def test_the_place_moves_with_the_image(scenes: Scenes) -> None:  # noqa: F811
    composites = make_composites(scenes, heights=(20, 21))
    batch = composites.__getitems__([1, 2, 4, 5, 7, 8])
    training = module(
        scenes, 1.0, RandomChange(pan=60, probability=1.0, gain=(1.0, 1.0), bias=(0.0, 0.0))
    )
    changed, _ = training._inputs(batch)
    assert batch.places is not None
    assert changed.places is not None
    assert (changed.places != batch.places).any(1).sum() >= 4
    before = (batch.places - 12).round().long().unsqueeze(1)
    after = (changed.places - 12).round().long().unsqueeze(1)
    old, new = batch.x_high.patches(before, (24, 24)) / 255, changed.x_high.patches(after, (24, 24))
    compared = 0
    for one, other, offset, extents in zip(old, new, after[:, 0], batch.x_high.shapes, strict=True):
        if (offset >= 0).all() and (offset + 24 <= extents).all():
            torch.testing.assert_close(one, other)
            compared += 1
    assert compared >= 2


def test_the_guide_turns_the_attention(scenes: Scenes, tmp_path: Path) -> None:  # noqa: F811
    composites = make_composites(scenes, heights=(20, 21))
    batch = composites.__getitems__([1, 2, 4, 5, 7, 8])
    masses = {}
    for guide in (0.0, 1.0):
        training = module(scenes, guide, None)
        training.log = lambda *_, **__: None  # type: ignore[method-assign]
        optimizer = torch.optim.Adam(training.parameters(), lr=0.05)
        for _ in range(40):
            optimizer.zero_grad()
            loss = training.training_step(batch, 0)["loss"]
            loss.backward()
            optimizer.step()
        attention = training.model.sampling.attend(batch.x_low / 255)
        pull = module(scenes, 1.0, None)._pull(batch, attention)
        masses[guide] = float(torch.exp(-torch.as_tensor(pull)).detach())
    assert masses[1.0] > 1.5 * masses[0.0]
    assert module(scenes, 0.0, None)._pull(batch, attention) == 0.0
    assert module(scenes, 1.0, None)._pull(batch._replace(places=None), attention) == 0.0
