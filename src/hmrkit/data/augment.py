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

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from hmrkit.body import joints
from hmrkit.data.colors import Jitter, gain, jitter
from hmrkit.data.erase import Rectangle, paint
from hmrkit.data.occluders import Occlude, Occlusion, paste
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
    color_jitter: tuple[Jitter, ...] = ()  # steps in order, see ``colors.jitter``
    occlusions: tuple[Occlusion, ...] = ()
    rectangles: tuple[Rectangle, ...] = ()  # painted over the input of a scene
    extreme_crop: float | None = None  # in [0, 1): which body region remains; None for all
    extreme_crop_level: int = 1  # 0: only regions with the head, see ``extreme_region``


class Augment:
    """The distribution of draws; the defaults are those of SPIN, PyMAF and Meta-HMR.

    Args:
        flip_probability: of mirroring.
        rotation_probability: of turning at all.
        rotation_std_deg: standard deviation of the angle; None draws it evenly.
        rotation_max_deg: the angle is clipped to this.
        scale_std: standard deviation of the scale around 1.
        scale_max: the scale is clipped to 1 +- this.
        zoom: least and most enlargement, drawn evenly, in place of the scale; or None.
        shift_std: standard deviation of the shift, in shares of the side of the region.
        shift_max: the shift is clipped to +- this.
        color_gain: least and most factor on a colour channel.
        color_jitter: factors of brightness, contrast and saturation are within 1 +- this; they act
            in a random order.
        extreme_crop_probability: of keeping one body region only (Rockwell and Fouhey 2020).
        extreme_crop_level: 1 for regions of every kind, 0 for those with the head.
        occlude: synthetic occlusion, or None.
    """

    def __init__(
        self,
        flip_probability: float = 0.5,
        rotation_probability: float = 0.4,
        rotation_std_deg: float | None = 30.0,
        rotation_max_deg: float = 60.0,
        scale_std: float = 0.25,
        scale_max: float = 0.25,
        zoom: tuple[float, float] | None = None,
        shift_std: float = 0.0,
        shift_max: float = 0.0,
        color_gain: tuple[float, float] = (0.6, 1.4),
        color_jitter: float = 0.0,
        extreme_crop_probability: float = 0.0,
        extreme_crop_level: int = 1,
        occlude: Occlude | None = None,
    ) -> None:
        self.flip_probability = flip_probability
        self.rotation_probability = rotation_probability
        self.rotation_std_deg = rotation_std_deg
        self.rotation_max_deg = rotation_max_deg
        self.scale_std = scale_std
        self.scale_max = scale_max
        self.zoom = zoom
        self.shift_std = shift_std
        self.shift_max = shift_max
        self.color_gain = color_gain
        self.color_jitter = color_jitter
        self.extreme_crop_probability = extreme_crop_probability
        if extreme_crop_level not in (0, 1):
            raise ValueError(f"extreme_crop_level={extreme_crop_level}: choose 0 or 1")
        self.extreme_crop_level = extreme_crop_level
        self.occlude = occlude

    def draw(self, rng: np.random.Generator, source: str = "") -> AugmentParams:
        """One draw for a sample of the mix's source of that name."""
        is_turned = rng.random() < self.rotation_probability
        is_extreme = rng.random() < self.extreme_crop_probability
        rotation_deg = self._rotation_deg(rng)
        region = rng.random()
        return AugmentParams(
            scale=self._scale(rng),
            rotation_deg=rotation_deg if is_turned else 0.0,
            is_flipped=bool(rng.random() < self.flip_probability),
            shift=(
                _clipped_normal(rng, self.shift_std, self.shift_max),
                _clipped_normal(rng, self.shift_std, self.shift_max),
            ),
            color_gain=tuple(rng.uniform(*self.color_gain, size=3).tolist()),
            color_jitter=self._color_jitter(rng),
            occlusions=self.occlude.draw(rng, source) if self.occlude is not None else (),
            extreme_crop=region if is_extreme else None,
            extreme_crop_level=self.extreme_crop_level,
        )

    def _rotation_deg(self, rng: np.random.Generator) -> float:
        if self.rotation_std_deg is None:
            return float(rng.uniform(-self.rotation_max_deg, self.rotation_max_deg))
        return _clipped_normal(rng, self.rotation_std_deg, self.rotation_max_deg)

    def _scale(self, rng: np.random.Generator) -> float:
        if self.zoom is None:
            return 1 + _clipped_normal(rng, self.scale_std, self.scale_max)
        return 1 / float(rng.uniform(*self.zoom))

    def _color_jitter(self, rng: np.random.Generator) -> tuple[Jitter, ...]:
        if self.color_jitter == 0:
            return ()
        names = rng.permutation(["brightness", "contrast", "saturation"]).tolist()
        factors = 1 + rng.uniform(-self.color_jitter, self.color_jitter, size=3)
        return tuple(zip(names, factors.tolist(), strict=True))


def _clipped_normal(rng: np.random.Generator, std: float, largest: float) -> float:
    return float(np.clip(rng.normal(0, std), -largest, largest))


def augment_region(
    center_img: np.ndarray, side_px: float, params: AugmentParams
) -> tuple[np.ndarray, float]:
    """Centre (2,) and side, source image px, of a region after shift and scale."""
    return center_img + side_px * np.array(params.shift), side_px * params.scale


def augment_pixels(image: np.ndarray, params: AugmentParams) -> np.ndarray:
    """Occlusions, then colour, on the network's input (H, W, 3) uint8."""
    return color_pixels(occlude_pixels(image, params), params)


def occlude_pixels(image: np.ndarray, params: AugmentParams) -> np.ndarray:
    """Patches and rectangles over the network's input (H, W, 3) uint8."""
    return paint(paste(image, params.occlusions), params.rectangles)


def color_pixels(image: np.ndarray, params: AugmentParams) -> np.ndarray:
    """Another colour of the network's input (H, W, 3) uint8."""
    if params.color_gain != (1.0, 1.0, 1.0):
        image = gain(image, params.color_gain)
    return jitter(image, params.color_jitter)


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
    if np.array_equal(rotation, np.eye(3)):
        return pose
    turned = pose.copy()
    for person in np.flatnonzero(has_pose):  # few: a loop over OpenCV is 5 x as fast as SciPy
        root, _ = cv2.Rodrigues(pose[person, 0].astype(np.float64))
        turned[person, 0] = cv2.Rodrigues(rotation @ root)[0][:, 0]
    return turned


def _move_transl(sample: Sample, linear: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """New translation: transl + (moved pelvis - pelvis), (P, 3).

    A mirror alone needs no pelvis: that of the rest pose counts as lying in its plane. A turn comes
    after the mirror.
    """
    transl = sample["transl"]
    if np.array_equal(linear, np.eye(3)) or np.array_equal(linear, _MIRROR):
        return (transl @ linear + shift).astype(np.float32)
    if "pelvis" not in joints.names(sample["joint_set"]):
        return np.full_like(transl, np.nan)
    row = joints.index("pelvis", sample["joint_set"])
    pelvis = sample["keypoints_world"][:, row].astype(np.float64)  # (P, 4)
    pelvis[pelvis[:, 3] <= 0] = np.nan
    mirror = _MIRROR if np.linalg.det(linear) < 0 else np.eye(3)
    step = pelvis[:, :3] @ linear.T + shift - pelvis[:, :3] @ mirror
    return (transl @ mirror + step).astype(np.float32)


@lru_cache
def _flip_permutation(joint_set: str) -> np.ndarray:
    return joints.flip_permutation(joint_set)


# What extreme crops keep (4D-Humans, TokenHMR): words of joint names or whole names, side, margin.
_HEAD = "nose eye ear head jaw neck"
_TRUNK = "shoulder collar neck thorax spine hip pelvis"
_ARM = "shoulder elbow wrist hand thumb index middle ring pinky"
_LEG = "hip knee ankle foot toe heel"
_REGIONS = {
    "hips": (f"{_HEAD} {_TRUNK} {_ARM}", "", 1.1),  # all that is above the knees
    "shoulders": (f"{_HEAD} shoulder collar", "", 1.2),
    "head": (f"{_HEAD} openpose_right_shoulder openpose_left_shoulder", "", 1.3),
    "torso": (_TRUNK, "", 1.1),
    "right_arm": (_ARM, "right", 1.1),
    "left_arm": (_ARM, "left", 1.1),
    "legs": (f"{_LEG} pelvis", "", 1.1),
    "right_leg": (_LEG, "right", 1.1),
    "left_leg": (_LEG, "left", 1.1),
}
# Upper limits of the draw by region, for people seen whole and for those seen without legs.
_WHOLE_LIMITS = (
    {"hips": 0.7, "shoulders": 0.9, "head": 1.0},  # level 0
    {
        **{"hips": 0.2, "shoulders": 0.3, "head": 0.4, "torso": 0.5, "right_arm": 0.6},
        **{"left_arm": 0.7, "legs": 0.8, "right_leg": 0.9, "left_leg": 1.0},
    },
)
_UPPER_LIMITS = (
    {"shoulders": 0.9, "head": 1.0},
    {"shoulders": 0.2, "head": 0.4, "torso": 0.6, "right_arm": 0.8, "left_arm": 1.0},
)
_REGION_MARGIN = 1.2  # of every region, before its own
_MIN_REGION_PX = 4.0  # a smaller region shows nothing


def extreme_region(
    keypoints_img: np.ndarray, joint_set: str, draw: float, level: int = 1, aspect_hw: float = 1.0
) -> tuple[np.ndarray, float] | None:
    """Centre (2,) and side, px, around one body region of a person (4D-Humans, TokenHMR).

    Args:
        keypoints_img: (K, 3) px + confidence.
        joint_set: of the keypoints; for ``spin44`` the rule is that of 4D-Humans.
        draw: in [0, 1): which region.
        level: 1 for all regions, 0 for those that keep the head.
        aspect_hw: height over width of the crop.

    Returns:
        None where no region is left: some limb is not labelled, though a knee or an ankle is, or
        hardly anything of the head is; the region's confidences sum to 1 or less; it is smaller
        than 4 px.
    """
    confidence = keypoints_img[:, 2]

    def num_seen(words: str, side: str = "") -> int:
        return int((confidence[_region_mask(joint_set, words, side)] > 0).sum())

    limbs = ("shoulder", "elbow", "wrist", "knee", "ankle")
    if all(num_seen(limb, side) for limb in limbs for side in ("left", "right")):
        limits = _WHOLE_LIMITS[level]
    elif not num_seen("knee ankle") and num_seen(_UPPER) >= 2:
        limits = _UPPER_LIMITS[level]
    else:
        return None
    words, side, margin = _REGIONS[next(name for name, limit in limits.items() if draw < limit)]
    kept = keypoints_img[_region_mask(joint_set, words, side)]
    if kept[:, 2].sum() <= 1:
        return None
    points = kept[kept[:, 2] > 0, :2].astype(np.float64)
    low, high = points.min(axis=0), points.max(axis=0)
    width, height = (high - low) * _REGION_MARGIN * margin
    side_px = float(max(width * aspect_hw, height))
    return ((low + high) / 2, side_px) if side_px >= _MIN_REGION_PX else None


_UPPER = f"{_HEAD} spin_right_shoulder spin_left_shoulder"  # who shows two of these has a head


@lru_cache
def _region_mask(joint_set: str, words: str, side: str) -> np.ndarray:
    """(K,) bool, the joints that are named, or have one of the words and, if given, the side."""
    wanted = set(words.split())
    mask = []
    for name in joints.names(joint_set):
        parts = {name, *(word.rstrip("123") for word in name.split("_"))}
        mask.append(bool(wanted & parts) and (not side or side in parts))
    return np.array(mask)
