"""Pictures of records: box, skeleton, and the labelled body over the image; clips as strips."""

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
_COLUMNS = {"crops": 4, "scenes": 2, "rigs": 2, "motion": 2}
_STRIP_HW, _STRIP_FRAMES = (240, 960), 8
_GAP_PX, _MARGIN, _NEAREST_M = 3, 1.25, 0.05
_LIMB_PARTS = [f"{side}_{limb}" for side in ("left", "right") for limb in LIMBS]
_WHITE = 255


@dataclass
class Picture:
    """A record as drawn.

    Attributes:
        rgb: (H, W, 3) uint8.
        notes: how the body was placed, if not by its labels.
    """

    rgb: np.ndarray
    notes: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Frame:
    """The part of an image that a panel shows, as the map from px of the image to px of it."""

    affine: np.ndarray  # (3, 3)
    hw: tuple[int, int]

    def move(self, points_img: np.ndarray) -> np.ndarray:
        """Points (..., 2) px of the image to px of the panel."""
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
        """All images of a record: labels, and below or beside them the bodies; or the clip."""
        kind = kind_of(sample)
        if kind == "motion":
            return self._strip(sample)
        labels = stack_labels([sample], [0], self.skeleton)
        rows, notes = [], set()
        for image in range(len(sample["images"])):
            views = np.flatnonzero(labels.image_of_view == image)
            frame = _frame_people(labels, image, views, _PANEL_HW[kind])
            panels, more = self._panels(sample, labels, image, views, frame)
            rows.append(panels)
            notes |= more
        columns = list(zip(*rows, strict=True)) if kind == "rigs" else [list(p) for p in rows]
        lines = [_side_by_side(line) for line in columns]
        return Picture(np.vstack([_padded(line, lines) for line in lines]), notes)

    def example(self, sample: Sample, view: int) -> Picture:
        """What a finding is about: one view, or the first image with everybody in it."""
        if kind_of(sample) == "motion":
            return self._strip(sample)
        labels = stack_labels([sample], [0], self.skeleton)
        views = np.array([view] if view >= 0 else np.flatnonzero(labels.image_of_view == 0), int)
        image = int(labels.image_of_view[view]) if view >= 0 else 0
        frame = _frame_oddities(labels, image, views, (288, 288))
        panels, notes = self._panels(sample, labels, image, views, frame)
        return Picture(_side_by_side(panels), notes)

    def _panels(
        self, sample: Sample, labels: Labels, image: int, views: np.ndarray, frame: Frame
    ) -> tuple[list[np.ndarray], set[str]]:
        """The image with boxes and skeletons, and with bodies, as panels of one size."""
        photo = warp_stored(sample["images"], image, frame.affine[:2], frame.hw, True)
        marked = photo
        for view in views:
            color = _person_color(int(labels.person_of_view[view]))
            box = frame.move(labels.box_img[view].reshape(2, 2)).reshape(4)
            marked = draw.draw_box(marked, box, color=color)
        for view in views:
            marked = _draw_joints(marked, labels, view, frame)
        bodies, colors, notes = [], [], set()
        for view in views:
            vertices, camera, note = self._place(labels, view)
            if note:
                notes.add(note)
            if vertices is not None:
                # Each view may have a camera of its own: all are drawn with the first one's.
                bodies.append(_to_camera(vertices, camera, bodies_camera := camera))
                colors.append(PALETTE[labels.person_of_view[view] % len(PALETTE)])
        if bodies:
            photo = draw.overlay(
                photo, bodies, self.faces, frame.affine @ bodies_camera, colors=colors,
                backend="numpy",
            )  # fmt: skip
        return [marked, photo], notes
