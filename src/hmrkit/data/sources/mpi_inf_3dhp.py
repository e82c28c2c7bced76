"""MPI-INF-3DHP as it is downloaded: the eight training subjects.

``S1/Seq1/annot.mat``: ``annot2`` and ``annot3``, cells of one matrix per camera, (N, 56) px and
(N, 84) mm in that camera's axes; ``univ_annot3``, the same scaled to a skeleton of one height;
``frames`` (N, 1). Row n is frame n of ``imageSequence/video_<camera>.avi``, which SPIN's script
writes out as ``imageFrames/video_<camera>/frame_<n + 1>.jpg``. ``camera.calibration``: 14 cameras,
mm. Optional bodies, ``MPI-INF-3DHP_SMPL_NeuralAnnot.json``: ``{subject: {sequence: {n + 1: {pose,
shape, trans}}}}`` in the world of the calibration.

Of the 28 joints 17 are kept, as SPIN takes them: in ``spin24`` the head top of MPI-INF-3DHP is
``spin_head`` and its head ``spin_jaw``; in ``h36m17``, for methods that compare with the joints of
Human3.6M's regressor, they are the head top and the jaw. Spine 2 to 4, clavicles, hands, feet and
toes are dropped.

The six test sequences are in ``mpi_inf_3dhp_test.py``.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from hmrkit.body import joints
from hmrkit.data.sources import rigs
from hmrkit.data.sources.official import Skipped, expect, read_image
from hmrkit.data.sources.rigs import Camera, Moment, RigRecords
from hmrkit.data.sources.videos import VideoFrames
from hmrkit.types import Sample

JOINT_SETS = ("spin24", "h36m17")
_ALL_ROWS = (  # of annot.mat; None where neither joint set has a name for it
    None, None, None, "spine", "pelvis", "neck", "jaw", "head_top", None, "left_shoulder",
    "left_elbow", "left_wrist", None, None, "right_shoulder", "right_elbow", "right_wrist", None,
    "left_hip", "left_knee", "left_ankle", None, None, "right_hip", "right_knee", "right_ankle",
    None, None,
)  # fmt: skip
_MM = 1000.0
_KEY = "S{}-Seq{}-{:06d}"


def check_joint_set(joint_set: str) -> str:
    """Return a converter's joint set.

    Raises:
        ValueError: if it is none of ``JOINT_SETS``.
    """
    if joint_set not in JOINT_SETS:
        raise ValueError(f"joint_set={joint_set!r}: say {' or '.join(JOINT_SETS)}")
    return joint_set


def place(values: np.ndarray, rows: Sequence[str | None], joint_set: str) -> np.ndarray:
    """Rows (..., K, C) of the format in the joint set, (..., J, C + 1); confidence last."""
    prefix = joint_set[:4]  # spin or h36m
    ours = [f"{prefix}_{name}" for name in rows if name is not None]
    if prefix == "spin":
        ours = ["spin_head" if name == "spin_head_top" else name for name in ours]
    kept = [i for i, name in enumerate(rows) if name is not None]
    shape = (*values.shape[:-2], len(joints.names(joint_set)), values.shape[-1] + 1)
    placed = np.full(shape, np.nan)
    placed[..., -1] = 0
    placed[..., joints.index(ours, joint_set), :] = rigs.sure(values[..., kept, :])
    return placed


def are_inside(keypoints_img: np.ndarray, size_wh: Sequence[float]) -> np.ndarray:
    """Whether every labelled joint of (..., K, 3) lies in an image of that width and height, px."""
    points = keypoints_img[..., :2]
    is_inside = ((points >= 0) & (points < np.asarray(size_wh))).all(axis=-1)
    return (is_inside | (keypoints_img[..., 2] == 0)).all(axis=-1)


def read_calibration(path: Path) -> tuple[dict[int, Camera], dict[int, tuple[float, float]]]:
    """Cameras and their image sizes (width, height), px, of a ``camera.calibration``, by number.

    Raises:
        ValueError: if it is something else.
    """
    cameras: dict[int, Camera] = {}
    sizes: dict[int, tuple[float, float]] = {}
    fields: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        name, *values = line.split() or [""]
        fields[name] = values
        if name == "extrinsic":
            try:
                number = int(fields["name"][0])
                intrinsic, extrinsic = (
                    np.array(fields[key], np.float64).reshape(4, 4)
                    for key in ("intrinsic", "extrinsic")
                )
                width, height = map(float, fields["size"])
            except (KeyError, ValueError) as error:
                raise ValueError(f"{path} is no Skeletool camera calibration: {error}") from error
            cameras[number] = Camera(intrinsic[:3, :3], extrinsic[:3, :3], extrinsic[:3, 3] / _MM)
            sizes[number] = (width, height)
    if not cameras:
        raise ValueError(f"{path} is no Skeletool camera calibration: it has no extrinsic")
    return cameras, sizes


class Sequence3dhp:
    """The labels of one sequence.

    Args:
        folder: ``S1/Seq1``.
        annotation: ``annot3`` or ``univ_annot3``.
        joint_set: of what is returned, K joints.
    """

    def __init__(self, folder: Path, annotation: str, joint_set: str) -> None:
        self.joint_set = joint_set
        self.cameras, self.sizes = read_calibration(folder / "camera.calibration")
        try:
            found = scipy.io.loadmat(
                folder / "annot.mat", variable_names=["annot2", annotation], squeeze_me=False
            )
            self._px, self._mm = found["annot2"][:, 0], found[annotation][:, 0]
        except (KeyError, IndexError, ValueError, NotImplementedError) as error:
            raise ValueError(
                f"{folder / 'annot.mat'} is no annotation of MPI-INF-3DHP: {error}"
            ) from error

    def keypoints_img(self, row: int, camera: int) -> np.ndarray:
        """(K, 3) px and confidence."""
        return self._place(self._px[camera][row].reshape(-1, 2))

    def keypoints_cam(self, row: int, camera: int) -> np.ndarray:
        """(K, 4) m and confidence, in the axes of the camera."""
        return self._place(self._mm[camera][row].reshape(-1, 3) / _MM)

    def _place(self, values: np.ndarray) -> np.ndarray:
        return place(values.astype(np.float64), _ALL_ROWS, self.joint_set)


class NeuralAnnot:
    """Bodies of a NeuralAnnot file, ``{subject: {sequence: {image number: body}}}``, world axes."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    @cached_property
    def _bodies(self) -> Mapping[str, Any]:
        return {} if self.path is None else json.loads(self.path.read_bytes())

    def __call__(self, moment: Moment) -> Mapping[str, Any] | None:
        """``pose``, ``shape``, ``trans`` of (subject, sequence, image number), or None."""
        subject, sequence, number = map(str, moment)
        return self._bodies.get(subject, {}).get(sequence, {}).get(number)


class MpiInf3dhp:
    """The training set.

    Args:
        kind: ``rigs`` or ``crops``.
        subjects: 1 to 8.
        sequences: 1 and 2.
        cameras: 0 to 13; 3 and 9 to 13 hang high or look from the ceiling.
        min_views: moments of a rig with fewer are skipped.
        frame_step: frames 1, 1 + frame_step, ... are used.
        annotation: ``annot3``; for crops also ``univ_annot3``.
        with_all_inside: views with a joint outside the image are left out.
        smpl: NeuralAnnot's file, below the input, or None.
        frames: ``video`` reads imageSequence/video_*.avi, ``jpg`` what SPIN's script wrote from
            them, imageFrames/video_*/frame_*.jpg.
        joint_set: ``spin24`` or ``h36m17``.
    """

    def __init__(
        self,
        kind: str = "crops",
        subjects: Sequence[int] = (1, 2, 3, 4, 5, 6, 7, 8),
        sequences: Sequence[int] = (1, 2),
        cameras: Sequence[int] = (0, 1, 2, 4, 5, 6, 7, 8),
        min_views: int = 4,
        frame_step: int = 10,
        annotation: str = "annot3",
        with_all_inside: bool = True,
        smpl: str | None = None,
        frames: str = "video",
        joint_set: str = "spin24",
    ) -> None:
        self.kind, self.joint_set = rigs.check_kind(kind), check_joint_set(joint_set)
        if annotation not in ("annot3", "univ_annot3") or (annotation, kind) == (
            "univ_annot3",
            "rigs",
        ):
            raise ValueError(
                f"annotation={annotation!r}: annot3, or for kind=crops univ_annot3, whose cameras "
                "do not share a world"
            )
        if frames not in ("video", "jpg"):
            raise ValueError(f"frames={frames!r}: say video or jpg")
        self.subjects, self.sequences, self.cameras = set(subjects), set(sequences), tuple(cameras)
        self.min_views, self.frame_step, self.annotation = min_views, frame_step, annotation
        self.with_all_inside, self.smpl, self.frames = with_all_inside, smpl, frames

    def open(self, folder: Path) -> RigRecords:
        """List the records of a folder that holds ``S1/Seq1/annot.mat`` and so on.

        Raises:
            FileNotFoundError, ValueError: if it holds something else.
        """
        where = "That is what get_dataset.sh of MPI-INF-3DHP's download downloads and unpacks"
        images = [
            ((subject, sequence, number), camera)
            for subject, sequence, path in self._sequences(folder, where)
            for number in range(1, _num_frames(path) + 1, self.frame_step)
            for camera in self.cameras
        ]
        if self.smpl is not None:
            expect(folder, self.smpl, "It is NeuralAnnot's file for MPI-INF-3DHP")
        min_views = self.min_views if self.kind == "rigs" else 1
        entries = rigs.list_rigs(images, self.cameras, min_views)
        return RigRecords(entries, _Maker(self, folder).make, self.kind, self.joint_set)

    def _sequences(self, folder: Path, where: str) -> list[tuple[int, int, Path]]:
        found = []
        for path in expect(folder, "S*/Seq*/annot.mat", where):
            subject, sequence = path.parts[-3][1:], path.parts[-2][3:]
            if subject.isdigit() and sequence.isdigit():
                found.append((int(subject), int(sequence), path))
        used = [one for one in found if one[0] in self.subjects and one[1] in self.sequences]
        if not used:
            raise FileNotFoundError(
                f"{folder} holds {', '.join(f'S{s}/Seq{q}' for s, q, _ in found)}; expected one of "
                f"the subjects {sorted(self.subjects)}. {where}"
            )
        return used


def _num_frames(path: Path) -> int:
    """Rows of an ``annot.mat``, without reading the labels."""
    try:
        return next(shape[0] for name, shape, _ in scipy.io.whosmat(path) if name == "frames")
    except (StopIteration, ValueError, NotImplementedError) as error:
        raise ValueError(f"{path} is no annotation of MPI-INF-3DHP: {error!r}") from error


class _Maker:
    """Makes the records of one folder; holds the labels of one sequence and the open videos."""

    def __init__(self, options: MpiInf3dhp, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.smpl = NeuralAnnot(None if options.smpl is None else folder / options.smpl)
        self.videos = VideoFrames(len(options.cameras))
        self._sequence = lru_cache(maxsize=1)(Sequence3dhp)

    def make(self, moment: Moment, cameras: Sequence[int]) -> Sample:
        """The record of a moment."""
        options = self.options
        labels = self._sequence(self._path(moment), options.annotation, options.joint_set)
        row = moment[2] - 1
        used = [
            camera
            for camera in cameras
            if not options.with_all_inside
            or are_inside(labels.keypoints_img(row, camera), labels.sizes[camera])
        ]
        key = _KEY.format(*moment)
        if len(used) < (options.min_views if options.kind == "rigs" else 1):
            raise Skipped("a joint lies outside the image", key)
        first = labels.cameras[used[0]]
        world = labels.keypoints_cam(row, used[0])
        world[:, :3] = first.to_world(world[:, :3])
        return rigs.rig_sample(
            key if options.kind == "rigs" else f"{key}-video_{used[0]}",
            [self._image(moment, camera) for camera in used],
            [labels.cameras[camera] for camera in used],
            world,
            np.stack([labels.keypoints_img(row, camera) for camera in used]),
            smpl=self.smpl(moment),
        )

    def _path(self, moment: Moment) -> Path:
        return self.folder / f"S{moment[0]}" / f"Seq{moment[1]}"

    def _image(self, moment: Moment, camera: int) -> bytes | np.ndarray:
        folder, number = self._path(moment), moment[2]
        if self.options.frames == "jpg":
            return read_image(folder / f"imageFrames/video_{camera}/frame_{number:06d}.jpg")
        return self.videos.read(folder / f"imageSequence/video_{camera}.avi", number - 1)
