"""EMDB, the official download: ``P*/<sequence>/*_data.pkl`` with ``images/00000.jpg``, ... beside.

A pickle holds ``name``, ``gender`` ("male", "female", "neutral"), ``emdb1`` and ``emdb2`` (which
subsets the sequence is in), ``n_frames``, ``good_frames_mask`` (F,), ``camera`` (``intrinsics``
(3, 3), ``extrinsics`` (F, 4, 4) world to camera), ``smpl`` in the world (``poses_root`` (F, 3),
``poses_body`` (F, 69), ``trans`` (F, 3), ``betas`` (10,)) and ``bboxes`` (``bboxes`` (F, 4) x1 y1
x2 y2 px, ``invalid_idxs``). 30 frames per second. The body is SMPL of its gender.

Records are in camera axes. Frames that are not good, or have no box inside the image, are
skipped.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hmrkit.body.gendered import GenderedBodies
from hmrkit.data.sources.official import Skipped, expect, gender_codes, read_image, record_key
from hmrkit.data.sources.pickles import read_pickle
from hmrkit.data.sources.placed_bodies import (
    JOINT_SET,
    bodies_to_camera,
    body_labels,
    check_bodies,
    image_size,
    is_inside,
)
from hmrkit.types import Sample

WHERE = (
    "It is at emdb.ait.ethz.ch, after an application: P0.zip to P9.zip, unpacked into one folder "
    "with P0 ... P9 in it."
)
_FRAMES_PER_S = 30.0
_SUBSETS = ("emdb1", "emdb2", "all")
_GENDERS = {"male": 0, "female": 1}


class Sequence(NamedTuple):
    """One video of one person."""

    folder: Path
    key: str
    pose: np.ndarray  # (F, 24, 3), world
    transl: np.ndarray  # (F, 3) m, world
    betas: np.ndarray  # (10,)
    gender: np.ndarray  # (1,)
    box_img: np.ndarray  # (F, 4)
    problem: list[str]  # why a frame is skipped, or ""
    world_to_camera: np.ndarray  # (F, 4, 4)
    intrinsics: np.ndarray  # (3, 3)


class Emdb:
    """One person in every frame.

    Args:
        subset: ``emdb1``, ``emdb2`` or ``all`` (sequences of neither are in ``all`` only).
        body_models: folder of the SMPL files.
    """

    kind = "crops"
    joint_set = JOINT_SET

    def __init__(self, subset: str, body_models: str) -> None:
        if subset not in _SUBSETS:
            raise ValueError(f"subset={subset}: expected one of {', '.join(_SUBSETS)}")
        self.subset = subset
        self.bodies = GenderedBodies(body_models)

    def open(self, folder: Path) -> "EmdbRecords":
        """Read the sequences of the subset, and the bodies that they need."""
        paths = expect(folder, "P*/*/*_data.pkl", WHERE)
        contents = ((path, _checked(path)) for path in paths)
        sequences = [
            _sequence(path, content)
            for path, content in contents
            if self.subset == "all" or bool(content[self.subset])
        ]
        if not sequences:
            raise ValueError(
                f"none of the {len(paths)} sequences in {folder} is in {self.subset}. {WHERE}"
            )
        check_bodies(self.bodies, np.concatenate([sequence.gender for sequence in sequences]))
        return EmdbRecords(sequences, self.bodies)


class EmdbRecords:
    """One record for every frame."""

    def __init__(self, sequences: list[Sequence], bodies: GenderedBodies) -> None:
        self._sequences, self._bodies = sequences, bodies
        self._first = np.cumsum([0] + [len(one.world_to_camera) for one in sequences])

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, index: int) -> Sample:
        """Make the record of one frame.

        Raises:
            Skipped: if it is not a good frame, has no box inside it, or there is no such file.
        """
        number = int(np.searchsorted(self._first, index, side="right")) - 1
        sequence, frame = self._sequences[number], int(index - self._first[number])
        path = sequence.folder / "images" / f"{frame:05d}.jpg"
        if sequence.problem[frame]:
            raise Skipped(sequence.problem[frame], str(path))
        image = read_image(path)
        if not is_inside(sequence.box_img[frame], image_size(image)):
            raise Skipped("the box is not inside the image", str(path))
        one, betas = slice(frame, frame + 1), sequence.betas[None]
        pose, transl = bodies_to_camera(
            self._bodies,
            sequence.pose[one],
            betas,
            sequence.transl[one],
            sequence.gender,
            sequence.world_to_camera[frame],
        )
        labels = body_labels(
            self._bodies, pose, betas, transl, sequence.gender, sequence.intrinsics
        )
        return {
            **labels,
            "key": record_key(f"{sequence.key}-{frame:05d}"),
            "images": [image],
            "image_of_view": np.zeros(1, np.int64),
            "person_of_view": np.zeros(1, np.int64),
            "box_img": sequence.box_img[one],
            "time_s": np.full(1, frame / _FRAMES_PER_S, np.float32),
        }


def _checked(path: Path) -> dict[str, Any]:
    content = read_pickle(path)
    needed = ("emdb1", "emdb2", "gender", "good_frames_mask", "camera", "smpl", "bboxes")
    missing = [key for key in needed if key not in content]
    if missing:
        raise ValueError(f"{path} has {sorted(content)}; expected {missing} too. {WHERE}")
    return content


def _sequence(path: Path, content: dict[str, Any]) -> Sequence:
    smpl, camera, boxes = content["smpl"], content["camera"], content["bboxes"]
    num = len(smpl["trans"])
    pose = np.concatenate([smpl["poses_root"], smpl["poses_body"]], axis=1)
    problem = ["" if good else "not a good frame" for good in content["good_frames_mask"]]
    for frame in np.ravel(boxes["invalid_idxs"]).astype(int).tolist():
        problem[frame] = problem[frame] or "the box is invalid"
    return Sequence(
        folder=path.parent,
        key=f"{path.parent.parent.name}-{path.parent.name}",
        pose=pose.reshape(num, 24, 3),
        transl=np.asarray(smpl["trans"]),
        betas=np.ravel(smpl["betas"])[:10],
        gender=gender_codes([content["gender"]], _GENDERS, path),
        box_img=np.asarray(boxes["bboxes"], np.float32),
        problem=problem,
        world_to_camera=np.asarray(camera["extrinsics"], np.float64),
        intrinsics=np.asarray(camera["intrinsics"], np.float64),
    )
