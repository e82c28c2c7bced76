"""What surrounds made-up people: walls, floor, shadows, things before them, camera flaws.

All images are (H, W, 3) uint8 RGB. Backdrops are drawn at half size and enlarged: what is behind
the people may be soft, and it saves half of the time per image.
"""

from typing import NamedTuple

import cv2
import numpy as np


class Ground(NamedTuple):
    """A floor: a repeated texture on a plane."""

    texture: np.ndarray  # (T, T, 3) uint8
    texel: float  # m per texel
    turn: float  # rad


class Plane(NamedTuple):
    """A plane in camera axes, metres."""

    origin_cam: np.ndarray  # (3,) a point of the plane
    axes_cam: np.ndarray  # (3, 2) unit vectors in the plane
    up_cam: np.ndarray  # (3,) unit normal


# Light and things vary between warm and cold much more than between green and purple.
_HUES = np.array([[1.0, 0.15, -1.0], [0.3, -0.4, 0.3]])


def draw_color(rng: np.random.Generator, vivid: float = 0.5) -> np.ndarray:
    """One colour (3,) 0..255, grey for ``vivid`` 0."""
    grey = rng.uniform(20, 240)
    return np.clip(grey + 90 * vivid * rng.standard_normal(2) @ _HUES, 5, 250)


def _smooth_noise(
    rng: np.random.Generator, size_hw: tuple[int, int], cells: int, vivid: float
) -> np.ndarray:
    """(H, W, 3) float32 noise of about unit size whose blobs are 1/cells of the image."""
    coarse = rng.standard_normal((cells, cells, 1), np.float32)
    hues = (vivid * _HUES).astype(np.float32)
    coarse = coarse + rng.standard_normal((cells, cells, 2), np.float32) @ hues
    return cv2.resize(coarse, size_hw[::-1], interpolation=cv2.INTER_CUBIC)


def draw_backdrop(
    rng: np.random.Generator, size_hw: tuple[int, int], max_shapes: int
) -> np.ndarray:
    """A backdrop: a gradient, stripes or a wall, up to ``max_shapes`` things, soft noise."""
    height, width = (size_hw[0] + 1) // 2, (size_hw[1] + 1) // 2
    first, second = draw_color(rng, 0.25), draw_color(rng, 0.25)
    corners = np.stack([first, 0.5 * (first + second), 0.4 * first + 0.6 * second, second])
    base = cv2.resize(
        corners.reshape(2, 2, 3).astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR
    )
    kind = rng.random()
    if kind < 0.3:
        base += _stripes(rng, (height, width))
    vivid = float(rng.beta(1, 2.5))
    cells = int(rng.integers(3, 9))
    base += _smooth_noise(rng, (height, width), cells, vivid) * rng.uniform(2, 26)
    if kind > 0.7:
        cells = int(rng.integers(20, 60))
        base += _smooth_noise(rng, (height, width), cells, vivid) * rng.uniform(4, 24)
    image = np.clip(base, 0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(0, max_shapes + 1)) if max_shapes else 0):
        _draw_thing(rng, image)
    blur = rng.uniform(0.3, 2.5)
    image = cv2.GaussianBlur(image, (0, 0), blur)
    return cv2.resize(image, (2 * width, 2 * height), interpolation=cv2.INTER_LINEAR)[
        : size_hw[0], : size_hw[1]
    ]


def _stripes(rng: np.random.Generator, size_hw: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) float32 stripes: boards, curtains, blinds."""
    angle = rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)], p=[0.35, 0.35, 0.3])
    period = rng.uniform(0.03, 0.25) * size_hw[1]
    column = np.cos(angle) * np.arange(size_hw[1], dtype=np.float32)
    row = np.sin(angle) * np.arange(size_hw[0], dtype=np.float32)
    phase = (row[:, None] + column) * np.float32(2 * np.pi / period)
    wave = np.sin(phase)
    if rng.random() < 0.6:
        wave = (wave > rng.uniform(-0.8, 0.9)).astype(np.float32)
    return wave[..., None] * (draw_color(rng, 0.4) / 3 - 43).astype(np.float32)


def _draw_thing(rng: np.random.Generator, image: np.ndarray) -> None:
    """Draw one box, disc, pole or frame into ``image``, in place, blended."""
    height, width = image.shape[:2]
    center = rng.uniform(0, 1, 2) * (width, height)
    size = rng.uniform(0.06, 0.4, 2) * max(height, width)
    kind = rng.integers(4)
    first = np.maximum(center - size / 2, 0).astype(int)
    last = np.minimum(center + size / 2, (width, height)).astype(int) + 1
    if kind == 2:  # a pole, a tree, a shelf: to the edge of the image
        first[1], last[1] = (0, height) if rng.random() < 0.7 else (first[1], height)
        last[0] = first[0] + max(2, int(0.25 * (last[0] - first[0])))
    patch = image[first[1] : last[1], first[0] : last[0]]
    if patch.size == 0:
        return
    drawn = patch.copy()
    color = tuple(draw_color(rng, 0.7).tolist())
    middle = (patch.shape[1] // 2, patch.shape[0] // 2)
    if kind == 1:
        cv2.ellipse(drawn, middle, middle, 0, 0, 360, color, -1)
    else:
        drawn[:] = color
    if kind == 3:  # a window or picture: another colour inside
        edge = max(1, int(0.08 * min(patch.shape[:2])))
        drawn[edge:-edge, edge:-edge] = draw_color(rng, 0.7)
    slope = np.linspace(rng.uniform(0.7, 1.0), rng.uniform(0.7, 1.2), patch.shape[1])
    drawn = np.clip(drawn * slope[:, None].astype(np.float32), 0, 255).astype(np.uint8)
    cv2.addWeighted(drawn, 0.9, patch, 0.1, 0, dst=patch)


def draw_ground(rng: np.random.Generator) -> Ground:
    """A floor: tiles, boards, carpet, grass, concrete."""
    side = 120
    color, other = draw_color(rng, 0.2), draw_color(rng, 0.2)
    grid = np.arange(side)
    kind = int(rng.choice(5, p=[0.2, 0.2, 0.2, 0.15, 0.25]))
    period = int(rng.choice([16, 24, 32, 48]))
    share = np.zeros((side, side), np.float32)
    if kind == 0:
        share = ((grid[:, None] // period + grid // period) % 2).astype(np.float32)
    elif kind == 1:  # joints between tiles
        share = ((grid[:, None] % period == 0) | (grid % period == 0)).astype(np.float32)
    elif kind == 2:  # boards of different tone
        share = np.repeat(rng.random((side // 12, 1), np.float32) * 0.5, 12, axis=0)
        share = np.broadcast_to(share, (side, side)).copy()
        share[grid % 12 == 0] = 1.0
    elif kind == 3:  # grass and earth
        color = np.array([88.0, 104, 58]) * rng.uniform(0.6, 1.4)
    texture = color + share[..., None] * (other - color)
    texture += _smooth_noise(rng, (side, side), 12, 0.25) * rng.uniform(2, 14)
    texture += rng.standard_normal((side, side, 1), np.float32) * rng.uniform(2, 20)
    return Ground(
        np.clip(texture, 0, 255).astype(np.uint8), rng.uniform(0.012, 0.03), rng.uniform(0, np.pi)
    )


def is_above(plane: Plane) -> bool:
    """Whether the camera stands above the plane by more than 5 cm."""
    return float(plane.origin_cam @ plane.up_cam) < -0.05


def paint_ground(
    image: np.ndarray,
    ground: Ground,
    plane: Plane,
    intrinsics_img: np.ndarray,
    feet: np.ndarray,
    darkness: float,
) -> np.ndarray:
    """Draw the floor and the shadows on it below its horizon.

    Args:
        image: (H, W, 3) the backdrop.
        ground: texture.
        plane: where it lies.
        intrinsics_img: (3, 3) px.
        feet: (N, 2) m, places in the plane (its own axes, from its origin) that are in the shade.
        darkness: 0 none .. 1 black.

    Returns:
        (H, W, 3) a new image.
    """
    height, width = image.shape[:2]
    half = (width + 1) // 2, (height + 1) // 2
    to_half = np.array([[0.5, 0, -0.25], [0, 0.5, -0.25], [0, 0, 1.0]])
    camera = to_half @ intrinsics_img
    to_img = camera @ np.column_stack([plane.axes_cam, plane.origin_cam])  # (u, v, 1) -> image
    cos, sin = np.cos(ground.turn) * ground.texel, np.sin(ground.turn) * ground.texel
    from_texel = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])
    floor = cv2.warpPerspective(
        ground.texture,
        to_img @ from_texel,
        half,
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_WRAP,
    ).astype(np.float32)
    if darkness > 0 and len(feet):
        floor *= 1 - darkness * _shadow(feet, to_img, half)[..., None]
    # Steepness of the view ray: 0 at the horizon, so far floor fades into the backdrop.
    ray = plane.up_cam @ np.linalg.inv(camera)
    down = -(ray[0] * np.arange(half[0]) + ray[1] * np.arange(half[1])[:, None] + ray[2])
    alpha = np.clip((down - 0.01) * 18, 0, 1).astype(np.float32)
    floor = cv2.resize(floor, (width, height), interpolation=cv2.INTER_LINEAR)
    alpha = cv2.resize(alpha, (width, height), interpolation=cv2.INTER_LINEAR)[..., None]
    return (image + alpha * (floor - image)).astype(np.uint8)


def _shadow(feet: np.ndarray, to_img: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """(H, W) float32 0..1 shade in the image of shaded places (N, 2) m of the plane."""
    texels, low = 96, feet.min(axis=0) - 0.3
    side = float((feet.max(axis=0) + 0.3 - low).max())
    cell = np.clip((feet - low) * (texels / side), 0, texels - 1).astype(np.int64)
    count = np.bincount(cell[:, 1] * texels + cell[:, 0], minlength=texels * texels)
    map_ = (count.reshape(texels, texels) > 0).astype(np.float32)
    map_ = np.minimum(1.5 * cv2.GaussianBlur(map_, (0, 0), max(1.0, 0.03 * texels / side)), 1)
    from_cell = np.array([[side / texels, 0, low[0]], [0, side / texels, low[1]], [0, 0, 1.0]])
    return cv2.warpPerspective(map_, to_img @ from_cell, size_wh, flags=cv2.INTER_LINEAR)


def draw_occluder(rng: np.random.Generator, image: np.ndarray, box_img: np.ndarray) -> np.ndarray:
    """Put one thing in front of a person.

    Args:
        rng: source of all randomness.
        image: (H, W, 3), changed in place.
        box_img: (4,) the person's box, px; the thing lies somewhere on it.

    Returns:
        (H, W) bool, where the thing is.
    """
    low, size = box_img[:2], box_img[2:] - box_img[:2]
    center = low + rng.uniform(0.05, 0.95, 2) * size
    radius = rng.uniform(0.06, 0.2, 2) * max(size)
    mask = np.zeros(image.shape[:2], np.uint8)
    kind = rng.integers(3)
    where = tuple(int(v) for v in center)
    if kind == 0:
        cv2.ellipse(
            mask, where, tuple(int(r) + 1 for r in radius), rng.uniform(0, 180), 0, 360, 1, -1
        )
    else:
        if kind == 2:  # something long: a pole, a rail
            radius = np.array([0.8 * max(size), 0.35 * radius[1] + 1])
        angle = rng.uniform(0, 180) if kind == 1 else rng.choice([0.0, 90.0]) + rng.normal(0, 12)
        corners = cv2.boxPoints((center.tolist(), (2 * radius).tolist(), float(angle)))
        cv2.fillConvexPoly(mask, corners.astype(np.int32), 1)
    is_on = mask.astype(bool)
    place = np.flatnonzero(mask)
    if len(place):
        row, column = np.divmod(place, image.shape[1])
        wave = np.sin((row * rng.normal() + column * rng.normal()) * rng.uniform(0.02, 0.5))
        color = draw_color(rng, 0.6) * (1 + 0.25 * wave[:, None])
        image.reshape(-1, 3)[place] = np.clip(color, 0, 255)
    return is_on


def take_photo(
    rng: np.random.Generator, image: np.ndarray, max_noise: float, max_gain: float
) -> np.ndarray:
    """Colour cast, exposure, contrast, a little blur and sensor noise.

    Args:
        rng: source of all randomness.
        image: (H, W, 3).
        max_noise: largest standard deviation of the noise, grey levels of 255.
        max_gain: largest change of a channel's gain.
    """
    gain = 1 + rng.uniform(-max_gain, max_gain) + rng.uniform(-max_gain, max_gain, 2) @ _HUES
    contrast, level = np.exp(rng.uniform(-max_gain, max_gain)), np.arange(256) / 255
    curves = np.clip(255 * gain[:, None] * level**contrast, 0, 255).astype(np.uint8)  # (3, 256)
    result = cv2.LUT(image, np.ascontiguousarray(curves.T)[None])
    if rng.random() < 0.3:
        result = cv2.GaussianBlur(result, (0, 0), rng.uniform(0.3, 0.9))
    noise = rng.standard_normal(image.shape[:2], np.float32) * np.float32(rng.uniform(0, max_noise))
    noise = cv2.merge([noise.astype(np.int16)] * 3)
    return cv2.add(result, noise, dtype=cv2.CV_8U)
