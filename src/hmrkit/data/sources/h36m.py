"""Human3.6M: the toolbox's images with the json labels that 3DMPPE and NeuralAnnot released.

``H36m`` reads ``images/s_01_act_02_subact_01_ca_01/s_01_act_02_subact_01_ca_01_000001.jpg`` (the
layout of H36M-Toolbox and 3DMPPE; numbers begin at 1) and, per subject,

* ``Human36M_subject1_camera.json``: ``{"1".."4": {R (3, 3), t (3,) mm, f (2,), c (2,) px}}``,
  ``x_cam = R x + t``, no lens distortion;
* ``Human36M_subject1_joint_3d.json``: ``{action: {subaction: {frame: (17, 3)}}}``, mm in the
  world, frames from 0;
* ``Human36M_subject1_SMPL_NeuralAnnot.json``: same keys, ``{pose (72,), shape (10,), trans (3,)}``,
  m in the world.

``Human36M_subject1_data.json`` repeats these files (image names, projected boxes); it is not read.

``H36mToolbox`` reads the lists that H36M-Toolbox itself writes, ``h36m_train.pkl`` and
``h36m_validation.pkl``: per image ``image``, ``joints_2d`` (17, 2) px with lens distortion,
``joints_3d_camera`` (17, 3) mm, ``camera`` with ``R``, ``T`` (``x_cam = R (x - T)``, mm), ``fx``,
``fy``, ``cx``, ``cy``. No bodies.

Rows of all of them are Human3.6M's: the right leg before the left. Ours are mapped by name.
"""

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from hmrkit.body import joints
from hmrkit.data.sources import rigs
from hmrkit.data.sources.official import Skipped, expect, image_path, read_image
from hmrkit.data.sources.pickles import read_pickle
from hmrkit.data.sources.rigs import Camera, Moment, RigRecords
from hmrkit.types import Sample

JOINT_SET = "h36m17"
_ROWS = (  # of the files
    "pelvis right_hip right_knee right_ankle left_hip left_knee left_ankle spine neck jaw head_top "
    "left_shoulder left_elbow left_wrist right_shoulder right_elbow right_wrist"
)
ROWS = tuple(f"h36m_{name}" for name in _ROWS.split())
_TO_OURS = [ROWS.index(name) for name in joints.names(JOINT_SET)]
_IMAGE = re.compile(r"s_(\d+)_act_(\d+)_subact_(\d+)_ca_(\d+)_(\d+)\.\w+$")
_MM = 1000.0


def to_h36m17(values: np.ndarray) -> np.ndarray:
    """Rows (..., 17, C) of Human3.6M in the order of ``h36m17``."""
    return np.asarray(values)[..., _TO_OURS, :]


def image_numbers(name: str) -> tuple[Moment, int] | None:
    """((subject, action, subaction, image number), camera) of an image's name."""
    found = _IMAGE.search(name)
    if found is None:
        return None
    subject, action, subaction, camera, number = map(int, found.groups())
    return (subject, action, subaction, number), camera


def moment_name(moment: Moment) -> str:
    """Key of a moment."""
    return "s_{:02d}_act_{:02d}_subact_{:02d}_{:06d}".format(*moment)


def record_name(moment: Moment, cameras: Sequence[int], kind: str) -> str:
    """Key of a record: the moment's name, for a single view that of its image."""
    if kind == "rigs":
        return moment_name(moment)
    return "s_{:02d}_act_{:02d}_subact_{:02d}_ca_{:02d}_{:06d}".format(
        *moment[:3], cameras[0], moment[3]
    )


class SubjectFiles:
    """The json files of the subjects, of one subject at a time.

    Args:
        folder: that holds them.
        with_smpl: read the bodies too.
    """

    where = (
        "They are 3DMPPE_POSENET_RELEASE's Human36M annotations and NeuralAnnot's SMPL parameters"
    )

    def __init__(self, folder: Path, with_smpl: bool) -> None:
        self.folder, self.with_smpl = folder, with_smpl
        self._subject = lru_cache(maxsize=1)(self._read_subject)

    def check(self, subjects: Collection[int]) -> None:
        """Look whether all files are there.

        Raises:
            FileNotFoundError: naming what is missing.
        """
        for subject in sorted(subjects):
            for part in ("camera", "joint_3d", "SMPL_NeuralAnnot")[: 2 + self.with_smpl]:
                expect(self.folder, f"Human36M_subject{subject}_{part}.json", self.where)

    def camera(self, subject: int, camera: int) -> Camera:
        """A camera of a subject, 1 to 4."""
        return self._subject(subject)[0][camera]

    def joints_world(self, moment: Moment) -> np.ndarray:
        """(17, 4) m and confidence, of ``h36m17``.

        Raises:
            Skipped: if the moment has none.
        """
        points = _look_up(self._subject(moment[0])[1], moment)
        if points is None:
            raise Skipped("no 3D joints for this frame", moment_name(moment))
        return to_h36m17(rigs.sure(np.asarray(points, np.float64) / _MM))

    def smpl(self, moment: Moment) -> Mapping[str, Any] | None:
        """``pose``, ``shape``, ``trans``, or None if there are none."""
        return _look_up(self._subject(moment[0])[2], moment)

    def _read_subject(self, subject: int) -> tuple[dict[int, Camera], dict, dict]:
        path = str(self.folder / f"Human36M_subject{subject}_")
        cameras = {int(name): _camera(one) for name, one in _read(path + "camera.json").items()}
        smpl = _read(path + "SMPL_NeuralAnnot.json") if self.with_smpl else {}
        return cameras, _read(path + "joint_3d.json"), smpl


def _read(path: str) -> dict:
    with open(path) as file:
        return json.load(file)


def _camera(values: Mapping[str, Any]) -> Camera:
    (fx, fy), (cx, cy) = values["f"], values["c"]
    intrinsics = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)
    return Camera(intrinsics, np.array(values["R"], np.float64), np.array(values["t"]) / _MM)


def _look_up(labels: Mapping[str, Any], moment: Moment) -> Any:
    _, action, subaction, number = moment
    frames = labels.get(str(action), {}).get(str(subaction), {})
    return frames.get(str(number - 1))


class H36m:
    """Images of the toolbox with the json labels.

    Args:
        subjects: 1, 5, 6, 7, 8 are for training, 9 and 11 for testing.
        images: folder of the images, below the input.
        annotations: folder of the json files, below the input.
        kind: ``rigs`` or ``crops``.
        cameras: 1 to 4.
        min_views: moments of a rig with fewer are skipped.
        frame_step: images 1, 1 + frame_step, ... are used; Human3.6M has 50 a second.
        with_smpl: carry NeuralAnnot's bodies.
        dropped_sequences: [subject, action, subaction] of damaged ones.
    """

    joint_set = JOINT_SET

    def __init__(
        self,
        subjects: Sequence[int],
        images: str = "images",
        annotations: str = "annotations",
        kind: str = "rigs",
        cameras: Sequence[int] = (1, 2, 3, 4),
        min_views: int = 4,
        frame_step: int = 5,
        with_smpl: bool = True,
        dropped_sequences: Sequence[Sequence[int]] = (),
    ) -> None:
        self.kind = rigs.check_kind(kind)
        self.images, self.annotations, self.with_smpl = images, annotations, with_smpl
        self.subjects, self.cameras = tuple(subjects), tuple(cameras)
        self.min_views, self.frame_step = min_views, frame_step
        self.dropped = {tuple(sequence) for sequence in dropped_sequences}

    def open(self, folder: Path) -> RigRecords:
        """List the records of a folder that holds ``images`` and ``annotations``.

        Raises:
            FileNotFoundError: if it holds something else.
        """
        where = "These are Human3.6M's videos as H36M-Toolbox or 3DMPPE write them out"
        found = expect(folder, f"{self.images}/s_*_act_*_subact_*_ca_*", where)
        names: dict[tuple[Moment, int], Path] = {}
        for one in found:
            for name in sorted(os.listdir(one)):
                numbers = image_numbers(name)
                if numbers is not None and self._is_used(numbers[0]):
                    names[numbers] = one / name
        subjects = {moment[0] for moment, _ in names}
        if not subjects:
            raise FileNotFoundError(
                f"{folder / self.images} holds {', '.join(one.name for one in found[:3])}, ...; "
                f"expected images of the subjects {list(self.subjects)}. {where}"
            )
        files = SubjectFiles(folder / self.annotations, self.with_smpl)
        files.check(subjects)
        min_views = self.min_views if self.kind == "rigs" else 1
        entries = rigs.list_rigs(names, self.cameras, min_views, dropped=self.dropped)

        def make(moment: Moment, cameras: Sequence[int]) -> Sample:
            return rigs.rig_sample(
                record_name(moment, cameras, self.kind),
                [read_image(names[moment, camera]) for camera in cameras],
                [files.camera(moment[0], camera) for camera in cameras],
                files.joints_world(moment),
                smpl=files.smpl(moment),
            )

        return RigRecords(entries, make, self.kind, self.joint_set)

    def _is_used(self, moment: Moment) -> bool:
        return moment[0] in self.subjects and (moment[3] - 1) % self.frame_step == 0


class H36mToolbox:
    """Images of H36M-Toolbox with the labels of its own pickles.

    Args:
        annotations: ``h36m_train.pkl`` or ``h36m_validation.pkl``, below the input.
        images: folder of the images, below the input.
        kind: ``rigs`` or ``crops``.
        cameras: 1 to 4.
        min_views: moments of a rig with fewer are skipped.
        frame_step: images 1, 1 + frame_step, ... are used; Human3.6M has 50 a second.
        dropped_sequences: [subject, action, subaction] of damaged ones.
    """

    joint_set = JOINT_SET

    def __init__(
        self,
        annotations: str,
        images: str = "images",
        kind: str = "rigs",
        cameras: Sequence[int] = (1, 2, 3, 4),
        min_views: int = 4,
        frame_step: int = 5,
        dropped_sequences: Sequence[Sequence[int]] = (),
    ) -> None:
        self.kind = rigs.check_kind(kind)
        self.annotations, self.images, self.cameras = annotations, images, tuple(cameras)
        self.min_views, self.frame_step = min_views, frame_step
        self.dropped = {tuple(sequence) for sequence in dropped_sequences}

    def open(self, folder: Path) -> RigRecords:
        """List the records of a folder that holds ``images`` and the pickle.

        Raises:
            FileNotFoundError, ValueError: if it holds something else.
        """
        where = "H36M-Toolbox's generate_labels.py writes it beside images/"
        (path,) = expect(folder, self.annotations, where)
        rows: dict[tuple[Moment, int], Mapping[str, Any]] = {}
        for row in read_pickle(path):
            numbers = image_numbers(row["image"])
            if numbers is not None and (numbers[0][3] - 1) % self.frame_step == 0:
                rows[numbers] = row
        min_views = self.min_views if self.kind == "rigs" else 1
        entries = rigs.list_rigs(rows, self.cameras, min_views, dropped=self.dropped)

        def make(moment: Moment, cameras: Sequence[int]) -> Sample:
            found = [rows[moment, camera] for camera in cameras]
            calibrated = [_toolbox_camera(row["camera"]) for row in found]
            joints_cam = to_h36m17(np.float64(found[0]["joints_3d_camera"])) / _MM
            return rigs.rig_sample(
                record_name(moment, cameras, self.kind),
                [read_image(image_path(folder / self.images, row["image"])) for row in found],
                calibrated,
                rigs.sure(calibrated[0].to_world(joints_cam)),
                rigs.sure(np.stack([to_h36m17(row["joints_2d"]) for row in found])),
            )

        return RigRecords(entries, make, self.kind, self.joint_set)


def _toolbox_camera(values: Mapping[str, Any]) -> Camera:
    fx, fy, cx, cy = (np.ravel(values[name])[0] for name in ("fx", "fy", "cx", "cy"))
    intrinsics = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)
    rotation = np.array(values["R"], np.float64)
    return Camera(intrinsics, rotation, -rotation @ np.ravel(values["T"]) / _MM)
