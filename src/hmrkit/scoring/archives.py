"""People whom other programs have found: AGORA's archives and 4D-Humans' results, read safely."""

import io
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from hmrkit.body.pickles import load_pickle
from hmrkit.data.sources.official import record_key
from hmrkit.data.sources.pickles import ANNOTATION_CALLABLES, read_joblib
from hmrkit.geometry.rotations import axis_angle_to_rotmat
from hmrkit.types import Body, Mesh, Prediction

_AGORA_WIDTH_PX = 3840  # of the images that AGORA counts pixels in
_MEMBER = re.compile(r"(?:.*/)?(?P<image>[^/]+)_personId_\d+\.pkl$")
_PHALP_FOCAL = 5000.0 / 256  # of 4D-Humans' camera over the longer side of the image
_NUM_ROTATIONS = 24
_NO_VERTICES = np.empty((0, 3))


@dataclass(frozen=True)
class FoundPeople:
    """N people in images that are told apart by their names.

    Attributes:
        images: rows of the people in each image, by the end of its path: the last one to three
            names, as the keys of records may be; None where two images have the same.
        rotmat: (N, 24, 3, 3) root first; NaN where only the mesh is known.
        betas: (N, 10).
        transl_cam: (N, 3) m; NaN if unknown.
        focal: focal length over the longer side of the image; NaN if unknown.
        score: (N,).
        joints_img: (N, 24, 2) in shares of the image's width, or None for those of the body.
        mesh: vertices (N, V, 3) and joints (N, 24, 3), m, before transl_cam; None: the body's.
    """

    images: Mapping[str, np.ndarray | None]
    rotmat: np.ndarray
    betas: np.ndarray
    transl_cam: np.ndarray
    focal: float
    score: np.ndarray
    joints_img: np.ndarray | None = None
    mesh: tuple[np.ndarray, np.ndarray] | None = None

    def rows_of(self, key: str) -> np.ndarray | None:
        """Rows of the people in the image of a record; None if the file does not name it.

        Raises:
            ValueError: if the file names several images like that.
        """
        if key in self.images and self.images[key] is None:
            raise ValueError(f"several images of the predictions are called {key!r}")
        return self.images.get(key)

    def examples(self) -> str:
        """Some names of images, for messages."""
        return ", ".join(sorted(self.images)[:3]) or "no image"

    def prediction(
        self,
        rows: np.ndarray,
        image: np.ndarray,
        full_hw: np.ndarray,
        input_hw: np.ndarray,
        device: Any,
    ) -> Prediction:
        """The people in the images of a batch.

        Args:
            rows: (n,) of the people.
            image: (n,) the image of the batch that each is in.
            full_hw: (n, 2) its size, px.
            input_hw: (n, 2) likewise, as the network would see it.
            device: of the prediction.
        """
        focal_px = self.focal * full_hw.max(axis=1)
        camera = np.tile(np.eye(3), (len(rows), 1, 1))
        camera[:, 0, 0], camera[:, 1, 1] = (2 * focal_px / full_hw[:, side] for side in (1, 0))
        extra = {}
        if self.joints_img is not None:
            extra["joints_px"] = self.joints_img[rows] * input_hw[:, None, 1:]
        arrays = (self.rotmat[rows], self.betas[rows], self.transl_cam[rows], camera)
        rotmat, betas, transl, camera = (torch.from_numpy(np.float32(a)).to(device) for a in arrays)
        mesh = None
        if self.mesh is not None:
            mesh = Mesh(*(torch.from_numpy(np.float32(a[rows])).to(device) for a in self.mesh))
        return Prediction(
            body=Body(rotmat[:, 0], rotmat[:, 1:], betas, torch.zeros_like(transl)),
            mesh=mesh,
            transl_cam=transl,
            intrinsics_crop=camera,
            score=torch.from_numpy(np.float32(self.score[rows])).to(device),
            image_of_person=torch.from_numpy(image.astype(np.int64)).to(device),
            extra={k: torch.from_numpy(np.float32(v)).to(device) for k, v in extra.items()},
        )


def read_agora_archive(path: Path) -> FoundPeople:
    """An archive for AGORA's server: a pickle per person, either of the two kinds it takes.

    Each holds ``joints`` (24, 2) px by which people are matched, and SMPL's ``params`` or ``verts``
    and ``allSmplJoints3d`` in the camera frame. Nothing in the pickles is executed. Everybody has
    score 1.

    Raises:
        ValueError: naming the member that is not what it should be.
    """
    people: list[dict[str, np.ndarray]] = []
    rows: dict[str, list[int]] = {}
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is no zip archive: {error}") from error
    with archive:
        for member in sorted(archive.namelist()):
            match = _MEMBER.match(member)
            if match is None:
                continue
            where = Path(f"{path}:{member}")
            content = load_pickle(io.BytesIO(archive.read(member)), where, ANNOTATION_CALLABLES)
            try:
                people.append(_agora_person(content))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{where}: expected joints (24, 2), and params with global_orient, body_pose "
                    "and betas of SMPL, or verts (V, 3) and allSmplJoints3d (24, 3): "
                    f"{error!r}"
                ) from error
            rows.setdefault(match["image"], []).append(len(people) - 1)
    if not people:
        raise ValueError(f"{path} holds no <image>_personId_<number>.pkl")
    if len({(*person, person.get("verts", _NO_VERTICES).shape) for person in people}) > 1:
        raise ValueError(
            f"{path} holds people of several kinds: params for everybody, or verts and "
            "allSmplJoints3d of one body for everybody"
        )
    column = {name: np.stack([person[name] for person in people]) for name in people[0]}
    num = len(people)
    nowhere, focal = np.full((num, 3), np.nan), float("nan")
    mesh, rotmat = None, np.full((num, _NUM_ROTATIONS, 3, 3), np.nan, np.float32)
    if "verts" in column:
        mesh, nowhere = (column["verts"], column["allSmplJoints3d"]), np.zeros((num, 3))
    else:
        rotmat = column["rotmat"]
    return FoundPeople(
        _by_name(rows),
        rotmat,
        column.get("betas", np.full((num, 10), np.nan, np.float32)),
        nowhere,
        focal,
        np.ones(num),
        column["joints"] / _AGORA_WIDTH_PX,
        mesh,
    )


def _agora_person(content: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What a pickle of an archive says, arrays by name; where it has both kinds, the mesh counts.

    Raises:
        KeyError: if something is missing.
        ValueError: if something has another shape, or is about a body that is not here.
    """
    person = {"joints": np.reshape(content["joints"], (-1, 2)).astype(np.float64)[:_NUM_ROTATIONS]}
    if "verts" in content and "allSmplJoints3d" in content:
        person["verts"] = np.reshape(content["verts"], (-1, 3)).astype(np.float32)
        joints = np.reshape(content["allSmplJoints3d"], (-1, 3)).astype(np.float32)
        person["allSmplJoints3d"] = joints[:_NUM_ROTATIONS]
    else:
        params = content["params"]
        betas = np.reshape(params["betas"], -1)
        if content.get("age") == "kid" or content.get("kid_flag"):
            raise ValueError("a child's body is not known here: give verts and allSmplJoints3d")
        shape = (3,) if content.get("pose2rot", True) else (3, 3)
        pose = [np.reshape(params[k], (-1, *shape)) for k in ("global_orient", "body_pose")]
        turns = torch.from_numpy(np.float32(np.concatenate(pose)))
        person["rotmat"] = (axis_angle_to_rotmat(turns) if len(shape) == 1 else turns).numpy()
        person["betas"] = betas[:10].astype(np.float32)
    for name in person.keys() & {"joints", "allSmplJoints3d", "rotmat"}:
        if len(person[name]) != _NUM_ROTATIONS:
            raise ValueError(f"{name} is of {len(person[name])} joints")
    return person


def read_phalp(path: Path) -> FoundPeople:
    """A result of 4D-Humans' tracking (PHALP): a joblib pickle, image -> people tracked in it.

    Nothing in it is executed. People whom the tracker only expects, not having seen them in the
    image, are left out.

    Raises:
        ValueError: naming the entry that is missing.
    """
    content = read_joblib(path)
    rotmats, betas, places, scores = [], [], [], []
    rows: dict[str, list[int]] = {}
    try:
        for image, found in content.items():
            rows[str(image)] = []
            ages = found.get("tracked_time") or [0] * len(found["smpl"])
            confidence = found.get("conf") or [1.0] * len(found["smpl"])
            people = zip(found["smpl"], found["camera"], ages, confidence, strict=True)
            for smpl, place, age, conf in people:
                if age == 0:
                    parts = [
                        np.reshape(smpl[k], (-1, 3, 3)) for k in ("global_orient", "body_pose")
                    ]
                    rotmats.append(np.concatenate(parts).reshape(_NUM_ROTATIONS, 3, 3))
                    betas.append(np.reshape(smpl["betas"], -1)[:10])
                    places.append(np.reshape(place, 3))
                    rows[str(image)].append(len(scores))
                    scores.append(float(np.reshape(conf, -1)[0]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} is no result of 4D-Humans, {{image: {{smpl, camera, ...}}}}: {error!r}"
        ) from error
    if not rotmats:
        raise ValueError(f"{path} holds nobody")
    rotmat, shape, transl = (np.float32(a) for a in (rotmats, betas, places))
    return FoundPeople(_by_name(rows), rotmat, shape, transl, _PHALP_FOCAL, np.array(scores))


def _by_name(rows_of: Mapping[str, list[int]]) -> dict[str, np.ndarray | None]:
    """Rows of the people of each image, by the ends of its path."""
    by_name: dict[str, np.ndarray | None] = {}
    for path, found in rows_of.items():
        parts = PurePosixPath(path).parts
        for num in range(1, min(3, len(parts)) + 1):
            name = "/".join(parts[-num:])
            for key in {record_key(name), PurePosixPath(name).stem if num == 1 else name}:
                by_name[key] = None if key in by_name else np.array(found, np.int64)
    return by_name
