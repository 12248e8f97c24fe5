"""What a user is told when attention goes wrong, in real trainings on few small images."""

import argparse
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from programs import ROOT
from torch import Tensor, nn

import ats
from ats import AttentionSampling, Classifier
from ats.datasets.batch import Batch
from ats.images import TensorImages
from ats.training.advice import advice
from ats.training.arguments import add_training_arguments
from ats.training.build import sampling_arguments
from ats.training.history import read_history
from ats.training.run import fit


class Pictures:
    """Images of 30 x 35 pixels and what they show, in memory."""

    def __init__(self, high: Tensor, target: Tensor) -> None:
        self.high, self.target = high, target

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:
        high = self.high[indices]
        low = nn.functional.avg_pool2d(high, 5)
        return Batch(low, TensorImages(high), self.target[indices], torch.tensor(indices))


def parse(output: Path, *options: str, epochs: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_training_arguments(parser, votes=True)
    parser.set_defaults(output=str(output), batch_size=8, n_patches=2, patch_size=(4, 4))
    return parser.parse_args(["--accelerator", "cpu", "--epochs", str(epochs), *options])


def network(args: argparse.Namespace, logit: nn.Module, sharpness: float) -> Classifier:
    """Attention of 6 x 7 positions, or of one, which is flat without any sharpness."""
    torch.manual_seed(0)
    attention = nn.Conv2d(1, 1, 3, padding="same")
    with torch.no_grad():
        attention.weight.mul_(sharpness)
    feature = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), ats.L2Normalize())
    options = sampling_arguments(args)
    return Classifier(AttentionSampling(nn.Sequential(attention, logit), feature, **options), 4, 3)


def said(
    capsys: pytest.CaptureFixture[str],
    output: Path,
    pictures: Pictures,
    *options: str,
    epochs: int,
    sharpness: float,
    logit: nn.Module | None = None,
    **settings: Any,
) -> list[str]:
    """Train; the lines on stderr."""
    args = parse(output, *options, epochs=epochs)
    for name, value in settings.items():
        setattr(args, name, value)
    model = network(args, logit or nn.Identity(), sharpness)
    fit(model, pictures, pictures, args, {}, ["a", "b", "c"])
    captured = capsys.readouterr()
    assert f"Epoch {epochs}/{epochs}" in captured.out
    return captured.err.splitlines()


def noise(n_images: int = 16) -> Pictures:
    """Images from which nothing can be learnt."""
    torch.manual_seed(1)
    return Pictures(torch.rand(n_images, 1, 30, 35), torch.arange(n_images) % 3)


SLOW = ("--lr", "1e-5")
PLAIN = ("--prior", "none")


def test_collapsed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    given = {"sharpness": 1e4}
    (line,) = said(capsys, tmp_path, noise(), *SLOW, *PLAIN, epochs=4, **given)
    assert line.startswith("Warning: attention has collapsed: 1.")
    assert "raise --regularizer_strength (now 0.0001), lower --lr (now 1e-05)" in line
    assert read_history(tmp_path / "history.csv")[0]["train_effective_positions"] < 1.5
    # It has been said.
    more = (*SLOW, *PLAIN, "--resume")
    assert said(capsys, tmp_path, noise(), *more, epochs=6, **given) == []


def test_attention_that_learns_may_concentrate(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target = torch.arange(24) % 3
    pictures = Pictures(target.view(-1, 1, 1, 1) * torch.ones(24, 1, 30, 35), target)
    pictures.high[:, :, 12, 12] += 9.0  # where attention is
    given = {"sharpness": 1e4, "epochs": 8}
    assert said(capsys, tmp_path, pictures, "--lr", "0.05", *PLAIN, **given) == []
    last = read_history(tmp_path / "history.csv")[-1]
    assert last["train_effective_positions"] < 1.5
    assert last["train_loss"] < 0.5 * last["train_constant_loss"]


def test_flat(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    given = {"sharpness": 0.0, "epochs": 6}
    options = (*SLOW, *PLAIN, "--design", "murthy")
    (line,) = said(capsys, tmp_path, noise(), *options, **given)
    assert line.startswith("Warning: attention stays flat: entropy 3.74, 42 effective positions")
    assert "try --prior contrast, --design systematic, a higher --lr (now 1e-05)" in line
    assert "--feature_scale" not in line


def test_flat_with_a_prior(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pictures = noise()
    pictures.high[:, :, :, 10:] *= 0.01
    given = {"sharpness": 0.0, "epochs": 6}
    (line,) = said(capsys, tmp_path, pictures, *SLOW, **given)
    assert line.startswith("Warning: attention stays flat: entropy")
    assert "--prior" not in line
    entropy = read_history(tmp_path / "history.csv")[0]["train_entropy"]
    assert entropy < 0.9 * math.log(42)


def test_empty(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pictures = noise()
    pictures.high[:, :, :, 8:] = 0
    given = {"sharpness": 0.0, "epochs": 4}
    (line,) = said(capsys, tmp_path, pictures, *SLOW, *PLAIN, **given)
    assert re.match(r"Warning: [67]\d% of the patches are empty, without any contrast", line)
    assert "try --prior contrast" in line


def test_a_single_position(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    given = {"sharpness": 1.0, "epochs": 6, "n_patches": 1, "logit": nn.AdaptiveMaxPool2d(1)}
    assert said(capsys, tmp_path, noise(), *SLOW, **given) == []
    (row, *_) = read_history(tmp_path / "history.csv")
    assert row["train_effective_positions"] == row["train_largest_weight"] == 1
    # One patch does not tell of a variance.
    assert "train_estimator_variance" not in row


GOOD = {
    "train_loss": 1.0,
    "train_constant_loss": 1.0,
    "train_entropy": 2.0,
    "train_effective_positions": 5.0,
    "train_largest_weight": 0.5,
    "train_empty_patches": 0.1,
}
FIRST = GOOD | {"train_entropy": 3.0}
COLLAPSED = GOOD | {"train_effective_positions": 1.4}
HEAVY = GOOD | {"train_largest_weight": 0.95}
FLAT = GOOD | {"train_entropy": 2.9, "train_effective_positions": 20.0}
EMPTY = GOOD | {"train_empty_patches": 0.6}
LEARNT = {"train_loss": 0.7}


def spoken(
    table: list[dict[str, float]], n_patches: int = 2, *options: str
) -> list[tuple[int, str]]:
    """After how many rows something is said, and its second word or third."""
    args = parse(Path(), *options, epochs=1)
    return [
        (n, next(word for word in ("collapsed", "flat", "empty") if word in line))
        for n in range(1, len(table) + 1)
        for line in advice(table[:n], args, 42, n_patches)
    ]


def test_when_advice_is_given() -> None:
    for row, name in ((COLLAPSED, "collapsed"), (HEAVY, "collapsed"), (EMPTY, "empty")):
        assert spoken([FIRST, *[row] * 9]) == [(4, name)]
        # Again only after it was cured.
        assert spoken([FIRST, *[row] * 4, GOOD, *[row] * 5]) == [(4, name), (9, name)]
        assert spoken([FIRST, *[row, row, GOOD] * 3]) == []
        assert spoken([row | LEARNT] * 9) == []
        # Rows without the columns.
        assert spoken([{"train_loss": 1.0, "train_entropy": 3.0}, *[row] * 3]) == [(4, name)]
    # The only patch has all the weight.
    assert spoken([FIRST, *[HEAVY] * 9], 1) == []
    assert spoken([FIRST, *[FLAT] * 9]) == [(5, "flat")]
    assert spoken([FLAT] * 9, 2, "--warmup", "2.5") == [(8, "flat")]
    assert spoken([FIRST, *[FLAT | {"train_loss": 0.94}] * 9]) == []
    # All positions are seen.
    assert spoken([FIRST, *[FLAT] * 9], 42) == []
    # Attention that does not change.
    assert spoken([FIRST, *[FLAT] * 9], 2, "--design", "peaks") == []
    # Without a prior, flat is what has the entropy of 42 equal positions.
    assert spoken([FLAT] * 9, 2, *PLAIN) == []
    assert spoken([FLAT | {"train_entropy": 3.7}] * 9, 2, *PLAIN) == [(5, "flat")]


@pytest.mark.parametrize(
    "path",
    sorted(
        path
        for path in (ROOT / "docs" / "results").rglob("*.csv")
        if not path.stem.endswith("-patches")
    ),
    ids=lambda p: p.stem,
)
def test_trainings_that_went_well_got_no_advice(path: Path) -> None:
    """The tables of the results, which are older than the columns."""
    n_classes = 4 if "scenes" in path.stem else 7 if "gtsdb" in path.stem else 10
    table = [
        row
        | {
            "train_constant_loss": math.log(n_classes),
            "train_effective_positions": math.exp(row["train_entropy"]),
            "train_largest_weight": 0.5,
            "train_empty_patches": 0.0,
        }
        for row in read_history(path)
    ]
    options = PLAIN if "published" in path.stem else ()
    # Those that never began are told so, and those that took 40, 74 and 150 epochs to.
    flat = {
        "mnist-3000-from-scratch",
        "mnist-1500-standardised-entropy-400",
        "mnist-1500-published-0",
        "mnist-1500-published-7336536",
        "mnist-1500-published-ffd037c",
    }
    wanted = [(5, "flat")] if path.stem in flat else []
    if "whole" not in path.stem:  # networks with a single position
        assert spoken(table, 10, *options) == wanted
