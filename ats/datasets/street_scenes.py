"""Drawn streets with drawn traffic signs, in the folders and the format of the Swedish set."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ats.datasets.drawn_signs import draw_limit, draw_other
from ats.datasets.progress import progress_bar
from ats.datasets.swedish_signs import ANNOTATIONS, LIMITS, TEST, TRAIN
from ats.files import atomic_folder
from ats.images import Overlay
from ats.images.pasted import paste

HEIGHT, WIDTH = 360, 480
N_TRAIN, N_TEST = 800, 200
# Heights of signs in pixels.
SMALLEST, LARGEST = 45, 95
# Signs are in good order: a few minutes shall be enough to learn to read them.
WEAR = 0.3
# So many of the scenes with a limit show another sign beside it.
OTHERS = 0.3


def make_street_scenes(
    folder: str | os.PathLike[str],
    *,
    n_train: int = N_TRAIN,
    n_test: int = N_TEST,
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """The folder with drawn scenes, made where they are missing.

    A quarter of the scenes shows no sign, the others one of the limits 50, 70 and 80. A few more
    show another sign alone; a reader of the Swedish set leaves them out.

    Args:
        folder: gets ``Set1`` for training and ``Set2`` for testing.
        n_train: scenes of ``Set1`` that are empty or show a limit.
        n_test: the same of ``Set2``.
        seed: of everything drawn.
        progress: show a bar with the remaining time, on a terminal.

    Raises:
        ValueError: something else, or another number of scenes, is where they are to be.
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    for number, (part, n_images) in enumerate(((TRAIN, n_train), (TEST, n_test))):
        annotations, n_scenes = folder / part / ANNOTATIONS, n_images + n_images // 10
        if annotations.exists():
            _check_number(annotations, n_scenes)
            continue
        if (folder / part).exists():
            raise ValueError(
                f"{folder / part} is there without {ANNOTATIONS}, so that it is none of drawn "
                "scenes; delete it, or choose another folder"
            )
        with (
            atomic_folder(folder / part) as temporary,
            progress_bar(part, n_images, unit=" images", shown=progress) as bar,
        ):
            (temporary / f"{part}Part0").mkdir()
            lines = []
            for index in range(n_scenes):
                name = f"{part}Part0/Image{index:06d}.jpg"
                lines.append(_make_scene(temporary / name, [seed, number, index], n_images))
                bar.update()
            (temporary / ANNOTATIONS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def _check_number(annotations: Path, n_scenes: int) -> None:
    """Refuse annotations of another number of scenes."""
    found = len(annotations.read_text(encoding="utf-8").splitlines())
    if found != n_scenes:
        raise ValueError(
            f"{annotations} is of {found} scenes, not of {n_scenes}; choose another folder, or "
            "delete that one"
        )


def _make_scene(path: Path, seed: list[int], n_images: int) -> str:
    """Draw one scene, and return its line of the annotations."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    pixels = _street(rng)
    index = seed[-1]
    label = ("", *LIMITS)[index % 4] if index < n_images else "other"
    signs = []
    if label == "other" or (label and rng.random() < OTHERS):
        sign = draw_other(rng, int(rng.integers(SMALLEST, LARGEST)), "yellow", WEAR)
        signs.append(_place(pixels, sign, rng, "OTHER, OTHER"))
    # Last, so that no other sign covers it.
    if label in LIMITS:
        height = int(np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST))))
        sign = draw_limit(label, rng, height, "yellow", WEAR)
        signs.append(_place(pixels, sign, rng, f"PROHIBITORY, {label}_SIGN"))
    noisy = pixels + rng.normal(0, 4, pixels.shape)
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=92)
    return f"{path.name}:{''.join(signs)}"


def _place(
    pixels: NDArray[np.uint8], sign: NDArray[np.uint8], rng: np.random.Generator, what: str
) -> str:
    """Paste a sign on a pole, and return its entry in the annotations."""
    height, width = sign.shape[:2]
    top = int(rng.integers(20, HEIGHT * 6 // 10 - height // 2))
    left = int(rng.integers(0, WIDTH - width))
    pole = left + width // 2
    foot = min(HEIGHT, top + height * 4)
    pixels[top + height // 2 : foot, pole - 1 - height // 30 : pole + 1 + height // 30] = 110
    paste(pixels, Overlay(sign, (top, left)), (0, 0), pixels.shape[:2])
    box = ", ".join(f"{value:.6f}" for value in (left + width, top + height, left, top))
    return f"VISIBLE, {box}, {what};"


def _street(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Sky, houses, trees, a road, and light, without any sign."""
    from PIL import Image, ImageDraw, ImageFilter

    horizon = int(HEIGHT * rng.uniform(0.45, 0.62))
    rows = np.linspace(0, 1, HEIGHT)[:, None, None]
    sky = np.array([rng.integers(120, 215), rng.integers(150, 225), rng.integers(190, 250)])
    ground = np.array([rng.integers(60, 120), rng.integers(80, 130), rng.integers(50, 90)])
    canvas = np.broadcast_to(sky * (0.8 + 0.2 * rows), (HEIGHT, WIDTH, 3)).astype(np.uint8).copy()
    canvas[horizon:] = ground
    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 8))):
        _house(draw, rng, horizon)
    for _ in range(int(rng.integers(3, 10))):
        _tree(draw, rng, horizon)
    vanishing = WIDTH * rng.uniform(0.35, 0.65)
    edges = [(vanishing - 8, horizon), (vanishing + 8, horizon)]
    edges += [(WIDTH * rng.uniform(0.8, 1.3), HEIGHT), (WIDTH * rng.uniform(-0.3, 0.2), HEIGHT)]
    grey = int(rng.integers(60, 120))
    draw.polygon(edges, fill=(grey, grey, grey + 5))
    for part in np.linspace(0, 1, 7)[:-1] ** 2:
        y = horizon + part * (HEIGHT - horizon)
        x = vanishing + part * (WIDTH / 2 - vanishing)
        draw.line((x, y, x, y + 4 + 30 * part), fill=(225, 225, 220), width=1 + int(6 * part))
    image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.5, 1.5))))
    texture = rng.normal(0, rng.uniform(3, 10), (HEIGHT // 4, WIDTH // 4, 1))
    texture = texture.repeat(4, 0).repeat(4, 1)
    light = rng.uniform(0.6, 1.1)
    return ((np.asarray(image) + texture) * light).clip(0, 255).astype(np.uint8)


def _house(draw: Any, rng: np.random.Generator, horizon: int) -> None:
    left = int(rng.integers(-40, WIDTH))
    wide, tall = int(rng.integers(50, 180)), int(rng.integers(40, 200))
    top = horizon - tall
    wall = tuple(int(value) for value in rng.integers(70, 210, 3))
    draw.rectangle((left, top, left + wide, horizon + 10), fill=wall)
    pane = tuple(int(value * 0.55) for value in wall)
    for y in range(top + 10, horizon - 14, 26):
        for x in range(left + 10, left + wide - 14, 24):
            draw.rectangle((x, y, x + 11, y + 14), fill=pane)
    if rng.random() < 0.5:
        roof = (int(rng.integers(90, 190)), int(rng.integers(40, 90)), int(rng.integers(30, 80)))
        peak = (left + wide // 2, top - int(rng.integers(10, 50)))
        draw.polygon([(left - 5, top), (left + wide + 5, top), peak], fill=roof)


def _tree(draw: Any, rng: np.random.Generator, horizon: int) -> None:
    x, tall = int(rng.integers(0, WIDTH)), int(rng.integers(30, 130))
    trunk = tuple(int(value) for value in (rng.integers(50, 90), rng.integers(40, 60), 30))
    draw.rectangle((x - 3, horizon - tall, x + 3, horizon + 8), fill=trunk)
    green = np.array([rng.integers(40, 180), rng.integers(70, 140), rng.integers(20, 60)])
    for _ in range(12):
        dx, dy = rng.normal(0, tall / 4, 2)
        radius = tall * rng.uniform(0.1, 0.28)
        centre = (x + dx, horizon - tall + dy)
        leaf = tuple(int(value) for value in (green * rng.uniform(0.7, 1.2)).clip(0, 255))
        box = (centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius)
        draw.ellipse(box, fill=leaf)
