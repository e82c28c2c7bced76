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
from hmrkit.data.images import REDUCTIONS, LazyImages, image_size, pick_images
from hmrkit.data.record import FIELDS, Unusable
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
        antialias_filter: how: "area" (see ``warp``), or "gaussian" as the demos of 4D-Humans and
            TokenHMR.
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
        antialias_filter: str = "area",
        half_resolution_sources: Sequence[str] = (),
        augment: Augment | None = None,
    ) -> None:
        height, width = input_size
        self.input_hw = (int(height), int(width))
        self.box_scale = box_scale
        self.box_joints = box_joints
        if antialias_filter not in _FILTERS:
            raise ValueError(
                f"antialias_filter={antialias_filter!r}: choose {' or '.join(_FILTERS)}"
            )
        self.with_antialias, self.antialias_filter = with_antialias, antialias_filter
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
            "full_size": np.array([image_size(single["images"], 0)]),
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
            Unusable: naming record and view, if the box is empty or outside the image.
        """
        images, number = sample["images"], int(sample["image_of_view"][view])
        keypoints = sample["keypoints_img"][view]
        try:
            box = self._box(sample, view)
            center, side_px = self._region(box)
            _check_overlap(box, image_size(images, number))
        except ValueError as error:
            raise Unusable(
                f"record {sample['key']!r} of source {sample['source']!r}, view {view}: {error}"
            ) from error
        if params.extreme_crop is not None:
            draw, level = params.extreme_crop, params.extreme_crop_level
            aspect_hw = self.input_hw[0] / self.input_hw[1]
            region = extreme_region(keypoints, sample["joint_set"], draw, level, aspect_hw)
            center, side_px = region or (center, side_px)
        pixels, cut = self._cut_region(sample, view, center, side_px, params)
        return augment_pixels(pixels, params), {"box_img": box[None], **cut}

    def _region(self, box: np.ndarray) -> tuple[np.ndarray, float]:
        """Centre (2,) and height, px, of what is shown of a box (4,) without augmentation."""
        return box_to_center_side(box, self._aspect, self.box_scale)

    def _cut_region(
        self, sample: Sample, view: int, center: np.ndarray, side_px: float, params: AugmentParams
    ) -> tuple[np.ndarray, Sample]:
        """Pixels (H, W, 3) of a region, augmented but for colour, and ``crop_to_img``, joints."""
        center, side_px = augment_region(center, side_px, params)
        affine = crop_affine(
            center, side_px, self.input_hw, params.rotation_deg, flip=params.is_flipped
        )
        images, number = sample["images"], int(sample["image_of_view"][view])
        filtering = self.with_antialias, self.antialias_filter
        img_to_crop = px_to_units(affine, self.input_hw)
        keypoints, joint_set = sample["keypoints_img"][view][None], sample["joint_set"]
        return warp_stored(images, number, affine, self.input_hw, *filtering), {
            "crop_to_img": invert_affine(img_to_crop).astype(np.float32)[None],
            "keypoints_crop": keypoints_to_crop(
                keypoints, img_to_crop, joint_set, params.is_flipped
            ),
        }

    def _box(self, sample: Sample, view: int) -> np.ndarray:
        if self.box_joints is None:
            return sample["box_img"][view]
        rows = joints.mapping(sample["joint_set"], self.box_joints)
        return keypoints_to_box(sample["keypoints_img"][view][rows[rows >= 0]])


def select_view(sample: Sample, view: int) -> Sample:
    """The record of one view alone: its image, its person and its camera, I = O = P = 1."""
    image, person = int(sample["image_of_view"][view]), int(sample["person_of_view"][view])
    row = {"I": image, "O": view, "P": person}
    picked = {
        name: sample[name][row[letters[0]] : row[letters[0]] + 1]
        for name, (_, letters) in FIELDS.items()
    }
    zero = np.zeros(1, np.int64)
    images = pick_images(sample["images"], [image])
    alone = {"images": images, "image_of_view": zero, "person_of_view": zero}
    if np.isfinite(picked["intrinsics_of_view"]).all():
        alone["intrinsics"] = picked["intrinsics_of_view"]
        alone["intrinsics_of_view"] = np.full_like(alone["intrinsics"], np.nan)
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
        "intrinsics_of_view": sample["intrinsics_of_view"] * half,
    }


def px_to_units(affine: np.ndarray, input_hw: tuple[int, int]) -> np.ndarray:
    """An affine map to input px (2, 3) as one to crop units, ``2 * px / side - 1``."""
    height, width = input_hw
    units = affine * np.array([[2 / width], [2 / height]])
    units[:, 2] -= 1
    return units


def warp_stored(
    images: Sequence[np.ndarray],
    number: int,
    affine: np.ndarray,
    input_hw: tuple[int, int],
    with_antialias: bool,
    antialias_filter: str = "area",
) -> np.ndarray:
    """``warp`` one of a record's images; of the halving, the JPEG decoder does what it can."""
    if not isinstance(images, LazyImages):
        return warp(images[number], affine, input_hw, with_antialias, antialias_filter)
    reduction, shrink = 1, _shrink(affine)
    if with_antialias and antialias_filter == "area" and images.is_reducible(number):
        while shrink >= _HALVE_FROM and reduction < REDUCTIONS[-1]:
            reduction, shrink = 2 * reduction, shrink / 2
    if reduction > 1:  # the middle of the first pixel is that of the pixels it was made of
        shift = affine[:, :2].sum(axis=1) * (reduction - 1) / 2 + affine[:, 2]
        affine = np.column_stack([reduction * affine[:, :2], shift])
    image = images.rgba(number, reduction)
    return warp(image, affine, input_hw, with_antialias, antialias_filter)


def _shrink(affine: np.ndarray) -> float:
    """How many px of the image become one px of the input, along a line."""
    (a, b), (c, d) = affine[:, :2].tolist()
    return abs(a * d - b * c) ** -0.5


def warp(
    image: np.ndarray,
    affine: np.ndarray,
    input_hw: tuple[int, int],
    with_antialias: bool,
    antialias_filter: str = "area",
) -> np.ndarray:
    """Sample an image (H, W, 3 or 4) uint8 bilinearly into the input (h, w, 3); black outside it.

    With ``with_antialias`` and the filter "area" an image that is shrunk by 3 or more is first
    halved (area), again and again, then smoothed for the rest; with the filter "gaussian" one that
    is shrunk by 2 d, d above 1.1, is smoothed with a standard deviation of (d - 1) / 2 px. Only the
    part that the crop shows is touched.
    """
    height, width = input_hw
    if with_antialias:
        image, affine = _FILTERS[antialias_filter](image, affine, input_hw, _shrink(affine))
    crop = cv2.warpAffine(image, affine, (width, height), flags=cv2.INTER_LINEAR)
    if crop.dtype != np.uint8:
        crop = np.rint(crop).astype(np.uint8)
    return cv2.cvtColor(crop, cv2.COLOR_RGBA2RGB) if crop.shape[2] == 4 else crop


def _smooth_area(
    image: np.ndarray, affine: np.ndarray, input_hw: tuple[int, int], shrink: float
) -> tuple[np.ndarray, np.ndarray]:
    """An image without the detail that the input cannot show, and the map from it to the input."""
    if shrink < _MIN_SHRINK:
        return image, affine
    image, affine = _region_of_interest(image, affine, input_hw, _MARGIN_PX)
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


def _smooth_gaussian(
    image: np.ndarray, affine: np.ndarray, input_hw: tuple[int, int], shrink: float
) -> tuple[np.ndarray, np.ndarray]:
    """The same by the rule of the demos of 4D-Humans and TokenHMR; float64, as they go on."""
    if shrink / 2 <= _GAUSSIAN_FROM:
        return image, affine
    sigma = (shrink / 2 - 1) / 2
    reach = int(4 * sigma + 0.5)
    image, affine = _region_of_interest(image, affine, input_hw, reach + _MARGIN_PX)
    size = (2 * reach + 1, 2 * reach + 1)
    image = image.astype(np.float64)
    return cv2.GaussianBlur(image, size, sigma, borderType=cv2.BORDER_REPLICATE), affine


_FILTERS = {"area": _smooth_area, "gaussian": _smooth_gaussian}
_GAUSSIAN_FROM = 1.1
# The least error against 8 x 8 supersampling (shrinks of 1.4 to 6.5) among what costs as little.
_MIN_SHRINK = 1.4  # below this the blur kernel of uint8 images would be the identity
_HALVE_FROM = 3.0  # halving at less than this would leave nothing to smooth away its own aliasing
_SIGMA = 0.6  # px of blur per factor of shrinking


def _region_of_interest(
    image: np.ndarray, affine: np.ndarray, input_hw: tuple[int, int], margin_px: int
) -> tuple[np.ndarray, np.ndarray]:
    """The part of the image that the input shows, with a margin, and the map from it."""
    height, width = input_hw
    corners = np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]])
    seen = invert_affine(affine) @ corners  # (2, 4) px
    limit = np.array(image.shape[1::-1])
    low = np.clip(np.floor(seen.min(axis=1)).astype(int) - margin_px, 0, limit - 1)
    high = np.clip(np.ceil(seen.max(axis=1)).astype(int) + margin_px, low + 1, limit)
    moved = np.column_stack([affine[:, :2], affine[:, 2] + affine[:, :2] @ low])
    return image[low[1] : high[1], low[0] : high[0]], moved


_MARGIN_PX = 8  # more than the reach of the filters below a shrink of 8


def _check_overlap(box: np.ndarray, full_hw: tuple[int, int]) -> None:
    height, width = full_hw
    if box[0] >= width or box[1] >= height or box[2] <= 0 or box[3] <= 0:
        raise ValueError(
            f"box {np.round(box, 1).tolist()} lies outside its image of {width} x {height} px; "
            "correct it or leave this person out"
        )
