"""A folder of images as users have them: of all sizes and formats, some of them bad.

``python tests/image_folder.py FOLDER`` makes 200 of 300 to 1400 pixels a side.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

SUFFIXES = ("jpg", "png", "webp", "bmp", "tif", "npy")
BAD = ("truncated.jpg", "text.png")
ODD = ("one.png", "deep.png", "cmyk.jpg")
RADIUS = 14


def cloudy(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """A coloured, noisy background (H, W, 3)."""
    coarse = rng.integers(60, 190, (height // 40 + 2, width // 40 + 2, 3)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noise = rng.integers(-12, 13, (height, width, 3))
    return (smooth.astype(int) + noise).clip(0, 255).astype(np.uint8)


def photograph(
    rng: np.random.Generator, shape: tuple[int, int], *, marked: bool
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """An image with three blue squares, and a red disc if it is marked; and where that is."""
    pixels = cloudy(rng, *shape)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    centre = (0, 0)
    for number in range(3 + marked):
        y, x = (int(rng.integers(RADIUS + 4, extent - RADIUS - 4)) for extent in shape)
        if number < 3:
            inside = (abs(rows - y) < RADIUS) & (abs(columns - x) < RADIUS)
            pixels[inside] = (30, 30, 200)
        else:
            pixels[(rows - y) ** 2 + (columns - x) ** 2 < RADIUS**2] = (220, 30, 30)
            centre = (y, x)
    return pixels, centre


def save(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write an image in the format of its name."""
    if path.suffix == ".npy":
        np.save(path, pixels)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, pixels, photometric="rgb", tile=(128, 128), compression="zlib")
    else:
        options = {"quality": 90} if path.suffix in (".jpg", ".webp") else {}
        Image.fromarray(pixels).save(path, **options)


def make_folder(
    folder: Path, n_images: int, sides: tuple[int, int], *, seed: int = 0, bad: bool = True
) -> Path:
    """Fill a folder, a third of the images marked, and write ``labels.csv``.

    Columns: path, label (``marked`` or ``plain``), patient, and the place of the disc.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(n_images):
        shape = (int(rng.integers(*sides)), int(rng.integers(*sides)))
        marked = number % 3 == 0
        pixels, centre = photograph(rng, shape, marked=marked)
        name = f"{number:03d}.{SUFFIXES[number % len(SUFFIXES)]}"
        save(folder / name, pixels)
        lines.append([name, "marked" if marked else "plain", f"p{number // 2}", *centre])
    if bad:
        add_bad(folder, rng)
        lines += [[name, "plain", name, 0, 0] for name in (*BAD, *ODD)]
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "patient", "y", "x"], *lines])
    return folder


def add_bad(folder: Path, rng: np.random.Generator) -> None:
    """A truncated JPEG, a text named as an image, and images that are odd but whole."""
    save(folder / "truncated.jpg", cloudy(rng, 300, 400))
    path = folder / "truncated.jpg"
    path.write_bytes(path.read_bytes()[:9000])
    (folder / "text.png").write_text("This is no image.")
    Image.new("RGB", (1, 1), (90, 90, 90)).save(folder / "one.png")
    grey = cloudy(rng, 300, 400)[..., 0].astype(np.uint16) * 257
    Image.fromarray(grey).save(folder / "deep.png")
    Image.fromarray(cloudy(rng, 250, 350)).convert("CMYK").save(folder / "cmyk.jpg")


if __name__ == "__main__":
    make_folder(Path(sys.argv[1]), 200, (300, 1400))
