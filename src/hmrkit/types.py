"""The five types that flow through hmrkit; no other data class crosses a module.

Letters: I images, P persons, O views (one person seen in one image), K joints of a joint set,
V vertices. Units: metres, radians, RGB. Camera frame: x right, y down, z forward. Image pixels: the
centre of the top-left pixel is (0, 0). Crop units: [-1, 1] over the network's input,
``x_crop = 2 * x_px / width - 1`` (likewise y with the height).

What has three dimensions belongs to a person and lives in the world; what has two belongs to a
view. A single image is its own world: ``world_to_camera`` is the identity, or what takes an
augmented crop's labels back to the camera. A calibrated rig shares one world. Crops: I = O = P.
Scenes: O = P, several per image. Rigs: O <= I * P. Motion: P only. The index vectors
``image_of_view`` and ``person_of_view`` say who is who.
"""

from dataclasses import dataclass, field, fields
from typing import TypedDict

import numpy as np
from torch import Tensor


class Sample(TypedDict, total=False):
    """One record of a shard, in numpy.

    An absent label is NaN *and* flagged. Stages add keys, they never rename them.
    """

    key: str  # unique within the source
    source: str  # name of the source in the mix
    joint_set: str  # name of the joint set of both keypoint arrays
    images: list[np.ndarray]  # I x (H, W, 3) uint8 RGB; sizes may differ; empty for motion
    intrinsics: np.ndarray  # (I, 3, 3) float32 px; NaN where unknown
    intrinsics_of_view: np.ndarray  # (O, 3, 3) float32 px, a view's own; NaN: the image's
    world_to_camera: np.ndarray  # (I, 4, 4) float32
    image_of_view: np.ndarray  # (O,) int64
    person_of_view: np.ndarray  # (O,) int64
    box_img: np.ndarray  # (O, 4) float32 x1 y1 x2 y2 px, tight, may leave the image
    keypoints_img: np.ndarray  # (O, K, 3) float32 px + confidence, 0 = absent
    visible_fraction: np.ndarray  # (O,) float32, seen share of the person's pixels; NaN if unknown
    person_id: np.ndarray  # (P,) int64, stable within a clip
    keypoints_world: np.ndarray  # (P, K, 4) float32 m + confidence
    pose: np.ndarray  # (P, 24, 3) float32 axis-angle; row 0 takes the body to the world frame
    betas: np.ndarray  # (P, 10) float32
    transl: np.ndarray  # (P, 3) float32 m, SMPL's translation
    has_pose: np.ndarray  # (P,) bool
    has_betas: np.ndarray  # (P,) bool
    gender: np.ndarray  # (P,) int64: -1 unknown or neutral, 0 male, 1 female
    is_self_intersecting: np.ndarray  # (P,) bool
    time_s: np.ndarray  # (P,) float32, from the start of the clip; NaN if unknown
    # added by the cuts (data/crops.py, scenes.py, multiview.py)
    input_image: np.ndarray  # (I, H, W, 3) uint8, the network's input
    input_size: np.ndarray  # (I, 2) int64 height, width of the valid part of input_image
    full_size: np.ndarray  # (I, 2) int64 height, width of the source image
    crop_to_img: np.ndarray  # (O, 2, 3) float32, crop units -> source image px
    keypoints_crop: np.ndarray  # (O, K, 3) float32 crop units + confidence
    keypoint_image: np.ndarray  # (I, H, W, 3) uint8, a second crop of every view (multiview.py)
    keypoint_crop_to_img: np.ndarray  # (O, 2, 3) float32, its units -> source image px


@dataclass
class Body:
    """Parameters of P bodies of the SMPL family, as rotation matrices."""

    global_orient: Tensor  # (P, 3, 3)
    body_pose: Tensor  # (P, 23, 3, 3)
    betas: Tensor  # (P, 10)
    transl: Tensor  # (P, 3) m

    def pin_memory(self) -> "Body":
        """Pin every tensor (torch pins dicts and lists, it skips other objects)."""
        return Body(*(getattr(self, f.name).pin_memory() for f in fields(self)))


@dataclass
class Mesh:
    """Posed bodies, metres, in the frame that ``global_orient`` and ``transl`` lead to."""

    vertices: Tensor  # (P, V, 3)
    joints: Tensor  # (P, 24, 3)


class Batch(TypedDict, total=False):
    """What a network sees, in torch; absent labels are finite filler with confidence or flag 0."""

    key: list[str]  # (I,) or, for motion, (P,)
    source: list[str]  # same length as key
    index: Tensor  # (P,) int64, position in the source; evaluation only
    unit: Tensor  # (n,) int64, positions of all that was read, also of images of nobody; likewise
    image: Tensor  # (I, 3, H, W): uint8 out of the loader, normalised float once on the device
    input_size: Tensor  # (I, 2) int64 valid height, width of image
    full_size: Tensor  # (I, 2) int64 height, width of the source image
    intrinsics: Tensor  # (I, 3, 3) px of the source image; NaN where unknown
    intrinsics_of_view: Tensor  # (O, 3, 3) the same for every view: its own camera or the image's
    world_to_camera: Tensor  # (I, 4, 4)
    image_of_view: Tensor  # (O,) int64
    person_of_view: Tensor  # (O,) int64
    box_img: Tensor  # (O, 4) x1 y1 x2 y2 source image px: what the crop was cut from, not augmented
    crop_to_img: Tensor  # (O, 2, 3) crop units -> source image px
    keypoints_crop: Tensor  # (O, K, 3) crop units + confidence, joint set "all"
    keypoint_image: Tensor  # (I, 3, H, W) as image; a second crop of every view (multiview.py)
    keypoint_crop_to_img: Tensor  # (O, 2, 3) its crop units -> source image px
    keypoints_world: Tensor  # (P, K, 4) m + confidence, joint set "all"
    body: Body  # labels
    has_pose: Tensor  # (P,) bool
    has_betas: Tensor  # (P,) bool
    has_transl: Tensor  # (P,) bool
    gender: Tensor  # (P,) int64
    person_id: Tensor  # (P,) int64, stable within a clip
    visible_fraction: Tensor  # (O,) seen share of the person's pixels; NaN if unknown
    has_exact_labels: Tensor  # (P,) bool, the labels there are were measured, not fitted
    prior: Body  # real bodies, not of these images (N,); training with mix.prior only


@dataclass
class Prediction:
    """What a network says; row p of ``body`` is labelled person p, except in scenes."""

    body: Body  # (P,)
    transl_cam: Tensor  # (O, 3) m, added to the body in the view's camera axes
    intrinsics_crop: Tensor  # (O, 3, 3), camera metres -> crop units
    mesh: Mesh | None = None  # set by nets that need it; HMRModule.predict fills it
    score: Tensor | None = None  # (P,)
    image_of_person: Tensor | None = None  # (P,) int64, scenes only
    stages: list["Prediction"] = field(default_factory=list)  # earlier refinement steps, in order
    extra: dict[str, Tensor] = field(default_factory=dict)  # what a method's own loss reads
