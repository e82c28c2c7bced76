"""A whole image with everyone in it -> the network's input; I = 1, O = P."""

from collections.abc import Sequence

import numpy as np

from hmrkit.data.augment import (
    Augment,
    AugmentParams,
    augment_pixels,
    in_plane_matrix,
    keypoints_to_crop,
    move_world,
)
from hmrkit.data.crops import halve, px_to_units, warp
from hmrkit.geometry.boxes import invert_affine
from hmrkit.types import Sample


class Scenes:
    """Resizes an image to a longest side, keeps its aspect, and pads it below and to the right.

    The resizing aligns the outer edges of the image (``cv2.resize``). Augmentation acts on the
    image and on everybody at once: turned, zoomed (by ``1 / scale``) and shifted about the middle
    of the same canvas. People who leave the canvas stay in the labels with their coordinates
    outside [-1, 1]; which of them count is the method's to say. Crop units refer to the valid part
    of the input, ``input_size``, not to its padding.

    Args:
        long_side_px: of the resized image.
        size_divisor: both sides of the input are padded to a multiple of this.
        with_antialias: smooth the image before it is shrunk.
        half_resolution_sources: names of sources whose images are halved first.
        augment: what is drawn in training, or None; it may not hold extreme crops.
    """

    unit = "record"

    def __init__(
        self,
        long_side_px: int,
        size_divisor: int = 32,
        with_antialias: bool = True,
        half_resolution_sources: Sequence[str] = (),
        augment: Augment | None = None,
    ) -> None:
        if augment is not None and augment.extreme_crop_probability > 0:
            raise ValueError("extreme crops are for data=crops: set extreme_crop_probability=0")
        self.long_side_px = long_side_px
        self.size_divisor = size_divisor
        self.with_antialias = with_antialias
        self.half_resolution_sources = tuple(half_resolution_sources)
        self.augment = augment

    def __call__(
        self, sample: Sample, view: int | None = None, rng: np.random.Generator | None = None
    ) -> Sample:
        """Cut the whole record, augmented if there is an ``rng``; ``view`` plays no part.

        Raises:
            ValueError: if the record is not one image.
        """
        is_augmented = rng is not None and self.augment is not None
        params = self.augment.draw(rng, sample["source"]) if is_augmented else AugmentParams()
        return self.cut(sample, params)

    def cut(self, sample: Sample, params: AugmentParams) -> Sample:
        """Cut the whole record as ``params`` say."""
        if len(sample["images"]) != 1:
            raise ValueError(
                f"record {sample['key']!r} has {len(sample['images'])} images, a scene has one; "
                "use data=multiview for rigs"
            )
        if sample["source"] in self.half_resolution_sources:
            sample = halve(sample)
        image = sample["images"][0]
        valid_hw = self._valid_size(image)
        affine = _around_middle(params, valid_hw) @ _resize_affine(image.shape[:2], valid_hw)
        pixels = augment_pixels(warp(image, affine[:2], valid_hw, self.with_antialias), params)
        img_to_crop = px_to_units(affine[:2], valid_hw)
        to_scene_world = in_plane_matrix(params) @ sample["world_to_camera"][0].astype(np.float64)
        crop_to_img = invert_affine(img_to_crop).astype(np.float32)
        return {
            **move_world(sample, to_scene_world),
            "input_image": self._padded(pixels)[None],
            "input_size": np.array([valid_hw]),
            "full_size": np.array([image.shape[:2]]),
            "crop_to_img": np.repeat(crop_to_img[None], len(sample["image_of_view"]), axis=0),
            "keypoints_crop": keypoints_to_crop(
                sample["keypoints_img"], img_to_crop, sample["joint_set"], params.is_flipped
            ),
        }

    def _valid_size(self, image: np.ndarray) -> tuple[int, int]:
        height, width = image.shape[:2]
        factor = self.long_side_px / max(height, width)
        return max(round(height * factor), 1), max(round(width * factor), 1)

    def _padded(self, pixels: np.ndarray) -> np.ndarray:
        missing = [-side % self.size_divisor for side in pixels.shape[:2]]
        return np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)))


def _resize_affine(full_hw: Sequence[int], valid_hw: Sequence[int]) -> np.ndarray:
    """(3, 3) source image px to resized px, outer edges on outer edges."""
    factor = np.array(valid_hw[::-1]) / np.array(full_hw[::-1])
    matrix = np.diag([*factor, 1.0])
    matrix[:2, 2] = (factor - 1) / 2
    return matrix


def _around_middle(params: AugmentParams, valid_hw: Sequence[int]) -> np.ndarray:
    """(3, 3) turn, mirror, zoom and shift of resized px about the middle of the canvas."""
    size = np.array(valid_hw[::-1], dtype=np.float64)
    middle = (size - 1) / 2
    matrix = np.eye(3)
    matrix[:2, :2] = in_plane_matrix(params)[:2, :2] / params.scale
    seen = middle + np.array(params.shift) * size  # what comes to lie in the middle
    matrix[:2, 2] = middle - matrix[:2, :2] @ seen
    return matrix
