"""AGORA, the official download: camera dataframes, SMPL fits and images.

A dataframe has one row per image: ``imgPath``, ``camX`` ``camY`` ``camZ`` (cm) and ``camYaw``
(degrees) of the camera, and lists with an entry for every person: ``X`` ``Y`` ``Z`` (cm), ``Yaw``
(degrees), ``kid``, ``isValid``, ``occlusion`` (percent), ``gt_path_smpl``. A fit is a pickle of
arrays or torch tensors: ``betas`` (1, 10) or, of a child, (1, 11), ``body_pose`` (1, 69),
``global_orient`` or ``root_pose``, ``transl`` or ``translation``, metres, in the frame of a scan.
The world is Unreal's: x forward, y right, z up.

The dataframe says where the camera is only for part of the scenes; for the others its place, pitch
and focal length follow from the name of the image (``_camera``). All fits are of the neutral body.
Records are in camera axes. A child's 11th coefficient mixes in another template: joints are those
of the body with it, and pose is a label; betas and transl are not, for SMPL without it has none.
People marked as invalid (more than 90 % occluded) are left out.
"""

from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from hmrkit.body.files import smpl_body
from hmrkit.body.gendered import GenderedBodies
from hmrkit.body.smpl import SMPL
from hmrkit.data.sources.dataframes import read_dataframe
from hmrkit.data.sources.official import Skipped, expect, image_path, read_image
from hmrkit.data.sources.pickles import read_pickle
from hmrkit.data.sources.placed_bodies import (
    JOINT_SET,
    bodies_to_camera,
    body_labels,
    check_bodies,
)
from hmrkit.data.sources.scene_people import scene_record
from hmrkit.types import Sample

WHERE = (
    "After registration at agora.is.tue.mpg.de: the camera dataframes (Cam, without joints and "
    "vertices), the SMPL fits and the images, all images of a split unpacked into one folder."
)
_SENSOR_WIDTH_MM = 36.0
_SMALL_WIDTH = 1280
_NUM_BETAS = 10
_SHARED = ("imgPath", "camX", "camY", "camZ", "camYaw")
_LISTS = ("X", "Y", "Z", "Yaw", "kid", "isValid", "occlusion", "gt_path_smpl")
_SCAN_TO_CAMERA = np.diag([1.0, -1.0, -1.0])  # y up and z back to y down and z forward


class _Camera(NamedTuple):
    """The camera of an image, in Unreal's axes."""

    focal_mm: float
    place_cm: tuple[float, float, float]
    yaw_deg: float = 0.0
    pitch_deg: float = 0.0
    height_m: float = 0.0  # above the given place


# Cameras of scenes by what is in the image's name; the first that fits holds.
_CAMERAS = {
    "hdri": _Camera(50, (0, 0, 170)),
    "cam00": _Camera(18, (400, -275, 265), 135, 30),
    "cam01": _Camera(18, (400, 225, 265), -135, 30),
    "cam02": _Camera(18, (-490, 170, 265), -45, 30),
    "cam03": _Camera(18, (-490, -275, 265), 45, 30),
    "ag2": _Camera(28, (0, 0, 170), 0, 15),
}


class KidBodies(GenderedBodies):
    """The neutral body with AGORA's 11th shape coefficient, for every gender.

    Args:
        folder: of the body files.
        template: smpl_kid_template.npy.
    """

    def __init__(self, folder: str | Path, template: str | Path) -> None:
        super().__init__(folder)
        self.template = template

    def __getstate__(self) -> dict[str, object]:
        """Leave the body behind: every process reads its own."""
        return {**super().__getstate__(), "template": self.template}

    def __getitem__(self, gender: int) -> SMPL:
        """The body, whatever the gender."""
        return self._body

    @cached_property
    def _body(self) -> SMPL:
        return smpl_body(self.folder, "neutral", kid_template=self.template)


class Agora:
    """Scenes: every image of a split.

    Args:
        dataframes: pattern of the camera dataframes, below the input.
        fits: folder that ``gt_path_smpl`` is relative to, below the input; "." for the input.
        images: folder of the images.
        size: of the images, width and height: [1280, 720] or [3840, 2160].
        with_kids: keep children, which needs ``kid_template``.
        kid_template: smpl_kid_template.npy, or null.
        body_models: folder of the SMPL files.
    """

    kind = "scenes"
    joint_set = JOINT_SET

    def __init__(
        self,
        dataframes: str,
        fits: str,
        images: str,
        size: tuple[int, int],
        with_kids: bool,
        kid_template: str | None,
        body_models: str,
    ) -> None:
        if with_kids and kid_template is None:
            raise ValueError("with_kids=true needs kid_template=<smpl_kid_template.npy>")
        self.dataframes, self.fits, self.images = dataframes, fits, images
        self.width, self.height = size
        self.with_kids = with_kids
        self.bodies = GenderedBodies(body_models)
        self.kids = KidBodies(body_models, kid_template) if kid_template is not None else None

    def open(self, folder: Path) -> "AgoraRecords":
        """Read the dataframes, and the bodies that they need."""
        paths = expect(folder, self.dataframes, WHERE)
        images, fits = (
            folder if part == "." else expect(folder, part, WHERE)[0]
            for part in (self.images, self.fits)
        )
        rows = [row for path in paths for row in _read_rows(path)]
        check_bodies(self.bodies, np.full(1, -1))
        if self.with_kids and self.kids is not None:
            self.kids[-1]  # read now
        return AgoraRecords(images, fits, sorted(rows, key=lambda row: row["imgPath"]), self)


class AgoraRecords:
    """One record for every image, sorted by name.

    Attributes:
        left_out: the people that the record made last lacks.
    """

    def __init__(
        self, images: Path, fits: Path, rows: list[dict[str, Any]], options: Agora
    ) -> None:
        self.images, self.fits, self.options = images, fits, options
        self._rows = rows
        self.left_out: list[Skipped] = []

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        """Make the record of one image.

        Raises:
            Skipped: if nobody in it can be used, or there is no such file.
        """
        row, name = self._rows[index], self._image_name(index)
        self.left_out = []
        people = [i for i in range(len(row["isValid"])) if self._is_kept(row, i, name)]
        if not people:
            raise Skipped("nobody in the image is valid", name)
        record, unseen = scene_record(
            name, read_image(image_path(self.images, name)), self._labels(row, people)
        )
        self.left_out += unseen
        return record

    def _image_name(self, index: int) -> str:
        name, marker = str(self._rows[index]["imgPath"]), "_1280x720.png"
        is_small = self.options.width == _SMALL_WIDTH
        return name.replace(".png", marker) if is_small and not name.endswith(marker) else name

    def _is_kept(self, row: dict[str, Any], person: int, name: str) -> bool:
        reason = None
        if not row["isValid"][person]:
            reason = "marked as invalid"
        elif row["kid"][person] and not self.options.with_kids:
            reason = "a child"
        elif not self._fit_path(row, person).is_file():
            reason = "there is no SMPL fit"
        if reason is not None:
            self.left_out.append(Skipped(f"somebody in an image: {reason}", name))
        return reason is None

    def _fit_path(self, row: dict[str, Any], person: int) -> Path:
        return (self.fits / row["gt_path_smpl"][person]).with_suffix(".pkl")

    def _labels(self, row: dict[str, Any], people: list[int]) -> Sample:
        """Labels of some people of an image, in their order."""
        parts, order = [], []
        for is_kid in (False, True):
            group = [person for person in people if bool(row["kid"][person]) == is_kid]
            if group:
                parts.append(self._group_labels(row, group, is_kid))
                order += group
        joined: Any = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        joined = {name: values[np.argsort(order)] for name, values in joined.items()}
        return {**joined, "intrinsics": parts[0]["intrinsics"]}

    def _group_labels(self, row: dict[str, Any], people: list[int], is_kid: bool) -> Sample:
        """Labels of adults or of children."""
        bodies = self.options.kids if is_kid else self.options.bodies
        assert bodies is not None
        fits = [_read_fit(self._fit_path(row, person)) for person in people]
        betas = np.stack([fit.betas[: _NUM_BETAS + is_kid] for fit in fits])
        camera, gender = _camera(row), np.full(len(people), -1, np.int64)
        motions = np.stack([_scan_to_camera(row, person, camera) for person in people])
        pose, transl = (np.stack([fit[part] for fit in fits]) for part in (0, 1))
        pose, transl = bodies_to_camera(bodies, pose, betas, transl, gender, motions)
        labels: Any = body_labels(
            bodies, pose, betas, transl, gender, self._intrinsics(camera.focal_mm)
        )
        if is_kid:
            labels["betas"] = np.full((len(people), _NUM_BETAS), np.nan, np.float32)
            labels["has_betas"] = np.zeros(len(people), bool)
            labels["transl"] = np.full((len(people), 3), np.nan, np.float32)
        occlusion = np.array([row["occlusion"][person] for person in people], np.float32)
        return {**labels, "visible_fraction": np.clip(1 - occlusion / 100, 0, 1)}

    def _intrinsics(self, focal_mm: float) -> np.ndarray:
        width, height = self.options.width, self.options.height
        focal_px = focal_mm / _SENSOR_WIDTH_MM * width
        return np.array([[focal_px, 0, width / 2], [0, focal_px, height / 2], [0, 0, 1]])


class _Fit(NamedTuple):
    """A body in the frame of its scan."""

    pose: np.ndarray  # (24, 3)
    transl: np.ndarray  # (3,)
    betas: np.ndarray  # (10,) or (11,)


@lru_cache(maxsize=8192)  # a scan is seen in many images
def _read_fit(path: Path) -> _Fit:
    content = read_pickle(path)
    try:
        root = content["root_pose"] if "root_pose" in content else content["global_orient"]
        transl = content["translation"] if "translation" in content else content["transl"]
        return _Fit(
            np.concatenate([np.ravel(root), np.ravel(content["body_pose"])]).reshape(24, 3),
            np.ravel(transl).reshape(3),
            np.ravel(content["betas"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        held = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(
            f"{path} holds {held}, which is no SMPL fit ({error!r}). {WHERE}"
        ) from error


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a dataframe, only what is needed of them."""
    table = read_dataframe(path)
    missing = [name for name in (*_SHARED, *_LISTS) if name not in table]
    if missing:
        raise ValueError(f"{path} has columns {list(table)}; expected {missing} too. {WHERE}")
    names = (*_SHARED, *_LISTS)
    columns = (table[name] for name in names)
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _camera(row: dict[str, Any]) -> _Camera:
    for word, camera in _CAMERAS.items():
        if word in row["imgPath"]:
            return camera
    place = (float(row["camX"]), float(row["camY"]), float(row["camZ"]))
    return _Camera(28, place, float(row["camYaw"]), height_m=1.7)


def _scan_to_camera(row: dict[str, Any], person: int, camera: _Camera) -> np.ndarray:
    """(4, 4) from the frame of a person's scan to the camera's axes, metres."""
    turn = _turn("x", camera.pitch_deg) @ _turn("y", -camera.yaw_deg)
    place = _unreal_to_camera([row[axis][person] for axis in "XYZ"])
    eye = _unreal_to_camera(camera.place_cm) - [0, camera.height_m, 0]
    motion = np.eye(4)
    motion[:3, :3] = turn @ _turn("y", float(row["Yaw"][person]) - 90) @ _SCAN_TO_CAMERA
    motion[:3, 3] = turn @ (place - eye)
    return motion


def _unreal_to_camera(place_cm: Any) -> np.ndarray:
    """A place (3,) of Unreal's world, cm, in metres along x right, y down, z forward."""
    forward, right, up = np.asarray(place_cm, np.float64) / 100
    return np.array([right, -up, forward])


def _turn(axis: str, angle_deg: float) -> np.ndarray:
    return Rotation.from_euler(axis, angle_deg, degrees=True).as_matrix()
