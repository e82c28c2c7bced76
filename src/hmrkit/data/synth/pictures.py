"""A sheet of pictures that shows what a folder of shards holds."""

from pathlib import Path

import cv2
import numpy as np

from hmrkit.body.joints import mapping, skeleton
from hmrkit.data.shards import ShardSet
from hmrkit.render.draw import contact_sheet, draw_box, draw_skeleton
from hmrkit.types import Sample

_WIDTH_PX = 2000
_CLIP_FRAMES = 8


def write_contact_sheet(folder: str | Path, num: int) -> Path:
    """Draw up to ``num`` records of a finished folder, evenly spaced: ``contact_sheet.png`` in it.

    Every second record also shows its labels: skeleton and box. Rigs have one row per record,
    motion clips are drawn as skeletons.
    """
    shards = ShardSet(Path(folder), "synth")
    chosen = np.unique(np.linspace(0, len(shards) - 1, min(num, len(shards))).astype(int))
    samples = [shards.read(int(i)) for i in chosen]
    rows = [_pictures(sample, i % 2 == 1) for i, sample in enumerate(samples)]
    images = [image for row in rows for image in row]
    width = images[0].shape[1]
    per_row = len(rows[0])
    columns = max(1, round(_WIDTH_PX / max(width, 125)))
    columns = max(per_row, columns // per_row * per_row)
    sheet = contact_sheet(images, min(columns, len(images)), gap_px=4)
    path = Path(folder) / "contact_sheet.png"
    cv2.imwrite(str(path), sheet[..., ::-1])
    return path


def _pictures(sample: Sample, with_labels: bool) -> list[np.ndarray]:
    """The images of one record, or drawings of its frames."""
    if not sample["images"]:
        return _draw_clip(sample)
    pictures = []
    for i, image in enumerate(sample["images"]):
        picture = image.copy()
        for view in np.flatnonzero(sample["image_of_view"] == i) if with_labels else ():
            points = sample["keypoints_img"][view][mapping(sample["joint_set"], "smpl24")]
            picture = draw_skeleton(picture, points, skeleton("smpl24"))
            picture = draw_box(picture, sample["box_img"][view])
        pictures.append(picture)
    return pictures


def _draw_clip(sample: Sample) -> list[np.ndarray]:
    """Frames of a clip as skeletons seen by a level camera that does not move."""
    points = sample["keypoints_world"][:, mapping(sample["joint_set"], "smpl24"), :3]
    frames = np.linspace(0, len(points) - 1, _CLIP_FRAMES).astype(int)
    side, middle = 125, (points.min(axis=(0, 1)) + points.max(axis=(0, 1))) / 2
    size = max(2.2, float(np.ptp(points[..., :2], axis=(0, 1)).max()) * 1.1)
    flat = (points[frames, :, :2] - middle[:2]) * [1, -1] * side / size + side / 2
    paper = np.full((side, side, 3), 245, np.uint8)
    return [draw_skeleton(paper, joints, skeleton("smpl24")) for joints in flat]
