"""BEDLAM as TokenHMR packs it in tars -> records; the labels are those that TokenHMR makes of it.

A key of a tar is an image and ``.data.pyd``, a pickled list of one dict per person. Read:
``center`` (2,) px and ``scale``, side / 200 px; ``pose_cam`` (72,) or longer, axis-angle with the
root in camera axes; ``shape`` (10,) or longer; ``trans_cam`` (3,) m; ``cam_ext`` (4, 4);
``cam_int`` (3, 3) px. As in TokenHMR the body is the NEUTRAL one whatever the stored gender, its
translation is ``trans_cam + cam_ext[:3, 3]``, and the joints of set ``spin44`` are that body's,
with confidence 1, also where they are occluded; those behind the camera are absent from the image.
``gtkps`` is not read.

The images of close-ups (``closeup`` in the key) were rendered lying on their side: they are turned
clockwise, which the labels are for already; in shards they are therefore compressed anew.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from hmrkit.body.gendered import GenderedBodies
from hmrkit.data.in_place import Counted
from hmrkit.data.record import BadRecord, decode_image
from hmrkit.data.sources.official import Skipped, record_key
from hmrkit.data.sources.tars import (
    LABELS,
    TarRecords,
    boxes_of,
    find_tars,
    image_of,
    options_signature,
    read_people,
    stacked,
)
from hmrkit.types import Sample

_WHERE = (
    "TokenHMR's tars of BEDLAM lie in one folder per scene, bedlam/<scene>/*.tar; give the folder "
    "that holds bedlam/."
)
_CLOSEUP = "closeup"
_NEAREST_M = 0.05  # of a joint before the camera that can be projected


@dataclasses.dataclass(frozen=True)
class BedlamTars:
    """Converter, and hook for the use in place, of TokenHMR's tars of BEDLAM.

    Args:
        body_models: folder of the neutral SMPL body.
        joint_regressor: file in it that measures the 19 joints of spin44 that are not OpenPose's:
            SMPL_to_J19.pkl, as TokenHMR does. None: the body's own (J_regressor_extra.npy).
        tars: glob patterns below the folder.
        leave_out: words; a tar with one of them in its path is not read. TokenHMR: agora.
        exclude_keys: keys of images to leave out.
        stored_margin: margin that the stored boxes have around tight ones.
        index_folder: for the indices of tars in folders that cannot be written.
    """

    body_models: str
    joint_regressor: str | None
    tars: Sequence[str]
    leave_out: Sequence[str] = ("agora",)
    exclude_keys: Sequence[str] = ()
    stored_margin: float = 1.0
    index_folder: str | None = None

    kind = "scenes"
    joint_set = "spin44"
    label_files = (LABELS,)

    def find(self, folder: Path) -> list[Path]:
        """The tars of a download."""
        return find_tars(folder, self.tars, self.leave_out, _WHERE)

    def open(self, folder: Path) -> TarRecords:
        """The records of a download; the first time, its tars are read once and indexed."""
        tars = self.find(folder)
        self.announce()
        return TarRecords(folder, tars, self)

    def announce(self) -> None:
        """Read the body, so that what is missing shows at once."""
        _body(self.body_models, self.joint_regressor)

    def signature(self) -> str:
        """What decides who is left, as text."""
        return options_signature(
            self, ("body_models", "joint_regressor", "tars", "leave_out", "index_folder")
        )

    def count(self, members: Mapping[str, bytes], key: str) -> Counted:
        """See ``TarConverter``."""
        num = len(self._people(members, key))
        names = ("keypoints_img", "keypoints_world", "pose", "betas", "transl")
        return Counted(num, {"intrinsics": 1, **dict.fromkeys(names, num)}, {})

    def decode(self, members: Mapping[str, bytes], key: str) -> Sample:
        """See ``TarConverter``."""
        people = self._people(members, key)
        num = len(people)
        intrinsics = stacked(people, "cam_int", (3, 3))
        if not np.allclose(intrinsics, intrinsics[0]):
            raise ValueError("cam_int differs among the people of one image")
        labels = {
            "pose": _first(people, "pose_cam", 72).reshape(num, 24, 3),
            "betas": _first(people, "shape", 10),
            "transl": stacked(people, "trans_cam", (3,))
            + stacked(people, "cam_ext", (4, 4))[:, :3, 3],
        }
        gender = np.full(num, -1)
        bodies = _body(self.body_models, self.joint_regressor)
        joints_cam = bodies.joints(**labels, gender=gender, joint_set=self.joint_set)
        image: Any = image_of(members)
        if _CLOSEUP in key:
            image = np.ascontiguousarray(np.rot90(_decoded(image, key), k=-1))
        return {
            "key": record_key(f"{key}."),
            "images": [image],
            "intrinsics": intrinsics[:1],
            "image_of_view": np.zeros(num, np.int64),
            "person_of_view": np.arange(num),
            "box_img": boxes_of(people, self.stored_margin),
            "keypoints_img": _projected(joints_cam, intrinsics),
            "keypoints_world": np.pad(joints_cam, ((0, 0), (0, 0), (0, 1)), constant_values=1),
            "has_pose": np.ones(num, bool),
            "has_betas": np.ones(num, bool),
            "gender": gender,
            **labels,  # type: ignore[typeddict-item]
        }

    def _people(self, members: Mapping[str, bytes], key: str) -> list[Mapping[str, Any]]:
        if key in self.exclude_keys:
            raise Skipped("excluded by exclude_keys", key)
        people = read_people(members, key)
        if not people:
            raise Skipped("nobody is left: nobody is labelled", key)
        return people


def _first(people: Sequence[Mapping[str, Any]], name: str, number: int) -> np.ndarray:
    """The first numbers of a field of all people, (P, number) float32."""
    short = [{name: np.ravel(one[name])[:number]} for one in people]
    return stacked(short, name, (number,))


def _projected(points_cam: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Points (P, K, 3) as keypoints (P, K, 3), px + confidence; absent if behind the camera."""
    homogeneous = points_cam.astype(np.float64) @ intrinsics[0].astype(np.float64).T
    is_before = points_cam[..., 2] > _NEAREST_M
    depth = np.where(is_before, homogeneous[..., 2], np.nan)[..., None]
    keypoints = np.concatenate([homogeneous[..., :2] / depth, is_before[..., None]], axis=-1)
    return keypoints.astype(np.float32)


def _decoded(image: bytes, key: str) -> np.ndarray:
    try:
        return decode_image(image)
    except ValueError as error:
        raise BadRecord("", key, f"image cannot be decoded: {error}", "image") from error


@lru_cache(maxsize=2)
def _body(folder: str, joint_regressor: str | None) -> GenderedBodies:
    """The neutral body, read once per process.

    Raises:
        FileNotFoundError: if it is not there.
    """
    path = None if joint_regressor is None else Path(folder) / joint_regressor
    if path is not None and not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: TokenHMR measures its labels of BEDLAM with SMPL_to_J19.pkl, "
            "which is in the data of 4D-Humans and TokenHMR; joint_regressor=null takes the body's "
            "own joints"
        )
    bodies = GenderedBodies(folder, path)
    bodies[-1].joints  # noqa: B018 (reads the file)
    return bodies
