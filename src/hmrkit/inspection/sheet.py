"""Pictures of records: box, skeleton, and the labelled body over the image; clips as strips.

Limbs of the left are blue, those of the right orange; box and body of a person share a colour.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from hmrkit.body import joints
from hmrkit.body.smpl import SMPL
from hmrkit.data.crops import warp_stored
from hmrkit.geometry.boxes import crop_affine
from hmrkit.inspection.labels import LIMBS, Labels, middle_of, pick, stack_labels
from hmrkit.inspection.skeleton import Skeleton
from hmrkit.render import draw
from hmrkit.render.render import PALETTE
from hmrkit.types import Body, Sample

LEFT, RIGHT, MIDDLE = (84, 160, 255), (255, 150, 60), (240, 240, 240)
# The skeleton that most labelled joints belong to is drawn; the first of equals.
_SKELETONS = ("smpl24", "openpose25", "spin24", "h36m17", "coco17", "lsp14", "mpii16")
_PANEL_HW = {"crops": (256, 256), "scenes": (288, 480), "rigs": (224, 224)}
_EXAMPLE_HW = (288, 288)
_COLUMNS = {"crops": 4, "scenes": 2, "rigs": 2, "motion": 2}
_STRIP_HW, _STRIP_FRAMES, _STRIP_STEP_M = (230, 960), 8, 0.95
_GAP_PX, _MARGIN, _NEAREST_M, _MIN_JOINTS = 3, 1.25, 0.05, 4
_LIMB_PARTS = [f"{side}_{limb}" for side in ("left", "right") for limb in LIMBS]


@dataclass
class Picture:
    """A record as drawn.

    Attributes:
        rgb: (H, W, 3) uint8.
        notes: how bodies were placed, where it was not by their labels.
    """

    rgb: np.ndarray
    notes: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Frame:
    """The part of an image that a panel shows."""

    affine: np.ndarray  # (3, 3), px of the image to px of the panel
    hw: tuple[int, int]

    def move(self, points_img: np.ndarray) -> np.ndarray:
        """Points (..., 2) of the image to px of the panel."""
        return points_img @ self.affine[:2, :2].T + self.affine[:2, 2]


class Painter:
    """Draws records.

    Args:
        body: of the meshes.
        skeleton: of that body.
    """

    def __init__(self, body: SMPL, skeleton: Skeleton) -> None:
        self.body, self.skeleton = body, skeleton
        self.faces = body.faces.cpu().numpy()

    def record(self, sample: Sample) -> Picture:
        """Every image of a record twice: with its labels, and with the bodies. Or the clip."""
        kind = kind_of(sample)
        labels = stack_labels([sample], [0], self.skeleton)
        with np.errstate(all="ignore"):  # labels may be anything
            return self._strip(labels) if kind == "motion" else self._images(sample, labels, kind)

    def _images(self, sample: Sample, labels: Labels, kind: str) -> Picture:
        pairs, notes = [], set()
        for image in range(len(sample["images"])):
            views = np.flatnonzero(labels.image_of_view == image)
            frame = _frame_people(labels, image, views, _PANEL_HW[kind])
            pair, more = self._pair(sample, labels, image, views, frame)
            pairs.append(pair)
            notes |= more
        lines = list(zip(*pairs, strict=True)) if kind == "rigs" else pairs
        return Picture(_join([_join(line, axis=1) for line in lines], axis=0), notes)

    def example(self, sample: Sample, view: int) -> Picture:
        """What a finding is about: one view, or the first image with everybody in it (-1)."""
        if kind_of(sample) == "motion":
            return self.record(sample)
        labels = stack_labels([sample], [0], self.skeleton)
        image = int(labels.image_of_view[view]) if view >= 0 else 0
        views = np.flatnonzero(labels.image_of_view == image) if view < 0 else np.array([view])
        with np.errstate(all="ignore"):
            frame = _frame_oddities(labels, image, views)
            pair, notes = self._pair(sample, labels, image, views, frame)
        return Picture(_join(pair, axis=1), notes)

    def _pair(
        self, sample: Sample, labels: Labels, image: int, views: np.ndarray, frame: Frame
    ) -> tuple[list[np.ndarray], set[str]]:
        """Two panels: the image with boxes and skeletons, and with bodies."""
        photo = warp_stored(sample["images"], image, frame.affine[:2], frame.hw, True)
        marked = photo
        for view in views:
            box = frame.move(labels.box_img[view].reshape(2, 2)).reshape(4)
            color = PALETTE[labels.person_of_view[view] % len(PALETTE)]
            marked = draw.draw_box(marked, box, color=tuple((255 * color).astype(int).tolist()))
        for view in views:
            marked = _draw_joints(marked, labels, view, frame)
        bodies, colors, notes, first_camera = [], [], set(), np.eye(3)
        for view in views:
            vertices, camera, note = self._place(labels, view)
            if note:
                notes.add(note)
            if vertices is None:
                continue
            if not bodies:
                first_camera = camera
            # What another camera sees, seen by the first one.
            bodies.append(vertices @ (np.linalg.inv(first_camera) @ camera).T)
            colors.append(PALETTE[labels.person_of_view[view] % len(PALETTE)])
        if bodies:
            matrix = frame.affine @ first_camera
            photo = draw.overlay(
                photo, bodies, self.faces, matrix, colors=colors, backend="numpy", opacity=0.85
            )
        return [marked, photo], notes

    def _place(self, labels: Labels, view: int) -> tuple[np.ndarray | None, np.ndarray, str]:
        """Vertices (V, 3) m in the camera of a view, that camera, and how they got there.

        Without vertices if there is no pose, or no way to put it before the camera.
        """
        person = labels.person_of_view[view]
        matrix, note = labels.intrinsics_of_view[view], ""
        is_known = np.isfinite(matrix).all() and np.linalg.det(matrix) > 0
        if not labels.has_pose[person]:
            return None, matrix, ""
        if not is_known:
            matrix = _usual_camera(labels.size_of_view[view])
        turn, shift = labels.camera_of_view[view, :3, :3], labels.camera_of_view[view, :3, 3]
        vertices = self._vertices(labels, person) @ turn.T
        posed = labels.posed_parts[person] @ turn.T
        if is_known and np.isfinite(labels.transl[person]).all():
            place = turn @ labels.transl[person] + shift
        elif is_known and np.isfinite(labels.pelvis_cam[view]).all():
            place = labels.pelvis_cam[view] - middle_of(posed[None], "pelvis", "hip")[0]
            note = "placed by 3D joints"
        else:
            place = _place_by_joints(posed, labels.parts_img[view], matrix)
            note = "placed by 2D joints"
        vertices = vertices + place
        is_seen = np.isfinite(vertices).all() and (vertices[:, 2] > _NEAREST_M).all()
        return (vertices if is_seen else None), matrix, note

    @torch.no_grad()
    def _vertices(self, labels: Labels, *people: int) -> np.ndarray:
        """Vertices (V, 3) m of a person, or (P, V, 3) of several, in world axes, translation 0."""
        rows = list(people)
        rotations = torch.from_numpy(labels.rotations[rows]).float()
        has_shape = labels.has_betas[rows, None] & self.skeleton.fits
        betas = torch.from_numpy(np.where(has_shape, labels.betas[rows], 0).clip(-10, 10)).float()
        body = Body(rotations[:, 0], rotations[:, 1:], betas, torch.zeros(len(rows), 3))
        vertices = self.body(body).vertices.numpy()
        return vertices[0] if len(rows) == 1 else vertices

    def _strip(self, labels: Labels) -> Picture:
        """Frames of a clip side by side, evenly spaced among those with a pose."""
        posed = np.flatnonzero(labels.is_pose_sound)
        if len(posed) == 0:
            blank = np.full((*_STRIP_HW, 3), 245, np.uint8)
            return Picture(draw.draw_label(blank, "no pose to draw", (8, 8)))
        frames = posed[np.unique(np.linspace(0, len(posed) - 1, _STRIP_FRAMES).astype(int))]
        ahead, up = labels.facing
        level = _level_camera(up[posed], ahead[frames[0]])
        vertices = self._vertices(labels, *frames).reshape(len(frames), -1, 3) @ level.T
        height = np.nan_to_num(labels.transl[frames].astype(np.float64) @ level.T)[:, 1]
        steps = np.arange(len(frames)) * _STRIP_STEP_M
        vertices[..., 0] += (steps - vertices[..., 0].mean(axis=1))[:, None]
        vertices[..., 1] += np.clip(height - height[0], -_STRIP_STEP_M, _STRIP_STEP_M)[:, None]
        shades = np.linspace(0, 1, len(frames))[:, None]
        colors = (1 - shades) * PALETTE[0] + shades * PALETTE[1]
        rgb = draw.side_view(
            list(vertices), self.faces, size_hw=_STRIP_HW, angle_deg=0, colors=colors,
            backend="numpy",
        )  # fmt: skip
        return Picture(rgb)


def kind_of(sample: Sample) -> str:
    """How a record is laid out: crops, scenes, rigs or motion, whatever its manifest says."""
    if len(sample["images"]) > 1:
        return "rigs"
    if len(sample["images"]) == 0:
        return "motion"
    return "crops" if len(sample["image_of_view"]) == 1 else "scenes"


def contact_sheet(pictures: Sequence[np.ndarray], titles: Sequence[str], kind: str) -> np.ndarray:
    """All pictures on one sheet, in rows."""
    columns = min(_COLUMNS[kind], len(pictures))
    return draw.contact_sheet(pictures, columns, titles, gap_px=8)


def _frame_people(labels: Labels, image: int, views: np.ndarray, hw: tuple[int, int]) -> Frame:
    """The part of an image with the people in it."""
    size = labels.size_wh[image]
    low, high = np.zeros(2), size - 1
    if len(views):
        boxes = labels.box_img[views]
        inside = np.clip(boxes.reshape(-1, 2, 2), -0.2 * size, 1.2 * size)
        low, high = inside[:, 0].min(axis=0), inside[:, 1].max(axis=0)
    return _frame(low, high, hw, _MARGIN)


def _frame_oddities(labels: Labels, image: int, views: np.ndarray) -> Frame:
    """A person if everything of theirs is in one place, else all places and the image."""
    size = labels.size_wh[image]
    points = [labels.box_img[views].reshape(-1, 2)]
    points += [labels.keypoints_img[view, labels.has_keypoint_img[view], :2] for view in views]
    around = np.clip(np.concatenate(points), -size, 2 * size)
    low, high = around.min(axis=0, initial=np.inf), around.max(axis=0, initial=-np.inf)
    box = labels.box_img[views]
    is_together = len(views) and (high - low).max() < 2 * labels.box_side[views].max()
    is_inside = (box[:, :2] < size).all() and (box[:, 2:] > 0).all()
    if not (is_together and is_inside and labels.box_side[views].max() > 8):
        low, high = np.minimum(low, 0), np.maximum(high, size - 1)
        return _frame(low, high, _EXAMPLE_HW, 1.05)
    return _frame(low, high, _EXAMPLE_HW, _MARGIN)


def _frame(low: np.ndarray, high: np.ndarray, hw: tuple[int, int], margin: float) -> Frame:
    """A panel that shows at least what lies between two corners (2,) px, with a margin."""
    wide, tall = np.maximum(margin * (high - low), 4)
    side = max(tall, wide * hw[0] / hw[1])
    affine = crop_affine((low + high) / 2, float(side), hw)
    return Frame(np.vstack([affine, [0, 0, 1]]), hw)


def _draw_joints(image: np.ndarray, labels: Labels, view: int, frame: Frame) -> np.ndarray:
    """The skeleton that most of the labelled joints belong to."""
    has = labels.has_keypoint_img[view]
    best: list[tuple[int, int]] = []
    for name in _SKELETONS:
        rows = joints.mapping(labels.joint_set, name)
        edges = [(int(rows[a]), int(rows[b])) for a, b in joints.skeleton(name)]
        drawn = [(a, b) for a, b in edges if a >= 0 and b >= 0 and has[a] and has[b]]
        best = drawn if len(drawn) > len(best) else best
    names = joints.names(labels.joint_set)
    points = labels.keypoints_img[view].astype(np.float64)
    points = np.column_stack([frame.move(points[:, :2]), points[:, 2]])
    for side, color in (("", MIDDLE), ("left_", LEFT), ("right_", RIGHT)):
        edges = [(a, b) for a, b in best if _side(names[a], names[b]) == side]
        if edges:
            image = draw.draw_skeleton(image, points, edges, color=color)
    return image


def _side(a: str, b: str) -> str:
    """Which side a bone between two joints belongs to; empty for the middle."""
    for side, other in (("left_", "right_"), ("right_", "left_")):
        if side in a + b and other not in a + b:
            return side
    return ""


def _usual_camera(size_wh: np.ndarray) -> np.ndarray:
    """The usual guess (3, 3): focal length the diagonal, principal point the middle."""
    focal = float(np.hypot(*size_wh))
    x, y = (size_wh - 1) / 2
    return np.array([[focal, 0, x], [0, focal, y], [0, 0, 1]])


def _place_by_joints(posed: np.ndarray, seen: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """The translation (3,) m that brings posed joints nearest to those in the image.

    Linear least squares: ``(K - [0, 0, x]) (p + t) = 0`` for each px (x, y).

    Args:
        posed: (parts, 3) m in camera axes.
        seen: (parts, 2) px, NaN where they are not labelled.
        intrinsics: (3, 3).

    Returns:
        NaN where there are too few joints, or the best place is behind the camera.
    """
    pair = np.concatenate([posed, seen], axis=1)[None]
    pair = pick(pair, *_LIMB_PARTS)[0]
    pair = pair[np.isfinite(pair).all(axis=1)]
    if len(pair) < _MIN_JOINTS:
        return np.full(3, np.nan)
    system = intrinsics[None, :2] - pair[:, 3:, None] * intrinsics[None, 2:]  # (n, 2, 3)
    right = -np.einsum("nab,nb->na", system, pair[:, :3])
    found = np.linalg.lstsq(system.reshape(-1, 3), right.reshape(-1), rcond=None)[0]
    return found if found[2] > 0 else np.full(3, np.nan)


def _level_camera(ups: np.ndarray, ahead: np.ndarray) -> np.ndarray:
    """Axes (3, 3) of a level camera that looks at a person's front from the side a little.

    Args:
        ups: (N, 3) up along trunks; their mean, to the nearest axis of the world, is up.
        ahead: (3,) where the person looks.
    """
    mean = np.nan_to_num(ups).mean(axis=0)
    axis = int(np.abs(mean).argmax())
    up = np.eye(3)[axis] * (1 if mean[axis] >= 0 else -1)
    flat = ahead - up * (ahead @ up)
    length = np.linalg.norm(flat)
    flat = flat / length if length > 1e-6 else np.roll(up, 1)
    angle = np.radians(35)
    forward = -(np.cos(angle) * flat + np.sin(angle) * np.cross(up, flat))
    return np.stack([np.cross(forward, up), -up, forward])


def _join(images: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Images of one height (or width) beside (or below) each other, with white between."""
    gap_hw = [_GAP_PX, _GAP_PX]
    gap_hw[1 - axis] = images[0].shape[1 - axis]
    gap = np.full((*gap_hw, 3), 255, np.uint8)
    parts = [part for image in images for part in (gap, image)][1:]
    return np.concatenate(parts, axis=axis)
