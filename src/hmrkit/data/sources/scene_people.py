"""Everyone in one image -> a record: boxes, and who is left out because they are not seen."""

import cv2
import numpy as np

from hmrkit.data.record import decode_image
from hmrkit.data.sources.official import Skipped, record_key
from hmrkit.data.sources.placed_bodies import BODY_JOINTS, image_size, is_inside
from hmrkit.geometry.boxes import keypoints_to_box
from hmrkit.types import Sample


def scene_record(
    name: str, image: bytes | np.ndarray, people: Sample
) -> tuple[Sample, list[Skipped]]:
    """One image as a record of joint set ``all``.

    Args:
        name: of the image, folders included.
        image: content of a JPEG or PNG file, or (H, W, 3) uint8 RGB.
        people: their labels as ``placed_bodies.body_labels`` gives them. Boxes are the tight ones
            of the body's joints; people whose box is empty or off the image are left out.

    Returns:
        The record, and one entry for everybody who was left out.

    Raises:
        Skipped: if nobody remains.
    """
    size_hw = image_size(image) if isinstance(image, bytes) else image.shape[:2]
    boxes = [_box(points[BODY_JOINTS]) for points in people["keypoints_img"]]
    kept = [row for row, box in enumerate(boxes) if box is not None and is_inside(box, size_hw)]
    if not kept:
        raise Skipped("nobody is inside the image", name)
    left_out = [Skipped("somebody in an image: outside of it", name)] * (len(boxes) - len(kept))
    record: Sample = {
        **{field: values[kept] for field, values in people.items() if field != "intrinsics"},
        "key": record_key(name),
        "images": [image],
        "intrinsics": people["intrinsics"],
        "image_of_view": np.zeros(len(kept), np.int64),
        "person_of_view": np.arange(len(kept)),
        "box_img": np.stack([boxes[row] for row in kept]),
    }
    return record, left_out


def _box(points: np.ndarray) -> np.ndarray | None:
    """Tight box (4,) of keypoints (K, 3), or None if nothing spans one."""
    if not (points[:, 2] > 0).any():
        return None
    box = keypoints_to_box(points)
    return box if (box[2:] > box[:2]).all() else None


def turn_clockwise(image: bytes) -> np.ndarray:
    """The image of a file, (H, W, 3) uint8 RGB, after a quarter turn."""
    return cv2.rotate(decode_image(image), cv2.ROTATE_90_CLOCKWISE)
