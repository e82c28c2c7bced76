"""MPII Human Pose: the official Matlab file, or the common json made of it.

The Matlab file's ``RELEASE.annolist(i)`` has an ``image.name`` and people ``annorect(j)`` with
``annopoints.point(k)`` (``x``, ``y``, ``id``; ids 0 to 15 in the order of joint set ``mpii16``),
``objpos`` (``x``, ``y``) and ``scale``, the person's height over 200 px. Images of the test set
(``img_train`` 0) have no joints. The json (``train.json``, ``valid.json`` of the HRNet release) is
a list of people: ``image``, ``joints`` (16, 2), ``joints_vis`` (16,), ``center`` and ``scale``. In
both, pixels count from 1 as Matlab does, and labelled joints have confidence 1 whether seen or not.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from hmrkit.data.sources.official import absent_to_nan, center_size_to_box, expect
from hmrkit.data.sources.photos import People, PhotoRecords, image_folder

WHERE = (
    "It is on the download page of human-pose.mpi-inf.mpg.de: images (mpii_human_pose_v1.tar.gz, "
    "folder images) and annotations (mpii_human_pose_v1_u12_2.zip), unpacked beside each other."
)
_NUM_JOINTS = 16
_HEIGHT_PX = 200.0  # of a person of scale 1


class Mpii:
    """Scenes with everyone who has joints.

    Args:
        annotations: the ``.mat`` or ``.json``, relative to the download.
        images: folder of the images.
        box: ``position``: the square of ``scale * 200`` px around the given position; ``joints``:
            the tight box of the labelled joints.
        stored_margin: margin that is in the square and is taken out.
        first_pixel: coordinate of the image's first pixel in the file; 0 keeps the numbers as SPIN
            and its descendants do.
        min_joints: people with fewer labelled joints are left out (SPIN: all 16).
    """

    kind = "scenes"
    joint_set = "mpii16"

    def __init__(
        self,
        annotations: str,
        images: str,
        box: str,
        stored_margin: float,
        first_pixel: float,
        min_joints: int,
    ) -> None:
        if box not in ("position", "joints"):
            raise ValueError(f"box={box}: expected position or joints")
        self.annotations, self.images = annotations, images
        self.box, self.stored_margin, self.first_pixel = box, stored_margin, first_pixel
        self.min_joints = min_joints

    def open(self, folder: Path) -> PhotoRecords:
        """Read all annotations of a download."""
        path = expect(folder, self.annotations, WHERE)[0]
        photos = image_folder(folder, self.images, WHERE)
        people = People()
        try:
            rows = _read_json(path) if path.suffix == ".json" else _read_mat(path)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not MPII's annotation ({error!r}). {WHERE}") from error
        for photo, joints_px, center_px, scale in rows:
            self._add(people, photo, joints_px, center_px, scale)
        return PhotoRecords(photos, people)

    def _add(
        self, people: People, photo: str, joints_px: np.ndarray, center_px: np.ndarray, scale: float
    ) -> None:
        if (joints_px[:, 2] > 0).sum() < self.min_joints:
            return people.leave_out(photo, f"fewer than {self.min_joints} labelled joints")
        keypoints = joints_px - np.array([self.first_pixel, self.first_pixel, 0])
        box = None
        if self.box == "position":
            side_px = np.float64(scale * _HEIGHT_PX)
            box = center_size_to_box(center_px - self.first_pixel, side_px, self.stored_margin)
        return people.add(photo, absent_to_nan(keypoints), box)


_Row = tuple[str, np.ndarray, np.ndarray, float]  # image, (16, 3) joints, (2,) position, scale


def _read_json(path: Path) -> list[_Row]:
    rows = []
    for person in json.loads(path.read_bytes()):
        joints = np.column_stack([person["joints"], np.array(person["joints_vis"]) > 0])
        center = np.array(person["center"], np.float64)
        rows.append((person["image"], joints.reshape(_NUM_JOINTS, 3), center, person["scale"]))
    return rows


def _read_mat(path: Path) -> list[_Row]:
    release = loadmat(path, struct_as_record=False, squeeze_me=True)["RELEASE"]
    rows = []
    for photo, is_train in zip(
        np.atleast_1d(release.annolist), np.atleast_1d(release.img_train), strict=True
    ):
        if is_train:
            people = np.atleast_1d(photo.annorect)
            rows += [_person(str(photo.image.name), person) for person in people]
    return rows


def _person(photo: str, person: Any) -> _Row:
    joints = np.zeros((_NUM_JOINTS, 3))
    points = getattr(getattr(person, "annopoints", None), "point", ())
    for point in np.atleast_1d(points):
        joints[int(point.id)] = point.x, point.y, 1
    position = getattr(person, "objpos", None)
    if not hasattr(position, "x"):  # empty where nobody measured it
        return photo, joints, np.full(2, np.nan), np.nan
    return photo, joints, np.array([position.x, position.y], np.float64), float(person.scale)
