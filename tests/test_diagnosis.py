"""What is measured of attention and sampling while training."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from programs import load, make_digits, rows, run
from torch import Tensor

import ats
from ats import sampling
from ats.training.diagnosis import Diagnosis, constant_loss
from ats.training.history import COLUMNS, mean_of, read_history, write_history
from ats.training.sample_quality import (
    effective_positions,
    empty_patches,
    estimator_variance,
    image_sums,
    largest_weight,
    repeated_patches,
)
from ats.training.tasks import Labels, Numbers, cross_entropy

DOUBLE = torch.float64


def attention_maps(batch: int, *shape: int, sharpness: float = 2.0) -> Tensor:
    logits = sharpness * torch.randn(batch, math.prod(shape), dtype=DOUBLE)
    return logits.softmax(1).reshape(batch, *shape)


# The measures


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 5)])
def test_effective_positions(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    attention = attention_maps(4, *shape)
    wanted = [1 / sum(float(a) ** 2 for a in own.flatten()) for own in attention]
    assert effective_positions(attention).tolist() == pytest.approx(wanted)
    flat = torch.full((1, *shape), 1 / math.prod(shape), dtype=DOUBLE)
    assert float(effective_positions(flat)) == pytest.approx(math.prod(shape))
    # One position in a thin veil of many.
    veiled = torch.full((1, 10_000), 0.1 / 10_000, dtype=DOUBLE)
    veiled[0, 17] += 0.9
    assert float(effective_positions(veiled)) < 1.3


def test_largest_weight_and_repetitions() -> None:
    torch.manual_seed(0)
    positions = torch.randint(3, (5, 7, 2))
    weights = torch.randn(5, 7, dtype=DOUBLE)
    weights[2, 3] = 0
    for image in range(5):
        total: dict[tuple[int, ...], float] = {}
        repeated = []
        for place, weight in zip(positions[image].tolist(), weights[image].tolist(), strict=True):
            if weight:
                repeated.append(tuple(place) in total)
            total[tuple(place)] = total.get(tuple(place), 0.0) + abs(weight)
        one = slice(image, image + 1)
        found = float(largest_weight(positions[one], weights[one]))
        assert found == pytest.approx(max(total.values()) / sum(total.values()))
        found = float(repeated_patches(positions[one], weights[one]))
        assert found == pytest.approx(sum(repeated) / len(repeated))


def test_only_designs_with_replacement_repeat() -> None:
    attention = attention_maps(8, 3, 5)
    for name in ("replacement", "des-raj", "murthy", "systematic", "published"):
        positions, weights = ats.sample(attention, 7, design=name)
        assert bool(repeated_patches(positions, weights).any()) == (name == "replacement")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_empty_patches(dtype: torch.dtype) -> None:
    patches = torch.zeros(2, 5, 3, 7, 11, dtype=dtype)
    patches[0, 1] = torch.rand(3, 1, 1)  # a colour
    patches[0, 2, 2, 6, 10] = 1  # its last pixel
    patches[1] = torch.rand(5, 3, 7, 11)
    weights = torch.full((2, 5), 0.2)
    assert empty_patches(patches, weights).tolist() == pytest.approx([4 / 5, 0])
    weights[0, 2:4] = 0
    assert empty_patches(patches, weights).tolist() == [1, 0]


def looped_variance(terms: Tensor, included: Tensor) -> float:
    """Deville's estimate of one image, number by number."""
    left = [1 - float(chance) for chance in included]
    centre = sum(own * term for own, term in zip(left, terms, strict=True)) / sum(left)
    squares = [float(((term - centre) ** 2).sum()) for term in terms]
    freedom = 1 - sum((own / sum(left)) ** 2 for own in left)
    return sum(own * square for own, square in zip(left, squares, strict=True)) / freedom


@pytest.mark.parametrize("extents", [(), (3,), (3, 2)])
def test_estimator_variance_is_the_formula(extents: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    features = torch.randn(4, 5, *extents, dtype=DOUBLE)
    weights, included = torch.rand(2, 4, 5, dtype=DOUBLE)
    terms = weights.unsqueeze(2) * features.reshape(4, 5, -1)
    wanted = [looped_variance(*one) for one in zip(terms, included, strict=True)]
    found = estimator_variance(features, weights, included)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=DOUBLE))
    # The estimate of Hansen and Hurwitz.
    found = estimator_variance(features, weights, torch.zeros_like(included))
    torch.testing.assert_close(found, 5 * terms.var(1).sum(1))
    # What is certain has no variance, and a single patch tells of none.
    included[:, 1:] = 1
    assert estimator_variance(features, weights, included).tolist() == [0] * 4
    assert estimator_variance(features[:, :1], weights[:, :1], included[:, :1]).tolist() == [0] * 4


def test_variance_with_replacement_is_unbiased() -> None:
    """By enumeration of all samples."""
    torch.manual_seed(0)
    attention, features = attention_maps(1, 5)[0], torch.randn(5, 3, dtype=DOUBLE)
    samples = torch.tensor(list(itertools.product(range(5), repeat=3)))
    chance = attention[samples].prod(1)
    weights = torch.full(samples.shape, 1 / 3, dtype=DOUBLE)
    drawn = features[samples]
    errors = drawn.mean(1) - attention @ features
    found = estimator_variance(drawn, weights, torch.zeros_like(weights))
    torch.testing.assert_close(chance @ found, chance @ errors.square().sum(1))


@pytest.mark.parametrize(
    ("design", "sharpness", "low", "high"),
    [
        ("replacement", 2.0, 0.9, 1.1),
        ("systematic", 0.0, 0.9, 1.1),
        ("systematic", 2.0, 0.9, 1.1),
        ("systematic", 4.0, 0.9, 1.1),
        ("murthy", 2.0, 0.9, 1.1),
        ("murthy", 4.0, 0.9, 1.25),
        ("des-raj", 2.0, 0.9, 1.1),
        ("des-raj", 4.0, 0.9, 4.0),
    ],
)
def test_variance_of_designs(design: str, sharpness: float, low: float, high: float) -> None:
    """The mean estimate relative to the variance of many draws."""
    torch.manual_seed(0)
    attention = attention_maps(1, 11, 23, sharpness=sharpness).expand(4000, 11, 23)
    features = torch.randn(11, 23, 5, dtype=DOUBLE) + 0.5
    positions, weights = ats.sample(attention, 10, design=design)
    drawn = features[positions[..., 0], positions[..., 1]]
    estimate = sampling.expectation(drawn, weights)
    exact = (attention[0].unsqueeze(2) * features).sum((0, 1))
    patches = torch.rand(4000, 10, 1, 1, 1)
    seen = ats.AttentionSamplingOutput(
        estimate, attention, patches, positions, positions, weights, drawn
    )
    sums = image_sums(seen, repeats=design == "replacement")
    true = (estimate - exact).square().sum()
    assert low < float(sums[4] / true) < high
    assert float(sums[5]) == pytest.approx(float(estimate.square().sum()), rel=1e-5)


def test_constant_loss() -> None:
    target = torch.tensor([0, 1, 1, 3, 1, 0])
    shares = torch.tensor([2, 3, 1]) / 6
    wanted = -float((shares * shares.log()).sum())
    assert constant_loss(cross_entropy, target, None, 4) == pytest.approx(wanted, abs=1e-4)
    weights = torch.tensor([2.0, 1.0, 5.0, 4.0])
    masses = torch.tensor([4, 3, 4]) / 6
    wanted = -float((masses * (masses / masses.sum()).log()).sum())
    assert constant_loss(cross_entropy, target, weights, 4) == pytest.approx(wanted, abs=1e-4)
    values = torch.randn(50, 2)
    numbers = Numbers(["a", "b"], values.mean(0).tolist(), values.std(0, correction=0).tolist())
    assert constant_loss(numbers.loss, values, None, 2) == pytest.approx(1, abs=1e-4)
    several = (torch.rand(40, 3) < torch.tensor([0.5, 0.9, 0.2])).float()
    share = several.mean(0)
    wanted = -float((share * share.log() + (1 - share) * (1 - share).log()).mean())
    found = constant_loss(Labels(["a", "b", "c"]).loss, several, None, 3)
    assert found == pytest.approx(wanted, abs=1e-4)


# The table


def test_columns_that_came_later(tmp_path: Path) -> None:
    old = dict.fromkeys(COLUMNS, 1.0) | {"epoch": 0.0}
    new = old | {"epoch": 1.0, "train_largest_weight": 0.5}
    path = tmp_path / "history.csv"
    write_history(path, [old, new])
    assert read_history(path) == [old, new]
    assert mean_of([[new], [old]])[0].keys() == old.keys()
    # Only what came later may be missing.
    path.write_text(path.read_text().replace("1,1.0,", "1,,"))
    with pytest.raises(ValueError, match=r"history.csv is damaged"):
        read_history(path)


DIGITS = ("--patch_size", "24x24", "--n_patches", "3", "--batch_size", "8", "--epochs")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_digits(tmp_path_factory.mktemp("data"), n_train=20, n_test=4)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole")
    done = run("mnist.py", data, output, *DIGITS, "2", "--micro_batch", "8")
    # The line of an epoch stays short.
    assert "entropy" in done.stdout
    assert "largest" not in done.stdout
    return output


def measured(output: Path) -> list[dict[str, float]]:
    return [
        {name: float(row[name]) for name in ("train_loss", *Diagnosis.measures)}
        for row in rows(output / "history.csv")
    ]


def test_the_columns_are_those_of_the_steps(data: Path, whole: Path, tmp_path: Path) -> None:
    """The first epoch of a training, step by step and image by image."""
    script = load("scripts/mnist.py")
    from ats.datasets.megapixel_mnist import MegapixelMNIST
    from ats.training.batches import EpochBatches, image_generators

    # All steps of an epoch see the network as it starts, if it learns next to nothing.
    options = ("--lr", "1e-12", "--design", "replacement", "--no-centring")
    run("mnist.py", data, tmp_path, *DIGITS, "1", "--micro_batch", "4", *options)
    (row,) = measured(tmp_path)
    images = MegapixelMNIST(data, train=True)
    args = script.parse([str(data), "out", *DIGITS, "1", *options])
    torch.manual_seed(0)
    model = script.build_model(args, 10)
    from ats.training.start import start_from

    start_from(model, tmp_path / "weights_000.safetensors")
    values = []
    classes = []
    for indices in EpochBatches(20, batch_size=8, micro_batch=1, seed=0):
        batch = images.__getitems__(indices)
        with torch.no_grad():
            _, seen = model(*batch[:2], generator=image_generators(0, 0, indices))
        attention, places = seen.attention[0].double(), seen.positions[0].tolist()
        terms = (seen.weights[0].unsqueeze(1) * seen.patch_features[0]).double()
        values.append(
            (
                1 / float(attention.square().sum()),
                max(places.count(place) for place in places) / 3,
                sum(place in places[:n] for n, place in enumerate(places)) / 3,
                sum(len(patch.unique()) == 1 for patch in seen.patches[0]) / 3,
                looped_variance(terms, torch.zeros(3)),
                float(terms.sum(0).square().sum()),
            )
        )
        classes.append(int(batch.target))
    *means, variance, length = (sum(column) / 16 for column in zip(*values, strict=True))
    frequency = torch.bincount(torch.tensor(classes)).double() / 16
    wanted = [float(torch.special.entr(frequency).sum()), *means, variance / length]
    assert len(classes) == 16
    assert [row[name] for name in Diagnosis.measures] == pytest.approx(wanted, rel=1e-3)
    assert 0 < row["train_estimator_variance"] < 2


@pytest.mark.parametrize("shared", [("--devices", "2", "--accelerator", "cpu"), ()])
def test_processes_and_micro_batches_change_no_column(
    data: Path, whole: Path, tmp_path: Path, shared: tuple[str, ...]
) -> None:
    done = run("mnist.py", data, tmp_path, *DIGITS, "1", "--micro_batch", "2", *shared)
    assert measured(tmp_path)[0] == pytest.approx(measured(whole)[0], rel=1e-4)
    assert "sync_dist" not in done.stderr


def test_a_run_without_the_columns_goes_on(data: Path, whole: Path, tmp_path: Path) -> None:
    run("mnist.py", data, tmp_path, *DIGITS, "1", "--micro_batch", "8")
    path = tmp_path / "history.csv"
    old = [{name: row[name] for name in COLUMNS} for row in read_history(path)]
    write_history(path, old)
    run("mnist.py", data, tmp_path, *DIGITS, "2", "--micro_batch", "8", "--resume")
    first, second = rows(path)
    assert [first[name] for name in Diagnosis.measures] == [""] * 6
    assert {name: float(second[name]) for name in Diagnosis.measures} == pytest.approx(
        {name: value for name, value in measured(whole)[1].items() if name != "train_loss"}
    )
