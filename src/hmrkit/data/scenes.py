"""A whole image with everyone in it -> the network's input; I = 1, O = P."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from hmrkit.body import joints
from hmrkit.data.augment import (
    Augment,
    AugmentParams,
    color_pixels,
    in_plane_matrix,
    keypoints_to_crop,
    move_world,
    occlude_pixels,
)
from hmrkit.data.canvas import GEOMETRIES, Canvas
from hmrkit.data.crops import halve, px_to_units
from hmrkit.data.erase import Erase
from hmrkit.data.images import image_size
from hmrkit.data.record import FIELDS
from hmrkit.geometry.boxes import invert_affine
from hmrkit.types import Sample


class Scenes:
    """Resizes an image to a longest side, keeps its aspect, and pads it below and to the right.

    Augmentation acts on the image and on everybody at once: mirrored, turned, zoomed (by
    ``1 / scale``) and shifted about the middle of the same canvas. People who leave the canvas stay
    in the labels with their coordinates outside [-1, 1], unless ``min_visible_joints`` leaves them
    out. Crop units refer to the valid part of the input, ``input_size``, not to its padding.

    Args:
        long_side_px: of the resized image.
        size_divisor: both sides of the input are padded to a multiple of this.
        with_antialias: smooth the image before it is shrunk.
        geometry: ``exact``: the shorter side is rounded, labels move with the pixels to a fraction
            of a pixel, the image is sampled once. ``sathmr``: see ``canvas.sathmr_canvas``.
        person_joints: a joint set; its joints count in the next argument and span the boxes that
            ``erase`` covers.
        min_visible_joints: people with fewer labelled joints inside the image are left out, in
            evaluation too. Above 0, a draw that leaves nobody, or hands alone of anybody, is
            repeated.
        num_draws: after so many draws of that kind the image is taken as it is.
        half_resolution_sources: names of sources whose images are halved first.
        augment: what is drawn in training, or None; it may not hold extreme crops.
        erase: rectangles of noise over people in training, or None.
    """

    unit = "record"

    def __init__(
        self,
        long_side_px: int,
        size_divisor: int = 32,
        with_antialias: bool = True,
        geometry: str = "exact",
        person_joints: str = "smpl45",
        min_visible_joints: int = 0,
        num_draws: int = 10,
        half_resolution_sources: Sequence[str] = (),
        augment: Augment | None = None,
        erase: Erase | None = None,
    ) -> None:
        if augment is not None and augment.extreme_crop_probability > 0:
            raise ValueError("extreme crops are for data=crops: set extreme_crop_probability=0")
        if geometry not in GEOMETRIES:
            raise ValueError(f"geometry={geometry!r}: choose {' or '.join(GEOMETRIES)}")
        joints.names(person_joints)  # raises now rather than in a worker
        self.long_side_px = long_side_px
        self.size_divisor = size_divisor
        self.with_antialias = with_antialias
        self.geometry = geometry
        self.person_joints = person_joints
        self.min_visible_joints = min_visible_joints
        self.num_draws = num_draws
        self.half_resolution_sources = tuple(half_resolution_sources)
        self.augment = augment
        self.erase = erase

    def __call__(
        self, sample: Sample, view: int | None = None, rng: np.random.Generator | None = None
    ) -> Sample:
        """Cut the whole record, augmented if there is an ``rng``; ``view`` plays no part.

        Raises:
            ValueError: if the record is not one image.
        """
        sample = self._read(sample)
        return self._cut(sample, AugmentParams() if rng is None else self._draw(sample, rng))

    def cut(self, sample: Sample, params: AugmentParams) -> Sample:
        """Cut the whole record as ``params`` say."""
        return self._cut(self._read(sample), params)

    def _read(self, sample: Sample) -> Sample:
        if len(sample["images"]) != 1:
            raise ValueError(
                f"record {sample['key']!r} has {len(sample['images'])} images, a scene has one; "
                "use data=multiview for rigs"
            )
        return halve(sample) if sample["source"] in self.half_resolution_sources else sample

    def _draw(self, sample: Sample, rng: np.random.Generator) -> AugmentParams:
        params = AugmentParams()
        for _ in range(0 if self.augment is None else self.num_draws):
            drawn = self.augment.draw(rng, sample["source"])  # type: ignore[union-attr]
            if self._place(sample, drawn).is_usable:
                params = drawn
                break
        if self.erase is None:
            return params
        placed = self._place(sample, params)
        counted, _ = _counted_rows(sample["joint_set"], self.person_joints)
        height, width = placed.canvas.valid_hw
        keypoints_px = (placed.keypoints_crop[placed.is_kept][:, counted] + [1, 1, 0]) / 2
        keypoints_px *= [width, height, 1]
        rectangles = self.erase.draw(rng, keypoints_px, (height, width))
        return replace(params, rectangles=rectangles)

    def _place(self, sample: Sample, params: AugmentParams) -> "_Placed":
        full_hw = image_size(sample["images"], 0)
        canvas = GEOMETRIES[self.geometry].place(full_hw, self.long_side_px, params)
        img_to_crop = px_to_units(canvas.labels[:2], canvas.valid_hw)
        keypoints_crop = keypoints_to_crop(
            sample["keypoints_img"], img_to_crop, sample["joint_set"], params.is_flipped
        )
        is_kept, is_usable = np.ones(len(keypoints_crop), bool), True
        if self.min_visible_joints > 0:
            counted, body = _counted_rows(sample["joint_set"], self.person_joints)
            is_visible = _is_visible(keypoints_crop, img_to_crop, full_hw)
            is_kept = is_visible[:, counted].sum(axis=1) >= self.min_visible_joints
            is_usable = is_kept.any() and is_visible[is_kept][:, body].any(axis=1).all()
        return _Placed(canvas, img_to_crop, keypoints_crop, is_kept, bool(is_usable))

    def _cut(self, sample: Sample, params: AugmentParams) -> Sample:
        placed = self._place(sample, params)
        to_scene_world = in_plane_matrix(params) @ sample["world_to_camera"][0].astype(np.float64)
        crop_to_img = invert_affine(placed.img_to_crop).astype(np.float32)
        kept = np.flatnonzero(placed.is_kept)
        return {
            **move_world(_select_views(sample, kept), to_scene_world),
            "input_image": self._pixels(sample["images"], params, placed.canvas)[None],
            "input_size": np.array([placed.canvas.valid_hw]),
            "full_size": np.array([image_size(sample["images"], 0)]),
            "crop_to_img": np.repeat(crop_to_img[None], len(kept), axis=0),
            "keypoints_crop": placed.keypoints_crop[kept],
        }

    def _pixels(
        self, images: Sequence[np.ndarray], params: AugmentParams, canvas: Canvas
    ) -> np.ndarray:
        pixels = GEOMETRIES[self.geometry].sample(images, canvas, self.with_antialias)
        pixels = occlude_pixels(pixels, params)
        below, right = (-side % self.size_divisor for side in pixels.shape[:2])
        if below or right:
            pixels = cv2.copyMakeBorder(pixels, 0, below, 0, right, cv2.BORDER_CONSTANT)
        return color_pixels(pixels, params)


class _Placed(NamedTuple):
    """Where a record lies in the input."""

    canvas: Canvas
    img_to_crop: np.ndarray  # (2, 3), of labels
    keypoints_crop: np.ndarray  # (O, K, 3)
    is_kept: np.ndarray  # (O,) bool
    is_usable: bool


def _is_visible(
    keypoints_crop: np.ndarray, img_to_crop: np.ndarray, full_hw: Sequence[int]
) -> np.ndarray:
    """(O, K) bool: labelled, inside the input, and inside the source image."""
    crop_to_img = invert_affine(img_to_crop)
    img = keypoints_crop[..., :2] @ crop_to_img[:, :2].T + crop_to_img[:, 2]
    is_inside = ((keypoints_crop[..., :2] >= -1) & (keypoints_crop[..., :2] < 1)).all(axis=-1)
    was_inside = ((img >= 0) & (img < [full_hw[1], full_hw[0]])).all(axis=-1)
    return is_inside & was_inside & (keypoints_crop[..., 2] > 0)


@lru_cache
def _counted_rows(joint_set: str, person_joints: str) -> tuple[list[int], list[int]]:
    """Rows of the joint set that are among ``person_joints``, and those of them without hands.

    Raises:
        ValueError: if there are none.
    """
    names = joints.names(joint_set)
    body = {name for name in joints.names("smpl24") if not name.endswith("_hand")}
    counted = [i for i, name in enumerate(names) if name in joints.names(person_joints)]
    if not counted:
        raise ValueError(
            f"joints {joint_set!r} of a source are none of data.cut.person_joints={person_joints}: "
            "choose the set in which they are"
        )
    trunk = [i for i in counted if names[i] in body]
    return counted, trunk or counted


def _select_views(sample: Sample, views: np.ndarray) -> Sample:
    """The record with some of its views and the people in them."""
    if len(views) == len(sample["image_of_view"]):
        return sample
    rows = {"O": views, "P": sample["person_of_view"][views]}
    picked = {
        name: sample[name][rows[letters[0]]]
        for name, (_, letters) in FIELDS.items()
        if letters[0] in rows
    }
    return {**sample, **picked, "person_of_view": np.arange(len(views))}
