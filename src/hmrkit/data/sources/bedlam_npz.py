"""BEDLAM, the official training labels: one npz per sequence, one row per person and image.

``imgname`` (below the sequence's ``png`` folder), ``pose_cam``, ``shape``, ``trans_cam``,
``cam_ext`` (4, 4), ``cam_int`` (3, 3), ``gtkps`` (projected joints). The body stands at
``trans_cam + cam_ext[:3, 3]`` before the camera; its ``pose_cam`` is in camera axes already. The
parameters are those of the neutral body, whatever ``gender`` says. ``cam_int`` is for 1280 x 720
pixels, or 720 x 1280 for sequences with "closeup" in their name: their images are stored lying on
their side and turned here. AGORA's npz in the same archive are for images of other names: leave
them out.

Files with SMPL (``pose_cam`` of 72 numbers) give everything. Files with SMPL-X (165 numbers, 11
coefficients of its own shape space) give the joints in the image: the 22 of ``gtkps`` that the two
bodies share, which SMPL-X measures up to two centimetres elsewhere.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hmrkit.body import joints
from hmrkit.body.gendered import GenderedBodies
from hmrkit.data.sources.official import (
    Skipped,
    expect,
    group_rows,
    image_path,
    npz_shape,
    read_arrays,
    read_image,
)
from hmrkit.data.sources.placed_bodies import JOINT_SET, body_labels, check_bodies
from hmrkit.data.sources.scene_people import scene_record, turn_clockwise
from hmrkit.types import Sample

WHERE = (
    "After registration at bedlam.is.tue.mpg.de: the images of the sequences (*.tar, unpacked into "
    "one folder) and the training labels (an archive of *.npz)."
)
_KEYS = {  # by the numbers of a pose: SMPL and SMPL-X
    72: ("imgname", "cam_int", "pose_cam", "shape", "trans_cam", "cam_ext"),
    165: ("imgname", "cam_int", "gtkps"),
}
_NUM_BETAS = 10
_SHARED = joints.index([n for n in joints.names("smpl24") if not n.endswith("_hand")], JOINT_SET)


class _Sequence(NamedTuple):
    """The labels of one sequence."""

    path: Path
    arrays: dict[str, np.ndarray]
    groups: list[tuple[str, np.ndarray]]  # rows of every image


class BedlamNpz:
    """Scenes: every image of the sequences.

    Args:
        annotations: pattern of the npz files, below the input.
        images: folder that holds the sequences' folders, below the input; "." for the input.
        turned: sequences with this in their name are turned clockwise by a quarter; None for none.
        body_models: folder of the SMPL files.
    """

    kind = "scenes"
    joint_set = JOINT_SET

    def __init__(self, annotations: str, images: str, turned: str | None, body_models: str) -> None:
        self.annotations, self.images, self.turned = annotations, images, turned
        self.bodies = GenderedBodies(body_models)

    def open(self, folder: Path) -> "BedlamRecords":
        """Read the labels, and the body that they need."""
        paths = expect(folder, self.annotations, WHERE)
        images = folder if self.images == "." else expect(folder, self.images, WHERE)[0]
        sequences = [_read(path) for path in paths]
        if any(_has_smpl(sequence) for sequence in sequences):
            check_bodies(self.bodies, np.full(1, -1))
        return BedlamRecords(images, sequences, self)


class BedlamRecords:
    """One record for every image, sequence by sequence.

    Attributes:
        left_out: the people that the record made last lacks.
    """

    def __init__(self, images: Path, sequences: list[_Sequence], options: BedlamNpz) -> None:
        self.images, self.options = images, options
        self._sequences = sequences
        self._first = np.cumsum([0] + [len(sequence.groups) for sequence in sequences])
        self.left_out: list[Skipped] = []

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, index: int) -> Sample:
        """Make the record of one image.

        Raises:
            Skipped: if nobody in it is seen, or there is no such file.
        """
        number = int(np.searchsorted(self._first, index, side="right")) - 1
        sequence = self._sequences[number]
        image_name, rows = sequence.groups[index - int(self._first[number])]
        name = f"{sequence.path.stem}/png/{image_name}"
        self.left_out = []
        image: Any = read_image(image_path(self.images, name))
        if self.options.turned is not None and self.options.turned in sequence.path.stem:
            image = turn_clockwise(image)
        if _has_smpl(sequence):
            labels = _smpl_labels(self.options.bodies, sequence.arrays, rows)
        else:
            labels = _smplx_labels(sequence.arrays, rows)
        record, self.left_out = scene_record(name, image, labels)
        return record


def _read(path: Path) -> _Sequence:
    shape = npz_shape(path, "pose_cam") or ()
    keys = _KEYS.get(shape[-1]) if shape else None
    if keys is None:
        raise ValueError(
            f"{path} has pose_cam of shape {shape}; expected (N, 72), SMPL, or (N, 165), SMPL-X. "
            f"{WHERE}"
        )
    arrays = read_arrays(path, keys, only_needed=True)
    return _Sequence(path, arrays, group_rows(arrays["imgname"]))


def _has_smpl(sequence: _Sequence) -> bool:
    return "pose_cam" in sequence.arrays


def _smpl_labels(bodies: GenderedBodies, arrays: dict[str, np.ndarray], rows: np.ndarray) -> Sample:
    return body_labels(
        bodies,
        arrays["pose_cam"][rows].reshape(-1, 24, 3),
        arrays["shape"][rows, :_NUM_BETAS],
        arrays["trans_cam"][rows] + arrays["cam_ext"][rows, :3, 3],
        np.full(len(rows), -1, np.int64),
        arrays["cam_int"][rows[0]],
    )


def _smplx_labels(arrays: dict[str, np.ndarray], rows: np.ndarray) -> Sample:
    keypoints = np.zeros((len(rows), len(joints.names(JOINT_SET)), 3), np.float32)
    keypoints[..., :2] = np.nan
    keypoints[:, _SHARED, :2] = arrays["gtkps"][rows][:, : len(_SHARED), :2]
    keypoints[:, _SHARED, 2] = 1
    return {
        "keypoints_img": keypoints,
        "intrinsics": arrays["cam_int"][rows[:1]].astype(np.float32),
    }
