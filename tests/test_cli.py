"""The command ``ats`` on a folder of images, as a user has them."""

import argparse
import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from image_files import picture
from image_folder import BAD, ODD, make_folder, save
from programs import rows
from safetensors.torch import load_file

import ats
from ats.cli.data import divide, divisions, make_task, read_entries
from ats.cli.main import main
from ats.cli.measure import predict_all
from ats.cli.model import check_attention, load_model, network
from ats.cli.settings import parse_settings, template, training_parser
from ats.datasets.file_images import ImageFiles, Reading
from ats.datasets.table import Columns, Entry, classes_of, find_images, read_folders, read_table
from ats.images.decoded import DecodedFiles
from ats.training.start import latest_weights
from ats.training.tasks import Classes

SMALL = ["--small_side", "64", "--n_patches", "4", "--patch_size", "32x32", "--batch_size", "4"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images"), 24, (80, 200))


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of two epochs."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(train_arguments(images, out)) == 0
    return out


def train_arguments(images: Path, out: Path, *more: str) -> list[str]:
    table = ["--images", str(images), "--labels", str(images / "labels.csv")]
    cache = ["--cache", str(images.parent / "cache"), "--test_share", "0.34"]
    return ["train", *table, "--out", str(out), "--epochs", "2", *SMALL, *cache, *more]


def ats_process(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "ats", *arguments], text=True)


def test_a_run_has_all_that_a_prediction_needs(run: Path, images: Path) -> None:
    stored = json.loads((run / "model.json").read_text())
    assert stored["task"] == {"name": "classes", "names": ["marked", "plain"]}
    assert len(rows(run / "history.csv")) == 2
    bad = rows(run / "bad_images.csv")
    assert sorted(Path(row["path"]).name for row in bad) == sorted(BAD)
    assert all(row["reason"] for row in bad)
    split = rows(run / "split.csv")
    assert len(split) == 24 + len(ODD)
    assert not {Path(row["path"]).name for row in split} & set(BAD)
    tested = [row for row in split if row["split"] == "test"]
    predictions = rows(run / "predictions.csv")
    assert [row["path"] for row in predictions] == [row["path"] for row in tested]
    # A third of what can be read.
    assert len(tested) == 9
    for row in predictions:
        scores = [float(row["marked"]), float(row["plain"])]
        assert sum(scores) == pytest.approx(1, abs=1e-5)
        assert row["prediction"] == ("marked", "plain")[int(np.argmax(scores))]
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["images"] == len(predictions)
    accuracy = metrics["accuracy"]
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert (run / "confusion.png").stat().st_size > 1000


def test_evaluate_says_what_training_said(run: Path, tmp_path: Path) -> None:
    assert main(["evaluate", str(run), "--out", str(tmp_path / "e")]) == 0
    for name in ("predictions.csv", "metrics.json", "confusion.csv"):
        assert (tmp_path / "e" / name).read_text() == (run / name).read_text()


def test_evaluate_on_other_images(run: Path, tmp_path: Path) -> None:
    other = make_folder(tmp_path / "other", 6, (80, 120), seed=9, bad=False)
    table = ["--images", str(other), "--labels", str(other / "labels.csv")]
    assert main(["evaluate", str(run), *table, "--out", str(tmp_path / "e")]) == 0
    assert len(rows(tmp_path / "e" / "predictions.csv")) == 6


def test_predict_says_the_same_every_time_and_alone(
    run: Path, images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # Some cannot be read.
    assert main(["predict", str(run), str(images), "--out", str(tmp_path / "p.csv")]) == 1
    every = {row["path"]: row for row in rows(tmp_path / "p.csv")}
    assert len(every) == 24 + 3
    assert "text.png" in capfd.readouterr().err
    assert main(["predict", str(run), str(images / "004.tif"), str(images / "one.png")]) == 0
    alone = list(csv.DictReader(capfd.readouterr().out.splitlines()))
    assert alone == [every[str(images / "004.tif")], every[str(images / "one.png")]]
    for row in rows(run / "predictions.csv"):
        assert every[row["path"]] == row


def test_predict_stops_at_a_bad_image_where_strict(
    run: Path, images: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(run), str(images / "text.png"), "--strict"]) == 2
    assert "text.png cannot be read" in capfd.readouterr().err


def test_explain_shows_places_in_the_image(run: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "explained"
    names = ["000.jpg", "004.tif", "one.png"]
    assert main(["explain", str(run), *(str(images / n) for n in names), "--out", str(out)]) == 0
    first = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for name in names:
        told = json.loads((out / name / "explain.json").read_text())
        reader = ats.open_image(images / name)
        assert told["shape"] == list(reader.shape)
        patches = rows(out / name / "patches.csv")
        assert len(patches) == len(told["patches"]) == 4
        attention = np.load(out / name / "attention.npy")
        for number, (line, place) in enumerate(zip(patches, told["patches"], strict=True)):
            assert {key: float(value) for key, value in line.items()} == pytest.approx(place)
            assert (place["height"], place["width"]) == (32, 32)
            # The only position of a single pixel has its centre beside it.
            if place["attention"] and name != "one.png":
                centre = (place["y"] + 16, place["x"] + 16)
                assert all(0 <= c <= s for c, s in zip(centre, reader.shape, strict=True))
            drawn = (out / name / f"patch_{number:02d}.png").stat().st_size
            assert drawn > 0
        assert attention.max() > 0
        assert attention.sum() == pytest.approx(1, abs=0.02)
    assert main(["explain", str(run), *(str(images / n) for n in names), "--out", str(out)]) == 0
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == first


def test_a_killed_training_goes_on_to_the_same_end(images: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    process = ats_process(train_arguments(images, out))
    deadline = time.monotonic() + 240
    while not (out / "checkpoint.ckpt").exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "weights_001.safetensors").exists()
    assert main(train_arguments(images, out, "--resume")) == 0
    ours, theirs = (load_file(path / "weights_001.safetensors") for path in (out, run))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (out / "predictions.csv").read_text() == (run / "predictions.csv").read_text()


def test_reading_ahead_trains_too(images: Path, run: Path, tmp_path: Path) -> None:
    assert main(train_arguments(images, tmp_path / "ahead", "--read_ahead")) == 0
    ahead, plain = (rows(path / "history.csv") for path in (tmp_path / "ahead", run))
    losses = [[float(row["train_loss"]) for row in table] for table in (ahead, plain)]
    # Another draw after the first step, of the same objective.
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.5)


def test_cross_validation_tests_every_image_once(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = train_arguments(
        images, tmp_path / "cv", "--folds", "2", "--group_column", "patient"
    )
    arguments[0] = "crossval"
    arguments[arguments.index("--epochs") + 1] = "1"
    assert main(arguments) == 0
    assert json.loads((tmp_path / "cv" / "metrics.json").read_text())["images"] == 27
    each = json.loads((tmp_path / "cv" / "folds.json").read_text())["auroc"]
    line = f"  auroc: {each[0]:.3f} {each[1]:.3f}, {(each[0] + each[1]) / 2:.3f}"
    assert line in capsys.readouterr().out.splitlines()
    tested = [
        row["path"]
        for fold in (0, 1)
        for row in rows(tmp_path / "cv" / f"fold_{fold}" / "predictions.csv")
    ]
    assert len(tested) == len(set(tested)) == 27
    before = (tmp_path / "cv" / "fold_0" / "weights_000.safetensors").stat().st_mtime_ns
    assert main([*arguments, "--resume"]) == 0
    assert (tmp_path / "cv" / "fold_0" / "weights_000.safetensors").stat().st_mtime_ns == before


def test_what_cannot_be_read_is_no_part_of_the_division(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_folder(tmp_path, 6, (40, 60), bad=False)
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    table = tmp_path / "labels.csv"
    arguments = ["train", "--images", str(tmp_path), "--labels", str(table), *SMALL]
    arguments += ["--split_column", "part", "--out", str(tmp_path / "out")]
    names = [row["path"] for row in rows(table)]

    def divided(lines: list[str]) -> None:
        table.write_text("path,label,part\n" + "\n".join(lines) + "\n")

    divided([f"{names[0]},a,train", "bad.jpg,b,train", f"{names[1]},b,test"])
    assert "labels of the 1 images to train on are all a" in refusal(arguments, capsys)
    divided([f"{names[0]},a,train", f"{names[1]},b,train", "bad.jpg,b,test"])
    assert "2 images to train on and 0 to test on" in refusal(arguments, capsys)
    divided([f"{names[0]},a,train", f"{names[1]},b,train", f"{names[2]},c,test"])
    assert main([*arguments, "--epochs", "1", "--batch_size", "2"]) == 0
    assert "no image to train on is c; it will not be learnt" in capsys.readouterr().out


def test_groups_stay_together_and_classes_keep_their_share(images: Path) -> None:
    arguments = train_arguments(images, images / "x", "--group_column", "patient")[1:]
    args = parse_settings(arguments, training_parser())
    entries = read_entries(args)
    task = make_task(args, entries)
    train, test = divide(entries, task, args)
    assert not {entry.group for entry in train} & {entry.group for entry in test}
    assert len(train) + len(test) == len(entries)
    shares = [np.mean([entry.labels == ("marked",) for entry in part]) for part in (train, test)]
    assert abs(shares[0] - shares[1]) < 0.15
    folds = [test for _, test in divisions(entries, task, 4, 0)]
    assert sorted(e.path for fold in folds for e in fold) == sorted(e.path for e in entries)


@pytest.mark.parametrize(
    ("task", "column", "outputs"),
    [("labels", ["label"], ["marked", "plain"]), ("numbers", ["y", "x"], ["y", "x"])],
)
def test_other_tasks(
    task: str, column: list[str], outputs: list[str], images: Path, tmp_path: Path
) -> None:
    out = tmp_path / task
    more = ["--task", task, "--label_column", *column, "--epochs", "1"]
    assert main(train_arguments(images, out, *more)) == 0
    predictions = rows(out / "predictions.csv")
    assert list(predictions[0]) == ["path", "prediction", *outputs]
    if task == "numbers":
        # Nothing of those that are tested on.
        kept = [
            row["label"].split(";") for row in rows(out / "split.csv") if row["split"] == "train"
        ]
        model = json.loads((out / "model.json").read_text())["task"]
        assert model["mean"] == pytest.approx(np.array(kept, float).mean(0))
        assert model["spread"] == pytest.approx(np.array(kept, float).std(0))
    assert main(["evaluate", str(out)]) == 0
    found = json.loads((out / "metrics.json").read_text())
    assert found.keys() > ({"auroc"} if task == "labels" else {"r2", "mean_absolute_error"})


def test_folders_are_classes(tmp_path: Path) -> None:
    for name in ("b", "a"):
        make_folder(tmp_path / name, 3, (40, 60), bad=False)
    entries = read_folders(tmp_path)
    assert classes_of(entries) == ["a", "b"]
    assert [Path(entry.path).name for entry in entries if entry.labels == ("a",)] == [
        "000.jpg",
        "001.png",
        "002.webp",
    ]
    with pytest.raises(ValueError, match="at least two classes"):
        read_folders(tmp_path / "a")


def test_a_file_of_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ats.yaml"
    assert main(["init", str(path)]) == 0
    assert main(["init", str(path)]) == 2
    parser = training_parser()
    written = yaml.safe_load(path.read_text())
    assert written["patch_size"] == "64x64"
    every = parse_settings(["--config", str(path)], training_parser())
    defaults = parser.parse_args([])
    assert {k: v for k, v in vars(every).items() if k != "config"} == {
        k: v for k, v in vars(defaults).items() if k != "config"
    }
    path.write_text("epochs: 7\nlabel_column: [a, b]\ncentring: false\nstrict: true\nmpp: 0.5\n")
    args = parse_settings(["--config", str(path), "--epochs", "9"], training_parser())
    assert (args.epochs, args.label_column, args.centring) == (9, ["a", "b"], False)
    assert (args.strict, args.mpp) == (True, 0.5)
    path.write_text("epoch: 7\n")
    with pytest.raises(SystemExit):
        parse_settings(["--config", str(path)], training_parser())
    assert "unknown settings epoch" in capsys.readouterr().err
    assert "# passes over the training set" in template(parser)


def test_a_recipe_changes_what_is_not_given(tmp_path: Path) -> None:
    path = tmp_path / "ats.yaml"
    path.write_text("recipe: published\nprior: contrast\n")
    args = parse_settings(["--config", str(path), "--feature_scale", "2"], training_parser())
    assert (args.design, args.centring) == ("published", False)
    assert (args.prior, args.feature_scale) == ("contrast", 2.0)


def test_info_prints_levels(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(images / "004.tif"), str(images / "one.png")]) == 0
    said = capsys.readouterr().out
    assert "TiffReader" in said
    assert "level 0: 1 x 1 pixels" in said
    assert main(["info", str(images / "text.png")]) == 2


def test_exported_programs_say_what_predict_says(run: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "export"
    assert main(["export", str(run), "--out", str(out), "--small_shape", "64x64"]) == 0
    locate, read = (torch.export.load(out / name).module() for name in ("locate.pt2", "read.pt2"))
    reader = ats.open_image(images / "004.tif")
    trained = load_model(run)
    from ats.cli.measure import predict_image
    from ats.datasets.file_images import ImageFiles

    dataset = ImageFiles([images / "004.tif"], torch.zeros(1), trained.reading)
    # Programs know no padding: one whose small view fills theirs.
    small = torch.nn.functional.interpolate(dataset[0].x_low / 255, (64, 64))
    offsets, weights, attention = locate(small, torch.tensor([reader.shape]))
    patches = ats.FileImages([reader]).patches(offsets, (32, 32)) / 255
    logits = read(patches, weights)
    with torch.no_grad():
        wanted, seen = trained.model(small, ats.FileImages([reader]))
    assert torch.equal(offsets, seen.offsets)
    assert torch.allclose(attention, seen.attention)
    assert torch.allclose(logits, wanted, atol=1e-5)
    assert predict_image(trained, dataset, 0).scores.shape == (2,)
    weights_file = load_file(out / "weights.safetensors")
    assert weights_file.keys() == trained.model.state_dict().keys()


class Tiny(torch.nn.Module):
    """A network of a user's own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(channels, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.mean((2, 3)))


def not_a_network(channels: int) -> int:
    return channels


def test_networks_of_ones_own(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "own"
    more = ["--feature", "test_cli:Tiny", "--epochs", "1"]
    assert main(train_arguments(images, out, *more)) == 0
    assert isinstance(load_model(out).model.sampling.feature[1], Tiny)
    # What the user's function returns is trained on from there.
    torch.manual_seed(3)
    built = network("feature", "test_cli:Tiny", 3)
    torch.manual_seed(3)
    assert torch.equal(built.linear.weight, Tiny(3).linear.weight)  # type: ignore[union-attr,arg-type]
    with pytest.raises(ValueError, match=r"neither small nor package\.module:function"):
        network("feature", "nothing:here", 3)
    with pytest.raises(ValueError, match="returned int"):
        network("feature", "test_cli:not_a_network", 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,label\n", "0 lines"),
        ("file,label\na.png,x\n", "not path"),
        ("path,label\na.png,\n", "line 2 has no label"),
        ("path,label\n,x\n", "line 2 has no path"),
        ("path,label,split\na.png,x,valid\n", "write train or test"),
    ],
)
def test_bad_tables_say_what_is_wrong(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(content)
    columns = Columns(split="split" if "split" in content else None)
    with pytest.raises(ValueError, match=message):
        read_table(path, str(tmp_path), columns)


def test_bad_arguments_say_what_is_wrong(
    images: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: Any) -> str:
        assert main([str(argument) for argument in arguments]) == 2
        return capsys.readouterr().err

    assert "no command" in said("learn")
    assert "give --images" in said("train", "--out", tmp_path / "a")
    assert "give --out" in said("train", "--images", images, "--labels", images / "labels.csv")
    assert "model.json" in said("predict", tmp_path, images / "000.jpg")
    assert "holds a run already" in said(*train_arguments(images, run))
    (tmp_path / "empty").mkdir()
    assert "at least two classes" in said("train", "--images", tmp_path / "empty", "--out", "x")
    assert "empty is a folder without images" in said("predict", run, tmp_path / "empty")
    table = tmp_path / "labels.csv"
    table.write_text("path,label\n" + "".join(f"{n}.png,{n % 2}\n" for n in range(10)))
    message = said("train", "--images", tmp_path, "--labels", table, "--out", tmp_path / "b")
    assert "none of 10 images can be read" in message
    assert "is missing" in message
    assert main([]) == 0
    assert "ats COMMAND" in capsys.readouterr().out


def test_rare_classes_do_not_stop_a_division() -> None:
    from ats.datasets.table import Entry

    entries = [Entry(str(number), ("a" if number else "b",)) for number in range(10)]
    parts = list(divisions(entries, Classes(["a", "b"]), 3, 0))
    assert sorted(len(test) for _, test in parts) == [3, 3, 4]


# The longest test by far, two minutes where nothing runs beside it.
@pytest.mark.timeout(900)
def test_a_small_object_is_found_from_labels_alone(tmp_path: Path) -> None:
    """200 images of all sizes and formats, a third with a red disc; settings at their defaults."""
    images = make_folder(tmp_path / "images", 200, (300, 1400))
    out, cache = tmp_path / "run", ["--cache", str(tmp_path / "cache")]
    table = ["--images", str(images), "--labels", str(images / "labels.csv")]
    assert main(["train", *table, "--out", str(out), "--epochs", "8", *cache]) == 0
    assert main(["evaluate", str(out), *cache]) == 0
    found = json.loads((out / "evaluation" / "metrics.json").read_text())
    assert found["auroc"]["value"] >= 0.95
    assert len(rows(out / "bad_images.csv")) == len(BAD)
    marked = [row for row in rows(images / "labels.csv") if row["label"] == "marked"][:10]
    paths = [str(images / row["path"]) for row in marked]
    assert main(["explain", str(out), *paths, "--out", str(tmp_path / "seen"), *cache]) == 0
    hits = 0
    for row in marked:
        places = rows(tmp_path / "seen" / row["path"] / "patches.csv")
        hits += any(
            0 <= int(row[axis]) - int(place[axis]) < 64
            and 0 <= int(row[other]) - int(place[other]) < 64
            for place in places
            for axis, other in [("x", "y")]
        )
    assert hits >= 9


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    return capsys.readouterr().err


def test_a_run_is_not_resumed_on_other_images_or_settings(
    images: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    for more in (("--seed", "5"), ("--small_side", "48"), ("--test_share", "0.5")):
        again = train_arguments(images, out, "--resume", *more)
        assert "made with other parameters" in refusal(again, capsys), more
    before = (out / "metrics.json").read_text()
    assert main(train_arguments(images, out, "--resume")) == 0
    assert (out / "metrics.json").read_text() == before
    table = tmp_path / "labels.csv"
    header, *lines = (images / "labels.csv").read_text().splitlines()
    table.write_text("\n".join([header, *lines]) + "\n")
    given = ["train", "--images", str(images), "--labels", str(table), "--test_share", "0.34"]
    given += ["--out", str(tmp_path / "own"), *SMALL, "--cache", str(images.parent / "cache")]
    assert main([*given, "--epochs", "1"]) == 0
    table.write_text("\n".join([header, *reversed(lines)]) + "\n")
    assert "split: " in refusal([*given, "--epochs", "2", "--resume"], capsys)


def test_workers_go_on_with_the_order_of_the_epoch(images: Path, run: Path, tmp_path: Path) -> None:
    assert main(train_arguments(images, tmp_path, "--epochs", "1")) == 0
    assert main(train_arguments(images, tmp_path, "--resume", "--workers", "1")) == 0
    wanted, got = (load_file(folder / "weights_001.safetensors") for folder in (run, tmp_path))
    assert all(torch.equal(wanted[name], got[name]) for name in wanted)


def test_a_recipe_holds_over_the_file_that_init_writes(tmp_path: Path) -> None:
    path = tmp_path / "ats.yaml"
    assert main(["init", str(path)]) == 0
    args = parse_settings(["--config", str(path), "--recipe", "published"], training_parser())
    assert (args.design, args.prior) == ("published", "none")
    path.write_text("epochs: [1, 2]\n")
    with pytest.raises(SystemExit):
        parse_settings(["--config", str(path)], training_parser())
    path.write_text("patch_size: [24, 32]\n")
    assert parse_settings(["--config", str(path)], training_parser()).patch_size == (24, 32)


@pytest.mark.parametrize(("share", "n_test"), [(0.2, 8), (0.4, 16), (0.9, 36), (0.05, 2)])
def test_the_share_that_is_tested_on(share: float, n_test: int) -> None:
    entries = [Entry(f"{n}.png", (str(n % 2),)) for n in range(40)]
    args = argparse.Namespace(split_column=None, test_share=share, seed=0)
    train, test = divide(entries, Classes(["0", "1"]), args)
    assert (len(train), len(test)) == (40 - n_test, n_test)
    assert not {entry.path for entry in train} & {entry.path for entry in test}


def test_tables_that_would_mislead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("path,label,other\na.png,x,1\nb.png,y,2\na.png,y,3\n")
    with pytest.raises(ValueError, match=r"line 4: .*a.png is there twice"):
        read_table(table, "", Columns())
    several = ["train", "--labels", str(table), "--out", str(tmp_path / "o")]
    several += ["--label_column", "label", "other"]
    assert "which --task numbers takes" in refusal(several, capsys)


def test_patients_are_not_divided_by_a_table_either(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        f"{images / row['path']},{row['label']},{row['patient']},{('train', 'test')[number % 2]}"
        for number, row in enumerate(rows(images / "labels.csv")[:24])
    ]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,patient,split", *lines]) + "\n")
    given = ["train", "--labels", str(tmp_path / "t.csv"), "--out", str(tmp_path / "run"), *SMALL]
    given += ["--group_column", "patient", "--split_column", "split"]
    assert "images of 12 groups in both parts, such as p0;" in refusal(given, capsys)


def test_an_image_is_there_once_however_it_is_spelt(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "set" / name).mkdir(parents=True)
        save(tmp_path / "set" / name / "1.png", picture((9, 9)))
    (tmp_path / "set" / "a" / "again").symlink_to(tmp_path / "set" / "a")
    (tmp_path / "twice.csv").write_text("path,label\na/1.png,x\n./b/../a/1.png,y\n")
    with pytest.raises(ValueError, match=r"line 3: .*1.png is there twice"):
        read_table(tmp_path / "twice.csv", str(tmp_path / "set"), Columns())
    assert len(read_folders(tmp_path / "set")) == 2
    for one, other in ("ab", "ba"):
        (tmp_path / "set" / one / "other").symlink_to(tmp_path / "set" / other)
    with pytest.raises(ValueError, match="the same image in two classes"):
        read_folders(tmp_path / "set")


def test_a_run_is_no_class(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["train", "--images", str(images), "--out", str(images / "runs" / "run")]
    assert f"lies in images={images}" in refusal(given, capsys)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("nn.Conv2d(channels, 4, 15), nn.ReLU(), nn.Conv2d(4, 1, 15)", "it loses 28 pixels"),
        ("nn.Conv2d(channels, 1, 15, padding='same')", None),
        ("nn.Conv2d(channels, 1, 3, stride=2, padding=1)", None),
        ("nn.Conv2d(channels, 1, 3, padding='same'), nn.AdaptiveAvgPool2d(6)", None),
        ("nn.Conv2d(channels, 2, 3, padding='same')", "must return (batch, 1, height, width)"),
        ("nn.Conv2d(7, 1, 3)", "cannot take small views with 3 channels"),
    ],
)
def test_attention_of_ones_own_covers_the_view(layers: str, message: str | None) -> None:
    channels = 3
    attention = eval(f"nn.Sequential({layers})", {"nn": torch.nn, "channels": channels})
    if message is None:
        check_attention(attention, "own", channels)
        assert attention.training
    else:
        with pytest.raises(ValueError, match=re.escape(message)):
            check_attention(attention, "own", channels)


def test_folders_are_not_followed_upwards(tmp_path: Path) -> None:
    for name in ("a", "b", ".hidden"):
        make_folder(tmp_path / name, 3, (40, 60), bad=False)
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    entries = read_folders(tmp_path)
    assert len(entries) == 6
    assert classes_of(entries) == ["a", "b"]


def test_numbers_are_measured_by_their_own_columns(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--task", "numbers", "--label_column", "y", "x", "--epochs", "1"]
    assert main(train_arguments(images, tmp_path, *more)) == 0
    table = ["--images", str(images), "--labels", str(images / "labels.csv")]
    given = ["evaluate", str(tmp_path), *table, "--cache", str(images.parent / "cache")]
    assert "but the network says ['y', 'x']" in refusal([*given, "--label_column", "x"], capsys)
    assert main(given) == 0


def arrays(folder: Path) -> dict[str, Path]:
    rng = np.random.default_rng(0)
    pixels = rng.random((70, 80, 3))
    broken = pixels.copy()
    broken[3, 4] = np.nan
    kinds = {"f4": pixels.astype("f4"), "f8": pixels, "f2": pixels.astype("f2"), "nan": broken}
    kinds["i4"] = (pixels * 255).astype("i4")
    found = {}
    for name, array in kinds.items():
        found[name] = folder / f"{name}.npy"
        np.save(found[name], array)
    found["cut"] = folder / "cut.tif"
    found["cut"].write_bytes(b"II*\x00\x08\x00")
    return found


def test_pixels_that_cannot_be_used_are_listed(run: Path, tmp_path: Path) -> None:
    made = arrays(tmp_path)
    trained = load_model(run)
    decoded = DecodedFiles(tmp_path / "cache")
    images = ImageFiles(
        list(made.values()), torch.zeros(len(made)), trained.reading, decoded=decoded
    )
    assert [Path(reader.path).stem for reader in images.readers] == ["f4", "f8", "f2"]
    reasons = {Path(bad.path).stem: bad.reason for bad in images.bad}
    assert "not finite" in reasons["nan"]
    assert "int32, whose range is unknown" in reasons["i4"]
    assert "cut.tif" in reasons["cut"]
    scores = predict_all(trained, images, progress=False).scores
    assert np.abs(scores - scores[0]).max() < 0.02


def test_small_views_belong_to_axes(tmp_path: Path) -> None:
    path = tmp_path / "square.npy"
    np.save(path, np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8))
    decoded = DecodedFiles(tmp_path / "cache")
    views = [
        ImageFiles([path], torch.zeros(1), Reading(32, axes=axes), decoded=decoded).small_view(0)
        for axes in ("YXC", "XYC")
    ]
    assert torch.equal(views[0], views[1].transpose(1, 2))


def test_the_latest_weights_are_those_of_the_last_epoch(tmp_path: Path) -> None:
    assert latest_weights(tmp_path) is None
    for epoch in (998, 999, 1000):
        (tmp_path / f"weights_{epoch:03d}.safetensors").touch()
    found = latest_weights(tmp_path)
    assert found is not None
    assert found.name == "weights_1000.safetensors"


def test_networks_of_ones_own_that_do_not_fit(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "ownnets.py").write_text(
        "import torch.nn as nn\n"
        "number = 3\n"
        "def wrong(channels): return nn.Sequential(nn.Flatten(), nn.Linear(7, 4))\n"
        "def right(channels): return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    )
    # The folder that the command is given in is searched, as by python itself.
    monkeypatch.chdir(tmp_path)
    for name, message in (("number", "not callable"), ("wrong", "cannot take patches")):
        given = train_arguments(images, tmp_path / name, "--feature", f"ownnets:{name}")
        assert message in refusal(given, capsys)
    given = train_arguments(images, tmp_path / "right", "--feature", "ownnets:right")
    assert main([*given, "--epochs", "1"]) == 0


def test_the_output_is_checked_before_images_are_read(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["train", "--images", str(tmp_path / "none"), "--out", str(run)]
    assert "holds a run already" in refusal(given, capsys)


def test_a_zarr_folder_of_any_name_is_an_image(run: Path, tmp_path: Path) -> None:
    import zarr

    pixels = np.random.default_rng(0).integers(0, 255, (90, 80, 3), np.uint8)
    zarr.save_array(str(tmp_path / "set" / "image"), pixels)
    assert [path.name for path in find_images(tmp_path / "set")] == ["image"]
    for given in (tmp_path / "set" / "image", tmp_path / "set"):
        out = tmp_path / "predictions.csv"
        assert main(["predict", str(run), str(given), "--out", str(out)]) == 0
        assert len(rows(out)) == 1
