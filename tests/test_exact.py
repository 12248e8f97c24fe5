"""The expectation over all positions, against a sum over each of them."""

import pytest
import torch
from torch import Tensor, nn

import ats
from ats.exact import exact_expectation, largest_attention, weighted_features
from ats.images import TensorImages
from ats.images.joined import JoinedImages
from ats.nn import AttentionSampling
from ats.sampling import Systematic

LOW, HIGH, PATCH = (7, 5, 3), (71, 53, 31), (11, 7, 5)
CONTENT = (4, 3, 2)


class Bend(nn.Module):
    """Features that are no linear function of the patch, so that averages of pixels would show."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 5)
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return self.linear(x.flatten(2).square().mean(2)).tanh()


class Counted:
    """Images that count what is read of them: pixels of patches that touch the image."""

    def __init__(self, pixels: Tensor) -> None:
        self.images = TensorImages(pixels)
        self.shapes, self.channels = self.images.shapes, self.images.channels
        self.touched = torch.zeros(len(pixels), dtype=torch.int64)

    def patches(self, offsets: Tensor, size: tuple[int, ...]) -> Tensor:
        extents = torch.tensor(size)
        touches = ((offsets > -extents) & (offsets < self.shapes.unsqueeze(1))).all(2)
        self.touched += touches.sum(1)
        return self.images.patches(offsets, size)


def make(dim: int, **options: object) -> tuple[AttentionSampling, Tensor, Tensor]:
    """A model with peaked attention, and two images, in float64."""
    torch.manual_seed(dim)
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dim - 1]
    attention = convolution(2, 1, 3, padding=1)
    nn.init.normal_(attention.weight, std=2.0)
    given: dict[str, object] = {"n_patches": 3, "patch_size": PATCH[:dim], **options}
    model = AttentionSampling(attention, Bend(2), **given).double().eval()  # type: ignore[arg-type]
    low = torch.rand(2, 2, *LOW[:dim], dtype=torch.float64)
    return model, low, torch.rand(2, 2, *HIGH[:dim], dtype=torch.float64)


def by_hand(
    model: AttentionSampling,
    low: Tensor,
    high: Tensor,
    weights: Tensor,
    content: Tensor | None = None,
) -> Tensor:
    """Sum over every position of one image at a time, one after another."""
    total = torch.zeros(len(low), 5, dtype=torch.float64)
    for image in range(len(low)):
        for position in torch.cartesian_prod(*map(torch.arange, low.shape[2:])).reshape(
            -1, low.dim() - 2
        ):
            offsets = ats.patch_offsets(
                position[None, None],
                map_shape=low.shape[2:],
                low_shape=low.shape[2:],
                high_shape=high.shape[2:],
                patch_size=model.sample.patch_size,
                content_shape=None if content is None else content[image : image + 1],
            )
            patch = ats.extract_patches(high[image : image + 1], offsets, model.sample.patch_size)
            with torch.no_grad():
                total[image] += weights[(image, *position)] * model.feature(patch[0])[0]
    return total


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("prior", [None, ats.local_contrast])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_every_position_counts(dim: int, prior: object, padded: bool, chunk: int) -> None:
    model, low, high = make(dim, prior=prior, smoothing=1e-3)
    content = torch.tensor([LOW[:dim], CONTENT[:dim]]) if padded else None
    found = exact_expectation(model, low, high, tolerance=0, chunk=chunk, content_shape=content)
    with torch.no_grad():
        attention = model.attend(low, content)
    assert torch.equal(found.attention, attention)
    # With padding the share of smoothing is float32, and attention sums to 1 up to that.
    weights = attention / attention.flatten(1).sum(1).reshape(-1, *[1] * dim)
    wanted = by_hand(model, low, high, weights, content)
    torch.testing.assert_close(found.features, wanted, rtol=1e-12, atol=1e-14)
    counts = [
        torch.tensor(LOW[:dim]).prod(),
        torch.tensor((CONTENT if padded else LOW)[:dim]).prod(),
    ]
    assert torch.equal(found.n_positions, torch.stack(counts))
    assert torch.equal(found.left_out, torch.zeros(2, dtype=torch.float64))
    assert not found.features.requires_grad


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_the_rest_is_left_out(dim: int) -> None:
    """Of each image as little as may be, and the error is within its bound."""
    model, low, high = make(dim)
    whole = exact_expectation(model, low, high, tolerance=0)
    for tolerance in (1e-4, 0.01, 0.2, 0.9):
        found = exact_expectation(model, low, high, tolerance=tolerance)
        for image, attention in enumerate(found.attention.flatten(1)):
            rest = attention.sort().values.cumsum(0)
            n_left_out = int((rest <= tolerance).sum())
            assert found.n_positions[image] == len(attention) - n_left_out
            expected = rest[n_left_out - 1] if n_left_out else rest.new_zeros(())
            torch.testing.assert_close(found.left_out[image], expected)
        # Features lie between -1 and 1, so that two means of them differ by 2 at most.
        error = (found.features - whole.features).abs().amax(1)
        assert (error <= 2 * found.left_out + 1e-12).all()
    assert found.n_positions.tolist() != [low[0, 0].numel()] * 2


def test_what_features_share_is_exact() -> None:
    model, low, high = make(2)
    nn.init.zeros_(model.feature.linear.weight)  # type: ignore[union-attr]
    found = exact_expectation(model, low, high, tolerance=0.3)
    assert (found.left_out > 0.01).any()
    shared = model.feature.linear.bias.tanh().expand(2, -1)  # type: ignore[union-attr]
    torch.testing.assert_close(found.features, shared.detach(), rtol=1e-12, atol=1e-14)


def test_it_is_the_sample_of_all_positions() -> None:
    model, low, high = make(2)
    for inference in ("deterministic", "top", "murthy"):
        model.sample.inference = ats.sampling.resolve_design(inference)
        with torch.no_grad():
            sampled = model(low, high, n_patches=35).features
        found = exact_expectation(model, low, high, tolerance=0).features
        torch.testing.assert_close(found, sampled, rtol=1e-6, atol=1e-7)


def test_nothing_is_read_or_encoded_in_vain() -> None:
    model, low, high = make(2)
    low[1] *= 0.01
    images, feature = Counted(high), model.feature
    found = exact_expectation(model, low, images, tolerance=0.05, chunk=8)
    assert len(set(found.n_positions.tolist())) == 2
    assert torch.equal(images.touched, found.n_positions)
    assert sum(feature.seen) == int(found.n_positions.sum())  # type: ignore[operator,arg-type]
    assert max(feature.seen) <= 8  # type: ignore[type-var,arg-type]


def test_attention_that_is_nearly_one_hot() -> None:
    attention = torch.full((1, 10007), 1e-9, dtype=torch.float64)
    attention[0, 17] = 1 - 1e-9 * 10006
    kept, left_out = largest_attention(attention, 1e-4)
    assert kept.nonzero().tolist() == [[0, 17]]
    torch.testing.assert_close(left_out, torch.tensor([1.0006e-5]).double())
    # What is small is summed by itself, beside a 1 in which it would vanish.
    small = torch.tensor([[1.0, *[1e-17] * 10]], dtype=torch.float64)
    kept, left_out = largest_attention(small, 5.5e-17)
    assert (kept > 0).sum() == 6
    torch.testing.assert_close(left_out, small.new_tensor([5e-17]), rtol=1e-12, atol=0)
    # Float32 sums to a little less than 1: the largest stays all the same.
    kept, _ = largest_attention(torch.full((1, 3), 0.333), 0.9995)
    assert (kept > 0).sum() == 1


def test_several_samples_at_once() -> None:
    """Maps of the weights of samples give what their samples give, and share their patches."""
    model, low, high = make(2)
    maps, wanted = [], []
    for start in (0.1, 0.6):
        model.sample.inference = Systematic(start=start)
        with torch.no_grad():
            seen = model(low, high)
        rows = torch.arange(2).unsqueeze(1)
        weights = torch.zeros(2, 7, 5, dtype=torch.float64)
        maps.append(weights.index_put((rows, *seen.positions.unbind(-1)), seen.weights))
        wanted.append(seen.features)
    model.feature.seen.clear()  # type: ignore[union-attr,operator]
    both = torch.stack(maps, 1)
    found = weighted_features(model, both, low, high, chunk=4)
    torch.testing.assert_close(found, torch.stack(wanted, 1), rtol=1e-12, atol=1e-14)
    assert sum(model.feature.seen) == (both != 0).any(1).sum()  # type: ignore[arg-type]


def test_images_of_different_sizes_and_types() -> None:
    model, low, _ = make(2)
    torch.manual_seed(5)
    high = [
        torch.randint(0, 256, (1, 2, *shape), dtype=torch.uint8) for shape in ((71, 53), (9, 5))
    ]
    found = exact_expectation(
        model, low, JoinedImages([TensorImages(x) for x in high]), tolerance=0
    )
    for image, pixels in enumerate(high):
        part = low[image : image + 1]
        wanted = by_hand(model, part, pixels.double() / 255, found.attention[image : image + 1])
        torch.testing.assert_close(found.features[image : image + 1], wanted)


def test_features_of_any_shape_and_type() -> None:
    model, low, high = make(2)
    model.feature = nn.Sequential(nn.Conv2d(2, 3, 3), nn.AdaptiveAvgPool2d((2, 4))).double()
    model.eval()
    found = exact_expectation(model, low, high, tolerance=0)
    assert found.features.shape == (2, 3, 2, 4)
    half = exact_expectation(model.bfloat16(), low.bfloat16(), high.bfloat16(), tolerance=0)
    assert half.features.dtype == torch.float32
    torch.testing.assert_close(half.features.double(), found.features, rtol=0.1, atol=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 1.0}, "tolerance=1.0 must be at least 0 and below 1"),
        ({"tolerance": -0.1}, "tolerance=-0.1 must be at least 0 and below 1"),
        ({"tolerance": float("nan")}, "tolerance=nan must be at least 0 and below 1"),
        ({"chunk": 0}, "chunk=0 must be at least 1"),
    ],
)
def test_arguments_out_of_range(options: dict[str, float], message: str) -> None:
    model, low, high = make(1)
    with pytest.raises(ValueError, match=message):
        exact_expectation(model, low, high, **options)  # type: ignore[arg-type]


def test_arguments_that_do_not_fit() -> None:
    model, low, high = make(1)
    with pytest.raises(ValueError, match="x_low holds 2 small views, x_high 1 images"):
        exact_expectation(model, low, high[:1])
    with pytest.raises(ValueError, match="weights are all 0; give at least one position"):
        weighted_features(model, torch.zeros(2, 1, 7), low, high)
    with pytest.raises(ValueError, match=r"in train\(\) mode; call its eval\(\)"):
        exact_expectation(model.train(), low, high)
