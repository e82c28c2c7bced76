"""The one interface to pictures of meshes: ``render(vertices, faces, camera, size) -> Rendering``.

Two backends. "numpy" needs nothing but NumPy and SciPy, runs everywhere and gives every output.
"pyrender" draws with OpenGL, for people who have a graphics card; it gives no face ids or normals.
"auto" takes pyrender where a hardware GL context exists and NumPy otherwise.
"""

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hmrkit.render import pyrender_backend
from hmrkit.render.rasterize import Raster, rasterize
from hmrkit.render.shading import Lights, light_surface, shade, vertex_normals

BACKENDS = ("auto", "numpy", "pyrender")
# Pastel body colours, told apart by hue and by lightness; person p gets row p modulo 8.
PALETTE = np.array(
    [
        [0.56, 0.71, 0.89],
        [0.95, 0.66, 0.60],
        [0.62, 0.83, 0.65],
        [0.93, 0.81, 0.53],
        [0.75, 0.65, 0.88],
        [0.55, 0.82, 0.84],
        [0.93, 0.68, 0.82],
        [0.80, 0.75, 0.68],
    ],
    np.float32,
)
STRIP_PX = 1 << 22  # samples shaded at once: bounds the memory of huge photos

log = logging.getLogger(__name__)


@dataclass
class Rendering:
    """An H x W picture and its buffers, camera frame, metres; empty pixels -1, inf, 0."""

    rgb: np.ndarray  # (H, W, 3) uint8 over the background
    alpha: np.ndarray  # (H, W) float32 share of the pixel that is covered
    depth: np.ndarray  # (H, W) float32 m along z at the pixel centre, inf where nothing is
    person_id: np.ndarray  # (H, W) int32, -1 where nothing is
    face_id: np.ndarray | None  # (H, W) int32, -1 where nothing is; None from pyrender
    normal: np.ndarray | None  # (H, W, 3) float32 unit, 0 where nothing is; None from pyrender


def render(
    vertices: Sequence[np.ndarray],
    faces: np.ndarray,
    intrinsics_img: np.ndarray,
    size_hw: tuple[int, int],
    *,
    colors: Sequence[np.ndarray] | np.ndarray | None = None,
    lights: Lights | None = None,
    background: np.ndarray | None = None,
    backend: str = "auto",
    supersample: int = 1,
) -> Rendering:
    """Draw people of one topology.

    Args:
        vertices: P arrays (V, 3) in the camera frame (x right, y down, z forward), m. May be empty.
        faces: (F, 3), counter-clockwise seen from outside.
        intrinsics_img: (3, 3) px; the centre of the top-left pixel is (0, 0).
        size_hw: height and width, px.
        colors: P colours, each (3,) or (V, 3), float RGB in [0, 1]; default ``PALETTE``.
        lights: default ``Lights()``.
        background: (H, W, 3) uint8 or one RGB colour of uint8; default white.
        backend: "auto", "numpy" or "pyrender".
        supersample: n draws n x n samples per pixel ("numpy"; OpenGL has its own 4 samples).

    Returns:
        The picture with its buffers; these are sampled at pixel centres, also when supersampling.

    Raises:
        ValueError: for an unknown backend, colours or a background that do not fit.
        RuntimeError: if pyrender is asked for and no OpenGL library is found.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} is unknown; use one of {', '.join(BACKENDS)}")
    if backend == "auto":
        backend = _auto_backend()
    people = _stack_people(vertices)
    albedo = _stack_colors(colors, people.shape[:2])
    canvas = _canvas(background, size_hw)
    lights = lights or Lights()
    if backend == "pyrender" and len(people):
        return _with_pyrender(people, faces, intrinsics_img, size_hw, albedo, lights, canvas)
    return _with_numpy(people, faces, intrinsics_img, size_hw, albedo, lights, canvas, supersample)


@functools.cache
def _auto_backend() -> str:
    """Decided once per process: the answer cannot change and the probe costs a GL context."""
    name, reason = pyrender_backend.hardware_renderer()
    backend = "pyrender" if name else "numpy"
    log.info("rendering with %s (%s)", backend, name or reason)
    return backend


def _stack_people(vertices: Sequence[np.ndarray]) -> np.ndarray:
    """P x (V, 3) -> (P, V, 3) float32."""
    if len(vertices) == 0:
        return np.zeros((0, 0, 3), np.float32)
    people = np.stack([np.asarray(v, np.float32) for v in vertices])
    if people.ndim != 3 or people.shape[2] != 3:
        raise ValueError(
            f"vertices must be a list of (V, 3) arrays, one per person; each is {people.shape[1:]}"
        )
    if not np.isfinite(people).all():
        bad = np.flatnonzero(~np.isfinite(people).all((1, 2))).tolist()
        raise ValueError(f"vertices of person {bad} are not finite; leave them out of the picture")
    return people


def _stack_colors(
    colors: Sequence[np.ndarray] | np.ndarray | None, shape: tuple[int, int]
) -> np.ndarray:
    """P x ((3,) or (V, 3)) -> (P, 3) if all are uniform, else (P, V, 3), float32."""
    num_people, num_vertices = shape
    if colors is None:
        return PALETTE[np.arange(num_people) % len(PALETTE)]
    arrays = [np.asarray(color, np.float32) for color in colors]
    fits = all(a.shape in ((3,), (num_vertices, 3)) for a in arrays)
    if len(arrays) != num_people or not fits:
        raise ValueError(
            f"colors: give one (3,) or ({num_vertices}, 3) array per person, {num_people} in all; "
            f"got {[a.shape for a in arrays]}"
        )
    if any(a.size and (a.min() < 0 or a.max() > 1) for a in arrays):
        raise ValueError("colors must be floats in [0, 1]; divide 8-bit colours by 255")
    if all(a.ndim == 1 for a in arrays):
        return np.stack(arrays) if arrays else np.zeros((0, 3), np.float32)
    return np.stack([np.broadcast_to(a, (num_vertices, 3)) for a in arrays])


def _canvas(background: np.ndarray | None, size_hw: tuple[int, int]) -> np.ndarray:
    """A fresh (H, W, 3) uint8 image."""
    if background is None:
        return np.full((*size_hw, 3), 255, np.uint8)
    background = np.asarray(background)
    if background.dtype != np.uint8 or background.shape not in ((3,), (*size_hw, 3)):
        raise ValueError(
            f"background must be uint8 of shape (3,) or {(*size_hw, 3)}; "
            f"got {background.dtype} {background.shape}"
        )
    return np.broadcast_to(background, (*size_hw, 3)).copy()


def _with_numpy(
    people: np.ndarray,
    faces: np.ndarray,
    intrinsics_img: np.ndarray,
    size_hw: tuple[int, int],
    albedo: np.ndarray,
    lights: Lights,
    canvas: np.ndarray,
    supersample: int,
) -> Rendering:
    height, width = size_hw
    result = Rendering(
        rgb=canvas,
        alpha=np.zeros(size_hw, np.float32),
        depth=np.full(size_hw, np.inf, np.float32),
        person_id=np.full(size_hw, -1, np.int32),
        face_id=np.full(size_hw, -1, np.int32),
        normal=np.zeros((*size_hw, 3), np.float32),
    )
    if not len(people):
        return result
    normals = vertex_normals(people, faces)
    rows = max(1, STRIP_PX // (width * supersample**2))
    for top in range(0, height, rows):
        strip = slice(top, min(top + rows, height))
        camera = intrinsics_img.astype(np.float64)
        camera[1, 2] -= top
        shape = (strip.stop - top, width)
        raster = rasterize(people, faces, camera, shape)
        result.depth[strip], result.face_id[strip] = raster.depth, raster.face_id
        result.person_id[strip] = raster.person_id
        normal = raster.interpolate(normals)
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
        result.normal[strip] = raster.to_image(normal)
        if supersample > 1:
            camera = _scale_intrinsics(camera, supersample)
            raster = rasterize(people, faces, camera, (shape[0] * supersample, width * supersample))
            normal = raster.interpolate(normals)
        color = _lit(raster, normal, albedo, camera, lights)
        _paint(canvas[strip], result.alpha[strip], raster, color, supersample)
    return result


def _scale_intrinsics(intrinsics_img: np.ndarray, factor: int) -> np.ndarray:
    """Intrinsics of the same image with ``factor`` times the rows and columns."""
    scale = np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2], [0, 0, 1]])
    return scale @ intrinsics_img


def _lit(
    raster: Raster,
    normal: np.ndarray,
    albedo: np.ndarray,
    intrinsics_img: np.ndarray,
    lights: Lights,
) -> np.ndarray:
    """Colours (N, 3) in [0, 1] of the hit pixels."""
    if albedo.ndim == 3:
        color = raster.interpolate(albedo)
    else:
        color = albedo[raster.person_id.reshape(-1)[raster.pixel]]
    return np.clip(shade(raster, normal, color, intrinsics_img, lights), 0, 1)


def _paint(
    canvas: np.ndarray, alpha: np.ndarray, raster: Raster, color: np.ndarray, supersample: int
) -> None:
    """Write a strip's colours and coverage in place; edge pixels are blended with what is there."""
    pixels = canvas.reshape(-1, 3)
    if supersample == 1:
        alpha.reshape(-1)[raster.pixel] = 1
        pixels[raster.pixel] = (255 * color + 0.5).astype(np.uint8)
        return
    row, column = np.divmod(raster.pixel, raster.size_hw[1])
    target = (row // supersample) * canvas.shape[1] + column // supersample
    weight = 1 / supersample**2
    count = np.bincount(target, minlength=alpha.size)
    covered = np.flatnonzero(count)
    share = weight * count[covered]
    alpha.reshape(-1)[covered] = share
    total = np.stack([np.bincount(target, channel, alpha.size)[covered] for channel in color.T])
    blend = 255 * weight * total.T + (1 - share[:, None]) * pixels[covered]
    pixels[covered] = (blend + 0.5).astype(np.uint8)


def _with_pyrender(
    people: np.ndarray,
    faces: np.ndarray,
    intrinsics_img: np.ndarray,
    size_hw: tuple[int, int],
    albedo: np.ndarray,
    lights: Lights,
    canvas: np.ndarray,
) -> Rendering:
    """Light per vertex, so that the picture is the same as NumPy's; OpenGL interpolates it."""
    num_vertices = people.shape[1]
    normals = vertex_normals(people, faces).reshape(-1, 3)
    if albedo.ndim == 2:
        albedo = np.repeat(albedo[:, None], num_vertices, axis=1)
    color = light_surface(normals, -people.reshape(-1, 3), albedo.reshape(-1, 3), lights)
    premultiplied, alpha, depth, person_id = pyrender_backend.draw(
        people, faces, intrinsics_img, size_hw, np.clip(color, 0, 1).reshape(people.shape)
    )
    below = (1 - alpha[:, :, None]) * canvas
    rgb = np.rint(np.minimum(premultiplied + below, 255)).astype(np.uint8)
    return Rendering(
        rgb=rgb, alpha=alpha, depth=depth, person_id=person_id, face_id=None, normal=None
    )
