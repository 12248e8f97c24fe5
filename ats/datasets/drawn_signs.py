"""Traffic signs, drawn and then spoilt as real ones are: light, rust, perspective, blur, noise."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

_RED = (190, 25, 35)
_BLUE = (20, 70, 160)
_DARK = (25, 25, 30)
_WHITE = (245, 245, 240)
_YELLOW = (245, 200, 40)
# Signs are drawn this many times larger and then averaged, which makes their edges smooth.
_OVERSAMPLING = 3


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
    return _seen(_plain_limit(limit, rng, ground), rng, height, wear)


def draw_other(
    rng: np.random.Generator, height: int, ground: str = "white", wear: float = 1.0
) -> Pixels:
    """Some traffic sign that is no speed limit, of some height in pixels.

    Args and returned values are those of :func:`draw_limit`.
    """
    return _seen(_plain_other(rng, ground), rng, height, wear)


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


def _seen(sign: Any, rng: np.random.Generator, height: int, wear: float) -> Pixels:
    """A sign as a camera sees it, cut to its ink and brought to a height."""
    from PIL import Image, ImageFilter

    if height < 4:
        raise ValueError(f"height={height} must be at least 4 pixels")
    if height * 3 < sign.height:
        sign = sign.reduce(2)
    pixels = np.asarray(sign, dtype=np.float32)
    worn = Image.fromarray(_worn(pixels, rng, wear).astype(np.uint8), "RGBA")
    turned = _turned(worn, rng, wear)
    turned = turned.crop(turned.getbbox())
    wide = max(2, round(height * turned.width / turned.height))
    large = (wide * _OVERSAMPLING, height * _OVERSAMPLING)
    # Blur reaches over the edge, so that it needs room there.
    room = max(1, height // 10)
    picture = Image.new("RGBA", (wide + 2 * room, height + 2 * room))
    small = turned.resize(large, Image.Resampling.BICUBIC).reduce(_OVERSAMPLING)
    picture.paste(small, (room, room))
    # Colours outside of the sign are black: blurred with them premultiplied, none of it shows.
    seen = np.asarray(picture, dtype=np.float32)
    opacity = seen[..., 3:] / 255
    seen = np.concatenate([seen[..., :3] * opacity, seen[..., 3:]], 2)
    # Across more than down, as a car moves.
    down = float(rng.uniform(0.2, 0.7) + wear * rng.uniform(0, 0.03) * height * rng.integers(0, 2))
    across = down + wear * float(rng.uniform(0, 0.06) * height * (rng.random() < 0.3))
    blur = ImageFilter.GaussianBlur((across, down))
    channels = [
        Image.fromarray(seen[..., channel].astype(np.uint8)).filter(blur) for channel in range(4)
    ]
    blurred = np.stack([np.asarray(channel, dtype=np.float32) for channel in channels], 2)
    colour = blurred[..., :3] / np.maximum(blurred[..., 3:] / 255, 1e-3)
    colour += rng.normal(0, wear * rng.uniform(0, 9), colour.shape)
    out = np.concatenate([colour.clip(0, 255), blurred[..., 3:]], 2)
    return out.round().astype(np.uint8)


def _worn(
    pixels: NDArray[np.float32], rng: np.random.Generator, wear: float
) -> NDArray[np.float32]:
    """Dirt, rust, a gradient of light, shadow, and the tint of the day."""
    size = pixels.shape[0]
    out = pixels.copy()
    colour = out[..., :3]
    for _ in range(int(wear * rng.integers(0, 4))):
        spots = _clouds(rng, size) > rng.uniform(0.72, 0.95)
        tint = np.array([95, 60, 35]) * rng.uniform(0.5, 1.2)
        colour[spots] += (tint - colour[spots]) * rng.uniform(0.2, 0.7)
    # Faded paint is paler.
    grey = colour.mean(2, keepdims=True)
    colour += (grey + 40 - colour) * wear * rng.uniform(0, 0.4)
    axis = np.linspace(-0.5, 0.5, size)
    angle = rng.uniform(0, 2 * math.pi)
    slope = np.cos(angle) * axis[:, None] + np.sin(angle) * axis[None, :]
    light = np.exp(rng.uniform(wear * math.log(0.22), math.log(1.1))) * (
        1 + rng.uniform(0, 0.7) * slope
    )
    if rng.random() < 0.3 * wear:
        light = light * np.where(slope > rng.uniform(-0.4, 0.4), 1, rng.uniform(0.35, 0.9))
    tint = rng.normal(1, 0.06, 3)
    haze = wear * rng.uniform(0, 50) * (rng.random() < 0.5)
    colour *= light[..., None] * tint
    colour += (180 - colour) * haze / 180
    out[..., :3] = colour.clip(0, 255)
    return out


def _clouds(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Smooth noise in [0, 1]."""
    from PIL import Image

    coarse = Image.fromarray(rng.random((8, 8)).astype(np.float32))
    clouds = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
    return clouds.clip(0, 1)


def _turned(sign: Any, rng: np.random.Generator, wear: float) -> Any:
    """Seen from another place: rotated, from the side, in perspective."""
    from PIL import Image

    size = sign.width
    margin = size // 4
    wide = Image.new("RGBA", (size + 2 * margin, size + 2 * margin))
    wide.paste(sign, (margin, margin))
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=np.float64) * size + margin
    centre = corners.mean(0)
    angle = math.radians(float(wear * rng.normal(0, 4)))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    squeeze = np.array([1 - wear * rng.uniform(0, 0.28), 1])
    moved = ((corners - centre) * squeeze) @ turn.T + centre
    moved += wear * rng.uniform(-0.06, 0.06, (4, 2)) * size
    return wide.transform(
        wide.size,
        Image.Transform.PERSPECTIVE,
        _homography(moved, corners),
        Image.Resampling.BICUBIC,
    )


def _homography(points: NDArray[np.float64], images: NDArray[np.float64]) -> list[float]:
    """Eight numbers of the projective map that takes four points to four others."""
    rows, values = [], []
    for (x, y), (u, v) in zip(points, images, strict=True):
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
        rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
        values += [u, v]
    solution: list[float] = np.linalg.solve(np.array(rows), np.array(values)).tolist()
    return solution
