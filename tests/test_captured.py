"""A training step as a function of tensors alone, which is what a CUDA graph can hold.

That it is captured and replayed as one, ``test_gpu.py`` shows.
"""

from pathlib import Path

import pytest
import torch
from programs import load, make_digits

from ats.affine import RandomAffine, TurnedImages
from ats.datasets.megapixel_mnist import MegapixelMNIST
from ats.images import SparseImages, TensorImages
from ats.sampling import Uniforms, sample
from ats.training.batches import image_generators
from ats.training.build import augmentation, make_optimizer
from ats.training.captured import CapturedStep, Counted, Step, fit, kind_of, padded
from ats.training.module import TrainingModule


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_digits(tmp_path_factory.mktemp("digits"), n_train=8, n_test=2)


@pytest.mark.parametrize("recipe", ["published", "default", "fast"])
def test_a_step_depends_on_its_tensors_alone(data: Path, recipe: str) -> None:
    script = load("scripts/mnist.py")
    args = script.parse(
        [str(data), "out", "--recipe", recipe, "--patch_size", "24x24", "--n_patches", "3"]
    )
    digits = MegapixelMNIST(data, train=True)
    torch.manual_seed(0)
    model = script.build_model(args, digits.n_classes)
    change = augmentation(args, None)
    module = TrainingModule(
        model, optimizer=make_optimizer(args), regularizer_strength=0.01, seed=0, augment=change
    ).train()
    batch = digits.__getitems__(list(range(4)))

    def inputs() -> tuple[object, list[torch.Generator]]:
        generators = image_generators(0, 0, batch.index.tolist())
        if change is None:
            return batch, generators
        x_low, x_high = change(batch.x_low, batch.x_high, generators)
        return batch._replace(x_low=x_low, x_high=x_high), generators

    wanted = module._terms(*inputs())
    counted = Counted(len(batch.target), batch.target.device)
    module._terms(inputs()[0], counted)
    captured = CapturedStep(model, module._terms)
    captured.columns = counted.columns
    changed, generators = inputs()
    tensors = captured._tensors(changed, captured._numbers(changed, generators))
    step = Step(model, module._terms, changed)
    # Neither the batch nor generators are asked again.
    del changed, generators
    found = step(*tensors)
    assert torch.equal(found.seen.positions, wanted.seen.positions)
    torch.testing.assert_close(found.logits, wanted.logits)
    gradients = [
        torch.autograd.grad(terms.objective, list(model.parameters()), allow_unused=True)
        for terms in (found, wanted)
    ]
    torch.testing.assert_close(*gradients)


def test_numbers_in_place_of_generators() -> None:
    attention = torch.rand(3, 40).softmax(1)
    generators = [torch.Generator().manual_seed(number) for number in range(3)]
    wanted = sample(attention, 5, generator=generators)
    generators = [torch.Generator().manual_seed(number) for number in range(3)]
    drawn = [torch.rand(2, dtype=torch.float64, generator=g) for g in generators]
    numbers = Uniforms(torch.stack(drawn))
    assert torch.equal(sample(attention, 5, generator=numbers).positions, wanted.positions)
    with pytest.raises(ValueError, match="too few for a draw that takes 4"):
        sample(attention, 5, generator=numbers)


class Inverted(TensorImages):
    """Images whose patches are others than their pixels."""


def test_images_of_another_kind_are_not_those_that_were_captured() -> None:
    pixels = torch.rand(2, 1, 30, 20)
    sparse, larger = (
        SparseImages.from_dense(image) for image in (pixels, torch.zeros(2, 1, 40, 20))
    )
    mild, strong = RandomAffine(degrees=5.0), RandomAffine(degrees=50.0)
    kinds = [
        kind_of(images)
        for images in (
            pixels,
            Inverted(pixels),
            sparse,
            larger,
            TurnedImages(pixels, (0, 1), mild),
            TurnedImages(pixels, (0, 1), strong),
            TurnedImages(sparse, (0, 1), mild),
        )
    ]
    assert len(set(kinds)) == len(kinds)
    assert kind_of(pixels) == kind_of(TensorImages(pixels))
    assert kind_of(sparse) == kind_of(SparseImages.from_dense(pixels / 2))
    others = TurnedImages(pixels, (5, 6), mild)
    assert kind_of(TurnedImages(pixels, (0, 1), mild)) == kind_of(others)


def test_tensors_fit_by_shape_and_type() -> None:
    examples = [torch.zeros(5), torch.zeros(2, dtype=torch.int64)]
    assert fit([torch.ones(5), torch.ones(2, dtype=torch.int64)], examples)
    assert fit([padded(torch.ones(3), 5), torch.ones(2, dtype=torch.int64)], examples)
    assert not fit([padded(torch.ones(6), 5), torch.ones(2, dtype=torch.int64)], examples)
    assert not fit([torch.ones(5), torch.ones(2)], examples)
    assert not fit([torch.ones(5)], examples)
