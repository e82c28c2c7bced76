"""One person seen in one image -> the network's input: a crop, and its labels.

One affine map does cropping, mirroring, turning and resizing. A crop is its own world: after
the cut, ``keypoints_world``, ``pose`` and ``transl`` are in the axes of the camera of the crop (see
``data/augment.py`` for what a flip and a rotation do to them).
"""

from collections.abc import Sequence

import cv2
import numpy as np

from hmrkit.body import joints
from hmrkit.data.augment import (
    Augment,
    AugmentParams,
    augment_pixels,
    augment_region,
    extreme_region,
    in_plane_matrix,
    keypoints_to_crop,
    move_world,
)
from hmrkit.data.record import FIELDS
from hmrkit.geometry.boxes import (
    box_to_center_side,
    crop_affine,
    invert_affine,
    keypoints_to_box,
)
from hmrkit.types import Sample


class Crops:
    """Cuts one view out of a record: I = O = P = 1.

    Args:
        input_size: height and width of the network's input, px.
        box_scale: margin around the box.
        fit_aspect_hw: height and width of the shape that the box is widened to before the margin;
            None for that of the input. SPIN and Meta-HMR: 4, 3 for every input.
        box_joints: a joint set: the box is the tight one of its labelled joints; None for the
            stored box.
        with_antialias: smooth the image before it is shrunk; without, bilinear sampling alone.
        half_resolution_sources: names of sources whose images are halved first (3DPW in SPIN and
            its descendants).
        augment: what is drawn in training, or None.
    """

    unit = "view"

    def __init__(
        self,
        input_size: Sequence[int],
        box_scale: float = 1.2,
        fit_aspect_hw: Sequence[float] | None = None,
        box_joints: str | None = None,
        with_antialias: bool = True,
        half_resolution_sources: Sequence[str] = (),
        augment: Augment | None = None,
    ) -> None:
        height, width = input_size
        self.input_hw = (int(height), int(width))
        self.box_scale = box_scale
        self.box_joints = box_joints
        self.with_antialias = with_antialias
        self.half_resolution_sources = tuple(half_resolution_sources)
        self.augment = augment
        fit_height, fit_width = fit_aspect_hw or self.input_hw
        self._aspect = fit_height / fit_width
        if box_joints is not None:
            joints.names(box_joints)  # raises now rather than in a worker

    def __call__(
        self, sample: Sample, view: int | None = None, rng: np.random.Generator | None = None
    ) -> Sample:
        """Cut view ``view`` (None: the only one), augmented if there is an ``rng``.

        Raises:
            ValueError: naming record and view, if there is no usable box.
        """
        if view is None and len(sample["image_of_view"]) != 1:
            raise ValueError(
                f"record {sample['key']!r} has {len(sample['image_of_view'])} views: say which one "
                "to crop, or use data=scenes or data=multiview"
            )
        return self.cut(sample, view or 0, self.draw(sample, rng))

    def draw(self, sample: Sample, rng: np.random.Generator | None) -> AugmentParams:
        """What to do to a sample: nothing without ``rng`` or ``augment``."""
        if rng is None or self.augment is None:
            return AugmentParams()
        return self.augment.draw(rng, sample["source"])

    def cut(self, sample: Sample, view: int, params: AugmentParams) -> Sample:
        """Cut one view as ``params`` say."""
        single = self.read(select_view(sample, view))
        to_crop_world = in_plane_matrix(params) @ single["world_to_camera"][0].astype(np.float64)
        pixels, cut = self.cut_view(single, 0, params)
        return {
            **move_world(single, to_crop_world),
            "input_image": pixels[None],
            "input_size": np.array([self.input_hw]),
            "full_size": np.array([single["images"][0].shape[:2]]),
            **cut,
        }

    def read(self, sample: Sample) -> Sample:
        """The sample at the resolution at which its source is to be read."""
        return halve(sample) if sample["source"] in self.half_resolution_sources else sample

    def cut_view(
        self, sample: Sample, view: int, params: AugmentParams
    ) -> tuple[np.ndarray, Sample]:
        """Pixels (H, W, 3) and the labels of one view: ``box_img``, ``crop_to_img``, joints.

        Raises:
            ValueError: naming record and view, if the box is empty or outside the image.
        """
        image = sample["images"][sample["image_of_view"][view]]
        keypoints = sample["keypoints_img"][view]
        try:
            box = self._box(sample, view)
            center, side_px = box_to_center_side(box, self._aspect, self.box_scale)
            _check_overlap(box, image)
        except ValueError as error:
            raise ValueError(
                f"record {sample['key']!r} of source {sample['source']!r}, view {view}: {error}"
            ) from error
        if params.extreme_crop is not None:
            region = extreme_region(
                keypoints, sample["joint_set"], params.extreme_crop, self._aspect, self.box_scale
            )
            center, side_px = region or (center, side_px)
        center, side_px = augment_region(center, side_px, params)
        affine = crop_affine(
            center, side_px, self.input_hw, params.rotation_deg, flip=params.is_flipped
        )
        pixels = augment_pixels(warp(image, affine, self.input_hw, self.with_antialias), params)
        img_to_crop = px_to_units(affine, self.input_hw)
        joint_set = sample["joint_set"]
        return pixels, {
            "box_img": box[None],
            "crop_to_img": invert_affine(img_to_crop).astype(np.float32)[None],
            "keypoints_crop": keypoints_to_crop(
                keypoints[None], img_to_crop, joint_set, params.is_flipped
            ),
        }

    def _box(self, sample: Sample, view: int) -> np.ndarray:
        if self.box_joints is None:
            return sample["box_img"][view]
        rows = joints.mapping(sample["joint_set"], self.box_joints)
        return keypoints_to_box(sample["keypoints_img"][view][rows[rows >= 0]])


def select_view(sample: Sample, view: int) -> Sample:
    """The record of one view alone: its image, its person, I = O = P = 1."""
    image, person = int(sample["image_of_view"][view]), int(sample["person_of_view"][view])
    row = {"I": image, "O": view, "P": person}
    picked = {
        name: sample[name][row[letters[0]] : row[letters[0]] + 1]
        for name, (_, letters) in FIELDS.items()
    }
    zero = np.zeros(1, np.int64)
    alone = {"images": [sample["images"][image]], "image_of_view": zero, "person_of_view": zero}
    return {**sample, **picked, **alone}


def select_persons(sample: Sample, persons: np.ndarray | slice) -> Sample:
    """The record with some of its people, as an index or a slice; its views are left alone."""
    per_person = [name for name, (_, letters) in FIELDS.items() if letters[0] == "P"]
    return {**sample, **{name: sample[name][persons] for name in per_person}}


def halve(sample: Sample) -> Sample:
    """The sample at half resolution, bilinear, odd sides rounded down; pixel labels are halved.

    Pixel coordinates are multiplied by one half, as SPIN does with 3DPW; the quarter of a pixel
    by which this moves the labels in the halved image is part of that protocol.
    """
    images = [
        cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2)) for image in sample["images"]
    ]
    keypoints = sample["keypoints_img"].copy()
    keypoints[..., :2] /= 2
    half = np.array([0.5, 0.5, 1.0], np.float32)[:, None]
    return {
        **sample,
        "images": images,
        "keypoints_img": keypoints,
        "box_img": sample["box_img"] / 2,
        "intrinsics": sample["intrinsics"] * half,
    }


def px_to_units(affine: np.ndarray, input_hw: tuple[int, int]) -> np.ndarray:
    """An affine map to input px (2, 3) as one to crop units, ``2 * px / side - 1``."""
    height, width = input_hw
    units = affine * np.array([[2 / width], [2 / height]])
    units[:, 2] -= 1
    return units


def warp(
    image: np.ndarray, affine: np.ndarray, input_hw: tuple[int, int], with_antialias: bool
) -> np.ndarray:
    """Sample an image (H, W, 3) uint8 bilinearly into the input; black outside the image.

    With ``with_antialias`` an image that is shrunk by 3 or more is first halved (area), again and
    again, then smoothed for the rest; only the part that the crop shows is touched.
    """
    height, width = input_hw
    if with_antialias:
        image, affine = _smooth(image, affine, input_hw)
    return cv2.warpAffine(image, affine, (width, height), flags=cv2.INTER_LINEAR)


def _smooth(
    image: np.ndarray, affine: np.ndarray, input_hw: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """An image without the detail that the input cannot show, and the map from it to the input."""
    shrink = 1 / np.sqrt(abs(np.linalg.det(affine[:, :2])))
    if shrink < _MIN_SHRINK:
        return image, affine
    image, affine = _region_of_interest(image, affine, input_hw)
    while shrink >= _HALVE_FROM and min(image.shape[:2]) >= 2:
        height, width = image.shape[0] // 2, image.shape[1] // 2
        even = image[: 2 * height, : 2 * width]
        image = cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA)
        shift = affine[:, :2].sum(axis=1) / 2 + affine[:, 2]  # pixel 0 now lies at 0.5, 0.5
        affine = np.column_stack([2 * affine[:, :2], shift])
        shrink /= 2
    if shrink >= _MIN_SHRINK:
        image = cv2.GaussianBlur(image, (3, 3), _SIGMA * (shrink - 1))
    return image, affine


# The least error against 8 x 8 supersampling (shrinks of 1.4 to 6.5) among what costs as little.
_MIN_SHRINK = 1.4  # below this the blur kernel of uint8 images would be the identity
_HALVE_FROM = 3.0  # halving at less than this would leave nothing to smooth away its own aliasing
_SIGMA = 0.6  # px of blur per factor of shrinking


def _region_of_interest(
    image: np.ndarray, affine: np.ndarray, input_hw: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The part of the image that the input shows, with a margin, and the map from it."""
    height, width = input_hw
    corners = np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]])
    seen = invert_affine(affine) @ corners  # (2, 4) px
    limit = np.array(image.shape[1::-1])
    low = np.clip(np.floor(seen.min(axis=1)).astype(int) - _MARGIN_PX, 0, limit - 1)
    high = np.clip(np.ceil(seen.max(axis=1)).astype(int) + _MARGIN_PX, low + 1, limit)
    moved = np.column_stack([affine[:, :2], affine[:, 2] + affine[:, :2] @ low])
    return image[low[1] : high[1], low[0] : high[0]], moved


_MARGIN_PX = 8  # more than the reach of the filters below a shrink of 8


def _check_overlap(box: np.ndarray, image: np.ndarray) -> None:
    height, width = image.shape[:2]
    if box[0] >= width or box[1] >= height or box[2] <= 0 or box[3] <= 0:
        raise ValueError(
            f"box {np.round(box, 1).tolist()} lies outside its image of {width} x {height} px; "
            "correct it or leave this person out"
        )
