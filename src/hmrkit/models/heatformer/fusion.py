"""Keypoints of one person from the heatmaps of several calibrated views.

What another view saw lies, in this view, somewhere on a line: every pixel of a heatmap takes the
largest value along its epipolar line in each of the others ("score fusion" of AdaFuse, Zhang et al.
2021). The fused peaks are triangulated linearly.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from hmrkit.models.heatformer.views import Rig, ViewTable

_MIN_PEAK = 0.01  # a map that does not rise above it shows no joint
TEMPERATURE = 0.05  # of the softmax over a map
_WINDOW_PX = 7.5  # radius of the disc around the peak that counts
_DEPTHS_MM = (1000.0, 5000.0)  # two points of every pixel's ray
_MM = 1000.0
_MAX_SAMPLES = 4_000_000  # along epipolar lines at once: two pairs of views of 96 x 96 maps


def soft_argmax(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Where heatmaps (..., h, w) peak: x, y in px (..., 2), and how high (...,).

    The mean place in a disc around the first maximum, weighted by a softmax over the map; (0, 0)
    where the map is all but empty.
    """
    height, width = maps.shape[-2:]
    flat = maps.flatten(-2)
    peak, place = flat.max(dim=-1, keepdim=True)  # the first of equals
    index = torch.arange(height * width, device=maps.device)
    x, y = index % width, index // width
    far = (x - place % width).square() + (y - place // width).square() > _WINDOW_PX**2
    weight = (flat / TEMPERATURE).softmax(dim=-1).masked_fill(far, 0.0)
    weight = weight / weight.sum(dim=-1, keepdim=True)
    points = torch.stack([(weight * x).sum(dim=-1), (weight * y).sum(dim=-1)], dim=-1)
    return torch.where(peak > _MIN_PEAK, points, 0.0), peak[..., 0]


def fuse_heatmaps(maps: Tensor, pairs: Tensor, rig: Rig) -> Tensor:
    """Every view's heatmaps plus what the other views of the person see along epipolar lines.

    Some pairs of views at a time: memory does not grow with the number of views.

    Args:
        maps: (O, K, h, w).
        pairs: (E, 2) a view and another one of the same person.
        rig: the cameras.

    Returns:
        (O, K, h, w).
    """
    peak = maps.flatten(-2).amax(dim=-1)[..., None, None]
    scaled = maps / torch.where(peak > _MIN_PEAK, peak, 1e6)
    fused = peak * scaled
    height, width = maps.shape[-2:]
    num_at_once = max(1, _MAX_SAMPLES // (height * width * (height + width)))
    for some in pairs.split(num_at_once) if len(pairs) else ():
        view, other = some.unbind(dim=1)
        fused.index_add_(0, view, peak[other] * epipolar_max(scaled[other], view, other, rig))
    return fused


def epipolar_max(maps: Tensor, view: Tensor, other: Tensor, rig: Rig) -> Tensor:
    """For every pixel of a view the maximum along its line in the maps of another one.

    A line is sampled at every column and at every row, at the nearest pixel, 0 outside.

    Args:
        maps: (E, K, h, w) of the other views.
        view: (E,) rows of the rig.
        other: (E,) rows of the rig.
        rig: the cameras.

    Returns:
        (E, K, h, w).
    """
    num_pairs, _, height, width = maps.shape
    (x0, y0), (x1, y1) = (  # (E, h w, 1) each
        points[..., None].unbind(dim=2)
        for points in _ray_in_other(view, other, rig, (height, width))
    )
    slope = (y1 - y0) / (x1 - x0)
    columns, rows = (torch.arange(n, device=maps.device, dtype=x0.dtype) for n in (width, height))
    shape = (num_pairs, height * width, -1)
    x = torch.cat([columns.expand(shape), (rows - y0) / slope + x0], dim=-1)  # (E, h w, w + h)
    y = torch.cat([slope * (columns - x0) + y0, rows.expand(shape)], dim=-1)
    x, y = _nearest(x, width), _nearest(y, height)
    is_inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)  # false for NaN
    nowhere = height * width
    place = torch.where(is_inside, y * width + x, nowhere).long()
    place = place + (nowhere + 1) * torch.arange(num_pairs, device=maps.device)[:, None, None]
    values = F.pad(maps.flatten(2), (0, 1)).mT.flatten(0, 1)  # (E (h w + 1), K)
    best = F.embedding_bag(place.flatten(0, 1), values.contiguous(), mode="max")
    return best.unflatten(0, (num_pairs, -1)).mT.reshape(maps.shape)


def _ray_in_other(view: Tensor, other: Tensor, rig: Rig, size_hw: tuple[int, int]) -> list[Tensor]:
    """Two points of each pixel's ray, (E, h w, 2) px of the other view's heatmap.

    In millimetres and in an order of operations that agrees with upstream's to the last digit, on
    which it hangs what pixel is nearest.
    """
    places = [torch.arange(n, device=rig.transl.device, dtype=rig.transl.dtype) for n in size_hw]
    y, x = torch.meshgrid(*places, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1).flatten(0, 1)  # (h w, 3)
    transl, other_transl = _MM * rig.transl[view, None], _MM * rig.transl[other, None]
    center = -_apply(torch.linalg.inv(rig.rotation[view]), transl)
    on_image = _apply(torch.linalg.inv(rig.img_to_map_px[view]), pixels)
    points = []
    for depth in _DEPTHS_MM:
        ray = _apply(torch.linalg.inv(rig.intrinsics[view]), depth * on_image)
        world = _apply(rig.rotation[view].mT, ray) + center
        img = _apply(rig.intrinsics[other], _apply(rig.rotation[other], world) + other_transl)
        points.append(_apply(rig.img_to_map_px[other], img / img[..., 2:])[..., :2])
    return points


def _apply(matrix: Tensor, points: Tensor) -> Tensor:
    """Matrices (E, 3, 3) times points (E or 1, N, 3), every product rounded: not a matmul."""
    return (matrix[:, None] * points[..., None, :]).sum(dim=-1)


def _nearest(position: Tensor, size: int) -> Tensor:
    """Nearest whole pixel, half to even, by the detour over [-1, 1] of ``grid_sample``."""
    half = (size - 1) / 2
    return ((position / half - 1 + 1) / 2 * (size - 1)).round()


def triangulate(
    points_img: Tensor,
    table: ViewTable,
    rig: Rig,
    weight: Tensor | None = None,
    unit_per_metre: float = _MM,
) -> Tensor:
    """Points of the world (P, K, 3), m, nearest in the linear sense to what the views show (DLT).

    People with a single view get numbers without a meaning.

    Args:
        points_img: (O, K, 2) px of the source images.
        table: the views.
        rig: the cameras.
        weight: (O, K) of each view's two equations; None for 1.
        unit_per_metre: scale of the homogeneous coordinates, which the linear solution depends on:
            a thousandth of a metre for upstream's Human3.6M and MPI-INF-3DHP, 1 for its BEHAVE.
    """
    transl = (unit_per_metre * rig.transl.double())[..., None]
    matrix = rig.intrinsics.double() @ torch.cat([rig.rotation.double(), transl], dim=-1)
    rows = points_img.double()[..., None] * matrix[:, None, 2:] - matrix[:, None, :2]
    if weight is not None:
        rows = rows * weight.double()[..., None, None]
    rows = table.fill(rows).transpose(1, 2).flatten(2, 3)  # (P, K, 2 columns, 4)
    solution = torch.linalg.svd(rows, full_matrices=True).Vh[..., -1, :]
    return (solution[..., :3] / solution[..., 3:] / unit_per_metre).float()
