"""The z-buffer rasteriser: which face, how deep and where inside the face, for every pixel.

Plain NumPy, one core, no Python loop over people, faces or pixels. Camera axes are OpenCV's (x
right, y down, z forward, metres); the centre of the top-left pixel is the image point (0, 0).

How it works. Faces that look away, are behind the near plane or hold no pixel centre are dropped;
the pixels of the bounding boxes of the others are listed as flat (face, pixel) pairs; edge
functions relative to the box corner keep float32 exact enough; 1/z, affine on the screen, decides
who is seen. Barycentrics are computed once at the end, for the pixels that were hit.

Known limits. There is no near-plane clipping: a face with a corner nearer than ``near`` vanishes as
a whole. Pixel centres on an edge count as inside, so faces that share an edge leave no hole; each
pixel still gets one face: the nearer, or at equal depth the one with the higher index.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

MAX_PAIRS = 1 << 18  # (face, pixel) pairs handled at once: bounds the memory of huge photos


@dataclass
class Raster:
    """What is seen at each pixel. N hit pixels, in row-major order, of an H x W image.

    ``corner`` counts through all people's vertices, person after person, so ``interpolate`` takes
    any per-vertex values in the layout that the vertices had.
    """

    face_id: np.ndarray  # (H, W) int32 row of ``faces``, -1 where nothing is
    person_id: np.ndarray  # (H, W) int32 index of the mesh, -1 where nothing is
    depth: np.ndarray  # (H, W) float32 m along z, inf where nothing is
    pixel: np.ndarray  # (N,) int64 y * W + x of the hit pixels
    corner: np.ndarray  # (N, 3) int64 the hit face's vertices
    barycentric: np.ndarray  # (N, 3) float32 perspective-correct weights of those, sum 1
    visible_px: np.ndarray  # (P,) int64 pixels where this mesh is the nearest
    total_px: np.ndarray  # (P,) int64 pixels of the image that it would have without the others

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.face_id.shape

    def interpolate(self, values: np.ndarray) -> np.ndarray:
        """Blend per-vertex values at the hit pixels: (V, C) or (P, V, C) -> (N, C) float32."""
        channels = np.ascontiguousarray(values.reshape(-1, values.shape[-1]).T, np.float32)
        corner, weight = self.corner.T, self.barycentric.T  # contiguous rows: see rasterize
        result = np.empty((len(channels), len(self.pixel)), np.float32)
        for channel, out in zip(channels, result, strict=True):
            np.multiply(channel.take(corner[0]), weight[0], out=out)
            out += channel.take(corner[1]) * weight[1]
            out += channel.take(corner[2]) * weight[2]
        return result.T

    def to_image(self, values: np.ndarray, fill: float = 0) -> np.ndarray:
        """Spread values of the hit pixels, (N,) or (N, C), over an (H, W[, C]) image."""
        height, width = self.size_hw
        image = np.full((height * width, *values.shape[1:]), fill, values.dtype)
        image[self.pixel] = values
        return image.reshape(height, width, *values.shape[1:])


def rasterize(
    vertices_cam: np.ndarray,
    faces: np.ndarray,
    intrinsics_img: np.ndarray,
    size_hw: tuple[int, int],
    *,
    cull_back: bool = True,
    near: float = 0.05,
) -> Raster:
    """Rasterise one mesh, or several people of one topology merged by depth.

    Args:
        vertices_cam: (V, 3) or (P, V, 3) m in the camera frame.
        faces: (F, 3) integers, counter-clockwise seen from outside.
        intrinsics_img: (3, 3) px, no skew.
        size_hw: height and width of the image in px.
        cull_back: drop faces that look away (right for closed meshes, and twice as fast).
        near: m; faces with a corner nearer than this are dropped whole.

    Returns:
        The raster; ``face_id`` is local to ``faces`` for every person.

    Raises:
        ValueError: if a vertex is not finite.
    """
    if not np.isfinite(vertices_cam).all():
        raise ValueError("vertices_cam holds NaN or inf; leave those people out of the picture")
    height, width = size_hw
    people = vertices_cam.reshape(-1, *vertices_cam.shape[-2:])
    num_people, num_vertices, _ = people.shape
    shift = num_vertices * np.arange(num_people)
    corners = (faces.T.astype(np.int64)[:, None] + shift[:, None]).reshape(3, -1)
    x, y, inverse_z = _project(people.reshape(-1, 3), intrinsics_img, near)
    setup = _faces_to_draw(x, y, inverse_z, corners, size_hw, cull_back)

    person_of_row = setup.face // len(faces)
    winner, nearest, is_own = _visible_rows(setup, person_of_row, num_people, size_hw)

    pixel = np.flatnonzero(winner >= 0)
    row = winner.take(pixel)
    barycentric, depth_hit = _perspective_barycentric(setup, row, pixel, width)
    face, person = setup.face.take(row), person_of_row.take(row)
    face_id, depth = winner, nearest  # the same memory: fresh pages cost more than the writes
    face_id[pixel] = face - person * len(faces)
    depth.fill(np.inf)
    depth[pixel] = depth_hit
    person_id = np.full(height * width, -1, np.int32)
    person_id[pixel] = person
    visible_px = np.bincount(person, minlength=num_people)
    return Raster(
        face_id=face_id.reshape(height, width),
        person_id=person_id.reshape(height, width),
        depth=depth.reshape(height, width),
        pixel=pixel,
        corner=corners.take(face, axis=1).T,
        barycentric=barycentric,
        visible_px=visible_px,
        total_px=visible_px.copy() if is_own is None else np.count_nonzero(is_own, axis=1),
    )


@dataclass
class _Setup:
    """Screen-space constants of the R faces to draw; edge functions are in px^2, >= 0 inside."""

    face: np.ndarray  # (R,) int64 column of ``corners``
    first_x: np.ndarray  # (R,) int32 first column of the pixel box
    first_y: np.ndarray  # (R,) int32
    box_w: np.ndarray  # (R,) int32 columns of the box
    box_h: np.ndarray  # (R,) int32
    edge_a: list[np.ndarray]  # 3 x (R,) float32: e_a at the box corner, d/dx, d/dy
    edge_b: list[np.ndarray]  # the same of e_b
    area: np.ndarray  # (R,) float32: e_a + e_b + e_c
    slack: np.ndarray  # (R,) float32 bound of the rounding error of e_a, e_b, e_c
    inverse_z: list[np.ndarray]  # 3 x (R,) float32 1/m at corners a, b, c


def _project(
    vertices_cam: np.ndarray, intrinsics_img: np.ndarray, near: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(V, 3) m -> x px, y px, 1/z; 1/z is 0 for what is nearer than ``near``."""
    x, y, z = np.ascontiguousarray(vertices_cam.T, np.float32)
    inverse_z = np.divide(1, z, out=np.zeros_like(z), where=z >= near)
    matrix = intrinsics_img.astype(np.float32)
    return (
        x * inverse_z * matrix[0, 0] + matrix[0, 2],
        y * inverse_z * matrix[1, 1] + matrix[1, 2],
        inverse_z,
    )


def _faces_to_draw(
    x: np.ndarray,
    y: np.ndarray,
    inverse_z: np.ndarray,
    corners: np.ndarray,
    size_hw: tuple[int, int],
    cull_back: bool,
) -> _Setup:
    """Screen-space constants of those of the faces (3, F) that may be seen."""
    height, width = size_hw
    ax, bx, cx = (x.take(corner) for corner in corners)
    ay, by, cy = (y.take(corner) for corner in corners)
    area = (by - ay) * (cx - ax) - (bx - ax) * (cy - ay)  # > 0 where the face looks at us
    face = np.flatnonzero(area > 0 if cull_back else area != 0)
    ax, bx, cx, ay, by, cy, area = (v.take(face) for v in (ax, bx, cx, ay, by, cy, area))

    first_x, end_x = _pixel_range(ax, bx, cx, width)
    first_y, end_y = _pixel_range(ay, by, cy, height)
    depth = [inverse_z.take(corner.take(face)) for corner in corners]
    is_ahead = np.minimum(np.minimum(depth[0], depth[1]), depth[2]) > 0
    kept = np.flatnonzero((end_x > first_x) & (end_y > first_y) & is_ahead)
    first_x, end_x, first_y, end_y = (v.take(kept) for v in (first_x, end_x, first_y, end_y))
    ax, bx, cx = (v.take(kept) - first_x for v in (ax, bx, cx))
    ay, by, cy = (v.take(kept) - first_y for v in (ay, by, cy))
    area = area.take(kept)
    sign = np.sign(area)
    reach = functools.reduce(np.maximum, (np.abs(v) for v in (ax, bx, cx, ay, by, cy)))
    return _Setup(
        face=face.take(kept),
        first_x=first_x.astype(np.int32),
        first_y=first_y.astype(np.int32),
        box_w=(end_x - first_x).astype(np.int32),
        box_h=(end_y - first_y).astype(np.int32),
        edge_a=[sign * (cx * by - bx * cy), sign * (cy - by), sign * (bx - cx)],
        edge_b=[sign * (ax * cy - cx * ay), sign * (ay - cy), sign * (cx - ax)],
        area=sign * area,
        slack=np.float32(1e-6) * np.square(reach + 1),
        inverse_z=[v.take(kept) for v in depth],
    )


def _pixel_range(
    a: np.ndarray, b: np.ndarray, c: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """First and one past the last pixel centre inside the image between the corners, as floats."""
    low = np.clip(np.minimum(np.minimum(a, b), c), 0, size)
    high = np.clip(np.maximum(np.maximum(a, b), c), -1, size - 1)
    return np.ceil(low), np.floor(high) + 1


def _visible_rows(
    setup: _Setup, person_of_row: np.ndarray, num_people: int, size_hw: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Per pixel (flat): the row of ``setup`` seen there or -1, and 1/z; per person: its pixels."""
    size = size_hw[0] * size_hw[1]
    winner = np.full(size, -1, np.int32)
    nearest = np.zeros(size, np.float32)
    is_own = np.zeros((num_people, size), bool) if num_people > 1 else None
    for row, pixel, value in _pairs(setup, size_hw[1]):
        if is_own is not None:
            is_own[person_of_row.take(row), pixel] = True
        _keep_nearest(winner, nearest, row, pixel, value)
    return winner, nearest, is_own


def _pairs(setup: _Setup, width: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rows of ``setup``, flat pixels and 1/z of the pairs that are inside, rows ascending."""
    end = np.cumsum(setup.box_w * setup.box_h.astype(np.int64))
    first = 0
    while first < len(end):
        done = end[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(end, done + MAX_PAIRS, side="right")))
        yield _pairs_of_rows(setup, first, last, width)
        first = last


def _pairs_of_rows(
    setup: _Setup, first: int, last: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    box_w = setup.box_w[first:last]
    count = box_w * setup.box_h[first:last]
    row = np.repeat(np.arange(first, last), count)
    start = np.cumsum(count) - count
    offset = np.arange(len(row), dtype=np.int32) - np.repeat(start.astype(np.int32), count)
    wide = setup.box_w.take(row)
    dy = offset // wide
    dx = offset - dy * wide
    fx, fy = dx.astype(np.float32), dy.astype(np.float32)
    area = setup.area.take(row)
    e_a, e_b = _edges(setup, row, fx, fy)
    smallest = np.minimum(np.minimum(e_a, e_b), area - e_a - e_b)
    inside = np.flatnonzero(smallest >= -setup.slack.take(row))
    row, area = row.take(inside), area.take(inside)
    w_a = np.clip(e_a.take(inside) / area, 0, 1)
    w_b = np.clip(e_b.take(inside) / area, 0, 1)
    z_a, z_b, z_c = (z.take(row) for z in setup.inverse_z)
    value = z_c + w_a * (z_a - z_c) + w_b * (z_b - z_c)
    pixel = (setup.first_y.take(row) + dy.take(inside)).astype(np.int64) * width
    pixel += setup.first_x.take(row) + dx.take(inside)
    return row, pixel, value


def _edges(
    setup: _Setup, row: np.ndarray, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Edge functions e_a, e_b at pixels given relative to the box corner of their row."""
    a, b = setup.edge_a, setup.edge_b
    return (
        a[0].take(row) + a[1].take(row) * x + a[2].take(row) * y,
        b[0].take(row) + b[1].take(row) * x + b[2].take(row) * y,
    )


def _keep_nearest(
    winner: np.ndarray, nearest: np.ndarray, row: np.ndarray, pixel: np.ndarray, value: np.ndarray
) -> None:
    """Merge pairs into the z-buffer in place; at equal 1/z the later row wins.

    NumPy keeps the last of repeated writes. Few pixels see more than one front face, so writing all
    and repeating for those that should have won beats sorting by depth.
    """
    better = np.flatnonzero(value >= nearest.take(pixel))
    while len(better):
        row, pixel, value = row.take(better), pixel.take(better), value.take(better)
        winner[pixel] = row
        nearest[pixel] = value
        better = np.flatnonzero(value > nearest.take(pixel))


def _perspective_barycentric(
    setup: _Setup, row: np.ndarray, pixel: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (N, 3) of the corners in space, not on the screen, and depth (N,) m."""
    y = pixel // width
    x = pixel - y * width
    fx = (x - setup.first_x.take(row)).astype(np.float32)
    fy = (y - setup.first_y.take(row)).astype(np.float32)
    area = setup.area.take(row)
    e_a, e_b = _edges(setup, row, fx, fy)
    screen = [e_a, e_b, area - e_a - e_b]
    screen = [np.clip(e / area, 0, 1) for e in screen]
    space = [w * z.take(row) for w, z in zip(screen, setup.inverse_z, strict=True)]
    total = space[0] + space[1] + space[2]
    depth = (screen[0] + screen[1] + screen[2]) / total
    return np.stack([w / total for w in space]).T, depth
