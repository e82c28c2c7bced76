"""COCO's keypoint annotations, and CrowdPose's and PoseTrack18's, which have the same form.

A json holds ``images`` (``id``, ``file_name``; COCO and CrowdPose ``width``, ``height``),
``annotations`` (``id``, ``image_id``, ``keypoints`` x y v of every joint, ``bbox`` x y width and
height px; COCO ``iscrowd``; PoseTrack ``track_id``) and ``categories``, whose ``keypoints`` name
the joints. v is 0: not labelled, 1: occluded, 2: visible (PoseTrack: 1 labelled); every labelled
joint has confidence 1. Pixels count from 0.

COCO has one file per split, PoseTrack18 one per video (its ears are never labelled, frames without
labels are left out, the frame rate is not in the files). Groups marked ``iscrowd`` are left out and
counted.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from hmrkit.data.sources.official import expect
from hmrkit.data.sources.photos import JointOrder, People, PhotoRecords, image_folder
from hmrkit.data.sources.pseudo_labels import PseudoLabels

_KEPT = ("id", "image_id", "keypoints", "bbox", "iscrowd", "track_id")


class Coco:
    """Scenes with everyone who has keypoints.

    Args:
        annotations: the json files, relative to the download (a pattern).
        images: folder that ``file_name`` is relative to; "." for the download itself.
        where: where users get it, for messages.
        joint_set: of the records.
        prefix: whose limbs and face the joints are taken for: ``spin`` (SPIN, PyMAF, Meta-HMR) or
            ``openpose`` (4D-Humans, TokenHMR; with ``joint_set=spin44``).
        min_joints: people with fewer labelled joints are left out.
        min_limb_joints: likewise, of the 12 shoulders, elbows, wrists, hips, knees and ankles
            (SPIN and 4D-Humans: 12).
        smpl_labels: file of fitted bodies (``pseudo_labels.py``), relative to the download, or
            None.
        only_with_smpl: leave out people without a fit.

    Raises:
        ValueError: for options that cannot be.
    """

    kind = "scenes"

    def __init__(
        self,
        annotations: str,
        images: str,
        where: str,
        joint_set: str,
        prefix: str = "spin",
        min_joints: int = 1,
        min_limb_joints: int = 0,
        smpl_labels: str | None = None,
        only_with_smpl: bool = False,
    ) -> None:
        if only_with_smpl and smpl_labels is None:
            raise ValueError("only_with_smpl=true needs smpl_labels=<file of fitted bodies>")
        self.annotations, self.images, self.where = annotations, images, where
        self.joint_set, self.prefix = joint_set, prefix
        self.min_joints, self.min_limb_joints = min_joints, min_limb_joints
        self.smpl_labels, self.only_with_smpl = smpl_labels, only_with_smpl

    def open(self, folder: Path) -> PhotoRecords:
        """Read all annotations of a download."""
        files = expect(folder, self.annotations, self.where)
        photos = image_folder(folder, self.images, self.where)
        fits = None
        if self.smpl_labels is not None:
            fits = PseudoLabels(expect(folder, self.smpl_labels, "It is not part of COCO.")[0])
        people = People()
        for path in files:
            self._read(path, people, fits)
        return PhotoRecords(photos, people)

    def _read(self, path: Path, people: People, fits: PseudoLabels | None) -> None:
        try:
            content = json.loads(path.read_bytes(), object_hook=_compact)
            photos = {photo["id"]: photo for photo in content["images"] if photo["file_name"]}
            names = next(c["keypoints"] for c in content["categories"] if "keypoints" in c)
            annotations = content["annotations"]
        except (ValueError, KeyError, TypeError, StopIteration) as error:
            raise ValueError(
                f"{path} is no keypoint annotation in COCO's form ({error!r}): expected images, "
                f"annotations, and categories with keypoints. {self.where}"
            ) from error
        order = JointOrder(names, self.joint_set, self.prefix)
        for annotation in annotations:
            photo = photos.get(annotation.get("image_id"))
            if photo is None:
                unknown = f"image_id={annotation.get('image_id')}"
                people.leave_out(unknown, "the file does not list the image")
                continue
            reason = self._add(annotation, photo, order, people, fits)
            if reason is not None:
                people.leave_out(photo["file_name"], reason)

    def _add(
        self,
        annotation: dict[str, Any],
        photo: dict[str, Any],
        order: JointOrder,
        people: People,
        fits: PseudoLabels | None,
    ) -> str | None:
        """Add a person, or say why not."""
        if annotation.get("iscrowd"):
            return "a group, not a person (iscrowd)"
        if np.size(annotation.get("keypoints")) != 3 * len(order.positions):
            return f"no {len(order.positions)} keypoints"
        keypoints = annotation["keypoints"].reshape(-1, 3)
        keypoints[:, 2] = keypoints[:, 2] > 0
        if keypoints[:, 2].sum() < self.min_joints:
            return f"fewer than {self.min_joints} labelled joints"
        if order.num_limb_joints(keypoints) < self.min_limb_joints:
            return f"fewer than {self.min_limb_joints} labelled joints of arms and legs"
        labels = {}
        if fits is not None:
            if not {"height", "width"} <= photo.keys():
                return "the file does not say how large the image is"
            labels = fits.labels(annotation.get("id"), (photo["height"], photo["width"]))
            if self.only_with_smpl and not labels["has_pose"]:
                return "no fitted body"
        if annotation.get("track_id") is not None:
            labels["person_id"] = np.int64(annotation["track_id"])
        x, y, width, height = annotation.get("bbox") or (0, 0, 0, 0)
        box = np.array([x, y, x + width, y + height], np.float32)
        people.add(photo["file_name"], order.place(keypoints), box, **labels)
        return None


def _compact(entry: dict[str, Any]) -> dict[str, Any]:
    """An annotation without outlines, joints as an array: the whole file would take gigabytes."""
    if "image_id" not in entry or "keypoints" not in entry:
        return entry
    kept = {name: entry[name] for name in _KEPT if name in entry}
    return {**kept, "keypoints": np.array(entry["keypoints"], np.float32)}
