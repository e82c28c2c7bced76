"""One photo of made-up people: surroundings, people, things in front of them, camera flaws."""

from typing import NamedTuple

import cv2
import numpy as np

from hmrkit.data.synth import background
from hmrkit.data.synth.cast import Cast, Studio
from hmrkit.data.synth.people import bounds
from hmrkit.data.synth.recipe import Recipe
from hmrkit.render.rasterize import Raster, rasterize
from hmrkit.render.shading import Lights, shade

_WHOLE_PX = 96  # side of the picture in which people who leave the image are counted


class Photo(NamedTuple):
    """An image and what it shows of P people."""

    image: np.ndarray  # (H, W, 3) uint8
    visible_fraction: np.ndarray  # (P,) share of the person's own pixels that is seen
    box_img: np.ndarray  # (P, 4) px, tight around the dressed person, may leave the image


class Place(NamedTuple):
    """What the photos of one record share: light and floor of a level world (y up, floor y = 0)."""

    directions_world: np.ndarray  # (L, 3) towards the lights
    intensities: np.ndarray  # (L, 3)
    ambient: np.ndarray  # (3,)
    specular: float
    ground: background.Ground | None


def draw_place(rng: np.random.Generator, recipe: Recipe, ground_probability: float = 1.0) -> Place:
    """Draw light and, with a probability, a floor."""
    num = int(rng.integers(1, 4))
    directions = rng.standard_normal((num, 3))
    directions[:, 1] = np.abs(directions[:, 1]) + 0.15  # from above, and more often from the front
    directions[0, 2] = np.abs(directions[0, 2])
    warmth = rng.normal(0, 0.1, (num + 1, 1))
    tint = 1 + warmth * [1.0, 0.1, -1.0]
    strength = rng.uniform(0.25, 0.75) * rng.dirichlet(np.ones(num) * 1.5)
    has_ground = rng.random() < ground_probability
    return Place(
        directions_world=directions / np.linalg.norm(directions, axis=1, keepdims=True),
        intensities=1.3 * strength[:, None] * tint[:num],
        ambient=rng.uniform(*recipe.ambient) * tint[-1],
        specular=float(rng.uniform(0, 0.12)),
        ground=background.draw_ground(rng) if has_ground else None,
    )


def take(
    rng: np.random.Generator,
    studio: Studio,
    cast_cam: Cast,
    place: Place,
    level_to_camera: np.ndarray,
    intrinsics_img: np.ndarray,
    size_hw: tuple[int, int],
    recipe: Recipe,
) -> Photo:
    """Draw one photo.

    Args:
        rng: source of all randomness.
        studio: the body model.
        cast_cam: the people in camera axes.
        place: light and floor.
        level_to_camera: (4, 4), from the level world in which ``place`` lives.
        intrinsics_img: (3, 3) px.
        size_hw: height and width of the image, px.
        recipe: how much of what.
    """
    turn = level_to_camera[:3, :3]
    canvas = background.draw_backdrop(rng, size_hw, recipe.max_shapes)
    plane = background.Plane(level_to_camera[:3, 3], turn[:, [0, 2]], turn[:, 1])
    if place.ground is not None and background.is_above(plane):
        feet = _shadow_places(cast_cam, level_to_camera, place)
        canvas = background.paint_ground(
            canvas, place.ground, plane, intrinsics_img, feet, float(rng.uniform(0.25, 0.75))
        )
    raster = rasterize(cast_cam.vertices, studio.body.faces, intrinsics_img, size_hw)
    color = _people_colors(studio, cast_cam, raster, place, turn, intrinsics_img)
    canvas.reshape(-1, 3)[raster.pixel] = color
    canvas = _soft_edges(canvas, raster.person_id)
    box_img = project_box(cast_cam.vertices, intrinsics_img)
    is_hidden = _occlude(rng, canvas, box_img, recipe)
    visible = raster.visible_px
    if is_hidden is not None:
        person = raster.person_id[~is_hidden]
        visible = np.bincount(person[person >= 0], minlength=len(box_img))
    total = whole_px(cast_cam.vertices, studio.body.faces, intrinsics_img, box_img, size_hw, raster)
    image = background.take_photo(rng, canvas, recipe.max_noise, recipe.max_gain)
    fraction = np.clip(visible / np.maximum(total, 1), 0, 1).astype(np.float32)
    return Photo(image, fraction, box_img)


def project(points_cam: np.ndarray, intrinsics_img: np.ndarray) -> np.ndarray:
    """Points (..., N, 3) m in camera axes to (..., N, 2) px; ``intrinsics_img`` is (..., 3, 3)."""
    rays = points_cam @ intrinsics_img.swapaxes(-1, -2)
    return rays[..., :2] / rays[..., 2:]


def project_box(vertices_cam: np.ndarray, intrinsics_img: np.ndarray) -> np.ndarray:
    """Tight boxes (P, 4) px around the vertices (P, V, 3) m."""
    points = project(vertices_cam, intrinsics_img.astype(np.float32))
    return np.concatenate(bounds(points), axis=-1).astype(np.float32)


def whole_px(
    vertices_cam: np.ndarray,
    faces: np.ndarray,
    intrinsics_img: np.ndarray,
    box_img: np.ndarray,
    size_hw: tuple[int, int],
    raster: Raster,
) -> np.ndarray:
    """Pixels (P,) that each person would have, alone, in an image without borders."""
    total = raster.total_px.astype(np.float64)
    limit = np.array([size_hw[1], size_hw[0]]) - 0.5
    is_cut = (box_img[:, :2] < -0.5).any(axis=1) | (box_img[:, 2:] > limit).any(axis=1)
    for person in np.flatnonzero(is_cut):  # few: those at the border
        low, size = box_img[person, :2], box_img[person, 2:] - box_img[person, :2]
        zoom = min(1.0, _WHOLE_PX / float(max(size)))
        to_small = np.array([[zoom, 0, -zoom * low[0]], [0, zoom, -zoom * low[1]], [0, 0, 1.0]])
        side = (int(zoom * size[1]) + 2, int(zoom * size[0]) + 2)
        whole = rasterize(vertices_cam[person], faces, to_small @ intrinsics_img, side)
        total[person] = max(whole.visible_px[0] / zoom**2, total[person])
    return total


def _people_colors(
    studio: Studio,
    cast_cam: Cast,
    raster: Raster,
    place: Place,
    turn: np.ndarray,
    intrinsics_img: np.ndarray,
) -> np.ndarray:
    """Lit colours (N, 3) uint8 of the hit pixels."""
    num = len(cast_cam.vertices)
    template = np.broadcast_to(studio.body.template, (num, *studio.body.template.shape))
    values = raster.interpolate(np.concatenate([cast_cam.normals, template], axis=-1))
    normals_cam, rest = values[:, :3], np.ascontiguousarray(values[:, 3:])
    albedo = np.zeros_like(rest)
    person = raster.person_id.reshape(-1)[raster.pixel]
    for i, look in enumerate(cast_cam.looks):  # each wears something else
        where = np.flatnonzero(person == i) if num > 1 else slice(None)
        albedo[where] = look.paint(rest[where])
    lights = Lights(
        directions_cam=(place.directions_world @ turn.T).astype(np.float32),
        intensities=place.intensities.astype(np.float32),
        ambient=place.ambient.astype(np.float32),
        specular=place.specular,
    )
    lit = shade(raster, normals_cam, albedo, intrinsics_img, lights)
    return (255 * np.clip(lit, 0, 1)).astype(np.uint8)


def _soft_edges(canvas: np.ndarray, person_id: np.ndarray) -> np.ndarray:
    """Blur the pixels at outlines: the rasteriser has no anti-aliasing."""
    mask = (person_id + 1).astype(np.uint8)
    kernel = np.ones((3, 3), np.uint8)
    edge = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, kernel)
    soft = cv2.GaussianBlur(canvas, (3, 3), 0)
    cv2.copyTo(soft, edge, canvas)
    return canvas


def _occlude(
    rng: np.random.Generator, canvas: np.ndarray, box_img: np.ndarray, recipe: Recipe
) -> np.ndarray | None:
    """Put things in front of people, in place; (H, W) bool where they are, None without."""
    is_hidden = None
    for box in box_img:
        if rng.random() >= recipe.occluder_probability or recipe.max_occluders < 1:
            continue
        for _ in range(int(rng.integers(1, recipe.max_occluders + 1))):
            mask = background.draw_occluder(rng, canvas, box)
            is_hidden = mask if is_hidden is None else is_hidden | mask
    return is_hidden


def _shadow_places(cast_cam: Cast, level_to_camera: np.ndarray, place: Place) -> np.ndarray:
    """Places (N, 2) m on the floor, x and z of the level world, in the shade of the first light."""
    turn, shift = level_to_camera[:3, :3], level_to_camera[:3, 3]
    level = (cast_cam.vertices[:, ::3].reshape(-1, 3) - shift) @ turn
    down = place.directions_world[0]
    slant = np.clip(down[[0, 2]] / down[1], -1.5, 1.5)
    return level[:, [0, 2]] - level[:, 1:2] * slant
