"""Annotation files of SPIN's family (SPIN, PyMAF, CLIFF, Meta-HMR): npz, one row per person.

Keys that are read, all but ``imgname`` optional:

* ``imgname`` (N,), path below a folder of images;
* ``center`` (N, 2) px and ``scale`` (N,): a square of side 200 * scale that holds a margin;
* ``part`` (N, 24, 3) and ``openpose`` (N, 25, 3), px of the image + confidence;
* ``S`` (N, 24, 4), 3D joints + confidence in camera axes, relative to the pelvis or some other root
  of the dataset's: their place in front of the camera is not known, and ``keypoints_world`` of the
  records has none;
* ``pose`` (N, 72), axis-angle with the root in camera axes, ``shape`` (N, 10), ``has_smpl`` (N,);
* ``gender`` (N,);
* ``focal_length`` or CLIFF's ``focal_l`` (N,), px; the principal point is the middle of the image;
* CLIFF's ``global_t`` (N, 3), SMPL's translation in metres, in camera axes.

Not carried: ``maskname``, ``partname`` (silhouettes and part maps), ``smpl_2dkps`` (projections of
the body that ``pose`` is, without its camera).

All rows of an image are one record. Where they name different focal lengths, each person has a
camera of their own (``intrinsics_of_view``).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hmrkit.body import joints
from hmrkit.data.sources.official import (
    Skipped,
    absent_to_nan,
    center_size_to_box,
    expect,
    gender_codes,
    group_rows,
    image_path,
    place_joints,
    read_arrays,
    read_image,
    record_key,
)
from hmrkit.data.sources.openpose import OpenPose
from hmrkit.data.sources.placed_bodies import cameras_of_people, image_size, is_inside
from hmrkit.data.sources.static_fits import StaticFits
from hmrkit.geometry.boxes import keypoints_to_box
from hmrkit.types import Sample

PX_PER_SCALE = 200.0  # what SPIN's scale counts
NUM_OPENPOSE = len(joints.names("openpose25"))
_SHAPES = {
    "center": (2,), "scale": (), "part": (24, 3), "openpose": (25, 3), "S": (24, 4),
    "pose": (72,), "shape": (10,), "has_smpl": (), "focal_length": (), "global_t": (3,),
}  # fmt: skip
_DOUBLE = ("center", "scale", "focal_length")  # the rest is float32, to spare memory
# Human3.6M's joints among SPIN's 24, as the field scores Human3.6M and MPI-INF-3DHP: by the same
# names, but for the top of the head, which these datasets' files hold as SPIN's "head".
_H36M_IN_SPIN24 = joints.index(
    [
        "spin_head" if name == "h36m_head_top" else name.replace("h36m", "spin")
        for name in joints.names("h36m17")
    ],
    "spin24",
)
_MAX_TRIED = 50  # images that are looked for before a folder counts as the wrong one


@dataclass
class Layout:
    """Where the images of an annotation file are, and what its numbers mean.

    Attributes:
        images: folder of the images, relative to the input.
        rename: regular expression -> replacement, applied in order to every ``imgname``.
        box: ``stored`` for center and scale (the tight box of ``part`` where they are missing),
            ``part`` for the tight box of that.
        stored_margin: by how much the stored box exceeds a tight one.
        with_smpl: whether rows with a pose but without the key ``has_smpl`` count.
        genders: how the file writes male (0) and female (1); other words are unknown.
        units_per_metre: of ``S`` and ``global_t``.
        with_h36m_names: the joints of ``S`` that Human3.6M's skeleton has are carried under its
            names too, because evaluation compares them with those (joint set ``all``).
    """

    images: str = "."
    rename: Mapping[str, str] = field(default_factory=dict)
    box: str = "stored"
    stored_margin: float = 1.2
    with_smpl: bool = True
    genders: Mapping[str, int] = field(default_factory=lambda: {"m": 0, "f": 1})
    units_per_metre: float = 1.0
    with_h36m_names: bool = False

    def __post_init__(self) -> None:
        if self.box not in ("stored", "part"):
            raise ValueError(f"box={self.box}: choose stored or part")

    @property
    def joint_set(self) -> str:
        """Of the records."""
        return "all" if self.with_h36m_names else "spin49"

    def path(self, name: str) -> str:
        """Path below the input of the image that the file calls ``name``."""
        for pattern, replacement in self.rename.items():
            name = re.sub(pattern, replacement, name)
        return name if self.images == "." else f"{self.images}/{name}"


class SpinNpz:
    """SPIN's annotation format.

    Args:
        annotations: the npz, relative to the input or absolute.
        where: where users get it, for the message when it is not there.
        layout: the options of ``Layout``.
        fits: bodies for rows that have none, or None.
        openpose: fills the joints of OpenPose from its JSON files, or None.
    """

    kind = "scenes"

    def __init__(
        self,
        annotations: str,
        where: str = "",
        layout: Mapping[str, Any] | None = None,
        fits: StaticFits | None = None,
        openpose: OpenPose | None = None,
    ) -> None:
        self.annotations, self.where = annotations, where
        self.layout = Layout(**(layout or {}))
        self.fits, self.openpose = fits, openpose
        self.joint_set = self.layout.joint_set

    def open(self, folder: Path) -> "SpinRecords":
        """Read the annotations and list the images.

        Raises:
            FileNotFoundError: if the file, or every image that it names, is missing.
            ValueError: if an array does not have the format's shape.
        """
        path = input_file(folder, self.annotations, self.where)
        rows = check_rows(read_arrays(path, ("imgname",)), path, self.layout.genders)
        if self.fits is not None:
            rows = self.fits.join(rows, folder, self.layout.with_smpl)
        return SpinRecords(folder, rows, self.layout, self.where, self.openpose)


def input_file(folder: Path, name: str, where: str) -> Path:
    """A file of a download; ``name`` is relative to it or absolute.

    Raises:
        FileNotFoundError: with what was found, what was expected and where it usually is.
    """
    path = Path(name)
    return expect(path.parent if path.is_absolute() else folder, _relative(path), where)[0]


def _relative(path: Path) -> str:
    return path.name if path.is_absolute() else str(path)


def check_rows(
    arrays: Mapping[str, np.ndarray], path: Path, genders: Mapping[str, int] | None = None
) -> dict[str, np.ndarray]:
    """The known arrays of an annotation file in their shapes; ``focal_l`` as ``focal_length``.

    Args:
        arrays: of the file.
        path: of the file, for messages.
        genders: see ``Layout``; ``gender`` becomes -1, 0 or 1.

    Raises:
        ValueError: naming file, key, and both shapes; or genders that are not known.
    """
    names = np.array([_text(name) for name in arrays["imgname"].ravel()], dtype=object)
    rows = {"imgname": names}
    if "gender" in arrays:
        rows["gender"] = gender_codes(arrays["gender"].ravel(), genders or {}, path)
    for key, shape in _SHAPES.items():
        stored = "focal_l" if key == "focal_length" and key not in arrays else key
        if stored not in arrays:
            continue
        array = arrays[stored]
        if array.size != len(names) * int(np.prod(shape)):
            raise ValueError(
                f"{path}: {stored} is {array.shape}, expected {(len(names), *shape)}, one row for "
                "each imgname"
            )
        kind = np.float64 if key in _DOUBLE else np.float32
        rows[key] = array.reshape(len(names), *shape).astype(kind)
    return rows


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


class SpinRecords:
    """One record for every image, in the order of the file.

    Args:
        folder: the input.
        rows: the arrays of ``check_rows``.
        layout: what they mean.
        where: where users get them.
        openpose: see ``SpinNpz``.

    Attributes:
        left_out: the people that the record made last lacks.
    """

    def __init__(
        self,
        folder: Path,
        rows: dict[str, np.ndarray],
        layout: Layout,
        where: str,
        openpose: OpenPose | None = None,
    ) -> None:
        self.folder, self.rows, self.layout, self.openpose = folder, rows, layout, openpose
        self.left_out: list[Skipped] = []
        names = group_rows(rows["imgname"])
        self._groups = [(layout.path(name), members) for name, members in names]
        self._check_images(where)
        self._genders = rows.get("gender", np.full(len(rows["imgname"]), -1, np.int64))

    def __len__(self) -> int:
        return len(self._groups)

    def name(self, index: int) -> str:
        """Image of a record."""
        return self._groups[index][0]

    def __getitem__(self, index: int) -> Sample:
        """Make the record of one image.

        Raises:
            Skipped: if the image or its OpenPose file is missing, or nobody has a box.
        """
        self.left_out = []
        path, members = self._groups[index]
        image = read_image(image_path(self.folder, path))
        size_hw = image_size(image)
        boxes = np.stack([self._box(row) for row in members])
        is_kept = np.array([is_inside(box, size_hw) for box in boxes])
        if not is_kept.any():
            raise Skipped("nobody in the image has a box inside it", path)
        left_out = Skipped("somebody in an image: no box inside it", path)
        self.left_out = [left_out] * int((~is_kept).sum())
        members, boxes = members[is_kept], boxes[is_kept]
        num = len(members)
        sample: Sample = {
            "key": record_key(path),
            "images": [image],
            "image_of_view": np.zeros(num, np.int64),
            "person_of_view": np.arange(num),
            "box_img": boxes,
            "keypoints_img": self._keypoints_img(path, members, boxes),
            "gender": self._genders[members],
            **self._body(members),
        }
        if "S" in self.rows:
            sample["keypoints_world"] = self._keypoints_world(members)
        if "focal_length" in self.rows:
            sample.update(_cameras(self.rows["focal_length"][members], size_hw))
        if "global_t" in self.rows:
            metres = self.rows["global_t"][members] / self.layout.units_per_metre
            sample["transl"] = metres.astype(np.float32)
        return sample

    def _box(self, row: int) -> np.ndarray:
        """(4,) px; NaN where there is nothing to take it from."""
        if self.layout.box == "stored" and "center" in self.rows and "scale" in self.rows:
            side_px = PX_PER_SCALE * self.rows["scale"][row]
            return center_size_to_box(self.rows["center"][row], side_px, self.layout.stored_margin)
        part = self.rows["part"][row] if "part" in self.rows else np.zeros((1, 3), np.float32)
        return keypoints_to_box(part) if (part[:, 2] > 0).any() else np.full(4, np.nan, np.float32)

    def _keypoints_img(self, path: str, members: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """(P, K, 3) of the records' joint set."""
        num = len(members)
        part = self.rows["part"][members] if "part" in self.rows else np.zeros((num, 24, 3))
        if self.openpose is not None:
            detected = self.openpose.of_people(self.folder, path, boxes, part)
        elif "openpose" in self.rows:
            detected = self.rows["openpose"][members]
        else:
            detected = np.zeros((num, NUM_OPENPOSE, 3))
        both = np.concatenate([detected, part], axis=1)
        return place_joints(both, "spin49", self.layout.joint_set)

    def _keypoints_world(self, members: np.ndarray) -> np.ndarray:
        """(P, K, 4) of the records' joint set, metres."""
        spin24 = self.rows["S"][members].copy()
        spin24[..., :3] /= self.layout.units_per_metre
        world = place_joints(spin24, "spin24", self.layout.joint_set)
        if self.layout.with_h36m_names:
            theirs = joints.index(joints.names("h36m17"), self.layout.joint_set)
            world[:, theirs] = absent_to_nan(spin24[:, _H36M_IN_SPIN24])
        return world

    def _body(self, members: np.ndarray) -> dict[str, np.ndarray]:
        """Pose, betas and their flags, absent where a row has none."""
        num = len(members)
        pose, betas = np.full((num, 24, 3), np.nan), np.full((num, 10), np.nan)
        has_smpl = np.zeros(num, bool)
        if "pose" in self.rows and "shape" in self.rows:
            has_smpl = np.full(num, self.layout.with_smpl)
            if "has_smpl" in self.rows:
                has_smpl = self.rows["has_smpl"][members] > 0
            pose[has_smpl] = self.rows["pose"][members][has_smpl].reshape(-1, 24, 3)
            betas[has_smpl] = self.rows["shape"][members][has_smpl]
        return {
            "pose": pose.astype(np.float32),
            "betas": betas.astype(np.float32),
            "has_pose": has_smpl,
            "has_betas": has_smpl.copy(),
        }

    def _check_images(self, where: str) -> None:
        """Raise if none of some images, from all over the file, is there."""
        step = max(len(self._groups) // _MAX_TRIED, 1)
        tried = [path for path, _ in self._groups[::step]]
        if tried and not any((self.folder / path).exists() for path in tried):
            problem = f"{len(tried)} images were looked for, none is there. {where}"
            expect(self.folder, tried[0].lstrip("/"), problem)


def _cameras(focal_px: np.ndarray, size_hw: tuple[int, int]) -> dict[str, np.ndarray]:
    """Cameras that look at the middle of the image; NaN without a focal length.

    Args:
        focal_px: (P,). If people disagree, each has a camera of their own.
        size_hw: height and width of the image.
    """
    cameras = np.tile(np.eye(3), (len(focal_px), 1, 1))
    cameras[:, [0, 1], [0, 1]] = focal_px[:, None]
    cameras[:, :2, 2] = np.array(size_hw[::-1]) / 2
    cameras[~(focal_px > 0)] = np.nan
    return cameras_of_people(cameras)
