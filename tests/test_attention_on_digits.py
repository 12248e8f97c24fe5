"""What a network misses of Megapixel MNIST, by the places of the digits."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from programs import make_digits, run

pytest.importorskip("lightning")
import attention_on_digits as benchmark
from digit_places import LOST, attention_on_digits, digit_places, lost_digits

from ats.datasets.make_megapixel_mnist import make_megapixel_mnist
from ats.datasets.megapixel_mnist import MegapixelMNIST
from ats.datasets.mnist import SIZE
from ats.datasets.optdigits import read_optdigits
from ats.nn import SamplePatches, unit_float

OPTIONS = ("--patch_size", "24x24", "--n_patches", "3", "--batch_size", "8", "--epochs", "1")


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noisy")
    sizes = {"n_train": 6, "n_test": 20, "width": 300, "height": 250, "n_noise": 8}
    make_megapixel_mnist(folder, digits="optdigits", **sizes)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = make_digits(tmp_path_factory.mktemp("data"), n_train=48, n_test=12)
    output = tmp_path_factory.mktemp("run")
    run("mnist.py", data, output, *OPTIONS)
    return output


@pytest.mark.parametrize("train", [False, True])
def test_the_digits_are_there(noisy: Path, train: bool) -> None:
    data = MegapixelMNIST(noisy, train=train)
    source = read_optdigits()[0 if train else 1]
    places = digit_places(data, train=train)
    batch = data.__getitems__(list(range(len(data))))
    found = unit_float(batch.x_high.patches(places.corners, (SIZE, SIZE)))[:, :, 0]
    stamps = found.mul(255).round().numpy().astype(np.uint8)
    images = {label: source.images[source.labels == label] for label in range(10)}
    intact = torch.tensor(
        [
            [(images[label] == stamp).all((1, 2)).any() for label, stamp in zip(*row, strict=True)]
            for row in zip(places.labels.tolist(), stamps, strict=True)
        ]
    )
    # Whatever noise has changed counts as covered, and not everything does.
    assert intact[~places.covered].all()
    assert not intact[places.covered].all()
    assert 0.05 < places.covered.float().mean() < 0.8
    assert (places.labels[:, :3] == batch.target[:, None]).all()


def test_other_digits_are_refused(noisy: Path) -> None:
    data = MegapixelMNIST(noisy, train=False)
    data.parameters["digits_sha256"] = {"train": "", "test": ""}
    with pytest.raises(ValueError, match="does not hold the digits that the data set was made of"):
        digit_places(data, train=False)


def test_attention_that_looks_at_one_digit(noisy: Path) -> None:
    data = MegapixelMNIST(noisy, train=False)
    places = digit_places(data, train=False)
    batch = data[0]
    height, width = batch.x_low.shape[2:]
    attention = torch.zeros(1, height, width)
    centre = places.corners[0, 2] + SIZE // 2
    attention[0, int(centre[0] * height / 250), int(centre[1] * width / 300)] = 0.75
    sample = SamplePatches(n_patches=3, patch_size=(24, 24))
    mass = attention_on_digits(sample, attention, batch, places.corners[:1])
    assert mass.tolist() == [[0, 0, 0.75, 0, 0]]
    everywhere = torch.full((1, height, width), 1 / (height * width))
    mass = attention_on_digits(sample, everywhere, batch, places.corners[:1])
    # A patch of 24 x 24 holds a point in one of so many places.
    assert mass[0, 0].item() == pytest.approx(24 * 24 / (250 * 300), rel=0.5)


def test_lost_digits_are_counted(noisy: Path) -> None:
    places = digit_places(MegapixelMNIST(noisy, train=False), train=False)
    mass = torch.full(places.labels.shape, 0.2)
    free = [tuple(place) for place in (~places.covered).nonzero().tolist()]
    mass[free[0]] = LOST / 2
    said = lost_digits(mass, places)
    assert f"digits with less than 0.05 of it: {1 / mass.numel():.4f}" in said
    assert f"not covered: {1 / len(free):.4f}" in said
    label = int(places.labels[free[0]])
    alike = sum(int(places.labels[place]) == label for place in free)
    assert f"{label} {1 / alike:.3f}" in said


def test_places_teach_an_attention(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "keep_freed_memory", lambda: None)
    benchmark.main([str(trained), "--n_patches", "5", "--epochs", "25"])
    said = capsys.readouterr().out
    assert re.search(r"test error with 5 patches 0\.\d{4}, given the places 0\.\d{4}\n", said)
    before, after = (float(found) for found in re.findall(r"attention on digits (\d\.\d+)", said))
    assert after > max(0.9, before + 0.1)


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"attention_on_digits.py: error: .* is missing"):
        benchmark.main([str(tmp_path)])
