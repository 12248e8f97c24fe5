"""A real slide: its levels, its pixels, and what is read of the file."""

import os
from pathlib import Path

import numpy as np
import openslide
import pytest
import torch
from PIL import Image

import ats
from ats.images import FileImages, read_small_view
from ats.images.slide import SlideReader, open_slide

SHARED = os.environ.get("ATS_SHARED")
pytestmark = pytest.mark.skipif(SHARED is None, reason="ATS_SHARED names no folder with a slide")
SIZE = (97, 61)
# Inside, on tiles' borders, at each border of the slide, and outside.
OFFSETS = [(1000, 1300), (250, 250), (-30, 500), (700, -20), (3520, 4400), (1750, 2200), (-200, 0)]


@pytest.fixture
def path() -> Path:
    return Path(SHARED or "") / "data" / "slides" / "tcga-cr-7395-01a-01-ts1.svs"


def expected(slide: openslide.OpenSlide, corner: tuple[int, int], level: int) -> torch.Tensor:
    """What OpenSlide itself shows, asked pixel by pixel of the level, and 0 outside the slide."""
    width, height = slide.level_dimensions[level]
    low = [max(corner[0], 0), max(corner[1], 0)]
    high = [min(corner[0] + SIZE[0], height), min(corner[1] + SIZE[1], width)]
    out = np.zeros((*SIZE, 3), np.uint8)
    if low[0] < high[0] and low[1] < high[1]:
        factors = [
            fine / coarse
            for fine, coarse in zip(
                slide.level_dimensions[0], slide.level_dimensions[level], strict=True
            )
        ]
        place = (round(low[1] * factors[0]), round(low[0] * factors[1]))
        region = slide.read_region(place, level, (high[1] - low[1], high[0] - low[0]))
        rows = slice(low[0] - corner[0], high[0] - corner[0])
        columns = slice(low[1] - corner[1], high[1] - corner[1])
        # What the slide leaves open is glass.
        glass = Image.new("RGBA", region.size, "white")
        glass.alpha_composite(region)
        out[rows, columns] = np.asarray(glass.convert("RGB"))
    return torch.from_numpy(out).permute(2, 0, 1)


@pytest.mark.parametrize("level", [0, 1])
def test_patches_are_those_of_openslide(path: Path, level: int) -> None:
    reader = ats.open_image(path)
    assert isinstance(reader, SlideReader)
    assert reader.layout.shapes == ((3567, 4443), (1783, 2221))
    patches = FileImages([reader], level=level).patches(torch.tensor([OFFSETS]), SIZE)
    with openslide.OpenSlide(path) as slide:
        for patch, corner in zip(patches[0], OFFSETS, strict=True):
            difference = (patch.int() - expected(slide, corner, level).int()).abs()
            # Equal, but for the rounding of what is half open at the border of a coarse level.
            assert (difference > 0).sum() < 100
            assert difference.max() <= 1
    assert patches.float().std() > 5


def test_levels_show_the_same_place(path: Path) -> None:
    reader = ats.open_image(path)
    fine = reader.read((1600, 2000), (512, 512)).astype(float).mean((1, 2))
    coarse = reader.read((800, 1000), (256, 256), 1).astype(float).mean((1, 2))
    assert np.abs(fine - coarse).max() < 4


def test_the_small_view_is_the_whole_slide(path: Path) -> None:
    view = read_small_view(ats.open_image(path), (357, 444)).astype(float)
    with openslide.OpenSlide(path) as slide:
        thumbnail = np.asarray(slide.get_thumbnail((444, 357)).resize((444, 357)), dtype=float)
    difference = np.abs(view - thumbnail.transpose(2, 0, 1))
    assert difference.mean() < 6


def test_tiffslide_stands_in(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ats.open_image(path).read((1000, 1300), SIZE)

    class Cannot:
        def __init__(self, path: object) -> None:
            raise openslide.OpenSlideUnsupportedFormatError("not one of mine")

    monkeypatch.setattr(openslide, "OpenSlide", Cannot)
    copy = tmp_path / "copy.svs"
    copy.symlink_to(path)
    with open_slide(str(copy)) as slide:
        assert type(slide).__module__.startswith("tiffslide")
    # Two decoders of JPEG 2000 may round differently.
    reader = SlideReader(copy)
    other = reader.read((1000, 1300), SIZE).astype(int)
    reader.close()
    assert np.abs(other - wanted).max() <= 2


def bytes_read() -> int:
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("rchar"):
            return int(line.split()[1])
    raise AssertionError("no rchar")


def test_few_bytes_are_read(path: Path) -> None:
    """The tiles of a patch and no more: at most four of 256 x 256, of a file with 270."""
    reader = ats.open_image(path)
    reader.read((0, 0), (1, 1))
    before = bytes_read()
    FileImages([reader]).patches(torch.tensor([[[1000, 1300]]]), SIZE)
    largest = 4 * 256 * 256 * 3
    assert 0 < bytes_read() - before < min(largest, path.stat().st_size // 10)
