"""The learning rate over a run: its law, and that a run follows it.

That it goes on where a run is resumed or shared by processes is tested with training itself.
"""

import argparse
import math
from pathlib import Path

import pytest
from programs import make_digits, rows, run

from ats.training.schedule import learning_rate_factor

SMALL = ("--patch_size", "24x24", "--n_patches", "3", "--batch_size", "8")
COSINE = ("--schedule", "cosine", "--warmup", "0.5")


def factor(epoch: float, **given: object) -> float:
    settings = {"schedule": "constant", "warmup": 0.0, "epochs": 20, **given}
    return learning_rate_factor(argparse.Namespace(**settings), epoch)


def test_the_factor() -> None:
    assert [factor(epoch) for epoch in (0, 0.3, 19.9)] == [1, 1, 1]
    assert [factor(epoch, warmup=4.0) for epoch in (0.0, 1.0, 4.0, 5.0)] == [0, 0.25, 1, 1]
    steps = [factor(epoch, decrease_lr_at=7) for epoch in (0, 6.99, 7, 19)]
    assert steps == [1, 1, 0.1, 0.1]
    cosine = {"schedule": "cosine", "warmup": 2.0}
    assert factor(1.0, **cosine) == 0.5
    assert factor(2.0, **cosine) == 1
    assert factor(2.0 + 18 / 4, **cosine) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert factor(11.0, **cosine) == pytest.approx(0.5)
    assert factor(20.0, **cosine) == pytest.approx(0.0)
    assert factor(25.0, **cosine) == pytest.approx(0.0)
    assert factor(11.0, decrease_lr_at=7, **cosine) == pytest.approx(0.05)
    # All of the run may be warm-up.
    assert factor(1.0, schedule="cosine", warmup=4.0, epochs=2) == 0.25


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_digits(tmp_path_factory.mktemp("data"), n_train=32, n_test=12)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole")
    run("mnist.py", data, output, *SMALL, *COSINE, "--epochs", "3")
    return output


def test_a_run_follows_it(whole: Path) -> None:
    # The table has the rate of the last of four steps, the middle of which counts.
    rates = [float(row["learning_rate"]) for row in rows(whole / "history.csv")]
    wanted = [
        0.001 * factor(epoch + 3.5 / 4, schedule="cosine", warmup=0.5, epochs=3)
        for epoch in range(3)
    ]
    assert rates == pytest.approx(wanted)


def test_its_length_cannot_change(data: Path, whole: Path) -> None:
    longer = run("mnist.py", data, whole, *SMALL, *COSINE, "--epochs", "4", "--resume", check=False)
    assert longer.returncode == 2
    assert "made with other parameters (epochs: 3 then, 4 now; with --schedule" in longer.stderr
