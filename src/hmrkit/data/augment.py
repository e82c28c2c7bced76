"""Augmentation: what is drawn, and what a draw does to boxes, pixels, joints and bodies.

Drawing (``Augment.draw``) is apart from applying, so that a draw can be written down, repeated
and tested. Applying is pure functions on numpy arrays, put together by the cuts (``crops.py`` ...).

What is exact. A crop that is mirrored and turned about its centre is a picture by a camera that is
mirrored and turned about its optical axis, with its principal point moved along. So the labels in
three dimensions are mirrored and turned with it (``in_plane_matrix``), and ``world_to_camera``
takes them back to the camera of the source image: ``intrinsics`` and ``crop_to_img`` then project
them exactly, flip and rotation included. What is the field's approximation: a method that places
the principal point itself (at the centre of the crop: HMR; at that of the source image: CLIFF) does
not move it along, and errs for people away from it as it errs without augmentation. Betas are kept
by a flip, which is exact for a symmetric body and right within millimetres for SMPL.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from hmrkit.body import joints
from hmrkit.data.occluders import Occlude, Occlusion, paste
from hmrkit.geometry.boxes import box_to_center_side, keypoints_to_box
from hmrkit.types import Sample

_MIRROR = np.diag([-1.0, 1.0, 1.0])  # of the world, left and right


@dataclass(frozen=True)
class AugmentParams:
    """One draw; the default changes nothing."""

    scale: float = 1.0  # factor on the side of the region that is shown: above 1 shows more
    rotation_deg: float = 0.0  # turns the content counter-clockwise on the screen
    is_flipped: bool = False  # mirrored left to right, before turning
    shift: tuple[float, float] = (0.0, 0.0)  # of the region, in shares of its side
    color_gain: tuple[float, float, float] = (1.0, 1.0, 1.0)  # factor per channel
    occlusions: tuple[Occlusion, ...] = ()
    extreme_crop: float | None = None  # in [0, 1): which body region remains; None for all


class Augment:
    """The distribution of draws; the defaults are those of SPIN, PyMAF and Meta-HMR.

    Args:
        flip_probability: of mirroring.
        rotation_probability: of turning at all.
        rotation_std_deg: standard deviation of the angle.
        rotation_max_deg: the angle is clipped to this.
        scale_std: standard deviation of the scale around 1.
        scale_max: the scale is clipped to 1 +- this.
        shift_std: standard deviation of the shift, in shares of the side of the region.
        shift_max: the shift is clipped to +- this.
        color_gain: least and most factor on a colour channel.
        extreme_crop_probability: of keeping one body region only (Rockwell and Fouhey 2020).
        occlude: synthetic occlusion, or None.
    """

    def __init__(
        self,
        flip_probability: float = 0.5,
        rotation_probability: float = 0.4,
        rotation_std_deg: float = 30.0,
        rotation_max_deg: float = 60.0,
        scale_std: float = 0.25,
        scale_max: float = 0.25,
        shift_std: float = 0.0,
        shift_max: float = 0.0,
        color_gain: tuple[float, float] = (0.6, 1.4),
        extreme_crop_probability: float = 0.0,
        occlude: Occlude | None = None,
    ) -> None:
        self.flip_probability = flip_probability
        self.rotation_probability = rotation_probability
        self.rotation_std_deg = rotation_std_deg
        self.rotation_max_deg = rotation_max_deg
        self.scale_std = scale_std
        self.scale_max = scale_max
        self.shift_std = shift_std
        self.shift_max = shift_max
        self.color_gain = color_gain
        self.extreme_crop_probability = extreme_crop_probability
        self.occlude = occlude

    def draw(self, rng: np.random.Generator, source: str = "") -> AugmentParams:
        """One draw for a sample of the mix's source of that name."""
        is_turned = rng.random() < self.rotation_probability
        is_extreme = rng.random() < self.extreme_crop_probability
        rotation_deg = _clipped_normal(rng, self.rotation_std_deg, self.rotation_max_deg)
        region = rng.random()
        return AugmentParams(
            scale=1 + _clipped_normal(rng, self.scale_std, self.scale_max),
            rotation_deg=rotation_deg if is_turned else 0.0,
            is_flipped=bool(rng.random() < self.flip_probability),
            shift=(
                _clipped_normal(rng, self.shift_std, self.shift_max),
                _clipped_normal(rng, self.shift_std, self.shift_max),
            ),
            color_gain=tuple(rng.uniform(*self.color_gain, size=3).tolist()),
            occlusions=self.occlude.draw(rng, source) if self.occlude is not None else (),
            extreme_crop=region if is_extreme else None,
        )


def _clipped_normal(rng: np.random.Generator, std: float, largest: float) -> float:
    return float(np.clip(rng.normal(0, std), -largest, largest))


def augment_region(
    center_img: np.ndarray, side_px: float, params: AugmentParams
) -> tuple[np.ndarray, float]:
    """Centre (2,) and side, source image px, of a region after shift and scale."""
    return center_img + side_px * np.array(params.shift), side_px * params.scale


def augment_pixels(image: np.ndarray, params: AugmentParams) -> np.ndarray:
    """Occlusions, then colour, on the network's input (H, W, 3) uint8; truncated back to uint8."""
    image = paste(image, params.occlusions)
    if params.color_gain == (1.0, 1.0, 1.0):
        return image
    levels = np.arange(256)[:, None] * np.array(params.color_gain)  # (256, 3)
    table = np.clip(levels, 0, 255).astype(np.uint8)[None]
    return cv2.LUT(image, np.ascontiguousarray(table))


def keypoints_to_crop(
    keypoints_img: np.ndarray,
    img_to_crop: np.ndarray,
    joint_set: str,
    is_flipped: bool,
) -> np.ndarray:
    """Keypoints (O, K, 3), source image px, in crop units; a flip exchanges left and right joints.

    Args:
        keypoints_img: x, y, confidence; NaN coordinates stay NaN, confidences are kept.
        img_to_crop: (2, 3) affine, source image px to crop units.
        joint_set: of the keypoints.
        is_flipped: whether ``img_to_crop`` mirrors.
    """
    points = keypoints_img[..., :2] @ img_to_crop[:, :2].T + img_to_crop[:, 2]
    keypoints = np.concatenate([points, keypoints_img[..., 2:]], axis=-1).astype(np.float32)
    return keypoints[..., _flip_permutation(joint_set), :] if is_flipped else keypoints


def in_plane_matrix(params: AugmentParams) -> np.ndarray:
    """(4, 4) mirror and rotation about the optical axis: camera before to camera after."""
    angle = np.deg2rad(params.rotation_deg)
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.eye(4)
    matrix[:2, :2] = [[cos, sin], [-sin, cos]]
    if params.is_flipped:
        matrix[:3, :3] = matrix[:3, :3] @ _MIRROR
    return matrix


def mirror_matrix(is_flipped: bool) -> np.ndarray:
    """(4, 4) mirror of the world at its yz plane, or the identity."""
    return np.diag([-1.0 if is_flipped else 1.0, 1.0, 1.0, 1.0])


def mirror_pose(pose: np.ndarray) -> np.ndarray:
    """Poses (P, 24, 3), axis-angle, of the same people in a mirror at the yz plane."""
    return pose[:, _flip_permutation("smpl24")] * np.array([1, -1, -1], dtype=pose.dtype)


def move_world(sample: Sample, matrix: np.ndarray) -> Sample:
    """The sample in another world frame: everything of three dimensions moves along.

    SMPL turns a body about its pelvis, not about the origin of ``transl``; under a rotation the
    translation therefore follows the labelled pelvis, and becomes NaN (unknown) for people without
    that label.

    Args:
        sample: any record.
        matrix: (4, 4) old world to new world; a rotation, or a mirror at the yz plane followed by
            a rotation (negative determinant: joints change sides), and a translation.
    """
    if np.array_equal(matrix, np.eye(4)):
        return sample
    linear, shift = matrix[:3, :3], matrix[:3, 3]
    is_mirrored = np.linalg.det(linear) < 0
    keypoints, pose = sample["keypoints_world"], sample["pose"]
    points = keypoints[..., :3].astype(np.float64) @ linear.T + shift
    moved = np.concatenate([points, keypoints[..., 3:]], axis=-1).astype(np.float32)
    if is_mirrored:
        moved = moved[:, _flip_permutation(sample["joint_set"])]
        pose = mirror_pose(pose)
    rotation = linear @ _MIRROR if is_mirrored else linear
    return {
        **sample,
        "keypoints_world": moved,
        "pose": _turn_root(pose, sample["has_pose"], rotation),
        "transl": _move_transl(sample, linear, shift),
        "world_to_camera": (sample["world_to_camera"] @ np.linalg.inv(matrix)).astype(np.float32),
    }


def _turn_root(pose: np.ndarray, has_pose: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    turned = pose.copy()
    if has_pose.any():
        turn = Rotation.from_rotvec(cv2.Rodrigues(rotation)[0][:, 0])  # from_matrix is 40 x slower
        turned[has_pose, 0] = (turn * Rotation.from_rotvec(pose[has_pose, 0])).as_rotvec()
    return turned


def _move_transl(sample: Sample, linear: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """New translation: transl + (moved pelvis - pelvis), (P, 3).

    A mirror alone needs no pelvis: that of the rest pose lies in its plane.
    """
    transl = sample["transl"]
    if np.array_equal(linear, np.diag(np.diag(linear))):  # the identity or the mirror
        return (transl @ linear + shift).astype(np.float32)
    if "pelvis" not in joints.names(sample["joint_set"]):
        return np.full_like(transl, np.nan)
    row = joints.index("pelvis", sample["joint_set"])
    pelvis = sample["keypoints_world"][:, row].astype(np.float64)  # (P, 4)
    pelvis[pelvis[:, 3] <= 0] = np.nan
    step = pelvis[:, :3] @ linear.T + shift - pelvis[:, :3]
    return (transl + step).astype(np.float32)


@lru_cache
def _flip_permutation(joint_set: str) -> np.ndarray:
    return joints.flip_permutation(joint_set)


# Body regions of extreme crops: words of joint names that remain, side that remains, margin.
_HEAD = "nose eye ear head jaw"
_TRUNK = "shoulder collar neck thorax spine hip pelvis"
_ARM = "shoulder elbow wrist hand thumb index middle ring pinky"
_LEG = "hip knee ankle foot toe heel"
_REGIONS = {
    "upper_body": (f"{_HEAD} {_TRUNK} {_ARM}", "", 1.1),
    "shoulders": (f"{_HEAD} neck shoulder collar thorax", "", 1.2),
    "head": (f"{_HEAD} neck", "", 1.3),
    "torso": (_TRUNK, "", 1.1),
    "right_arm": (_ARM, "right", 1.1),
    "left_arm": (_ARM, "left", 1.1),
    "legs": (_LEG, "", 1.1),
    "right_leg": (_LEG, "right", 1.1),
    "left_leg": (_LEG, "left", 1.1),
}
_UPPER_REGIONS = ("shoulders", "head", "torso", "right_arm", "left_arm")  # of half-seen people
_MIN_REGION_PX = 4.0  # a smaller region shows nothing


def extreme_region(
    keypoints_img: np.ndarray, joint_set: str, extreme_crop: float, aspect_hw: float, scale: float
) -> tuple[np.ndarray, float] | None:
    """Centre (2,) and side, px, around one body region of a person.

    The region is the one of ``extreme_crop`` in [0, 1) among nine, or among the five of the upper
    body where neither knees nor ankles are labelled (4D-Humans, TokenHMR).

    Args:
        keypoints_img: (K, 3) px + confidence.
        joint_set: of the keypoints.
        extreme_crop: the draw.
        aspect_hw: height over width of the crop.
        scale: margin of ordinary crops; a region has a little more.

    Returns:
        None where fewer than two joints of the region are labelled or it is smaller than 4 px.
    """
    has_legs = (keypoints_img[_region_mask(joint_set, "knee ankle", ""), 2] > 0).any()
    choices: Sequence[str] = tuple(_REGIONS) if has_legs else _UPPER_REGIONS
    words, side, margin = _REGIONS[choices[int(extreme_crop * len(choices))]]
    kept = keypoints_img[_region_mask(joint_set, words, side)]
    if (kept[:, 2] > 0).sum() < 2:
        return None
    box = keypoints_to_box(kept)
    if (box[2:] - box[:2]).max() < _MIN_REGION_PX:
        return None
    grow = np.maximum(1 - (box[2:] - box[:2]), 0) / 2  # joints in one line still make a box
    box = np.concatenate([box[:2] - grow, box[2:] + grow])
    return box_to_center_side(box, aspect_hw, scale * margin)


@lru_cache
def _region_mask(joint_set: str, words: str, side: str) -> np.ndarray:
    """(K,) bool, the joints whose name has one of the words and, if given, the side."""
    wanted = set(words.split())
    split = [[word.rstrip("123") for word in name.split("_")] for name in joints.names(joint_set)]
    return np.array([bool(wanted & set(n)) and (not side or side in n) for n in split])
