"""Pictures spoilt as a camera sees things outdoors: light, rust, perspective, blur, noise."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

# Pictures are made this many times larger and then averaged, which makes their edges smooth.
_OVERSAMPLING = 3
# Up to this wear, light and camera are good.
_GOOD = 0.3


def as_seen(picture: Any, rng: np.random.Generator, height: int, wear: float) -> Pixels:
    """A picture as a camera sees the thing: worn, lit, turned, blurred, and brought to a height.

    Args:
        picture: square ``PIL.Image`` with opacity, 100 to 300 pixels wide.
        rng: source of randomness.
        height: of what is not transparent, in pixels of the result.
        wear: from 0, hardly, to 1, as in bad photographs.

    Returns:
        (height + 2 r, width, 4) uint8 with the opacity, r pixels around it for the blur.

    Raises:
        ValueError: the height is below 4 pixels.
    """
    from PIL import Image, ImageFilter

    if height < 4:
        raise ValueError(f"height={height} must be at least 4 pixels")
    # More than twice the pixels of the result are work without an effect.
    picture = picture.reduce(max(1, picture.height // (2 * height)))
    pixels = np.asarray(picture, dtype=np.float32)
    # Of its own, so that what is in good light does not depend on it.
    harsh = rng.spawn(1)[0]
    worn = Image.fromarray(_exposed(_worn(pixels, rng, wear), harsh, wear).astype(np.uint8), "RGBA")
    turned = _turned(worn, rng, wear)
    turned = turned.crop(turned.getbbox())
    wide = max(2, round(height * turned.width / turned.height))
    large = (wide * _OVERSAMPLING, height * _OVERSAMPLING)
    # Blur reaches over the edge, so that it needs room there.
    room = max(1, height // 10)
    framed = Image.new("RGBA", (wide + 2 * room, height + 2 * room))
    small = turned.resize(large, Image.Resampling.BICUBIC).reduce(_OVERSAMPLING)
    framed.paste(small, (room, room))
    # Colours around it are black: blurred with them premultiplied, none of it shows.
    seen = np.asarray(framed, dtype=np.float32)
    opacity = seen[..., 3:] / 255
    seen = np.concatenate([seen[..., :3] * opacity, seen[..., 3:]], 2)
    # Across more than down, as a car moves.
    down = float(rng.uniform(0.2, 0.6) + wear * rng.uniform(0, 0.02) * height * rng.integers(0, 2))
    across = down + wear * float(rng.uniform(0, 0.04) * height * (rng.random() < 0.2))
    if harsh.random() < (wear - _GOOD) / 2:
        across += float(harsh.uniform(0, 0.07) * height)
    blur = ImageFilter.GaussianBlur((across, down))
    channels = [
        Image.fromarray(seen[..., channel].astype(np.uint8)).filter(blur) for channel in range(4)
    ]
    blurred = np.stack([np.asarray(channel, dtype=np.float32) for channel in channels], 2)
    colour = blurred[..., :3] / np.maximum(blurred[..., 3:] / 255, 1e-3)
    colour += rng.normal(0, wear * rng.uniform(0, 7), colour.shape)
    out = np.concatenate([colour.clip(0, 255), blurred[..., 3:]], 2)
    return out.round().astype(np.uint8)


def _worn(
    pixels: NDArray[np.float32], rng: np.random.Generator, wear: float
) -> NDArray[np.float32]:
    """Dirt, rust, a gradient of light, shadow, and the tint of the day."""
    size = pixels.shape[0]
    out = pixels.copy()
    colour = out[..., :3]
    for _ in range(int(wear * rng.integers(0, 3))):
        spots = _clouds(rng, size) > rng.uniform(0.72, 0.95)
        tint = np.array([95, 60, 35]) * rng.uniform(0.5, 1.2)
        colour[spots] += (tint - colour[spots]) * rng.uniform(0.2, 0.7)
    # Faded paint is paler.
    grey = colour.mean(2, keepdims=True)
    colour += (grey + 40 - colour) * wear * rng.uniform(0, 0.4)
    axis = np.linspace(-0.5, 0.5, size)
    angle = rng.uniform(0, 2 * math.pi)
    slope = np.cos(angle) * axis[:, None] + np.sin(angle) * axis[None, :]
    light = np.exp(rng.uniform(wear * math.log(0.18), math.log(1.1))) * (
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


def _exposed(
    pixels: NDArray[np.float32], rng: np.random.Generator, wear: float
) -> NDArray[np.float32]:
    """Deep shadow, in the colour of the sky, or more light than the camera takes, beyond good wear.

    Too much light makes what is bright white, and glares over what is dark.
    """
    kind = rng.random()
    if kind < wear - _GOOD:
        light = np.exp(rng.uniform(math.log(0.2), math.log(0.7)))
        sky = 1 + rng.uniform(0, 1) * np.array([-0.05, -0.2, 0.15])
        pixels[..., :3] *= light * sky
    elif kind < 2 * (wear - _GOOD):
        warm = 1 + rng.uniform(0, 1) * np.array([0.1, 0.0, -0.2])
        colour = pixels[..., :3] * rng.uniform(1.1, 2.5) * warm
        colour += rng.uniform(0, 0.45) * np.maximum(255 - colour, 0) * warm
        pixels[..., :3] = colour
    return pixels.clip(0, 255)


def _clouds(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Smooth noise in [0, 1]."""
    from PIL import Image

    coarse = Image.fromarray(rng.random((8, 8)).astype(np.float32))
    clouds = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
    return clouds.clip(0, 1)


def _turned(picture: Any, rng: np.random.Generator, wear: float) -> Any:
    """Seen from another place: rotated, from the side, in perspective."""
    from PIL import Image

    size = picture.width
    margin = size // 4
    wide = Image.new("RGBA", (size + 2 * margin, size + 2 * margin))
    wide.paste(picture, (margin, margin))
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
        Image.Resampling.BILINEAR,
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
