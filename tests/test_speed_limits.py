"""The speed-limits script as a user runs it, and what it measures."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from programs import ROOT, load, rows, run
from safetensors.torch import load_file, save_file
from torch import nn

import ats
from ats import AttentionSampling, Classifier
from ats.datasets.batch import Batch
from ats.datasets.street_scenes import make_street_scenes
from ats.images import TensorImages
from ats.training.build import sampling_arguments
from ats.training.examples import strided
from ats.training.module import TrainingModule
from ats.training.pointing import box_centres, covers, offsets_of_positions
from ats.training.start import start_from
from ats.transforms import RandomChange

SCRIPT = "speed_limits.py"
WHOLE = ("--source", "synthetic", "--batch_size", "4")
SMALL = (*WHOLE, "--patch_size", "60x50", "--n_patches", "2")


@pytest.fixture(scope="module")
def script() -> SimpleNamespace:
    return load("scripts/speed_limits.py")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    return make_street_scenes(folder, n_train=8, n_test=4, progress=False)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run")
    options = ("--cache", data / "cache", "--epochs", "3", "--decrease_lr_at", "2")
    done = run(SCRIPT, data, output, *SMALL, *options)
    assert "train_images: EMPTY 2, 50 2, 70 2, 80 2" in done.stdout
    assert "test_pointing" in done.stdout
    assert "Test error: " in done.stdout
    return output


def test_defaults_are_those_of_the_experiment(script: SimpleNamespace) -> None:
    args = script.parse(["data", "out"])
    assert (args.optimizer, args.lr, args.clipnorm, args.momentum) == ("adam", 0.001, 1, 0.9)
    assert (args.decrease_lr_at, args.scale, args.patch_size) == (250, 0.3, (100, 100))
    assert (args.n_patches, args.regularizer_strength) == (5, 0.0001)
    assert (args.batch_size, args.epochs, args.source) == (32, 500, "sts")
    model = script.build_model(args, 4)
    assert model.sampling.sample.receptive_field == 9
    assert model.sampling.softmax.smoothing == 1e-4
    assert sampling_arguments(args)["n_patches"] == 5


def test_small_composites_are_not_joined_with_scenes(
    script: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        script.parse(["data", "out", "--train_on", "both", "--composite_size", "200x200"])
    assert "take --train_on composites, not both" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--guide", "1"), "--guide needs pasted signs, whose places are known: take --train_on"),
        (("--repeat", "2", "--train_on", "composites"), "--repeat needs real scenes: take --train"),
        (("--composites", "9"), "--composites needs composites: take --train_on composites or"),
        (("--composite_heights", "9-20"), "--composite_heights needs composites: take --train_on"),
    ],
)
def test_options_that_would_do_nothing(
    script: SimpleNamespace,
    capsys: pytest.CaptureFixture[str],
    given: tuple[str, ...],
    message: str,
) -> None:
    with pytest.raises(SystemExit):
        script.parse(["data", "out", *given])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "message"),
    [("20", "must be SMALLEST-LARGEST"), ("50-20", "not end below"), ("3-9", "begin at 4 pixels")],
)
def test_heights_of_signs(
    script: SimpleNamespace, capsys: pytest.CaptureFixture[str], value: str, message: str
) -> None:
    given = ["data", "out", "--train_on", "composites", "--composite_heights"]
    assert script.parse([*given, "20-20"]).composite_heights == (20, 20)
    with pytest.raises(SystemExit):
        script.parse(["data", "out", "--composite_heights", value])
    assert message in capsys.readouterr().err


def test_limits_are_classes_in_one_order(script: SimpleNamespace) -> None:
    assert script.parse(["data", "out", "--limits", "100,30,70"]).limits == ["30", "70", "100"]


def test_everything_is_written(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert {"classes.csv", "confusion.csv", "confusion.png", "points.txt", "model.txt"} <= names
    assert {"curves.png", "history.csv", "parameters.json", "checkpoint.ckpt"} <= names
    assert "SameConv2d" in (trained / "model.txt").read_text()
    for number in range(4):
        folder = trained / "examples" / f"{number:02d}"
        written = {path.name for path in folder.iterdir()}
        each = {"image.png"}
        for epoch in range(3):
            each |= {f"attention_{epoch:03d}.png", f"attention_{epoch:03d}.npy"}
            each |= {f"patches_{epoch:03d}_{patch:02d}.png" for patch in range(2)}
        assert written == each
        assert np.load(folder / "attention_000.npy").shape == (12, 17)
    # Those in between are drawn where epochs take longer than figures.
    assert {"examples_000.png", "examples_002.png"} <= names


def test_the_tables_are_right(trained: Path) -> None:
    history = rows(trained / "history.csv")
    assert [float(row["learning_rate"]) for row in history] == pytest.approx([1e-3, 1e-3, 1e-4])
    for row in history:
        assert 0 <= float(row["test_pointing"]) <= 1
        assert 0 < float(row["test_attention_on_objects"]) < 1
    table = rows(trained / "confusion.csv")
    counts = np.array([[int(row[name]) for name in ("EMPTY", "50", "70", "80")] for row in table])
    assert counts.sum(1).tolist() == [1, 1, 1, 1]
    error = 1 - np.trace(counts) / 4
    assert float(history[-1]["test_error"]) == pytest.approx(error)
    assert [row["weight"] for row in rows(trained / "classes.csv")] == ["1.0"] * 4


def test_the_points_are_those_of_the_patches(trained: Path) -> None:
    lines = (trained / "points.txt").read_text().splitlines()
    assert lines[0].split("\t")[:3] == ["epoch", "example", "image"]
    assert len(lines) == 1 + 3 * 4 * 2
    fields = dict(zip(lines[0].split("\t"), lines[-1].split("\t"), strict=True))
    assert (fields["epoch"], fields["example"], fields["patch"]) == ("2", "3", "1")
    from PIL import Image

    pixels = np.array(Image.open(trained / "examples" / "03" / "patches_002_01.png"))
    top, left = round(float(fields["y"]) - 30), round(float(fields["x"]) - 25)
    source = data_of(trained) / "Set2" / "Set2Part0" / fields["image"]
    whole = np.array(Image.open(source).convert("RGB"))
    padded = np.pad(whole, ((60, 60), (60, 60), (0, 0)))
    np.testing.assert_array_equal(pixels, padded[top + 60 : top + 120, left + 60 : left + 110])


def data_of(output: Path) -> Path:
    return Path(json.loads((output / "parameters.json").read_text())["arguments"]["dataset"])


def test_a_resumed_run_equals_an_uninterrupted_one(
    data: Path, trained: Path, tmp_path: Path
) -> None:
    options = (*SMALL, "--cache", data / "cache", "--decrease_lr_at", "2")
    run(SCRIPT, data, tmp_path, *options, "--epochs", "1")
    run(SCRIPT, data, tmp_path, *options, "--epochs", "3", "--resume")
    wanted = load_file(trained / "weights_002.safetensors")
    got = load_file(tmp_path / "weights_002.safetensors")
    assert wanted.keys() == got.keys()
    assert all(torch.equal(wanted[name], got[name]) for name in wanted)
    assert (tmp_path / "points.txt").read_text() == (trained / "points.txt").read_text()
    done = run(SCRIPT, data, tmp_path, *options, "--resume", "--micro_batch", "2", check=False)
    assert done.returncode == 2
    assert "micro_batch of batch norm: 4 then, 2 now" in done.stderr


def test_a_run_goes_on_with_the_same_scenes(data: Path, trained: Path, tmp_path: Path) -> None:
    moved, output = tmp_path / "moved", tmp_path / "run"
    shutil.copytree(data, moved)
    shutil.copytree(trained, output)
    given = (*SMALL, "--cache", moved / "cache", "--decrease_lr_at", "2", "--epochs", "4")
    # As many of each class, others in each part.
    path = moved / "Set1" / "annotations.txt"
    text = path.read_text()
    path.write_text(
        text.replace("50_SIGN", "X").replace("70_SIGN", "50_SIGN").replace("X", "70_SIGN")
    )
    done = run(SCRIPT, moved, output, *given, "--resume", check=False)
    assert done.returncode == 2
    assert "made with other parameters (scenes: " in done.stderr
    path.write_text(text)
    run(SCRIPT, moved, output, *given, "--resume")


def test_composites_and_a_start(data: Path, trained: Path, tmp_path: Path) -> None:
    start = ("--start", trained / "weights_002.safetensors", "--cache", data / "cache")
    more = ("--train_on", "both", "--composites", "8", "--epochs", "1")
    done = run(SCRIPT, data, tmp_path / "out", *SMALL, *start, *more)
    assert "n_train: 16" in done.stdout
    assert "train_images: EMPTY 4, 50 4, 70 4, 80 4" in done.stdout
    # It goes on without the file that it started from.
    more = (*more[:-1], "2")
    run(SCRIPT, data, tmp_path / "out", *SMALL, "--start", "moved", *start[2:], *more, "--resume")
    assert (tmp_path / "out" / "weights_001.safetensors").exists()


def test_the_stages_of_real_scenes(data: Path, tmp_path: Path) -> None:
    more = ("--train_on", "both", "--composites", "8", "--repeat", "2", "--epochs", "1")
    network = ("--attention", "strided", "--normalize", "image", "--cache", data / "cache")
    done = run(SCRIPT, data, tmp_path / "guided", *SMALL, *network, *more, "--guide", "1")
    assert "n_train: 24" in done.stdout
    assert "train_images: EMPTY 6, 50 6, 70 6, 80 6" in done.stdout
    run(SCRIPT, data, tmp_path / "free", *SMALL, *network, *more)
    guided, free = (
        load_file(tmp_path / name / "weights_000.safetensors") for name in ("guided", "free")
    )
    assert not torch.equal(
        guided["sampling.attention.0.weight"], free["sampling.attention.0.weight"]
    )


def test_small_composites_train_a_whole_image_network_too(
    data: Path, trained: Path, tmp_path: Path
) -> None:
    options = ("--cache", data / "cache", "--train_on", "composites", "--composites", "8")
    size = ("--composite_size", "80x90", "--epochs", "1")
    start = ("--start", trained / "weights_002.safetensors")
    run(SCRIPT, data, tmp_path / "out", *SMALL, *options, *size, *start)
    # From small images to whole ones, as weights of the same shapes.
    whole = [sys.executable, "benchmarks/whole_image.py", "--network", "small", str(data)]
    first, second = tmp_path / "first", tmp_path / "second"
    given = [str(argument) for argument in (*WHOLE, *options, *size)]
    subprocess.run([*whole, str(first), *given], check=True, cwd=ROOT)
    start = ("--start", first / "weights_000.safetensors", "--epochs", "1")
    given = [str(argument) for argument in (*WHOLE, *start, *options[:2])]
    subprocess.run([*whole, str(second), *given], check=True, cwd=ROOT)
    # One patch, the whole, in pixels of the image.
    (row,) = rows(second / "history.csv")
    assert float(row["test_entropy"]) == pytest.approx(0, abs=1e-5)
    assert float(row["test_pointing"]) == float(row["test_attention_on_objects"]) == 1
    points = [line.split("\t") for line in (second / "points.txt").read_text().splitlines()]
    assert {(line[6], line[7]) for line in points[1:]} == {("240.0", "180.0")}
    said = subprocess.run([*whole[:2], "-h"], check=True, cwd=ROOT, capture_output=True, text=True)
    assert "--network" in said.stdout
    assert "--composite_size" in said.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--source", "gtsdb"), "gt.txt is missing: give the benchmark's folder"),
        (
            ("--source", "synthetic", "--train_on", "composites", "--composite_size", "20x700"),
            "size=(20, 700) must lie above 0 and within the (360, 480) pixels",
        ),
        (("--source", "synthetic", "--start", "none"), "start=none is no file"),
        (("--source", "synthetic", "--scale", "2"), "scale=2.0 must lie above 0"),
        (
            ("--source", "synthetic", "--scale", "0.03"),
            "scale=0.03 makes small views of 11 x 14 pixels",
        ),
        (
            ("--source", "synthetic", "--train_on", "composites", "--composite_size", "40x90"),
            "scale=0.3 makes small views of 12 x 27 pixels of images of 40 x 90",
        ),
        (
            ("--source", "synthetic", "--limits", "60"),
            "limits=['60'] are not in this set of scenes; it has 50, 70, 80",
        ),
        (
            ("--source", "synthetic", "--n_patches", "9999", "--design", "replacement"),
            "n_patches=9999 exceeds the 204 positions",
        ),
    ],
)
def test_errors_are_one_line(
    data: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = run(SCRIPT, data, tmp_path, *arguments, "--cache", data / "cache", check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--limits", "50,70"), "tells apart EMPTY, 50, 70, 80, this run EMPTY, 50, 70; give it"),
        (("--normalize", "image"), "was trained with --normalize patches, this run has image"),
        (("--prior", "none"), "was trained with --prior contrast, this run has none"),
    ],
)
def test_a_start_from_what_means_something_else(
    data: Path, trained: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    start = ("--start", trained / "weights_002.safetensors", "--cache", tmp_path / "cache")
    done = run(SCRIPT, data, tmp_path / "out", *SMALL, *options, *start, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    # Said before any photograph was read.
    assert not (tmp_path / "cache").exists()


def test_a_full_folder_is_said_before_photographs_are_read(
    data: Path, trained: Path, tmp_path: Path
) -> None:
    # Nor are scenes drawn.
    done = run(SCRIPT, tmp_path / "data", trained, *SMALL, check=False)
    assert "holds a run already; pass --resume" in done.stderr
    assert not (tmp_path / "data").exists()


def test_the_folder_of_the_data_set_is_not_that_of_the_run(data: Path) -> None:
    before = sorted(data.iterdir())
    done = run(SCRIPT, data, data / ".." / data.name, *SMALL, check=False)
    assert done.returncode == 2
    assert "is the folder of the data set; choose another one" in done.stderr
    assert sorted(data.iterdir()) == before


def test_a_cache_that_cannot_be_made_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = ("--cache", tmp_path / "file" / "cache")
    done = run(SCRIPT, data, tmp_path / "out", *SMALL, *cache, check=False)
    assert "cache of decoded images (--cache): folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_weights_of_another_network(tmp_path: Path) -> None:
    model = nn.Linear(2, 3)
    save_file({"weight": torch.zeros(4, 2), "bias": torch.zeros(3)}, tmp_path / "other")
    with pytest.raises(ValueError, match=r"weight is \(4, 2\) there, \(3, 2\) here; give the same"):
        start_from(model, tmp_path / "other")
    save_file({"weight": torch.zeros(3, 2)}, tmp_path / "less")
    with pytest.raises(ValueError, match=r"bias is missing there, \(3,\) here"):
        start_from(model, tmp_path / "less")
    (tmp_path / "damaged").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="damaged or no safetensors file"):
        start_from(model, tmp_path / "damaged")


# What is trained


def small_module(**options: Any) -> tuple[TrainingModule, Batch]:
    torch.manual_seed(0)
    attention = nn.Conv2d(1, 1, 3, padding="same")
    feature = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    sampling = AttentionSampling(attention, feature, n_patches=2, patch_size=(4, 4))
    module = TrainingModule(
        Classifier(sampling, 4, 3),
        optimizer=torch.optim.Adam,
        regularizer_strength=0.0,
        seed=0,
        **options,
    )
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    batch = Batch(
        torch.rand(5, 1, 6, 7),
        TensorImages(torch.rand(5, 1, 30, 35)),
        torch.tensor([0, 1, 2, 2, 0]),
        torch.arange(5),
    )
    return module, batch


def test_class_weights_count_and_do_not_depend_on_the_batch() -> None:
    weights = torch.tensor([0.5, 1.0, 3.0])
    module, batch = small_module(class_weights=weights)
    logits, _ = module(batch)
    terms = nn.functional.cross_entropy(logits, batch.target, reduction="none")
    wanted = (terms * weights[batch.target]).mean()
    torch.testing.assert_close(module.training_step(batch, 0)["loss"], wanted)
    # The test is measured without them.
    assert small_module()[0].class_weights is None
    parts = [
        Batch(
            batch.x_low[n : n + 1],
            TensorImages(batch.x_high.pixels[n : n + 1]),  # type: ignore[attr-defined]
            batch.target[n : n + 1],
            batch.index[n : n + 1],
        )
        for n in range(5)
    ]
    losses = [module.training_step(part, 0)["loss"] for part in parts]
    torch.testing.assert_close(sum(losses) / 5, wanted)


def test_the_attention_s_kernels_decay() -> None:
    plain, batch = small_module()
    decayed, _ = small_module(attention_decay=0.1)
    kernel = plain.model.sampling.attention.weight
    difference = decayed.training_step(batch, 0)["loss"] - plain.training_step(batch, 0)["loss"]
    torch.testing.assert_close(difference, 0.1 * kernel.square().sum())  # type: ignore[operator]


def test_an_attention_without_a_choice_does_not_decay() -> None:
    """The decay would be its only gradient, and Adam would bring its kernels to 0 with it."""
    module, batch = small_module(attention_decay=0.1)
    sampling = module.model.sampling
    sampling.attention = nn.Sequential(sampling.attention, nn.AdaptiveMaxPool2d(1))
    sampling.sample.n_patches = 1
    sampling.sample.design = ats.sampling.Systematic()
    module.training_step(batch, 0)["loss"].backward()
    kernel = sampling.attention[0].weight
    assert kernel.grad is None or not kernel.grad.any()


def test_training_images_change_and_test_images_do_not() -> None:
    changed, batch = small_module(augment=RandomChange(pan=5))
    plain, _ = small_module()
    seen = [module(batch)[1].patches for module in (changed, plain)]
    assert not torch.equal(*seen)
    changed.eval()
    plain.eval()
    seen = [module(batch)[1].patches for module in (changed, plain)]
    assert torch.equal(*seen)
    # The change follows from seed, epoch and image.
    changed.train()
    torch.testing.assert_close(changed(batch)[1].patches, changed(batch)[1].patches, rtol=0, atol=0)


# Pointing


def test_patches_cover_points() -> None:
    offsets = torch.tensor([[0, 0], [10, 20], [-5, -5]])
    points = torch.tensor([[0.0, 0.0], [9.9, 4.0], [10.0, 4.0], [14.5, 29.0]])
    wanted = [[True, True, False, False], [False, False, False, True], [True, False, False, False]]
    assert covers(offsets, (10, 10), points).tolist() == wanted
    assert box_centres([(0, 2, 10, 4)]).tolist() == [[5, 3]]


def test_offsets_of_positions_are_those_of_sampling() -> None:
    module, batch = small_module()
    sampling = module.model.sampling
    seen = sampling(batch.x_low, batch.x_high)
    everywhere = offsets_of_positions(sampling.sample, seen.attention, batch)
    assert everywhere.shape == (5, 42, 2)
    flat = seen.positions[..., 0] * 7 + seen.positions[..., 1]
    for image in range(5):
        assert torch.equal(everywhere[image, flat[image]], seen.offsets[image])


def test_pointing_by_hand(data: Path, trained: Path, script: SimpleNamespace) -> None:
    from ats.datasets.scenes import Scenes
    from ats.datasets.swedish_signs import SwedishSigns

    source = SwedishSigns(data)
    test = Scenes(
        source.scenes(train=False),
        source.classes,
        scale=0.3,
        cache=data / "cache",
        progress=False,
    )
    args = script.parse([str(data), "out", *SMALL])
    model = script.build_model(args, 4)
    start_from(model, trained / "weights_002.safetensors")
    model.eval()
    with torch.no_grad():
        _, seen = model(*test.__getitems__([0, 1, 2, 3])[:2])
    hits, masses = [], []
    for image, scene in enumerate(test.scenes):
        if not scene.boxes:
            continue
        ((top, left, bottom, right),) = scene.boxes
        y, x = (top + bottom) / 2, (left + right) / 2
        corners = seen.offsets[image].tolist()
        hits.append(any(t <= y < t + 60 and e <= x < e + 50 for t, e in corners))
        mass = 0.0
        # One logit for 8 x 8 pixels of the small view, the outermost 4.5 pixels of it lost.
        for row, column in np.ndindex(12, 17):
            centre_y = (4.5 + (row + 0.5) * (108 - 9) / 12) / 0.3
            centre_x = (4.5 + (column + 0.5) * (144 - 9) / 17) / 0.3
            down, across = y - round(centre_y - 30), x - round(centre_x - 25)
            if 0 <= down < 60 and 0 <= across < 50:
                mass += float(seen.attention[image, row, column])
        masses.append(mass)
    last = rows(trained / "history.csv")[-1]
    assert float(last["test_pointing"]) == pytest.approx(np.mean(hits), abs=1e-6)
    assert float(last["test_attention_on_objects"]) == pytest.approx(np.mean(masses), rel=1e-4)


def test_examples_are_spread_evenly() -> None:
    assert strided(684, 8) == [0, 86, 172, 258, 344, 430, 516, 602]
    assert strided(3, 8) == [0, 1, 2]
