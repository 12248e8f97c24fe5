"""Both networks of the 2019 program with its own weights: what they see, say and learn."""

import json
from argparse import Namespace
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from golden import Arrays, assert_close, channels_first, load, tensor, torch_layout
from programs import load as load_program
from torch import Tensor, nn
from torch.nn import functional as F

import ats
from ats.networks import PreActivation, SameConv2d, residual_features, speed_limits_attention
from ats.sampling import DesignFunction, Generators
from ats.sampling.successive import published_weights
from ats.training.build import make_optimizer

ENTROPY_STRENGTH = 1e-4
WEIGHT_DECAY = 1e-5

# Shares of the largest value of each array. float32 rounds to 6e-8, sums over some ten thousand
# pixels a few times more. The recorded arrays are float32, so these hold for our float64 as well;
# seen at most: outputs 1.2e-6 (an attention with peaks), gradients 6e-6 and 1.2e-5.
OUTPUTS = 2e-6
GRADIENTS = 2e-5
# A softmax does not see a constant, so the bias of the attention logits has a gradient of 0, of
# which rounding leaves either program up to 3e-8.
ZERO = 5e-8
# Weights between 1/2 and 1 round to 6e-8.
WEIGHT_ROUNDING = 6e-8
DTYPES = (torch.float32, torch.float64)


class Run(NamedTuple):
    """One pass of ours."""

    logits: Tensor
    seen: ats.AttentionSamplingOutput
    patch_features: Tensor
    ce: Tensor
    entropy_loss: Tensor
    decay: Tensor

    @property
    def total(self) -> Tensor:
        return self.ce + self.entropy_loss + self.decay


def fixed(indices: Tensor) -> DesignFunction:
    """A design of a user's own: given positions, with the weights and gradient of 2019."""

    def design(attention: Tensor, n_patches: int, generator: Generators) -> tuple[Tensor, Tensor]:
        assert indices.shape == (len(attention), n_patches)
        rows = attention.flatten(1)
        outside = rows.detach().double().scatter(1, indices, 0.0).sum(1, keepdim=True)
        weights = published_weights(rows.gather(1, indices).double(), outside)
        return indices, weights.to(attention.dtype)

    return design


def set_values(tensors: Iterable[Tensor], values: Iterable[Tensor]) -> None:
    """Copy value after value, each of the very shape."""
    with torch.no_grad():
        for old, new in zip(tensors, values, strict=True):
            assert old.shape == new.shape
            old.copy_(new)


def recorded_weights(arrays: Arrays, prefix: str = "") -> Iterator[Tensor]:
    """Recorded tensors of a numbered group, in order and in torch's layout."""
    for i in range(sum(key.startswith(f"{prefix}/") for key in arrays)):
        yield torch_layout(arrays[f"{prefix}/{i:02d}"])


def run(
    model: ats.Classifier, x_low: Tensor, x_high: Tensor, labels: Tensor, decayed: Iterable[Tensor]
) -> Run:
    """Forward pass and the parts of the loss."""
    recorded: list[Tensor] = []
    handle = model.sampling.feature.register_forward_hook(
        lambda module, inputs, output: recorded.append(output)
    )
    logits, seen = model(x_low, x_high)
    handle.remove()
    return Run(
        logits,
        seen,
        recorded[0].unflatten(0, seen.weights.shape),
        F.cross_entropy(logits, labels),
        -ENTROPY_STRENGTH * ats.entropy(seen.attention, eps=1e-6).mean(),
        WEIGHT_DECAY * sum((w.square().sum() for w in decayed), torch.zeros(())),
    )


def assert_outputs(ours: Run, arrays: Arrays, prefix: str = "", *, relative: float) -> None:
    """Everything that the 2019 program wrote down on its way to the loss."""
    seen = ours.seen
    assert torch.equal(seen.positions, tensor(arrays[f"{prefix}samples"]).long())
    assert torch.equal(seen.offsets, tensor(arrays[f"{prefix}offsets"]).long())
    if f"{prefix}patches" in arrays:
        wanted = channels_first(arrays[f"{prefix}patches"], leading=2)
        assert torch.equal(seen.patches, wanted.to(seen.patches.dtype))
    flat = torch.tensor(seen.attention.shape[1:])
    indices = seen.positions[..., 0] * flat[1] + seen.positions[..., 1]
    found = {
        "attention": seen.attention,
        "sampled_attention": seen.attention.flatten(1).gather(1, indices),
        "patch_features": ours.patch_features,
        "features": seen.features,
        "y": ours.logits.softmax(1),
        "ce": ours.ce,
        "loss_entropy": ours.entropy_loss,
        "loss_l2": ours.decay,
        "total": ours.total,
    }
    for name, actual in found.items():
        assert_close(actual, tensor(arrays[f"{prefix}{name}"]), relative=relative, name=name)


def assert_gradients(
    loss: Tensor, parameters: list[nn.Parameter], wanted: Iterable[Tensor], *, relative: float
) -> None:
    """The gradient of a loss to each parameter."""
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
    for i, (actual, expected) in enumerate(zip(gradients, wanted, strict=True)):
        tolerance = ZERO if is_attention_bias(actual) else 0.0
        assert_close(actual, expected, relative=relative, absolute=tolerance, name=f"gradient {i}")


def is_attention_bias(parameter: Tensor) -> bool:
    """The bias of the attention logits is the only parameter of one number."""
    return parameter.numel() == 1


# --- Megapixel MNIST ---------------------------------------------------------------------------


class Mnist(NamedTuple):
    """The model of scripts/mnist.py with the recorded weights, and the recorded batch."""

    arrays: Arrays
    model: ats.Classifier
    x_low: Tensor
    x_high: Tensor
    labels: Tensor

    def run(self) -> Run:
        return run(self.model, self.x_low, self.x_high, self.labels, ())


def published_arguments() -> Namespace:
    """The command line of the script with the settings of 2019."""
    args = load_program("scripts/mnist.py").parse(["data", "output", "--recipe", "published"])
    assert isinstance(args, Namespace)
    return args


def mnist(dtype: torch.dtype) -> Mnist:
    arrays = load("mnist_model")
    config = json.loads(str(arrays["config"]))
    args = published_arguments()
    assert list(args.patch_size) == config["patch_size"]
    assert args.n_patches == config["n_patches"]
    assert args.regularizer_strength == config["reg"] == ENTROPY_STRENGTH
    assert args.design == "published"
    args.design = fixed(tensor(arrays["flat_samples"]).long())
    model = load_program("scripts/mnist.py").build_model(args, config["outputs"])
    set_values(model.parameters(), recorded_weights(arrays, "weight"))
    return Mnist(
        arrays,
        model.to(dtype),
        channels_first(arrays["x_low"]).to(dtype),
        channels_first(arrays["x_high"]).to(dtype),
        tensor(arrays["labels"]),
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_mnist_outputs_are_the_recorded_ones(dtype: torch.dtype) -> None:
    case = mnist(dtype)
    assert_outputs(case.run(), case.arrays, relative=OUTPUTS)


@pytest.mark.parametrize("loss", ["total", "ce"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_mnist_gradients_are_the_recorded_ones(dtype: torch.dtype, loss: str) -> None:
    case = mnist(dtype)
    wanted = recorded_weights(case.arrays, f"grad_{loss}")
    parameters = list(case.model.parameters())
    assert_gradients(getattr(case.run(), loss), parameters, wanted, relative=GRADIENTS)


@pytest.mark.parametrize("dtype", DTYPES)
def test_mnist_clipped_gradient_is_the_recorded_one(dtype: torch.dtype) -> None:
    """A clip to 0.01 and a step of size 1, recorded as a difference of float32 weights.

    torch divides by the norm + 1e-6, Keras by the norm: a share of 1e-6, as the norm is 1.17.
    """
    case = mnist(dtype)
    parameters = list(case.model.parameters())
    case.run().total.backward()
    norm = nn.utils.clip_grad_norm_(parameters, 0.01)
    assert norm > 1
    for i, wanted in enumerate(recorded_weights(case.arrays, "clip0.01_update")):
        gradient = parameters[i].grad
        assert gradient is not None
        assert_close(
            gradient, wanted, relative=GRADIENTS, absolute=WEIGHT_ROUNDING, name=f"update {i}"
        )


# A step is up to 1e-3 long. Adam divides by the size of the gradient, so that rounding of the
# smallest gradients counts as much as that of the largest, and more from step to step: seen are
# 2.4e-6 after three of them in float32, 1.7e-7 in float64, which leaves the recorded rounding.
STEPS = {torch.float32: 5e-6, torch.float64: 4e-7}
# The attention bias walks by what rounding leaves of its zero gradient, at most as far as 3 steps
# of gradients of ZERO beside Adam's epsilon: seen 2.3e-5.
WALK = 5e-5


@pytest.mark.parametrize("dtype", DTYPES)
def test_mnist_adam_steps_are_the_recorded_ones(dtype: torch.dtype) -> None:
    """Three steps of the published recipe's optimizer, but for where its epsilon is added.

    Keras adds 1e-7 to sqrt(v) before its bias correction, torch afterwards, so torch's is divided
    by that correction here.
    """
    case = mnist(dtype)
    parameters = list(case.model.parameters())
    args = published_arguments()
    optimizer = make_optimizer(args)(parameters)
    assert optimizer.param_groups[0]["eps"] == 1e-7
    for step in range(3):
        optimizer.zero_grad()
        ours = case.run()
        metrics = tensor(case.arrays[f"step_adam/{step}/metrics"])
        assert_close(torch.stack([ours.total, ours.ce]), metrics[[0, 2]], relative=OUTPUTS)
        ours.total.backward()
        nn.utils.clip_grad_norm_(parameters, args.clipnorm)
        optimizer.param_groups[0]["eps"] = 1e-7 / (1 - 0.999 ** (step + 2)) ** 0.5
        optimizer.step()
        for i, wanted in enumerate(recorded_weights(case.arrays, f"step_adam/{step}/weight")):
            tolerance = WALK if is_attention_bias(wanted) else STEPS[dtype]
            assert_close(
                parameters[i], wanted, relative=0, absolute=tolerance, name=f"step {step}, {i}"
            )


# --- Speed limits ------------------------------------------------------------------------------


class SpeedLimits(NamedTuple):
    """The network of the speed-limits experiment with the recorded weights and batch."""

    arrays: Arrays
    model: ats.Classifier
    x_low: Tensor
    x_high: Tensor
    labels: Tensor

    def run(self) -> Run:
        # The kernels of 8, 16 and 32 channels decay, the one that makes the logits does not.
        kernels = [p for p in self.model.sampling.attention.parameters() if p.dim() == 4]
        return run(self.model, self.x_low, self.x_high, self.labels, kernels[:3])


def keras_order(model: ats.Classifier, *, statistics: bool) -> list[Any]:
    """Parameters as the 2019 program lists them, with or without the running statistics."""

    def norm(module: nn.Module) -> list[Any]:
        assert isinstance(module, nn.BatchNorm2d)
        assert module.running_mean is not None
        assert module.running_var is not None
        running = [module.running_mean, module.running_var]
        return [module.weight, module.bias, *(running if statistics else [])]

    first, *blocks, last, _, _, _, _ = model.sampling.feature.children()
    found: list[Any] = [*model.sampling.attention.parameters(), *first.parameters()]
    for block in blocks:
        assert isinstance(block, PreActivation)
        found += [*norm(block.norm1), block.conv1.weight, *norm(block.norm2)]
        found += [block.conv2.weight, block.shortcut.weight]
    return [*found, *norm(last), *model.linear.parameters()]


def speed_limits(dtype: torch.dtype) -> SpeedLimits:
    arrays = load("speed_limits_model")
    config = json.loads(str(arrays["config"]))
    design = fixed(tensor(arrays["flat_samples"]).long())
    sampling = ats.AttentionSampling(
        speed_limits_attention(),
        residual_features(momentum=0.01),
        n_patches=config["n_patches"],
        patch_size=config["patch_size"],
        receptive_field=config["receptive_field"],
        smoothing=1e-4,
        design=design,
        inference=design,
    )
    model = ats.Classifier(sampling, 32, config["outputs"], scale=None)
    set_values(keras_order(model, statistics=True), recorded_weights(arrays, "weight"))
    return SpeedLimits(
        arrays,
        model.to(dtype),
        channels_first(arrays["phase0/x_low"]).to(dtype),
        channels_first(arrays["x"]).to(dtype),
        tensor(arrays["labels"]),
    )


def recorded_phase(phase: int) -> Arrays:
    return load("speed_limits_model" if phase == 0 else "speed_limits_model_bn64")


SPEED_GRADIENTS = {
    (0, torch.float32): GRADIENTS,
    (0, torch.float64): GRADIENTS,
    # In training, one of the five million inputs of a ReLU is -1.0e-8: float32 takes it
    # for positive, and all gradients below it change by up to 3e-3 of their largest. That
    # is why this phase was recorded with batch statistics in float64, in which ours agrees.
    (1, torch.float32): 1e-2,
    (1, torch.float64): GRADIENTS,
}
PHASES = list(SPEED_GRADIENTS)


@pytest.mark.parametrize(("phase", "dtype"), PHASES)
def test_speed_limits_outputs_are_the_recorded_ones(phase: int, dtype: torch.dtype) -> None:
    """Phase 0 is inference with the running statistics, 1 training with those of the batch."""
    case = speed_limits(dtype)
    case.model.train(phase == 1)
    assert_outputs(case.run(), recorded_phase(phase), f"phase{phase}/", relative=OUTPUTS)


@pytest.mark.parametrize("loss", ["total", "ce"])
@pytest.mark.parametrize(("phase", "dtype"), PHASES)
def test_speed_limits_gradients_are_the_recorded_ones(
    phase: int, dtype: torch.dtype, loss: str
) -> None:
    case = speed_limits(dtype)
    case.model.train(phase == 1)
    parameters = keras_order(case.model, statistics=False)
    wanted = recorded_weights(recorded_phase(phase), f"phase{phase}/grad_{loss}")
    relative = SPEED_GRADIENTS[phase, dtype]
    assert_gradients(getattr(case.run(), loss), parameters, wanted, relative=relative)


def test_training_moves_the_running_statistics_by_one_hundredth() -> None:
    """Keras' momentum of .99: a hundredth of the way to the statistics of the batch."""
    case = speed_limits(torch.float64)
    norm = next(m for m in case.model.sampling.feature.modules() if isinstance(m, nn.BatchNorm2d))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    before = norm.running_mean.clone(), norm.running_var.clone()
    inputs: list[Tensor] = []
    norm.register_forward_hook(lambda module, arguments, output: inputs.append(arguments[0]))
    case.model.train()
    case.run()
    axes = (0, 2, 3)
    batch = inputs[0].mean(axes), inputs[0].var(axes)
    for old, new, now in zip(before, batch, (norm.running_mean, norm.running_var), strict=True):
        assert_close(now, 0.99 * old + 0.01 * new, relative=1e-12)


def test_attention_logits_are_not_rectified() -> None:
    """The recorded logits are all positive after pooling, so that they cannot tell."""
    case = speed_limits(torch.float32)
    attention = case.model.sampling.attention
    logits = attention(case.x_low)
    assert logits.min() > 0
    set_values(attention[-2].parameters(), [torch.zeros(1, 32, 3, 3), -torch.ones(1)])
    assert torch.equal(attention(case.x_low), -torch.ones_like(logits))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("height", "width"), [(13, 11), (14, 11), (7, 17), (2, 1)])
def test_strided_convolutions_keep_every_stride_th_pixel(
    height: int, width: int, stride: int
) -> None:
    """As many outputs as TensorFlow's "same", which begins where the smaller padding ends."""
    convolution = SameConv2d(1, 1, 3, stride)
    with torch.no_grad():
        convolution.weight.zero_()[0, 0, 1, 1] = 1
    image = torch.arange(float(height * width)).reshape(1, 1, height, width)
    out = convolution(image)[0, 0].detach()
    rows = -(-height // stride)
    columns = -(-width // stride)
    assert out.shape == (rows, columns)
    row = 1 - max((rows - 1) * stride + 3 - height, 0) // 2
    column = 1 - max((columns - 1) * stride + 3 - width, 0) // 2
    taken = F.pad(image[0, 0], (0, 3, 0, 3))[row::stride, column::stride][:rows, :columns]
    assert torch.equal(out, taken)


def test_a_residual_network_needs_a_stride() -> None:
    with pytest.raises(ValueError, match="first convolution"):
        residual_features(strides=())
