"""HeatFormer's databases of Human3.6M and MPI-INF-3DHP: calibrated rigs of four cameras.

The input is the folder that HeatFormer calls its root. Its databases are joblib files of arrays,
one row per image and camera; a record is one moment of the rig. Millimetres become metres.

Human3.6M: ``h36m_train_25fps_new_db.pt`` (``img_name``) and ``h36m_train_25fps_ex_db.pt``
(``center`` px, ``scale`` = width and height / 200 with their margin), joints, cameras and bodies in
the json files of ``h36m.py``. The database has a body per image too, ``pose`` (72,) in the axes of
its camera and ``shape`` (10,): that is the one of crops; a rig has the one of the json, in the
world. The other arrays are not used.

MPI-INF-3DHP: ``mpii3d_train_scale12_new_db.pt`` (``img_name``; ``bbox``, centre, width and height,
px, without margin); ``j3d_mpi_db.pt``: ``{(subject, sequence, camera, frame): (49, 3)}``, m in the
camera's axes, SPIN's 49 joints, frames from 0; ``camera.calibration``; NeuralAnnot's bodies, whose
frames begin at 1. Of the 49 joints those are kept that Human3.6M's 17 mean.

BEHAVE is in ``heatformer_behave.py``. HeatFormer's RICH database is read by none of its programs
and has no converter.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from hmrkit.body import joints
from hmrkit.data.sources import rigs
from hmrkit.data.sources.h36m import SubjectFiles, image_numbers, record_name
from hmrkit.data.sources.mpi_inf_3dhp import NeuralAnnot, read_calibration
from hmrkit.data.sources.official import (
    Skipped,
    center_size_to_box,
    expect,
    image_path,
    read_image,
)
from hmrkit.data.sources.pickles import read_joblib
from hmrkit.data.sources.rigs import Camera, Entry, Moment, RigRecords
from hmrkit.types import Sample

WHERE = "input= is HeatFormer's root, whose README says what to put below data/"
_MPI_IMAGE = re.compile(r"S(\d+)/Seq(\d+)/video_(\d+)/(\d+)\.\w+$")


class HeatFormerH36m:
    """Human3.6M with NeuralAnnot's bodies.

    Args:
        annotations: the database with the names of the images, below the input.
        boxes: that with the boxes.
        labels: folder of the json files.
        images: folder in front of the names of images.
        stripped_characters: how many of those names are cut off first.
        use_views: cameras, 1 to 4.
        min_views: moments with fewer are skipped.
        sampling_ratio: every so many-th good moment is used.
        dropped_sequences: [subject, action, subaction] of damaged ones.
        stored_margin: by which the stored boxes exceed the person.
        kind: ``rigs``, or ``crops`` for a record per view of the same moments.
    """

    joint_set = "h36m17"

    def __init__(
        self,
        annotations: str,
        boxes: str,
        labels: str = "data/preprocessed_data/extra_data",
        images: str = "data/dataset",
        stripped_characters: int = 10,
        use_views: Sequence[int] = (1, 2, 3, 4),
        min_views: int = 4,
        sampling_ratio: int = 10,
        dropped_sequences: Sequence[Sequence[int]] = (
            (9, 5, 2),
            (9, 10, 2),
            (9, 13, 1),
            (11, 2, 2),
        ),
        stored_margin: float = 1.2,
        kind: str = "rigs",
    ) -> None:
        self.kind = rigs.check_kind(kind)
        self.annotations, self.boxes, self.labels = annotations, boxes, labels
        self.images, self.stripped_characters = images, stripped_characters
        self.use_views, self.min_views = tuple(use_views), min_views
        self.sampling_ratio, self.stored_margin = sampling_ratio, stored_margin
        self.dropped = {tuple(sequence) for sequence in dropped_sequences}

    def open(self, folder: Path) -> RigRecords:
        """List the records.

        Raises:
            FileNotFoundError, ValueError: if the folder is not HeatFormer's root.
        """
        database = _arrays(folder, self.annotations, ["img_name", "pose", "shape"])
        names = database["img_name"].tolist()
        images = folder / self.images
        stored = _arrays(folder, self.boxes, ["center", "scale"])
        boxes = center_size_to_box(stored["center"], 200 * stored["scale"], self.stored_margin)
        rows = {}
        for row, name in enumerate(names):
            numbers = image_numbers(name)
            if numbers is None:
                raise ValueError(f"{self.annotations}: {name!r} is no image name of Human3.6M")
            rows[numbers] = row
        files = SubjectFiles(folder / self.labels, with_smpl=True)
        files.check({moment[0] for moment, _ in rows})

        def make(moment: Moment, cameras: Sequence[int]) -> Sample:
            found = [rows[moment, camera] for camera in cameras]
            calibrated = [files.camera(moment[0], camera) for camera in cameras]
            if self.kind == "rigs":
                smpl = files.smpl(moment)
            else:
                smpl = _body_world(calibrated[0], *(database[k][found[0]] for k in _BODY))
            return rigs.rig_sample(
                record_name(moment, cameras, self.kind),
                [
                    read_image(image_path(images, names[row][self.stripped_characters :]))
                    for row in found
                ],
                calibrated,
                files.joints_world(moment),
                box_img=boxes[found],
                smpl=smpl,
            )

        entries = rigs.list_rigs(
            rows, self.use_views, self.min_views, self.sampling_ratio, self.dropped
        )
        return RigRecords(entries, make, self.kind, self.joint_set)


_BODY = ("pose", "shape")


def _body_world(camera: Camera, pose_cam: np.ndarray, shape: np.ndarray) -> dict[str, np.ndarray]:
    """A body (72,), (10,) of a camera's axes in the world, where it is, unknown."""
    pose = np.array(pose_cam, np.float64)
    root = camera.rotation.T @ Rotation.from_rotvec(pose[:3]).as_matrix()
    pose[:3] = Rotation.from_matrix(root).as_rotvec()
    return {"pose": pose, "shape": shape}


class HeatFormerMpiInf3dhp:
    """MPI-INF-3DHP with NeuralAnnot's bodies.

    Args:
        annotations: the database with the names of the images and the boxes, below the input.
        joints: that with the joints.
        smpl: NeuralAnnot's file.
        calibration: folder of ``S1/Seq1/camera.calibration``.
        images: folder in front of the names of images.
        stripped_characters: how many of those names are cut off first.
        use_views: cameras.
        min_views: moments with fewer are skipped.
        sampling_ratio: every so many-th good moment is used.
        misfits: database of the moments whose bodies do not fit, or None; HeatFormer has one for
            each sampling ratio that it trains with.
        stored_margin: by which the stored boxes exceed the person.
    """

    kind = "rigs"
    joint_set = "h36m17"

    def __init__(
        self,
        annotations: str,
        joints: str = "data/preprocessed_data/j3d_mpi_db.pt",
        smpl: str = "data/preprocessed_data/extra_data/MPI-INF-3DHP_SMPL_NeuralAnnot.json",
        calibration: str = "mpi_inf_3dhp",
        images: str = "data/dataset/images_mpii3d",
        stripped_characters: int = 13,
        use_views: Sequence[int] = (0, 2, 7, 8),
        min_views: int = 4,
        sampling_ratio: int = 10,
        misfits: str | None = None,
        stored_margin: float = 1.0,
    ) -> None:
        self.annotations, self.joints, self.smpl = annotations, joints, smpl
        self.calibration, self.images = calibration, images
        self.stripped_characters, self.misfits = stripped_characters, misfits
        self.use_views, self.min_views = tuple(use_views), min_views
        self.sampling_ratio, self.stored_margin = sampling_ratio, stored_margin

    def open(self, folder: Path) -> RigRecords:
        """List the records.

        Raises:
            FileNotFoundError, ValueError: if the folder is not HeatFormer's root.
        """
        stored = _arrays(folder, self.annotations, ["img_name", "bbox"])
        names = stored["img_name"].tolist()
        images = folder / self.images
        boxes = center_size_to_box(stored["bbox"][:, :2], stored["bbox"][:, 2:], self.stored_margin)
        rows = {}
        for row, name in enumerate(names):
            found = _MPI_IMAGE.search(name)
            if found is None:
                raise ValueError(f"{self.annotations}: {name!r} is no image name of MPI-INF-3DHP")
            subject, sequence, camera, number = map(int, found.groups())
            rows[(subject, sequence, number), camera] = row
        points = read_joblib(*expect(folder, self.joints, WHERE))
        smpl = NeuralAnnot(*expect(folder, self.smpl, WHERE))

        @lru_cache
        def cameras_of(subject: int, sequence: int) -> dict[int, Camera]:
            name = f"{self.calibration}/S{subject}/Seq{sequence}/camera.calibration"
            return read_calibration(*expect(folder, name, WHERE))[0]

        def make(moment: Moment, cameras: Sequence[int]) -> Sample:
            found = [rows[moment, camera] for camera in cameras]
            calibrated = [cameras_of(*moment[:2])[camera] for camera in cameras]
            seen = [_mpi_joints(points, moment, camera) for camera in cameras]
            return rigs.rig_sample(
                "S{}-Seq{}-{:06d}".format(*moment),
                [
                    read_image(image_path(images, names[row][self.stripped_characters :]))
                    for row in found
                ],
                calibrated,
                rigs.sure(calibrated[0].to_world(seen[0])),
                rigs.sure(np.stack([c.to_img(p) for c, p in zip(calibrated, seen, strict=True)])),
                boxes[found],
                smpl(moment),
            )

        entries = rigs.list_rigs(rows, self.use_views, self.min_views, self.sampling_ratio)
        return RigRecords(self._without_misfits(folder, entries), make, self.kind, self.joint_set)

    def _without_misfits(self, folder: Path, entries: list[Entry]) -> list[Entry]:
        if self.misfits is None:
            return entries
        listed = read_joblib(*expect(folder, self.misfits, WHERE))
        misfits = {tuple(int(re.sub(r"\D", "", part)) for part in one) for one in listed}
        problem = "body is on the list of misfits"
        return [
            Entry(e.moment, e.cameras, e.problem or problem) if e.moment in misfits else e
            for e in entries
        ]


# What each of Human3.6M's 17 joints is among SPIN's 49.
_SPIN_OF_H36M = {name: name.replace("h36m_", "spin_") for name in joints.names("h36m17")} | {
    "h36m_jaw": "spin_head"
}
_ROWS_OF_49 = joints.index(_SPIN_OF_H36M.values(), "spin49")


def _mpi_joints(points: Any, moment: Moment, camera: int) -> np.ndarray:
    """(17, 3) m in the axes of the camera."""
    subject, sequence, number = moment
    key = (str(subject), str(sequence), str(camera), str(number - 1))
    if key not in points:
        raise Skipped("no 3D joints for this frame", "-".join(key))
    return np.asarray(points[key], np.float64)[_ROWS_OF_49]


def _arrays(folder: Path, name: str, needed: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays of a database.

    Raises:
        FileNotFoundError, ValueError: naming what is missing.
    """
    found = read_joblib(*expect(folder, name, WHERE))
    if not isinstance(found, dict) or not set(needed) <= set(found):
        have = sorted(map(str, found)) if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"{folder / name} has {have}; expected {list(needed)}")
    return {key: np.asarray(found[key]) for key in needed}
