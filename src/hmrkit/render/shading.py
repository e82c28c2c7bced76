"""Colours for the hit pixels of a raster: smooth normals, soft ambient, lights, highlights.

The light is of the usual Phong family on display (sRGB) values, without colour management: a
hemispheric ambient term, diffuse light that may wrap round the terminator for a soft look, and
Blinn-Phong highlights.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import csc_matrix

from hmrkit.render.rasterize import Raster


def _studio_directions() -> np.ndarray:
    return np.array([[-0.45, -0.6, -0.75], [0.8, -0.25, -0.5], [0.25, -0.55, 0.8]], np.float32)


def _studio_intensities() -> np.ndarray:
    return np.array([0.56, 0.22, 0.22], np.float32)


@dataclass(frozen=True)
class Lights:
    """What lights the scene. The default is a soft studio: key, fill and rim light.

    Colours are grey (a float) or RGB; 1 is white.
    """

    directions_cam: np.ndarray = field(
        default_factory=_studio_directions
    )  # (L, 3) towards the light
    intensities: np.ndarray = field(default_factory=_studio_intensities)  # (L,) or (L, 3)
    ambient: float | np.ndarray = 0.46  # from above (camera -y)
    ground: float = 0.7  # ambient from below, as a share of ``ambient``
    specular: float = 0.06
    shininess: float = 20.0
    wrap: float = 0.25  # 0 = Lambert; light reaches this far (in cosines) beyond the terminator


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Smooth unit normals of (V, 3) or (P, V, 3) vertices, area-weighted over the faces (F, 3).

    A vertex without a face of non-zero area gets a zero vector.
    """
    people = np.asarray(vertices, np.float32).reshape(-1, *vertices.shape[-2:])
    xyz = np.ascontiguousarray(people.transpose(2, 1, 0))  # (3, V, P)
    a, b, c = (xyz.take(corner, axis=1) for corner in faces.T)  # (3, F, P)
    (ux, uy, uz), (vx, vy, vz) = b - a, c - a
    # Adds each face to its corners. Column-wise, the face array *is* the matrix: nothing to cache.
    size = faces.size
    add = csc_matrix(
        (np.ones(size, np.float32), faces.reshape(-1).astype(np.int32), np.arange(0, size + 1, 3)),
        shape=(people.shape[1], len(faces)),
    )
    x, y, z = (add @ n for n in (uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx))
    scale = 1 / np.maximum(np.sqrt(x * x + y * y + z * z), np.float32(1e-20))
    return np.stack([x * scale, y * scale, z * scale]).transpose(2, 1, 0).reshape(vertices.shape)


def shade(
    raster: Raster,
    normals_cam: np.ndarray,
    colors: np.ndarray,
    intrinsics_img: np.ndarray,
    lights: Lights,
) -> np.ndarray:
    """Light the N hit pixels of a raster.

    Args:
        raster: what is seen where.
        normals_cam: (N, 3) of any length; ``raster.interpolate(vertex_normals(vertices, faces))``.
        colors: (N, 3) float albedo in [0, 1].
        intrinsics_img: (3, 3) px of the raster.
        lights: the lights.

    Returns:
        (N, 3) float32 RGB, not clipped.
    """
    row, column = np.divmod(raster.pixel, raster.size_hw[1])
    x = (intrinsics_img[0, 2] - column).astype(np.float32) / np.float32(intrinsics_img[0, 0])
    y = (intrinsics_img[1, 2] - row).astype(np.float32) / np.float32(intrinsics_img[1, 1])
    return light_surface(normals_cam, np.stack([x, y, np.full_like(x, -1)]).T, colors, lights)


def light_surface(
    normals_cam: np.ndarray, to_camera: np.ndarray, colors: np.ndarray, lights: Lights
) -> np.ndarray:
    """Light N surface points: normals, directions to the camera (any length), albedo, each (N, 3).

    Returns:
        (N, 3) float32 RGB, not clipped.
    """
    normal = _unit(normals_cam)
    view = _unit(to_camera) if lights.specular > 0 else None
    hemisphere = (1 + lights.ground) / 2 + (lights.ground - 1) / 2 * normal[1]  # 1 up, ground down
    light = [level * hemisphere for level in _rgb(lights.ambient)]
    highlight = [np.float32(0)] * 3
    for direction, intensity in zip(lights.directions_cam, lights.intensities, strict=True):
        to_light = (np.asarray(direction, np.float32) / np.linalg.norm(direction)).tolist()
        rgb = _rgb(intensity)
        cosine = normal[0] * to_light[0] + normal[1] * to_light[1] + normal[2] * to_light[2]
        diffuse = np.maximum((cosine + lights.wrap) / (1 + lights.wrap), 0)
        light = [total + level * diffuse for total, level in zip(light, rgb, strict=True)]
        if view is not None:
            half = [v + toward for v, toward in zip(view, to_light, strict=True)]
            glint = sum(n * h for n, h in zip(normal, half, strict=True))
            glint /= np.sqrt(sum(h * h for h in half)) + np.float32(1e-6)
            glint = np.maximum(glint, 0) ** np.float32(lights.shininess)
            glint *= lights.specular * (cosine > 0)
            highlight = [total + level * glint for total, level in zip(highlight, rgb, strict=True)]
    channels = zip(colors.T, light, highlight, strict=True)
    return np.stack([albedo * lit + glint for albedo, lit, glint in channels]).T


def _unit(vectors: np.ndarray) -> list[np.ndarray]:
    """(N, 3) -> x, y, z of the unit vectors; zero stays zero."""
    x, y, z = vectors.T
    scale = 1 / np.maximum(np.sqrt(x * x + y * y + z * z), np.float32(1e-20))
    return [x * scale, y * scale, z * scale]


def _rgb(color: float | np.ndarray) -> list[float]:
    return np.broadcast_to(np.asarray(color, np.float32), 3).tolist()
