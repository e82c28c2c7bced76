"""Where the 2D keypoints come from that a network is adapted to.

``evidence(batch)`` gives them as ``keypoints_crop`` (O, K, 3), crop units + confidence, joint set
"all". What a person gets depends on that person alone, never on the rest of the batch.
"""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hmrkit.body import joints
from hmrkit.data.detections import MIN_IOU, match, read_detections
from hmrkit.geometry.boxes import invert_affine
from hmrkit.types import Batch


class LabelledKeypoints:
    """The labels of the data set, as they are or made worse.

    Args:
        noise_crop: standard deviation added to both coordinates, crop units (the crop is 2 high).
        drop: share of the joints that are taken away.
        seed: of both; a person's draw is the same in every batch.
    """

    def __init__(self, noise_crop: float = 0.0, drop: float = 0.0, seed: int = 0) -> None:
        if noise_crop < 0 or not 0 <= drop < 1:
            raise ValueError(
                f"evidence: noise_crop={noise_crop}, drop={drop}: give noise of 0 or more and a "
                "share in [0, 1)"
            )
        self.noise_crop, self.drop, self.seed = noise_crop, drop, seed

    def __call__(self, batch: Batch) -> Tensor:
        """Read ``keypoints_crop``; to draw, ``key`` and ``box_img`` too."""
        labels = batch["keypoints_crop"]
        if not (self.noise_crop or self.drop):
            return labels
        boxes_img = batch["box_img"].float().cpu().numpy()
        noise, is_kept = [], []
        for key, box in zip(_keys(batch), boxes_img, strict=True):
            who = [self.seed, zlib.crc32(key.encode()), zlib.crc32(box.tobytes())]
            rng = np.random.default_rng(who)
            noise.append(rng.normal(0.0, self.noise_crop, (labels.shape[1], 2)))
            is_kept.append(rng.random((labels.shape[1], 1)) >= self.drop)
        moved = labels[..., :2] + torch.from_numpy(np.stack(noise)).to(labels)
        confidence = labels[..., 2:] * torch.from_numpy(np.stack(is_kept)).to(labels)
        return torch.cat([moved, confidence], dim=-1)


class DetectedKeypoints:
    """What a 2D detector wrote in OpenPose's JSON format, one file for each image.

    A person gets the detection whose tight box has the largest IoU with the person's own box, if
    that is at least ``min_iou``; else no evidence.

    Args:
        folder: of the files.
        name: of an image's file below it; ``{key}`` is the record's key in its source.
        scale: of the detector's pixels to those of the images that crops are cut from: 0.5 where
            ``data.cut.half_resolution_sources`` halves what the detector saw whole.
        min_iou: see above.
    """

    def __init__(
        self,
        folder: str,
        name: str = "{key}_keypoints.json",
        scale: float = 1.0,
        min_iou: float = MIN_IOU,
    ) -> None:
        if not Path(folder).is_dir():
            raise FileNotFoundError(
                f"adapt.evidence.folder={folder}: no such folder; give the one with the detector's "
                f"files, named {name}"
            )
        self.folder, self.name, self.scale, self.min_iou = Path(folder), name, scale, min_iou

    def __call__(self, batch: Batch) -> Tensor:
        """Read ``key``, ``box_img`` and ``crop_to_img``.

        Raises:
            FileNotFoundError: if an image has no file.
            ValueError: if one is not of this format.
        """
        boxes_img = batch["box_img"].float().cpu().numpy()
        img_to_crop = invert_affine(batch["crop_to_img"].double().cpu().numpy())
        evidence = np.zeros((len(boxes_img), len(joints.names("all")), 3), np.float32)
        for row, key in enumerate(_keys(batch)):
            joint_set, people = read_detections(self.folder / self.name.format(key=key))
            people = people * np.array([self.scale, self.scale, 1.0], np.float32)
            chosen = match(boxes_img[row], people, self.min_iou)
            if chosen is None:
                continue
            to_crop, found = img_to_crop[row], people[chosen]
            rows = joints.index(joints.names(joint_set), "all")
            evidence[row, rows, :2] = found[:, :2] @ to_crop[:, :2].T + to_crop[:, 2]
            evidence[row, rows, 2] = found[:, 2]
        return torch.from_numpy(evidence).to(batch["keypoints_crop"])


def _keys(batch: Batch) -> list[Any]:
    """The key of each view's image."""
    return [batch["key"][image] for image in batch["image_of_view"].tolist()]
