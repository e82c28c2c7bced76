"""Dense correspondences: which part of the surface a pixel shows (I) and where on it (U, V).

Targets are drawn from a body's own mesh, as the authors do with DensePose's atlas: 24 charts cover
the surface, vertices on a seam exist once per chart. One call draws a whole batch on its device,
without a loop over samples, faces or pixels.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.io
import torch
from torch import Tensor, nn

from hmrkit.body.smpl import SMPL

# Parts 0 (background) to 24 that make up the 15 coarse ones (authors' grouping).
COARSE = (
    (0,), (1, 2), (3,), (4,), (5,), (6,), (7, 9), (8, 10), (11, 13), (12, 14), (15, 17), (16, 18),
    (19, 21), (20, 22), (23, 24),
)  # fmt: skip


@dataclass
class Atlas:
    """Charts of a body's surface; A atlas vertices, F faces."""

    vertex: np.ndarray  # (A,) int64, the body's vertex that each atlas vertex is
    faces: np.ndarray  # (F, 3) int64, atlas vertices
    part: np.ndarray  # (F,) int64, 1 to 24
    uv: np.ndarray  # (A, 2) float32 in [0, 1]


def densepose_atlas(path: str | Path) -> Atlas:
    """SMPL's atlas from DensePose's ``UV_Processed.mat``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not that file.
    """
    needed = ("All_vertices", "All_Faces", "All_FaceIndices", "All_U_norm", "All_V_norm")
    if not Path(path).is_file():
        raise FileNotFoundError(f"no {path}: UV_Processed.mat is in DensePose's UV data")
    content = scipy.io.loadmat(path)
    missing = [name for name in needed if name not in content]
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}: it is not UV_Processed.mat")
    vertex, faces, part, u, v = (np.asarray(content[name]) for name in needed)
    return Atlas(
        vertex.ravel().astype(np.int64) - 1,
        faces.astype(np.int64) - 1,
        part.ravel().astype(np.int64),
        np.stack([u.ravel(), v.ravel()], axis=1).astype(np.float32),
    )


def own_atlas(body_model: SMPL) -> Atlas:
    """The atlas that a body brings along (the free body): every corner of a face is a vertex.

    Raises:
        ValueError: if it has none.
    """
    if "part_of_face" not in body_model.extras:
        raise ValueError(
            f"the body {body_model.name!r} has no atlas: give model.loss.atlas=<UV_Processed.mat> "
            "for SMPL, or set the dense terms of the loss to 0"
        )
    faces = body_model.faces.cpu().numpy()
    return Atlas(
        faces.ravel(),
        np.arange(faces.size).reshape(faces.shape),
        body_model.extras["part_of_face"].astype(np.int64),
        body_model.extras["uv_of_corner"].reshape(-1, 2).astype(np.float32),
    )


class IUVRenderer(nn.Module):
    """Draws an atlas on posed bodies.

    Args:
        atlas: of the body.
        size_hw: height and width of the pictures, px.
    """

    def __init__(self, atlas: Atlas, size_hw: tuple[int, int]) -> None:
        super().__init__()
        self.size_hw = size_hw
        buffers = {
            "faces": atlas.vertex[atlas.faces],  # (F, 3) the body's vertices
            "part": atlas.part,
            "uv": atlas.uv[atlas.faces],  # (F, 3, 2) of the corners
        }
        for name, value in buffers.items():
            self.register_buffer(name, torch.from_numpy(value), persistent=False)

    @torch.no_grad()
    def forward(self, vertices_cam: Tensor, intrinsics_crop: Tensor) -> Tensor:
        """IUV pictures (P, 3, h, w): part / 24, U, V; background 0.

        Args:
            vertices_cam: (P, V, 3) metres in the camera's frame.
            intrinsics_crop: (P, 3, 3) camera metres to crop units.
        """
        face, weight = rasterize(
            vertices_cam.float(), self.faces, intrinsics_crop.float(), self.size_hw
        )
        is_hit = face >= 0  # (P, h, w)
        seen = face.clamp(min=0)
        uv = (self.uv[seen] * weight[..., None]).sum(dim=-2)  # (P, h, w, 2)
        part = self.part[seen].float() / 24
        picture = torch.cat([part[..., None], uv], dim=-1) * is_hit[..., None]
        return picture.permute(0, 3, 1, 2)


def rasterize(
    points_cam: Tensor, faces: Tensor, intrinsics_crop: Tensor, size_hw: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The nearest face at every pixel centre of a batch of pictures, back faces included.

    Args:
        points_cam: (P, A, 3) metres, in front of the camera; other faces vanish.
        faces: (F, 3).
        intrinsics_crop: (P, 3, 3) camera metres to crop units, [-1, 1] over the picture.
        size_hw: height and width, px.

    Returns:
        Face (P, h, w) int64, -1 where there is none, and the perspective-correct weights
        (P, h, w, 3) of its corners.
    """
    height, width = size_hw
    rays = points_cam @ intrinsics_crop.transpose(-1, -2)
    size = points_cam.new_tensor([width, height])
    screen = rays[..., :2] / rays[..., 2:]
    screen.add_(1).div_(2).mul_(size).sub_(0.5)  # px, centres are integers
    screen.masked_fill_(points_cam[..., 2:] <= 0, torch.nan)
    sample, face = _seen(screen, faces, size_hw)  # (M,) each
    corner = sample * screen.shape[1] + faces.t().index_select(1, face)  # (3, M)
    corners = screen.flatten(0, 1).index_select(0, corner.flatten()).view(3, -1, 2)
    triangle, x, y = _pixels(corners, size_hw)  # (N,) each
    edge = _edges(corners.permute(2, 0, 1).index_select(2, triangle), x, y)  # (3, N)
    area = edge[0] + edge[1] + edge[2]
    weight = edge / area  # on the screen
    inside = ((weight > 0).all(dim=0) & (area != 0)).nonzero()[:, 0]
    weight, triangle = weight.index_select(1, inside), triangle.index_select(0, inside)
    depth = points_cam[..., 2].flatten()
    over_z = weight / depth[corner.index_select(1, triangle)]
    nearness = over_z.sum(dim=0)  # 1 / z
    face, sample = face[triangle], sample[triangle]
    pixel = (sample * height + y[inside]) * width + x[inside]
    num = len(points_cam) * height * width
    best = nearness.new_zeros(num).scatter_reduce_(0, pixel, nearness, "amax")
    is_best = nearness == best[pixel]
    nearest = torch.full((num,), -1, dtype=torch.int64, device=best.device)
    nearest.scatter_reduce_(0, pixel[is_best], face[is_best], "amax")  # of equally near the last
    is_chosen = is_best & (nearest[pixel] == face)
    weights = points_cam.new_zeros(num, 3)
    weights[pixel[is_chosen]] = (over_z / nearness).t()[is_chosen]
    return nearest.view(-1, height, width), weights.view(-1, height, width, 3)


def _seen(screen: Tensor, faces: Tensor, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Samples and faces (M,) whose corners are not all between the same two rows or columns.

    Other faces hold no pixel's centre, most of a body's in a small picture.

    Args:
        screen: (P, A, 2) px; may be NaN.
        faces: (F, 3).
        size_hw: height and width, px.
    """
    cell = torch.zeros((), dtype=torch.int32, device=screen.device)
    for axis, num in enumerate(reversed(size_hw)):  # columns in the lower half of the bits
        place = screen[..., axis].nan_to_num().ceil_().clamp_(min=0, max=num).int()
        cell = cell + (place << (16 * axis))
    cell = cell.t().contiguous()  # (A, P): a corner's row is copied whole
    a, b, c = (cell.index_select(0, corner) for corner in faces.unbind(1))  # (F, P)
    change = b.bitwise_xor_(a).bitwise_or_(c.bitwise_xor_(a))
    face, sample = ((change > 0xFFFF) & ((change & 0xFFFF) > 0)).nonzero(as_tuple=True)
    return sample, face


def _pixels(corners: Tensor, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Triangle, x and y (N,) wherever a triangle's box holds a pixel's centre.

    Args:
        corners: (3, M, 2) px; triangles with a corner that is not a number have no pixel.
        size_hw: height and width, px.
    """
    low = corners.amin(dim=0).ceil().clamp(min=0)  # (M, 2)
    last = low.new_tensor([size_hw[1] - 1, size_hw[0] - 1])
    high = torch.minimum(corners.amax(dim=0).floor(), last)
    is_there = (low <= high).all(dim=1)
    left, top = low.nan_to_num().long().unbind(1)
    columns, rows = (high - low + 1).nan_to_num().long().unbind(1)
    count = columns * rows * is_there
    triangle = torch.repeat_interleave(count)
    first = (count.cumsum(0) - count).index_select(0, triangle)
    local = torch.arange(len(triangle), device=triangle.device) - first
    wide = columns.index_select(0, triangle)
    row = torch.div(local, wide, rounding_mode="floor")
    x = left.index_select(0, triangle) + local - row * wide
    return triangle, x, top.index_select(0, triangle) + row


def _edges(corners: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Twice the signed areas (3, N) that points x, y (N,) span with the edges of (2, 3, N)."""
    right, down = corners[0] - x, corners[1] - y
    following, after = [1, 2, 0], [2, 0, 1]
    return right[following] * down[after] - down[following] * right[after]
