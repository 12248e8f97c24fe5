"""The modules: attention sampling from end to end."""

import shutil
import warnings

import pytest
import torch
from torch import Tensor, nn

import ats
from ats.nn import AttentionSampling, Classifier, unit_float
from ats.sampling import Systematic
from ats.sampling.successive import leave_one_out_ratio


def convolution(dim: int, channels: int, outputs: int) -> nn.Module:
    return (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dim - 1](channels, outputs, 3, padding=1)


class Mean(nn.Module):
    """Features that are smooth in the patch: its mean after a convolution."""

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.convolution = convolution(dim, channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(x).flatten(2).mean(2)


LOW, HIGH, PATCH = (7, 5, 3), (71, 53, 31), (11, 7, 5)


def make(
    dim: int, channels: int = 2, **options: object
) -> tuple[AttentionSampling, Tensor, Tensor]:
    torch.manual_seed(dim)
    given: dict[str, object] = {"n_patches": 3, "patch_size": PATCH[:dim], **options}
    attention = convolution(dim, channels, 1)
    model = AttentionSampling(attention, Mean(dim, channels), **given)  # type: ignore[arg-type]
    return model, torch.rand(2, channels, *LOW[:dim]), torch.rand(2, channels, *HIGH[:dim])


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("channels", [1, 2])
def test_shapes_and_gradients_in_every_dimension(dim: int, channels: int) -> None:
    model, low, high = make(dim, channels, prior=ats.local_contrast, smoothing=1e-3)
    seen = model(low, high)
    assert seen.features.shape == (2, 5)
    assert seen.attention.shape == (2, *LOW[:dim])
    assert seen.patches.shape == (2, 3, channels, *PATCH[:dim])
    assert seen.positions.shape == seen.offsets.shape == (2, 3, dim)
    assert torch.equal(seen.patches, ats.extract_patches(high, seen.offsets, PATCH[:dim]))
    assert seen.patch_features.shape == (2, 3, 5)
    assert torch.equal(seen.features, ats.expectation(seen.patch_features, seen.weights))
    seen.features.square().sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_sparse_arrays_and_tensors_see_the_same() -> None:
    model, low, high = make(2, 1)
    high = (high * (high > 0.7) * 255).to(torch.uint8)
    sources = [high, ats.SparseImages.from_dense(high), ats.ArrayImages(list(high.numpy()))]
    model.eval()
    seen = [model(low, source) for source in sources]
    for other in seen[1:]:
        assert torch.equal(seen[0].patches, other.patches)
        assert torch.equal(seen[0].features, other.features)
    assert float(seen[0].patches.max()) <= 1


def test_all_positions_give_the_exact_expectation() -> None:
    model, low, high = make(2)
    model.eval()
    exact = model(low, high, n_patches=35)
    attention = exact.attention.flatten(1)
    every = torch.cartesian_prod(torch.arange(7), torch.arange(5)).expand(2, -1, -1)
    offsets = ats.patch_offsets(
        every, map_shape=(7, 5), low_shape=(7, 5), high_shape=(71, 53), patch_size=(11, 7)
    )
    patches = ats.extract_patches(high, offsets, (11, 7))
    features = model.feature(patches.flatten(0, 1)).unflatten(0, (2, 35))
    wanted = (attention.unsqueeze(2) * features).sum(1)
    torch.testing.assert_close(exact.features, wanted, rtol=1e-5, atol=1e-6)


def test_evaluation_repeats_and_training_does_not() -> None:
    model, low, high = make(2)
    model.train()
    draws = {tuple(model(low, high).positions.flatten().tolist()) for _ in range(10)}
    assert len(draws) > 1
    model.eval()
    draws = {tuple(model(low, high).positions.flatten().tolist()) for _ in range(10)}
    assert len(draws) == 1


def test_inference_by_choice() -> None:
    for inference in ("top", Systematic(), ats.sampling.Average(Systematic(), 4)):
        model, low, high = make(2, inference=inference)
        model.eval()
        n_seen = model(low, high).positions.shape[1]
        assert n_seen == (12 if isinstance(inference, ats.sampling.Average) else 3)


def test_prior_moves_attention_to_where_there_is_something() -> None:
    low = torch.zeros(1, 1, 31, 37)
    low[0, 0, 20:23, 5:9] = 1
    model = AttentionSampling(
        nn.Conv2d(1, 1, 1), nn.Flatten(), n_patches=3, patch_size=(4, 4), prior=ats.local_contrast
    )
    nn.init.zeros_(model.attention.weight)  # type: ignore[arg-type]
    with torch.no_grad():
        attention = model.attend(low)
        flat = model.attend(torch.ones(1, 1, 31, 37))
    assert float(attention[0, 17:26, 2:12].sum()) > 0.9
    assert float(attention.min()) > 0
    torch.testing.assert_close(flat, torch.full_like(flat, 1 / flat[0].numel()))


def test_prior_with_a_receptive_field_and_a_coarser_map() -> None:
    attention = nn.Sequential(nn.Conv2d(1, 1, 5), nn.MaxPool2d(3))
    low = torch.zeros(1, 1, 31, 37)
    # The map covers pixels 2 to 29 and 2 to 35; its cell (4, 6) those from 14 and 20 on.
    low[0, 0, 15, 21] = 1
    model = AttentionSampling(
        attention,
        nn.Flatten(),
        n_patches=3,
        patch_size=(4, 4),
        receptive_field=4,
        prior=lambda x: x[:, 0],
    )
    nn.init.zeros_(attention[0].weight)  # type: ignore[arg-type]
    assert int(model.attend(low).argmax()) == 4 * 11 + 6


def test_local_contrast_has_finite_gradients_where_it_is_flat() -> None:
    x = torch.zeros(1, 1, 9, 9)
    x[0, 0, 4, 4] = 1
    x.requires_grad_()
    ats.local_contrast(x, window=3).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert float(x.grad[0, 0, 4, 4]) > 0


def test_local_contrast_against_the_plain_definition() -> None:
    x = torch.rand(2, 3, 11, 7) + 100
    contrast = ats.local_contrast(x, window=3)
    for row, column in ((0, 0), (5, 3), (10, 6), (0, 4)):
        window = x[:, :, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        wanted = window.flatten(2).var(2, unbiased=False).mean(1).sqrt()
        torch.testing.assert_close(contrast[:, row, column], wanted, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="window=4 must be odd"):
        ats.local_contrast(x, window=4)


@pytest.mark.parametrize("design", sorted(ats.sampling.DESIGNS))
def test_compiles_without_a_graph_break(design: str) -> None:
    model, low, high = make(2, design=design, prior=ats.local_contrast, smoothing=1e-3)
    with warnings.catch_warnings():
        # Raised by torch about itself.
        warnings.simplefilter("ignore", DeprecationWarning)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.manual_seed(1)
        got = compiled(low, high)
    torch.manual_seed(1)
    wanted = model(low, high)
    assert torch.equal(got.positions, wanted.positions)
    torch.testing.assert_close(got.features, wanted.features)
    got.features.square().sum().backward()
    assert model.attention.weight.grad is not None  # type: ignore[union-attr]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_code_that_is_compiled_for_a_cpu_weighs_the_same() -> None:
    # It draws other random numbers, and its functions round otherwise than those of torch.
    attention = torch.rand(4, 30).mul(20).softmax(1)
    compiled = torch.compile(ats.sample, fullgraph=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        positions, weights = compiled(attention, 6, design="murthy")
    drawn = attention.gather(1, positions[..., 0]).double()
    wanted = drawn * leave_one_out_ratio(drawn, 1 - drawn.sum(1, keepdim=True))
    torch.testing.assert_close(weights.double(), wanted, rtol=1e-5, atol=1e-6)


def test_exports_the_deterministic_path() -> None:
    model, low, high = make(2, prior=ats.local_contrast)
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        program = torch.export.export(model, (low, high))
    other_low, other_high = torch.rand_like(low), torch.rand_like(high)
    got = program.module()(other_low, other_high)
    torch.testing.assert_close(got.features, model(other_low, other_high).features)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    model, low, high = make(2)
    with torch.autocast("cpu", dtype):
        seen = model(low, high)
        loss = seen.features.square().sum()
    loss.backward()
    assert seen.attention.dtype == seen.weights.dtype == torch.float32
    assert model.attention.weight.grad.isfinite().all()  # type: ignore[union-attr, operator]


def test_channels_last_changes_nothing() -> None:
    model, low, high = make(2)
    model.eval()
    wanted = model(low, high).features
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.testing.assert_close(model(low, high).features, wanted)


def test_images_of_a_batch_may_differ_in_size() -> None:
    model, low, _ = make(2, 1)
    model.eval()
    low = low[:, :1]
    arrays = [torch.rand(1, 71, 53).numpy(), torch.rand(1, 29, 211).numpy()]
    together = model(low, ats.ArrayImages(arrays))
    for number, array in enumerate(arrays):
        alone = model(low[number : number + 1], ats.ArrayImages([array]))
        assert torch.equal(together.offsets[number : number + 1], alone.offsets)
        torch.testing.assert_close(together.features[number : number + 1], alone.features)


def test_modules_work_on_their_own() -> None:
    logits = torch.randn(2, 7, 5)
    attention = ats.SampleSoftmax(0.1)(logits)
    torch.testing.assert_close(attention.sum((1, 2)), torch.ones(2))
    assert float(attention.min()) >= 0.1 / 35
    sampler = ats.SamplePatches(n_patches=4, patch_size=(5, 3))
    x_low, x_high = torch.rand(2, 1, 7, 5), torch.rand(2, 1, 21, 20)
    patches, weights, _, _ = sampler(attention, x_low, x_high)
    features = ats.L2Normalize()(patches.flatten(2))
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(2, 4))
    assert ats.Expectation()(features, weights).shape == (2, 15)


def test_entropy() -> None:
    uniform = torch.full((1, 5, 7), 1 / 35)
    assert float(ats.entropy(uniform).exp()) == pytest.approx(35, rel=1e-5)
    one_hot = torch.zeros(1, 5, requires_grad=True)
    with torch.no_grad():
        one_hot[0, 2] = 1
    value = ats.entropy(one_hot)
    value.sum().backward()
    assert float(value.detach()) == 0
    assert one_hot.grad is not None
    assert one_hot.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.uint8, torch.int32])
def test_images_of_any_type(dtype: torch.dtype) -> None:
    model, low, high = make(2)
    assert model(low, (high * 200).to(dtype)).features.isfinite().all()


def test_pixels_as_unit_floats() -> None:
    assert unit_float(torch.tensor([255], dtype=torch.uint8)).item() == 1
    assert unit_float(torch.tensor([65535], dtype=torch.uint16)).item() == 1
    assert unit_float(torch.tensor([3.5])).item() == 3.5


def test_classifier_scale() -> None:
    sampling, low, high = make(2)
    with_scale = Classifier(sampling, 5, 3, scale=4.0).eval()
    without = Classifier(sampling, 5, 3, scale=None).eval()
    without.linear.load_state_dict(with_scale.linear.state_dict())
    with torch.no_grad():
        without.linear.weight.mul_(4)
    torch.testing.assert_close(with_scale(low, high)[0], without(low, high)[0])
    assert "scale" in dict(with_scale.named_parameters())


class Shaped(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(self.shape)


def test_errors() -> None:
    model, low, high = make(2)
    with pytest.raises(ValueError, match="x_low holds 1 small views"):
        model(low[:1], high)
    with pytest.raises(ValueError, match="x_low has 2 spatial dimensions, x_high 1"):
        model(low, high[..., 0])
    with pytest.raises(ValueError, match=r"patch_size=\(0, 7\) must be positive"):
        ats.SamplePatches(n_patches=3, patch_size=(0, 7))
    with pytest.raises(ValueError, match="n_patches=0 must be a whole number of at least 1"):
        ats.SamplePatches(n_patches=0, patch_size=(5, 7))
    with pytest.raises(ValueError, match=r"smoothing=1.5 must lie in \[0, 1\]"):
        ats.SampleSoftmax(1.5)
    with pytest.raises(ValueError, match="n_patches=36 exceeds the 35 positions"):
        model(low, high, n_patches=36)
    model.attention = Shaped(2, 3, 7, 5)
    with pytest.raises(ValueError, match="one logit for each position"):
        model(low, high)
    model.attention = Shaped(2, 35)
    with pytest.raises(ValueError, match=r"must return \(batch, 1, \*map\)"):
        model(low, high)


def test_diverged_attention_is_an_error() -> None:
    model, low, high = make(2)
    with pytest.raises(ValueError, match="attention contains NaN"):
        model(low * torch.nan, high)


def test_a_classifier_may_normalise_the_average() -> None:
    torch.manual_seed(0)
    attention = nn.Conv2d(1, 1, 3, padding=1)
    feature = nn.Sequential(nn.Flatten(), nn.Linear(25, 4))
    sampling = ats.AttentionSampling(attention, feature, n_patches=3, patch_size=(5, 5)).eval()
    model = ats.Classifier(sampling, 4, 2, scale=3.0, normalize=True)
    x_low, x_high = torch.rand(2, 1, 6, 6), torch.rand(2, 1, 30, 30)
    logits, seen = model(x_low, x_high)
    length = seen.features.norm(dim=1, keepdim=True)
    torch.testing.assert_close(logits, model.linear(3 * seen.features / length))
    # The lengths of single features count in the average alone.
    assert float((length.detach() - 1).abs().min()) > 1e-3
