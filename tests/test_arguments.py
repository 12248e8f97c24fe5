"""From the command line to what it names."""

import argparse
from types import SimpleNamespace

import pytest
import torch
from programs import load

from ats.cli.settings import parse_settings, training_parser
from ats.nn import Classifier
from ats.prior import local_contrast
from ats.sampling import Peaks, Published, Systematic
from ats.training.arguments import add_training_arguments, parse_with_recipe
from ats.training.build import make_optimizer, parameter_groups, sampling_arguments
from ats.training.run import resolve_accelerator
from ats.votes import VotingClassifier


@pytest.fixture(scope="module")
def script() -> SimpleNamespace:
    return load("scripts/mnist.py")


def test_defaults_are_those_of_the_issue_and_of_the_library(script: SimpleNamespace) -> None:
    args = script.parse(["data", "out"])
    assert (args.optimizer, args.lr, args.momentum, args.clipnorm) == ("adam", 0.001, 0.9, 1)
    assert (args.patch_size, args.n_patches, args.batch_size, args.epochs) == (
        (50, 50),
        10,
        128,
        500,
    )
    assert args.regularizer_strength == 0.0001
    options = sampling_arguments(args)
    assert options["design"] == Systematic(centred=True)
    assert options["prior"] is local_contrast
    assert script.build_model(args, 10).scale is not None


def test_the_published_recipe(script: SimpleNamespace) -> None:
    args = script.parse(["data", "out", "--recipe", "published"])
    options = sampling_arguments(args)
    assert options["design"] == Published()
    assert options["prior"] is None
    assert script.build_model(args, 10).scale is None


def test_the_fast_recipe(script: SimpleNamespace) -> None:
    args = script.parse(["data", "out", "--recipe", "fast"])
    assert (args.batch_size, args.epochs, args.lr) == (8, 15, 0.001)
    assert (args.schedule, args.warmup, args.average) == ("cosine", 0.5, 0.998)
    assert args.augment == "affine"
    assert args.weight_decay == 0.1
    assert sampling_arguments(args)["design"] == Systematic(centred=True)
    assert script.parse(["data", "out", "--recipe", "fast", "--epochs", "7"]).epochs == 7
    model = script.build_model(args, 10)
    assert model.sampling.attend(torch.rand(2, 1, 31, 40)).shape == (2, 16, 20)
    # A vote for each class, and for none.
    assert model.sampling.feature(torch.rand(3, 1, 9, 50)).shape == (3, 11)
    assert isinstance(model, VotingClassifier)
    assert (args.attention, args.classifier) == ("halved", "votes")
    given = ["--attention", "published", "--features", "published", "--classifier", "linear"]
    model = script.build_model(script.parse(["data", "out", "--recipe", "fast", *given]), 10)
    assert model.sampling.attend(torch.rand(2, 1, 31, 40)).shape == (2, 31, 40)
    assert model.sampling.feature(torch.rand(3, 1, 50, 50)).shape == (3, 32)
    assert not isinstance(model, VotingClassifier)


@pytest.mark.parametrize("features", ["published", "residual"])
@pytest.mark.parametrize("scale", ["0", "10"])
def test_classifiers_by_name(script: SimpleNamespace, features: str, scale: str) -> None:
    given = ["--features", features, "--feature_scale", scale]
    low, high = torch.rand(2, 1, 20, 20), torch.rand(2, 1, 100, 100)
    for classifier, kind in (("linear", Classifier), ("votes", VotingClassifier)):
        args = script.parse(["data", "out", *given, "--classifier", classifier])
        model = script.build_model(args, 10)
        assert type(model) is kind
        assert (model.scale is None) == (scale == "0")
        assert model(low, high)[0].shape == (2, 10)


def test_the_peaks_recipe(script: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    args = script.parse(["data", "out", "--recipe", "peaks", "--start", "weights"])
    fast = script.parse(["data", "out", "--recipe", "fast", "--start", "weights"])
    differ = {name for name, value in vars(args).items() if getattr(fast, name) != value}
    own = {"recipe", "epochs", "lr", "design", "inference", "regularizer_strength", "n_patches"}
    assert differ == own
    assert (args.epochs, args.n_patches, args.regularizer_strength) == (3, 25, 0)
    options = sampling_arguments(args)
    assert options["design"] == options["inference"] == Peaks()
    with pytest.raises(SystemExit):
        script.parse(["data", "out", "--recipe", "peaks"])
    assert "--recipe peaks leaves the attention as it is" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        script.parse(["data", "out", "--design", "peaks"])
    assert "take another design" in capsys.readouterr().err


def test_peaks_need_votes(script: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    for given, named in (
        (["--inference", "peaks"], "--inference peaks"),
        (["--recipe", "peaks", "--start", "weights", "--classifier", "linear"], "--inference"),
        (["--design", "peaks", "--start", "weights"], "--design peaks"),
    ):
        with pytest.raises(SystemExit):
            script.parse(["data", "out", *given])
        said = capsys.readouterr().err
        assert named in said
        assert "take --classifier votes" in said
    script.parse(["data", "out", "--inference", "peaks", "--classifier", "votes"])


@pytest.mark.parametrize("option", ["--recipe", "--design", "--inference"])
def test_peaks_are_not_offered_where_no_classifier_votes(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    speed_limits = load("scripts/speed_limits.py")
    for parse in (
        lambda: parse_settings([option, "peaks"], training_parser()),
        lambda: speed_limits.parse(["data", "out", option, "peaks"]),
    ):
        with pytest.raises(SystemExit):
            parse()
        assert "invalid choice: 'peaks'" in capsys.readouterr().err


def test_a_script_has_the_last_word_on_a_recipe() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch_size", type=int, default=128)
    add_training_arguments(parser)
    own: dict[str, dict[str, object]] = {"fast": {"batch_size": 16}}
    args = parse_with_recipe(parser, ["--recipe", "fast"], own)
    assert (args.batch_size, args.epochs) == (16, 30)


def test_what_is_given_beside_a_recipe_holds(script: SimpleNamespace) -> None:
    args = script.parse(["data", "out", "--recipe", "published", "--prior", "contrast"])
    assert sampling_arguments(args)["prior"] is local_contrast
    assert sampling_arguments(args)["design"] == Published()


@pytest.mark.parametrize(("recipe", "length"), [("default", 1.0), ("published", 0.7441)])
def test_first_step_of_adam(script: SimpleNamespace, recipe: str, length: float) -> None:
    args = script.parse(["data", "out", "--recipe", recipe, "--lr", "0.5"])
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = make_optimizer(args)([weight])
    weight.grad = torch.tensor([3.0])
    optimizer.step()
    # Keras: lr sqrt(1 - b2^2) / (1 - b1^2) m / sqrt(v) with m = (1 - b1) g, v = (1 - b2) g^2.
    assert float(weight.detach()) == pytest.approx(-0.5 * length, rel=1e-3)


def test_decay_is_of_kernels_and_not_of_the_attention(
    script: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    args = script.parse(["data", "out", "--recipe", "fast", "--lr", "0.5"])
    model = script.build_model(args, 10)
    optimizer = make_optimizer(args)(parameter_groups(model, args.weight_decay))
    for parameter in model.parameters():
        torch.nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        shrinks = parameter.dim() > 1 and "attention" not in name
        # Decoupled: without any gradient, by the decay times the learning rate.
        wanted = 1 - 0.1 * 0.5 if shrinks else 1.0
        torch.testing.assert_close(parameter, torch.full_like(parameter, wanted))
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(
        list(model.parameters())
    )
    with pytest.raises(SystemExit):
        script.parse(["data", "out", "--weight_decay", "0.1", "--optimizer", "sgd"])
    assert "--weight_decay needs --optimizer adam, not sgd" in capsys.readouterr().err
    # What a recipe has for Adam is not in the way of another optimizer.
    args = script.parse(["data", "out", "--recipe", "fast", "--optimizer", "sgd"])
    assert (args.weight_decay, args.schedule) == (0.0, "cosine")
    # Nor is an optimizer of one's own overruled.
    (group,) = parameter_groups(model, 0.0)
    assert (len(group["params"]), set(group)) == (len(list(model.parameters())), {"params"})


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--lr", "inf", "inf must be a finite number above 0"),
        ("--lr", "nan", "nan must be a finite number above 0"),
        ("--momentum", "nan", "nan must be a finite number of at least 0"),
        ("--regularizer_strength", "-1", "-1 must be a finite number of at least 0"),
        ("--feature_scale", "inf", "inf must be a finite number of at least 0"),
        ("--seed", "-1", "-1 must be at least 0"),
        ("--workers", "-2", "-2 must be at least 0"),
    ],
)
def test_numbers_that_make_no_sense(
    script: SimpleNamespace,
    capsys: pytest.CaptureFixture[str],
    option: str,
    value: str,
    message: str,
) -> None:
    with pytest.raises(SystemExit):
        script.parse(["data", "out", option, value])
    assert f"argument {option}: {message}" in capsys.readouterr().err


def test_a_patch_too_small_for_the_network(script: SimpleNamespace) -> None:
    args = script.parse(["data", "out", "--patch_size", "12x50"])
    wanted = r"patch_size=\(12, 50\) must be at least 13 x 13 .* take --features residual"
    with pytest.raises(ValueError, match=wanted):
        script.build_model(args, 10)
    args = script.parse(["data", "out", "--patch_size", "13x13"])
    patches = torch.rand(1, 1, 13, 13)
    assert script.build_model(args, 10).sampling.feature(patches).shape == (1, 32)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_what_the_machine_has_not(script: SimpleNamespace) -> None:
    args = script.parse(["data", "out", "--accelerator", "gpu"])
    with pytest.raises(ValueError, match="accelerator=gpu with devices=1, but PyTorch sees 0 GPUs"):
        resolve_accelerator(args)
    args = script.parse(["data", "out", "--precision", "16"])
    with pytest.raises(ValueError, match="precision=16 needs a GPU; take --precision bf16 or 32"):
        resolve_accelerator(args)
    assert resolve_accelerator(script.parse(["data", "out"])) == "cpu"


def test_momentum_is_of_sgd(script: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.parse(["data", "out", "--momentum", "0.5"])
    assert "--momentum needs --optimizer sgd, not adam" in capsys.readouterr().err


def test_sgd_with_momentum(script: SimpleNamespace) -> None:
    args = script.parse(["data", "out", "--optimizer", "sgd", "--momentum", "0.5", "--lr", "0.1"])
    optimizer = make_optimizer(args)([torch.nn.Parameter(torch.zeros(1))])
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.param_groups[0]["momentum"] == 0.5
