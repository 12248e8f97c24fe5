"""Batches of images of different sizes: padded small views, of which only the image counts."""

import pytest
import torch
from torch import nn

import ats
from ats.geometry import content_positions
from ats.images import FileImages, TensorImages
from ats.images.joined import JoinedImages
from ats.nn import AttentionSampling, SampleSoftmax

PATCH = (5, 7)


def make(**options: object) -> AttentionSampling:
    torch.manual_seed(0)
    attention = nn.Sequential(nn.Conv2d(2, 1, 3, padding=1), nn.AvgPool2d(2))
    feature = nn.Sequential(nn.Conv2d(2, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    given: dict[str, object] = {"n_patches": 3, "patch_size": PATCH, **options}
    return AttentionSampling(attention, feature, **given)  # type: ignore[arg-type]


def batch() -> tuple[torch.Tensor, JoinedImages, torch.Tensor]:
    """Two images of different sizes: one fills its small view, one does not."""
    torch.manual_seed(1)
    content = torch.tensor([[14, 18], [8, 10]])
    x_low = torch.rand(2, 2, 14, 18)
    high = JoinedImages(
        [TensorImages(torch.rand(1, 2, 140, 180)), TensorImages(torch.rand(1, 2, 40, 50))]
    )
    return x_low, high, content


@pytest.mark.parametrize("design", ["replacement", "des-raj", "murthy", "systematic"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_padding_is_never_drawn(design: str, smoothing: float) -> None:
    model = make(design=design, smoothing=smoothing, prior=ats.local_contrast)
    x_low, high, content = batch()
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        seen = model(x_low, high, content_shape=content, generator=generator)
        assert torch.allclose(seen.attention.flatten(1).sum(1), torch.ones(2))
        assert (seen.attention[1, 4:] == 0).all()
        assert (seen.attention[1, :, 5:] == 0).all()
        assert (seen.positions[1] < torch.tensor([4, 5])).all()
        centres = seen.offsets[1] + torch.tensor(PATCH) / 2
        assert ((centres >= 0) & (centres <= torch.tensor([40, 50]))).all()
        seen.features.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_offsets_of_a_padded_image_are_those_of_the_image_alone() -> None:
    """With nothing between the pixels of the network, padding changes nothing."""
    positions = torch.cartesian_prod(torch.arange(4), torch.arange(5))[None]
    alone = ats.patch_offsets(
        positions, map_shape=(4, 5), low_shape=(8, 10), high_shape=(40, 50), patch_size=PATCH
    )
    padded = ats.patch_offsets(
        positions,
        map_shape=(7, 9),
        low_shape=(14, 18),
        high_shape=torch.tensor([[40, 50]]),
        patch_size=PATCH,
        content_shape=torch.tensor([[8, 10]]),
    )
    assert torch.equal(alone, padded)


def test_an_image_smaller_than_its_patches_is_seen_whole() -> None:
    """Fewer positions than patches: all of them, and fillers that weigh nothing."""
    model = make(n_patches=4).eval()
    x_low, _, _ = batch()
    high = JoinedImages(
        [TensorImages(torch.rand(1, 2, 140, 180)), TensorImages(torch.rand(1, 2, 1, 1))]
    )
    seen = model(x_low, high, content_shape=torch.tensor([[14, 18], [1, 1]]))
    assert seen.attention[1, 0, 0] == 1
    first = (seen.positions[1] == 0).all(1)
    assert torch.allclose(seen.weights[1], first.float())
    seen.features.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_content_covers_what_its_centres_lie_on() -> None:
    inside = content_positions([4, 3], [12, 9], torch.tensor([[12, 9], [5, 4], [1, 1]]), 0)
    assert inside[0].all()
    assert inside[1].tolist() == [[True, False, False]] * 2 + [[False] * 3] * 2
    assert inside[2].sum() == 1
    # A receptive field moves the centres by its half.
    assert content_positions([2], [12], torch.tensor([[7]]), 4).tolist() == [[True, False]]
    assert content_positions([2], [12], torch.tensor([[9]]), 4).tolist() == [[True, True]]


def test_uniform_share_is_spread_over_what_is_allowed() -> None:
    allowed = torch.tensor([[True, False, True, True]])
    attention = SampleSoftmax(1.0)(torch.zeros(1, 4, dtype=torch.float64), allowed)
    wanted = torch.tensor([[1 / 3, 0, 1 / 3, 1 / 3]], dtype=torch.float64)
    torch.testing.assert_close(attention, wanted, rtol=1e-15, atol=0)


def test_files_of_different_sizes(tmp_path: object) -> None:
    import numpy as np

    folder = tmp_path
    readers = []
    for number, shape in enumerate([(140, 180), (40, 50)]):
        path = folder / f"{number}.npy"  # type: ignore[operator]
        np.save(path, np.random.default_rng(number).random((2, *shape), dtype=np.float32))
        readers.append(ats.open_image(path))
    x_low, _, content = batch()
    seen = make()(x_low, FileImages(readers), content_shape=content)
    for reader, corners, patches in zip(readers, seen.offsets, seen.patches, strict=True):
        for corner, patch in zip(corners.tolist(), patches, strict=True):
            assert np.array_equal(reader.read(corner, PATCH), patch.numpy())
