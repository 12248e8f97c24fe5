"""Images that turn out to be damaged, that were trained on, or that another has replaced."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from image_files import picture
from image_folder import make_folder, save
from programs import rows
from torch.utils.data import DataLoader

from ats.api import predict
from ats.cli.main import main
from ats.cli.model import load_model
from ats.datasets.file_images import ImageFiles, Reading
from ats.images.decoded import DecodedFiles

SMALL = ["--small_side", "64", "--n_patches", "4", "--patch_size", "32x32", "--batch_size", "4"]
SIDE = 400


def pyramid(path: Path, *, damaged: bool) -> Path:
    """Two levels of tiles; those of the finer one overwritten where it is damaged."""
    pixels = picture((SIDE, SIDE))
    options = {"tile": (128, 128), "photometric": "rgb", "compression": "zlib"}
    with tifffile.TiffWriter(path) as file:
        file.write(pixels, subifds=1, **options)
        file.write(np.ascontiguousarray(pixels[::4, ::4]), subfiletype=1, **options)
    if damaged:
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        content = bytearray(path.read_bytes())
        for first, count in places:
            content[first : first + count] = b"\xff" * count
        path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in two classes, and in each a pyramid whose small copy alone can be read."""
    folder = tmp_path_factory.mktemp("data") / "images"
    for name, seed in (("a", 0), ("b", 1)):
        make_folder(folder / name, 6, (80, 200), seed=seed, bad=False)
        pyramid(folder / name / "damaged.tif", damaged=True)
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of an epoch, on one of the damaged images, and tested on the other."""
    table = data.parent / "table.csv"
    tested = {"a/000.jpg", "a/001.png", "b/000.jpg", "b/001.png", "b/damaged.tif"}
    lines = ["path,label,split"]
    for path in sorted(data.rglob("*.*")):
        name = str(path.relative_to(data))
        if path.suffix != ".csv":
            lines.append(f"{path},{name[0]},{'test' if name in tested else 'train'}")
    table.write_text("\n".join(lines) + "\n")
    out = tmp_path_factory.mktemp("runs") / "run"
    given = ["train", "--labels", str(table), "--split_column", "split", "--out", str(out)]
    assert main([*given, "--epochs", "1", *SMALL, "--cache", str(data.parent / "cache")]) == 0
    return out


def damaged_in(table: Path) -> list[str]:
    return [row["path"] for row in rows(table) if "damaged" in row["path"]]


def test_what_is_damaged_is_neither_measured_nor_hidden(run: Path, data: Path) -> None:
    split = {row["path"]: row["split"] for row in rows(run / "split.csv")}
    parts = [split[path] for path in damaged_in(run / "split.csv")]
    assert sorted(parts) == ["test", "train"]
    assert damaged_in(run / "predictions.csv") == []
    assert sorted(damaged_in(run / "bad_images.csv")) == sorted(damaged_in(run / "split.csv"))
    n_test = list(split.values()).count("test")
    assert json.loads((run / "metrics.json").read_text())["images"] == n_test - 1
    assert len(rows(run / "predictions.csv")) == n_test - 1


def test_a_damaged_image_has_no_prediction(
    run: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole, damaged = pyramid(tmp_path / "whole.tif", damaged=False), data / "a" / "damaged.tif"
    assert main(["predict", str(run), str(damaged), str(whole)]) == 1
    said = capfd.readouterr()
    assert [line.split(",")[0] for line in said.out.split("\n")[1:]] == [str(whole), ""]
    assert f"left out: {damaged} cannot be read" in said.err
    out = tmp_path / "explained"
    assert main(["explain", str(run), str(damaged), str(whole), "--out", str(out)]) == 1
    assert [path.name for path in out.iterdir()] == ["whole.tif"]
    assert main(["predict", str(run), str(damaged)]) == 2
    assert "none of 1 images can be read" in capfd.readouterr().err


def test_an_explanation_takes_the_place_of_a_former_one(run: Path, tmp_path: Path) -> None:
    whole = pyramid(tmp_path / "whole.tif", damaged=False)
    (tmp_path / "out" / "whole.tif").mkdir(parents=True)
    (tmp_path / "out" / "whole.tif" / "patch_07.png").touch()
    assert main(["explain", str(run), str(whole), "--out", str(tmp_path / "out")]) == 0
    found = sorted(path.name for path in (tmp_path / "out" / "whole.tif").glob("patch*.png"))
    assert found == [f"patch_{number:02d}.png" for number in range(4)]


def test_workers_send_no_more_than_their_images_and_tell_of_damage(
    data: Path, tmp_path: Path
) -> None:
    paths = [*sorted((data / "a").glob("*.tif")), *sorted((data / "b").glob("*.*"))]
    paths = [path for path in paths if path.suffix != ".csv"]
    decoded = DecodedFiles(tmp_path)
    images = ImageFiles(paths, torch.zeros(len(paths)), Reading(64), decoded=decoded)
    # All small views together have 12,288 bytes each.
    assert len(pickle.dumps(images[0].x_high)) < 5000
    loader = DataLoader(images, batch_size=len(images), num_workers=1, collate_fn=lambda own: own)
    (batch,) = loader
    corners = torch.zeros(len(images), 1, 2, dtype=torch.int64)
    batch.x_high.patches(corners, (32, 32))
    assert sorted(Path(bad.path).parent.name for bad in images.bad) == ["a", "b"]
    # Those of another process, which knows nothing of these, stand for themselves.
    assert pickle.loads(pickle.dumps(images.note)) is images.note


def test_images_that_were_trained_on_are_no_test(
    run: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = ["evaluate", str(run), "--labels", str(data.parent / "table.csv")]
    assert main([*given, "--out", str(tmp_path / "e")]) == 0
    tested = {row["path"] for row in rows(run / "predictions.csv")}
    assert {row["path"] for row in rows(tmp_path / "e" / "predictions.csv")} == tested
    split = rows(run / "split.csv")
    trained = [row for row in split if row["split"] == "train"]
    assert f"{len(trained)} images that were trained on" in capfd.readouterr().err
    # A run that was brought from elsewhere may have its weights alone.
    bare = shutil.copytree(run, tmp_path / "bare")
    (bare / "split.csv").unlink()
    assert main(["evaluate", str(bare), *given[2:], "--out", str(tmp_path / "all")]) == 0
    assert len(rows(tmp_path / "all" / "predictions.csv")) == len(split) - 2
    # Under another spelling, too.
    lines = [f"{os.path.relpath(row['path'], tmp_path)},{row['label']}" for row in trained]
    (tmp_path / "trained.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    assert main(["evaluate", str(run), "--labels", str(tmp_path / "trained.csv")]) == 2
    assert f"all {len(trained)} images were trained on" in capfd.readouterr().err


def test_an_image_that_takes_the_place_of_another_is_what_is_predicted(
    run: Path, tmp_path: Path
) -> None:
    trained = load_model(run)
    upload = tmp_path / "upload.png"
    alone: list[dict[str, float]] = []
    replaced: list[dict[str, float]] = []
    for number in range(2):
        # Of other extents as well.
        own = picture((90 + 40 * number, 120))
        for path, found in ((tmp_path / f"{number}.png", alone), (upload, replaced)):
            save(path, own)
            found += predict(trained, [path]).values()
    assert replaced == alone
    assert alone[0] != alone[1]


def test_a_name_that_no_table_holds(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/lat\xe9.png")
    save(tmp_path / "plain.png", picture((90, 120)))
    (tmp_path / "plain.png").rename(name)
    with pytest.raises(ValueError, match=r"lat.udce9.png' is a name that is not UTF-8"):
        ImageFiles([name], torch.zeros(1), Reading(64), decoded=DecodedFiles(tmp_path / "cache"))


def test_a_cache_without_room_is_no_damage(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / f"{number}.png", picture((300 + number, 300)))
    program = (
        "import resource, signal, sys, torch\n"
        "from ats.datasets.file_images import ImageFiles, Reading\n"
        "from ats.images.decoded import DecodedFiles\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "cache = DecodedFiles(sys.argv[1])\n"
        "ImageFiles(sys.argv[2:], torch.zeros(3), Reading(64), decoded=cache)\n"
    )
    paths = [str(tmp_path / f"{number}.png") for number in range(3)]
    command = [sys.executable, "-c", program, str(tmp_path / "cache"), *paths]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "UnwritableError" in done.stderr.splitlines()[-1]
    assert "(File too large); make room" in done.stderr
    assert not list((tmp_path / "cache").glob("*.image.npy"))
