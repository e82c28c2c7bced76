"""SAT-HMR's annotation files: ``annots``, a dict from image name to the people in it.

Four layouts, one entry per image; metres, SMPL's 24 axis-angles, 10 betas or more:

* ``agora``: lists ``isValid``, ``cam_rot`` (3, 3), ``cam_trans`` (3,), ``smpl_gt`` (dicts of
  ``betas``, ``global_orient``, ``body_pose``, ``transl``); ``cam_intrinsics`` (1, 3, 3). Invalid
  people are left out. ``kid`` is not carried: children were refitted as adults by the authors.
* ``bedlam``: ``cam_int`` (3, 3); lists ``cam_rot``, ``cam_trans``, ``shape``, ``pose_world`` (72,),
  ``trans_world``. Images of sequences with "closeup" in their path are stored lying on their side;
  the labels are for the turned image, so it is turned here.
* ``posed``: ``betas``, ``global_orient``, ``body_pose``, ``transl`` of n people as torch tensors,
  one ``cam_intrinsics``, ``cam_rot``, ``cam_trans``; ``genders`` or ``gender`` of each (3DPW), or
  neither (Human3.6M): neutral.
* ``neural_annot``: a list of people, each before a camera of their own: ``smpl_param`` (``shape``,
  ``pose``, ``trans``), ``cam_param`` (``focal``, ``princpt``). They become ``intrinsics_of_view``;
  ``keypoints_img`` is exact, but depths and sizes of different people do not compare.

In the first three, joints_cam = R (joints_world + transl) + T. Records are in camera axes. Joints
are computed from the bodies, neutral unless genders are given.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hmrkit.body.gendered import GenderedBodies
from hmrkit.data.sources.official import (
    Skipped,
    expect,
    gender_codes,
    image_path,
    read_arrays,
    read_image,
)
from hmrkit.data.sources.placed_bodies import (
    JOINT_SET,
    bodies_to_camera,
    body_labels,
    check_bodies,
)
from hmrkit.data.sources.scene_people import scene_record, turn_clockwise
from hmrkit.types import Sample

WHERE = (
    "The annotation files are linked in SAT-HMR's README; the images are those of the data set's "
    "own download. input= is the data set's folder inside SAT-HMR's dataset_root, such as "
    "dataset_root/agora."
)
_GENDERS = {"f": 1, "female": 1}  # everything else is male
_NUM_BETAS = 10


class _People(NamedTuple):
    """The people of one image."""

    pose: np.ndarray  # (P, 24, 3), world
    betas: np.ndarray  # (P, 10)
    transl: np.ndarray  # (P, 3) m, world
    world_to_camera: np.ndarray  # (P, 4, 4)
    intrinsics: np.ndarray  # (3, 3) px, or (P, 3, 3)
    gender: np.ndarray  # (P,)
    num_invalid: int = 0


class SatHmrNpz:
    """Scenes: every image of an annotation file.

    Args:
        annotations: the npz, below the input.
        images: folder that the images' names are relative to, below the input; "." for the input.
        layout: agora, bedlam, posed or neural_annot.
        turned: images with this in their name are turned clockwise by a quarter; None for none.
        body_models: folder of the SMPL files.
    """

    kind = "scenes"
    joint_set = JOINT_SET

    def __init__(
        self, annotations: str, images: str, layout: str, turned: str | None, body_models: str
    ) -> None:
        if layout not in _LAYOUTS:
            raise ValueError(f"layout={layout}: expected one of {', '.join(_LAYOUTS)}")
        self.annotations, self.images = annotations, images
        self.layout, self.turned = layout, turned
        self.bodies = GenderedBodies(body_models)

    def open(self, folder: Path) -> "SatHmrRecords":
        """Read the annotations, and the bodies that they need."""
        path = expect(folder, self.annotations, WHERE)[0]
        images = folder if self.images == "." else expect(folder, self.images, WHERE)[0]
        entries = read_arrays(path, ["annots"])["annots"]
        if entries.shape != () or not isinstance(entries[()], dict):
            raise ValueError(f"{path}: annots is no dict of images; is it another file? {WHERE}")
        records = SatHmrRecords(path, images, entries[()], self)
        if len(records):
            check_bodies(self.bodies, records.people(records.names[0]).gender)
        return records


class SatHmrRecords:
    """One record for every image, sorted by name.

    Attributes:
        names: of the images.
        left_out: the people that the record made last lacks.
    """

    def __init__(
        self, path: Path, images: Path, entries: Mapping[str, Any], options: SatHmrNpz
    ) -> None:
        self.path, self.images, self.options = path, images, options
        self._entries = entries
        self.names = sorted(entries)
        self.left_out: list[Skipped] = []

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        """Make the record of one image.

        Raises:
            Skipped: if nobody in it is valid and seen, or there is no such file.
        """
        name = self.names[index]
        self.left_out = []
        people, bodies = self.people(name), self.options.bodies
        if not len(people.pose):
            raise Skipped("nobody in the image is valid", name)
        image: Any = read_image(image_path(self.images, name))
        if self.options.turned is not None and self.options.turned in name:
            image = turn_clockwise(image)
        pose, transl = bodies_to_camera(
            bodies, people.pose, people.betas, people.transl, people.gender, people.world_to_camera
        )
        labels = body_labels(bodies, pose, people.betas, transl, people.gender, people.intrinsics)
        record, unseen = scene_record(name, image, labels)
        invalid = Skipped("somebody in an image: marked as invalid", name)
        self.left_out = [invalid] * people.num_invalid + unseen
        return record

    def people(self, name: str) -> _People:
        """The people of an image.

        Raises:
            ValueError: if the entry is not what the layout says.
        """
        entry = self._entries[name]
        try:
            return _LAYOUTS[self.options.layout](entry)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            held = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
            raise ValueError(
                f"{self.path}: the entry of {name!r} holds {held}, which is not the layout "
                f"{self.options.layout} ({error!r})"
            ) from error


def _agora(entry: Mapping[str, Any]) -> _People:
    is_valid = np.asarray(entry["isValid"], bool)
    rows = np.flatnonzero(is_valid)
    fits = [entry["smpl_gt"][row] for row in rows]
    return _People(
        _poses([_root_and_body(fit) for fit in fits]),
        _betas([fit["betas"] for fit in fits]),
        _vectors([fit["transl"] for fit in fits]),
        _motions(
            [entry["cam_rot"][row] for row in rows], [entry["cam_trans"][row] for row in rows]
        ),
        _matrix(entry["cam_intrinsics"]),
        _neutral(len(rows)),
        int((~is_valid).sum()),
    )


def _bedlam(entry: Mapping[str, Any]) -> _People:
    return _People(
        _poses(entry["pose_world"]),
        _betas(entry["shape"]),
        _vectors(entry["trans_world"]),
        _motions(entry["cam_rot"], entry["cam_trans"]),
        _matrix(entry["cam_int"]),
        _neutral(len(entry["shape"])),
    )


def _posed(entry: Mapping[str, Any]) -> _People:
    betas = _betas(entry["betas"])
    genders = entry.get("genders", entry.get("gender"))
    gender = _neutral(len(betas))
    if genders is not None:
        gender = np.maximum(gender_codes(genders, _GENDERS), 0)
        if len(gender) != len(betas):
            raise ValueError(f"{len(gender)} genders of {len(betas)} people")
    return _People(
        np.concatenate(
            [
                np.asarray(entry["global_orient"], np.float64).reshape(-1, 1, 3),
                np.asarray(entry["body_pose"], np.float64).reshape(-1, 23, 3),
            ],
            axis=1,
        ),
        betas,
        np.asarray(entry["transl"], np.float64).reshape(-1, 3),
        _motions([entry["cam_rot"]] * len(betas), [entry["cam_trans"]] * len(betas)),
        _matrix(entry["cam_intrinsics"]),
        gender,
    )


def _neural_annot(entry: Sequence[Mapping[str, Any]]) -> _People:
    bodies = [person["smpl_param"] for person in entry]
    intrinsics = np.tile(np.eye(3), (len(entry), 1, 1))
    for matrix, camera in zip(intrinsics, (person["cam_param"] for person in entry), strict=True):
        matrix[[0, 1], [0, 1]] = camera["focal"]
        matrix[:2, 2] = camera["princpt"]
    return _People(
        _poses([body["pose"] for body in bodies]),
        _betas([body["shape"] for body in bodies]),
        _vectors([body["trans"] for body in bodies]),
        np.tile(np.eye(4), (len(entry), 1, 1)),
        intrinsics,
        _neutral(len(entry)),
    )


_LAYOUTS: dict[str, Callable[[Any], _People]] = {
    "agora": _agora,
    "bedlam": _bedlam,
    "posed": _posed,
    "neural_annot": _neural_annot,
}


def _root_and_body(fit: Mapping[str, Any]) -> np.ndarray:
    return np.concatenate([np.ravel(fit["global_orient"]), np.ravel(fit["body_pose"])])


def _poses(rows: Sequence[Any]) -> np.ndarray:
    return np.array([np.ravel(row) for row in rows], np.float64).reshape(-1, 24, 3)


def _betas(rows: Sequence[Any]) -> np.ndarray:
    return np.array([np.ravel(row)[:_NUM_BETAS] for row in rows], np.float64).reshape(-1, 10)


def _vectors(rows: Sequence[Any]) -> np.ndarray:
    return np.array([np.ravel(row) for row in rows], np.float64).reshape(-1, 3)


def _matrix(value: Any) -> np.ndarray:
    return np.asarray(value, np.float64).reshape(3, 3)


def _motions(rotations: Sequence[Any], translations: Sequence[Any]) -> np.ndarray:
    """(P, 4, 4) of P rotations (3, 3) and translations (3,)."""
    motions = np.tile(np.eye(4), (len(rotations), 1, 1))
    for motion, rotation, translation in zip(motions, rotations, translations, strict=True):
        motion[:3, :3], motion[:3, 3] = _matrix(rotation), np.ravel(translation)
    return motions


def _neutral(num: int) -> np.ndarray:
    return np.full(num, -1, np.int64)
