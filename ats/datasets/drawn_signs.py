"""Traffic signs, drawn new and seen from the front, and then spoilt as real ones are."""

import math
from typing import Any

import numpy as np

from ats.datasets.spoilt import Pixels, as_seen

_RED = (190, 25, 35)
_BLUE = (20, 70, 160)
_DARK = (25, 25, 30)
_WHITE = (245, 245, 240)
_YELLOW = (245, 200, 40)


def draw_limit(
    limit: str,
    rng: np.random.Generator,
    height: int,
    ground: str = "white",
    wear: float = 1.0,
) -> Pixels:
    """A speed limit of some height in pixels, as a camera may have seen it.

    Args:
        limit: what stands on it, such as ``"70"``.
        rng: source of randomness; everything but limit and height is drawn from it.
        height: of the picture in pixels.
        ground: colour within the red ring, ``"white"`` or ``"yellow"``.
        wear: how badly light, age and camera spoil it, from 0, hardly, to 1, as in bad photographs.

    Returns:
        (height, width, 4) uint8: red, green, blue and opacity.

    Raises:
        ValueError: the height is below 4 pixels.
    """
    return as_seen(_plain_limit(limit, rng, ground), rng, height, wear)


def draw_other(
    rng: np.random.Generator, height: int, ground: str = "white", wear: float = 1.0
) -> Pixels:
    """Some traffic sign that is no speed limit, of some height in pixels.

    Args and returned values are those of :func:`draw_limit`.
    """
    return as_seen(_plain_other(rng, ground), rng, height, wear)


def _canvas(size: int) -> tuple[Any, Any]:
    from PIL import Image, ImageDraw

    image = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    return image, ImageDraw.Draw(image)


def _plain_limit(limit: str, rng: np.random.Generator, ground: str) -> Any:
    """A new sign seen from the front, 192 pixels wide."""
    from PIL import Image

    size = 192
    image, draw = _canvas(size)
    rim = rng.integers(1, 6)
    ring = rim + rng.integers(16, 30)
    colours = {"white": _WHITE, "yellow": _YELLOW}
    draw.ellipse((1, 1, size - 2, size - 2), fill=colours[ground])
    draw.ellipse((rim, rim, size - 1 - rim, size - 1 - rim), fill=_RED)
    draw.ellipse((ring, ring, size - 1 - ring, size - 1 - ring), fill=colours[ground])
    digits = _digits(limit, rng)
    # Digits of a limit fill the inside; those of three are narrower instead of lower.
    room = size - 2 * ring
    tall = int(room * rng.uniform(0.54, 0.72))
    share = 0.88 if len(limit) > 2 else rng.uniform(0.66, 0.82)
    wide = int(min(room * share, tall * digits.width / digits.height * rng.uniform(0.7, 1.0)))
    digits = digits.resize((wide, tall), Image.Resampling.LANCZOS)
    corner = ((size - wide) // 2, (size - tall) // 2 + int(rng.integers(-3, 4)))
    image.paste(Image.new("RGBA", digits.size, (*_DARK, 255)), corner, digits)
    return image


def _digits(text: str, rng: np.random.Generator) -> Any:
    """A mask of some text, cut to its ink, in one of the fonts that come with matplotlib."""
    from pathlib import Path

    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    names = ("DejaVuSans-Bold", "DejaVuSans-Bold", "DejaVuSans", "DejaVuSansMono-Bold")
    font = ImageFont.truetype(fonts / f"{names[rng.integers(len(names))]}.ttf", 120)
    # A thin font gains the weight of a sign's digits from a stroke around it.
    stroke = int(rng.integers(0, 7))
    mask = Image.new("L", (160 * len(text), 200))
    gap = int(rng.integers(-6, 7))
    left = 30
    draw = ImageDraw.Draw(mask)
    for digit in text:
        draw.text((left, 20), digit, fill=255, font=font, stroke_width=stroke)
        left += int(draw.textlength(digit, font=font)) + gap
    return mask.crop(mask.getbbox())


def _plain_other(rng: np.random.Generator, ground: str) -> Any:
    """One of several other signs seen from the front."""
    size = 192
    image, draw = _canvas(size)
    inside = {"white": _WHITE, "yellow": _YELLOW}[ground]
    kind = rng.integers(6)
    whole = (2, 2, size - 3, size - 3)
    if kind == 0:  # warning
        _polygon(draw, 3, size * 0.55, -90, _RED)
        _polygon(draw, 3, size * 0.38, -90, inside)
        draw.line((96, 80, 96, 120), fill=_DARK, width=10)
    elif kind == 1:  # give way
        _polygon(draw, 3, size * 0.55, 90, _RED)
        _polygon(draw, 3, size * 0.38, 90, inside)
    elif kind == 2:  # mandatory direction
        draw.ellipse(whole, fill=_BLUE)
        angle = math.radians(float(rng.choice([0, 90, 180, 45, 135])))
        tip = (96 + 60 * math.cos(angle), 96 - 60 * math.sin(angle))
        draw.line((192 - tip[0], 192 - tip[1], *tip), fill=_WHITE, width=20)
        draw.ellipse((tip[0] - 18, tip[1] - 18, tip[0] + 18, tip[1] + 18), fill=_WHITE)
    elif kind == 3:  # no entry
        draw.ellipse(whole, fill=_RED)
        draw.rectangle((36, 80, 156, 112), fill=_WHITE)
    elif kind == 4:  # priority road
        _polygon(draw, 4, size * 0.48, 0, _WHITE)
        _polygon(draw, 4, size * 0.36, 0, _YELLOW)
    else:  # no stopping
        draw.ellipse(whole, fill=_RED)
        draw.ellipse((24, 24, size - 25, size - 25), fill=_BLUE)
        draw.line((40, 40, 152, 152), fill=_RED, width=20)
    return image


def _polygon(draw: Any, corners: int, radius: float, start: float, fill: tuple[int, ...]) -> None:
    angles = [math.radians(start + 360 * corner / corners) for corner in range(corners)]
    points = [(96 + radius * math.cos(angle), 96 + radius * math.sin(angle)) for angle in angles]
    draw.polygon(points, fill=fill)
