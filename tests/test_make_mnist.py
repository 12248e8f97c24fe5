"""Megapixel MNIST: against the program of 2019, an obviously right twin, and kill -9."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from programs import load
from skimage.transform import rescale
from test_mnist_files import idx
from torch.utils.data import DataLoader

from ats.datasets.batch import collate
from ats.datasets.make_megapixel_mnist import make_megapixel_mnist
from ats.datasets.megapixel_layout import draw_digits, draw_noise
from ats.datasets.megapixel_mnist import MegapixelMNIST
from ats.datasets.sparse_file import open_spool
from ats.datasets.stamps import compose, shrink
from ats.nn import unit_float

SCRIPT = Path(__file__).parents[1] / "scripts" / "make_mnist.py"
SMALL = {"n_train": 11, "n_test": 7, "width": 311, "height": 197, "scale": 0.2}
SMALL |= {"digits": "optdigits", "progress": False}

Golden = dict[str, NDArray[np.generic]]


@pytest.fixture(scope="module")
def golden() -> Golden:
    shared = os.environ.get("ATS_SHARED")
    if shared is None:
        pytest.skip("ATS_SHARED, the folder with the recorded data, is not set")
    with np.load(Path(shared) / "golden" / "make_mnist.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def recorded_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random digits that stood in for MNIST when the golden data were recorded."""
    folder = tmp_path_factory.mktemp("digits")
    for seed, n, name in ((0, 60000, "train"), (1, 10000, "t10k")):
        images = np.random.RandomState(seed).randint(0, 256, (n, 28, 28)).astype(np.uint8)
        labels = np.random.RandomState(seed + 2).randint(0, 10, n).astype(np.uint8)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "set"
    make_megapixel_mnist(folder, **SMALL)
    return folder


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small, tmp_path / "copy")


@pytest.fixture(scope="module")
def script() -> SimpleNamespace:
    return load("scripts/make_mnist.py")


# The data of the program of 2019


@pytest.mark.parametrize("train", [True, False])
def test_the_random_stream_is_the_recorded_one(golden: Golden, train: bool) -> None:
    labels = np.random.RandomState(3 - train).randint(0, 10, 60000 if train else 10000)
    rng = np.random.RandomState(int(train))
    digits = draw_digits(rng, labels, n_images=5, height=500, width=500)
    noise = draw_noise(rng, n_images=5, n_noise=50, height=500, width=500)
    for key, found in {
        "targets": digits.targets,
        "idxs": digits.digits,
        "positions": digits.corners,
        "noise_positions": noise.corners,
        "noise_patterns": noise.chosen,
        "noise_images": noise.patterns,
    }.items():
        np.testing.assert_array_equal(found, golden[f"noise1_train{train:d}/{key}"], err_msg=key)


@pytest.mark.parametrize("noise", [True, False])
def test_the_images_are_the_recorded_ones(
    golden: Golden, recorded_digits: Path, tmp_path: Path, noise: bool
) -> None:
    sizes = {"n_train": 5, "n_test": 5, "width": 500, "height": 500, "scale": 0.2}
    make_megapixel_mnist(
        tmp_path, mnist=recorded_digits, n_noise=50 * noise, progress=False, **sizes
    )
    for train in (True, False):
        batch = MegapixelMNIST(tmp_path, train=train).__getitems__(list(range(5)))
        # As the networks see them.
        low, high = unit_float(batch.x_low), unit_float(batch.x_high.to_dense())
        for i in range(5):
            key = f"noise{noise:d}_train{train:d}/{i}"
            assert int(batch.target[i]) == golden[f"{key}/y"].argmax()
            for name, image in (("low", low[i]), ("high", high[i])):
                expected = np.zeros(image.numel(), np.float32)
                expected[golden[f"{key}/{name}_indices"]] = golden[f"{key}/{name}_values"]
                np.testing.assert_array_equal(image.flatten().numpy(), expected)


# Obviously right twins


def dense(
    stamps: NDArray[np.uint8], chosen: list[int], corners: list[list[int]], shape: tuple[int, int]
) -> NDArray[np.uint8]:
    size = stamps.shape[-1]
    image = np.zeros((shape[0] + size, shape[1] + size), np.uint8)
    for stamp, (row, column) in zip(chosen, corners, strict=True):
        image[row : row + size, column : column + size] = stamps[stamp]
    return image[: shape[0], : shape[1]]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5), st.integers(0, 70), st.integers(0, 9), st.floats(0.2, 1), st.integers(0, 99)
)
def test_stamps_overwrite_each_other_as_on_a_dense_image(
    size: int, n: int, k: int, scale: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    height, width = 7, 11
    stamps = rng.integers(0, 3, (4, size, size)).astype(np.uint8) * 127
    chosen = rng.integers(0, 4, (n, k))
    corners = np.stack([rng.integers(0, 7, (n, k)), rng.integers(0, 11, (n, k))], -1)
    parts = list(compose(stamps, chosen, corners, height=height, width=width, scale=scale))
    assert sum(len(part.counts) for part in parts) == n
    images = []
    for part in parts:
        ends = np.cumsum(part.counts)
        for start, end in zip(ends - part.counts, ends, strict=True):
            indices = part.indices[start:end]
            assert (np.diff(indices) > 0).all()
            assert part.values[start:end].all()
            image = np.zeros(height * width, np.uint8)
            image[indices] = part.values[start:end]
            images.append(image.reshape(height, width))
    for i, image in enumerate(images):
        scaled = [[int(row * scale), int(column * scale)] for row, column in corners[i].tolist()]
        np.testing.assert_array_equal(
            image, dense(stamps, chosen[i].tolist(), scaled, (height, width))
        )


@pytest.mark.parametrize("scale", [0.05, 0.12, 0.2, 0.37, 0.5, 1.0])
def test_stamps_are_resized_exactly_as_one_by_one(scale: float) -> None:
    rng = np.random.default_rng(0)
    ink = np.clip(rng.normal(0, 300, (40, 28, 28)), 0, 255).astype(np.uint8)
    blocks = np.repeat(np.repeat(rng.integers(0, 2, (20, 4, 4)), 7, 1), 7, 2).astype(np.uint8) * 255
    flat = np.broadcast_to(np.array([0, 1, 200, 255], np.uint8)[:, None, None], (4, 28, 28))
    bright = rng.integers(150, 256, (20, 28, 28)).astype(np.uint8)
    stamps = np.concatenate([ink, blocks, flat, bright]) / np.float32(255)
    stamps = np.concatenate([stamps, rng.random((20, 28, 28), np.float32)])
    expected = [
        255 * rescale(stamp, scale, order=1, mode="constant", anti_aliasing=True)
        for stamp in stamps
    ]
    np.testing.assert_array_equal(shrink(stamps, scale), np.array(expected).astype(np.uint8))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(150, 400), st.integers(150, 400))
def test_digits_are_three_of_a_class_and_two_others_apart(
    seed: int, height: int, width: int
) -> None:
    labels = np.random.default_rng(seed).integers(0, 10, 500)
    rng = np.random.RandomState(seed)
    layout = draw_digits(rng, labels, n_images=9, height=height, width=width)
    noise = draw_noise(rng, n_images=9, n_noise=30, height=height, width=width)
    classes = labels[layout.digits]
    assert (classes[:, :3] == layout.targets[:, None]).all()
    assert (classes[:, 3:] != layout.targets[:, None]).all()
    apart = np.abs(layout.corners[:, :, None] - layout.corners[:, None]).max(-1)
    assert (apart[:, ~np.eye(5, dtype=bool)] >= 28).all()
    for corners in (layout.corners, noise.corners):
        assert (corners >= 0).all()
        assert (corners <= [height - 28, width - 28]).all()


def test_any_number_of_stamps(tmp_path: Path) -> None:
    sizes = {"n_train": 3, "n_test": 1, "width": 900, "height": 800, "scale": 0.2}
    inks = []
    for n_noise in (0, 1, 150):
        folder = tmp_path / str(n_noise)
        make_megapixel_mnist(folder, digits="optdigits", n_noise=n_noise, progress=False, **sizes)
        high = MegapixelMNIST(folder).__getitems__([0, 1, 2]).x_high.to_dense()
        inks.append((high > 0).float().sum().item() / 3)
    # Two lines of 28 to 56 pixels each, and few stamps that lie over one another.
    one, many = inks[1] - inks[0], inks[2] - inks[0]
    assert 30 < one < 90
    assert 100 < many / one < 200


def test_a_digit_without_room_is_drawn_again() -> None:
    """Digits that fill half of the image: the loop written out, with its own generator."""
    labels = np.arange(10)
    size = {"height": 100, "width": 140}
    found = draw_digits(np.random.RandomState(5), labels, n_images=50, **size).corners
    rng = np.random.RandomState(5)
    for _ in range(50):
        rng.rand(), rng.randint(0, 1, 3), rng.randint(0, 9, 2)
    rejected = 0
    for corners in found:
        taken = np.zeros((100, 140), bool)
        for place in range(5):
            while True:
                row, column = np.round(rng.rand(2) * [72, 112]).astype(int)
                square = taken[row : row + 28, column : column + 28]
                if not square.any():
                    break
                rejected += 1
            square[:] = True
            assert corners[place].tolist() == [row, column]
    assert rejected > 50


# The folder


def kill_when(ready, command: list[str]) -> None:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not ready():
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def test_a_killed_run_is_completed_by_the_next(tmp_path: Path, script: SimpleNamespace) -> None:
    options = ["--digits", "optdigits", "--n_train", "150", "--n_test", "4000"]
    options += ["--width", "600", "--height", "400"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert script.main([str(whole), *options]) == 0
    made = killed / "train.safetensors"
    kill_when(made.exists, [sys.executable, str(SCRIPT), str(killed), *options])
    assert not (killed / "parameters.json").exists()
    assert not (killed / "test.safetensors").exists()
    with pytest.raises(FileNotFoundError, match=r"has no parameters\.json.*complete it"):
        MegapixelMNIST(killed)
    # What a kill between writing and renaming leaves.
    (killed / ".test.0123abcd.tmp.safetensors").write_bytes(b"half a file")
    kept = made.stat().st_mtime_ns
    assert script.main([str(killed), *options]) == 0
    assert made.stat().st_mtime_ns == kept
    names = sorted(path.name for path in killed.iterdir())
    assert names == ["parameters.json", "test.safetensors", "train.safetensors"]
    for name in names:
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


def test_the_same_command_again_changes_nothing(copy: Path) -> None:
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    times = [(copy / f"{name}.safetensors").stat().st_mtime_ns for name in ("train", "test")]
    make_megapixel_mnist(copy, **SMALL)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
    after = [(copy / f"{name}.safetensors").stat().st_mtime_ns for name in ("train", "test")]
    assert after == times
    (copy / "test.safetensors").unlink()
    make_megapixel_mnist(copy, **SMALL)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


@pytest.mark.parametrize("unfinished", [True, False])
@pytest.mark.parametrize("json_only", [True, False])
def test_another_data_set_is_never_overwritten(
    copy: Path, unfinished: bool, json_only: bool
) -> None:
    if unfinished:
        (copy / "parameters.json").unlink()
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    with pytest.raises(
        ValueError,
        match=r"other parameters \(dataset_seed=0 there, 1 wanted\); choose another output",
    ):
        make_megapixel_mnist(copy, **SMALL, dataset_seed=1, json_only=json_only)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_parameters_alone_belong_to_a_data_set_too(tmp_path: Path) -> None:
    make_megapixel_mnist(tmp_path, **SMALL, json_only=True)
    written = (tmp_path / "parameters.json").read_bytes()
    with pytest.raises(ValueError, match=r"parameters\.json belongs to .*\(n_train=11 there, 12"):
        make_megapixel_mnist(tmp_path, **(SMALL | {"n_train": 12}))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [written]


def test_damage_is_not_declared_finished(copy: Path) -> None:
    damage(copy / "train.safetensors")
    with pytest.raises(ValueError, match=r"train\.safetensors is not the file that was made here"):
        make_megapixel_mnist(copy, **SMALL)
    (copy / "parameters.json").write_text('{"of": "another program"}')
    with pytest.raises(ValueError, match=r"parameters\.json is not one of Megapixel MNIST"):
        make_megapixel_mnist(copy, **SMALL)


def test_parameters_alone_do_not_look_finished(tmp_path: Path, small: Path) -> None:
    make_megapixel_mnist(tmp_path, **SMALL, json_only=True)
    assert [path.name for path in tmp_path.iterdir()] == ["parameters.json"]
    with pytest.raises(FileNotFoundError, match=r"parameters only; run .* without --json_only"):
        MegapixelMNIST(tmp_path)
    shutil.copy(small / "train.safetensors", tmp_path)
    make_megapixel_mnist(tmp_path, **SMALL, json_only=True)
    with pytest.raises(FileNotFoundError, match="parameters only"):
        MegapixelMNIST(tmp_path)
    make_megapixel_mnist(tmp_path, **SMALL)
    for path in small.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_nothing_is_pickled_and_no_path_is_written(small: Path) -> None:
    written = (small / "parameters.json").read_text()
    assert str(Path.home()) not in written
    assert str(small) not in written
    assert json.loads(written)["n_train"] == SMALL["n_train"]


# The reader


def test_a_batch_is_its_images(small: Path) -> None:
    data = MegapixelMNIST(small)
    assert (len(data), data.n_classes, data.channels) == (11, 10, 1)
    assert (data.high_shape, data.low_shape) == ((197, 311), (39, 62))
    batch = data.__getitems__([9, 2, 2])
    assert batch.x_low.shape == (3, 1, 39, 62)
    assert batch.x_low.dtype == torch.uint8
    assert (int(batch.x_low.amin()), int(batch.x_low.amax()) > 1) == (0, True)
    assert batch.x_high.shape == (1, 197, 311)
    assert batch.index.tolist() == [9, 2, 2]
    for place, index in enumerate([9, 2, 2]):
        one = data[index]
        assert one.target.tolist() == [batch.target[place]]
        assert torch.equal(one.x_low[0], batch.x_low[place])
        assert torch.equal(one.x_high.to_dense()[0], batch.x_high.to_dense()[place])
    for outside in (-1, 11):
        with pytest.raises(IndexError, match=f"index {outside} is outside the 11 images"):
            data[outside]


@pytest.mark.parametrize("n_workers", [0, 1])
def test_batches_come_through_a_loader(small: Path, n_workers: int) -> None:
    data = MegapixelMNIST(small, train=False)
    data[0]  # opens the file, which must not travel to the workers
    loader = DataLoader(data, batch_size=3, collate_fn=collate, num_workers=n_workers)
    whole = data.__getitems__(list(range(7)))
    batches = list(loader)
    assert torch.equal(torch.cat([batch.x_low for batch in batches]), whole.x_low)
    assert torch.equal(torch.cat([batch.target for batch in batches]), whole.target)
    high = torch.cat([batch.x_high.to_dense() for batch in batches])
    assert torch.equal(high, whole.x_high.to_dense())


def test_what_travels_to_a_worker_is_small(small: Path) -> None:
    data = MegapixelMNIST(small)
    expected = data[3].x_low
    sent = pickle.dumps(data)
    assert len(sent) < 5000
    assert torch.equal(pickle.loads(sent)[3].x_low, expected)


def test_indices_are_wide_enough(tmp_path: Path) -> None:
    for n_pixels, expected in ((2**31 - 1, "int32"), (2**31, "int64")):
        with open_spool(tmp_path, n_pixels) as spool:
            assert spool.index_dtype == expected


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def edit(folder: Path, **changes: object) -> None:
    path = folder / "parameters.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def of_2019(folder: Path) -> None:
    empty(folder)
    (folder / "parameters.json").write_text('{"n_train": 5}')
    (folder / "train.npy").write_bytes(b"never opened")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (empty, FileNotFoundError, r"has no parameters\.json: it is empty.*make_mnist\.py"),
        (
            lambda f: (f / "train.safetensors").unlink(),
            FileNotFoundError,
            r"train\.safetensors is missing; run make_mnist\.py",
        ),
        (
            lambda f: os.truncate(f / "train.safetensors", 1000),
            ValueError,
            r"train\.safetensors has 1000 bytes, expected \d+: truncated; delete",
        ),
        (lambda f: damage(f / "train.safetensors"), ValueError, "wrong digest: expected sha256"),
        (lambda f: edit(f, dataset_seed=1), ValueError, r"other parameters .*\(dataset_seed\)"),
        (lambda f: edit(f, format_version=0), ValueError, "format_version=0, expected 1; delete"),
        (lambda f: edit(f, height="500"), ValueError, r"damaged: height is '500', expected .*int"),
        (lambda f: edit(f, splits=[1, 2]), ValueError, r"damaged: splits is \[1, 2\]"),
        (
            lambda f: edit(f, splits={"train": {"file": "train.safetensors"}, "test": 3}),
            ValueError,
            "damaged: splits/train/n_images is None, expected",
        ),
        (lambda f: edit(f, format="other"), ValueError, "is not one of Megapixel MNIST"),
        (lambda f: (f / "parameters.json").write_text("{"), ValueError, "is not JSON"),
        (of_2019, ValueError, r"holds train\.npy, a file that may carry a pickle.*never loaded"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(copy: Path, change, error, message: str) -> None:
    change(copy)
    with pytest.raises(error, match=message):
        MegapixelMNIST(copy)


def test_a_file_that_is_no_split(copy: Path) -> None:
    path = copy / "train.safetensors"
    path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(ValueError, match=r"truncated or not a file of Megapixel MNIST.*delete it"):
        MegapixelMNIST(copy)


# The command


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 27}, "width=27 must be at least 28"),
        ({"n_test": 0}, "n_test=0 must be at least 1"),
        ({"width": 70, "height": 70}, "height=70 and width=70 are too small to place 5 digits"),
        ({"width": 143, "height": 28, "n_noise": 0}, "height=28 and width=143 are too small"),
        ({"width": 300, "height": 55}, "height=55 and width=300 leave no place for noise"),
        ({"n_noise": -1}, "n_noise=-1 must be at least 0"),
        ({"n_noise": 10**8}, "n_noise=100000000 stamps exceed the 61267 pixels"),
        ({"scale": 0.0}, "scale=0.0 must be at most 1"),
        ({"scale": 1.5}, "scale=1.5 must be at most 1"),
        ({"scale": float("nan")}, "scale=nan must be at most 1"),
        ({"dataset_seed": -1}, "dataset_seed=-1 must lie between 0 and"),
        ({"digits": "letters"}, "digits='letters' must be 'mnist' or 'optdigits'"),
        ({"mnist": "somewhere"}, "mnist='somewhere' has no use with digits='optdigits'"),
    ],
)
def test_arguments_that_make_no_sense(tmp_path: Path, changes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_megapixel_mnist(tmp_path, **(SMALL | changes))
    assert not (tmp_path / "parameters.json").exists()


def test_user_errors_are_one_line(
    tmp_path: Path, script: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    for options, message in (
        ([str(tmp_path / "file" / "set")], "cannot be written"),
        ([str(tmp_path / "set"), "--mnist", str(tmp_path)], "none of MNIST's four files"),
    ):
        assert script.main(options) == 2
        error = capsys.readouterr().err
        assert error.startswith("make_mnist.py: error: ")
        assert message in error
        assert error.count("\n") == 1


def test_help_shows_defaults_at_once(script: SimpleNamespace) -> None:
    code = (
        f"import runpy, sys; sys.argv = [{str(SCRIPT)!r}, '-h']\n"
        f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "finally: assert not {'torch', 'numpy', 'skimage'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for shown in ("default: 5000", "default: 1000", "default: 1500", "default: 0.12", "DIR"):
        assert shown in done.stdout
    arguments = vars(script.parse_arguments(["set"]))
    assert arguments == {
        "output_directory": "set",
        "n_train": 5000,
        "n_test": 1000,
        "width": 1500,
        "height": 1500,
        "scale": 0.12,
        "n_noise": 50,
        "no_noise": False,
        "dataset_seed": 0,
        "json_only": False,
        "mnist": None,
        "digits": "mnist",
    }
