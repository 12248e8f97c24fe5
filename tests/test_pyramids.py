"""Large images made by the project: the same in every format, and in constant memory."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from programs import ROOT, run

import ats
from ats.datasets.pyramids import Tissue, factors, write_pyramid

SHAPE = (1531, 2111)


@pytest.mark.parametrize("kind", ["tiff", "zarr"])
def test_files_show_the_formula_at_every_level(kind: str, tmp_path: Path) -> None:
    image = Tissue(SHAPE, seed=3)
    suffix = {"tiff": "tif", "zarr": "zarr"}[kind]
    reader = ats.open_image(write_pyramid(tmp_path / f"a.{suffix}", image, kind=kind))
    assert reader.layout.shapes == ((1531, 2111), (765, 1055), (382, 527), (191, 263))
    for level, (factor, shape) in enumerate(zip(factors(SHAPE), reader.layout.shapes, strict=True)):
        wanted = image.tile((0, 0), shape, factor)
        assert wanted.any()
        assert np.array_equal(reader.read((0, 0), shape, level), wanted.transpose(2, 0, 1))
    with pytest.raises(FileExistsError, match="exists already"):
        write_pyramid(tmp_path / f"a.{suffix}", image, kind=kind)


def test_levels_are_the_same_image() -> None:
    image = Tissue(SHAPE, seed=3)
    fine = image.tile((0, 0), SHAPE, 1).astype(float)
    coarse = image.tile((0, 0), (382, 527), 4).astype(float)
    means = fine[:1528, :2108].reshape(382, 4, 527, 4, 3).mean((1, 3))
    assert np.abs(means - coarse).mean() < 1
    assert image.tile((0, 0), (20, 20), 1) is None


def test_a_killed_run_leaves_no_image(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "make_pyramid.py"), str(tmp_path / "a.zarr")]
    process = subprocess.Popen([*command, "--width", "60000", "--height", "60000"])
    deadline = time.monotonic() + 60
    while not any(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert any(tmp_path.iterdir())
    assert not (tmp_path / "a.zarr").exists()
    run("make_pyramid.py", tmp_path / "a.zarr", "--width", "700", "--height", "600")
    # What the killed run left is gone, too.
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]
    assert ats.open_image(tmp_path / "a.zarr").shape == (600, 700)


def test_wrong_arguments_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'tiff' or 'zarr'"):
        write_pyramid(tmp_path / "a", Tissue(SHAPE), kind="png")
    (tmp_path / "a.tif").touch()
    done = run("make_pyramid.py", tmp_path / "a.tif", check=False)
    assert done.returncode == 2
    assert "exists already" in done.stderr
