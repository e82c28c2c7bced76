"""Motion without images: AMASS, MOYO, TokenHMR's tokenizer data and the CMU poses of 4D-Humans.

A record is a sequence, or so many frames of one. Where a format has only the 21 body joints, the
root and the two hand joints are zero. The world is that of the dataset, in which AMASS and MOYO
have z up: SMPL turns a body about its pelvis, so ``transl`` could not follow a change of axes
without the body model. AMASS's ``betas`` are the first ten of SMPL+H's.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hmrkit.data.sources.official import (
    Skipped,
    expect,
    gender_codes,
    npz_shape,
    read_arrays,
    record_key,
)
from hmrkit.data.sources.pickles import read_joblib
from hmrkit.types import Sample

_JOINT_SET = "smpl24"  # of the keypoints, which motion has none of
_NUM_POSE = 72  # 24 axis-angles
_NUM_BODY = 66  # root and 21 body joints, which SMPL and SMPL+H share
_GENDERS = {"male": 0, "m": 0, "female": 1, "f": 1}

# Subsets of AMASS: the names of papers, and the folders in the archives of both releases.
_FOLDERS = {
    "BMLrub": ("BMLrub", "BioMotionLab_NTroje"),
    "DFaust": ("DFaust", "DFaust_67"),
    "EyesJapan": ("EyesJapanDataset", "Eyes_Japan_Dataset"),
    "HDM05": ("HDM05", "MPI_HDM05"),
    "MPI-Limits": ("PosePrior", "MPI_Limits"),
    "MPI-Mosh": ("MoSh", "MPI_mosh"),
    "SSM": ("SSM", "SSM_synced"),
    "TCDHands": ("TCDHands", "TCD_handMocap"),
    "Transitions": ("Transitions", "Transitions_mocap"),
}
# TokenHMR's split; MOYO is another download.
_SPLITS = {
    "train": (
        *("CMU", "KIT", "BMLrub", "DanceDB", "BMLmovi", "EyesJapan", "BMLhandball"),
        *("TotalCapture", "EKUT", "ACCAD", "TCDHands", "MPI-Limits"),
    ),
    "val": ("HumanEva", "HDM05", "SFU", "MPI-Mosh"),
    "test": ("Transitions", "SSM"),
}


class Motions(NamedTuple):
    """All frames of a file."""

    pose: np.ndarray  # (T, 24, 3)
    betas: np.ndarray | None = None  # (T, 10)
    transl: np.ndarray | None = None  # (T, 3)
    gender: np.ndarray | None = None  # (T,)
    frames_per_second: float | None = None


class Frames:
    """Which frames of a sequence are kept, and how they are cut into records.

    Args:
        first: share of the sequence before the first frame that is kept.
        last: share of it before the first frame that is not.
        every: of the frames between, each so many-th.
        max_frames: of a record; None for the whole sequence.
        min_frames: shorter records are left out.
    """

    def __init__(
        self, first: float, last: float, every: int, max_frames: int | None, min_frames: int
    ) -> None:
        if not (0 <= first < last <= 1 and every >= 1 and (max_frames is None or max_frames >= 1)):
            raise ValueError(
                f"first={first}, last={last}, every={every}, max_frames={max_frames}: expected "
                "shares 0 <= first < last <= 1, and whole numbers from 1"
            )
        self.first, self.last, self.every = first, last, every
        self.max_frames, self.min_frames = max_frames, min_frames

    def kept(self, total: int) -> np.ndarray:
        """Numbers of the frames that are kept of ``total``."""
        return np.arange(int(self.first * total), int(self.last * total), self.every)


class Amass:
    """SMPL+H files of AMASS, one sequence each.

    Args:
        split: train, val or test of TokenHMR; all three together are all it uses of AMASS.
        subsets: names (CMU, BMLrub, ...) or folders instead of those of the split; None for them.
        where: where users get it, for messages.
        frames: which are kept, see ``Frames``.
    """

    kind = "motion"
    joint_set = _JOINT_SET

    def __init__(
        self,
        split: str,
        subsets: Sequence[str] | None,
        where: str,
        first: float,
        last: float,
        every: int,
        max_frames: int | None,
        min_frames: int,
    ) -> None:
        if split not in (*_SPLITS, "all"):
            raise ValueError(f"split={split!r}: choose {', '.join(_SPLITS)} or all")
        splits = _SPLITS if split == "all" else (split,)
        self.subsets = list(subsets or [name for one in splits for name in _SPLITS[one]])
        self.where = where
        self.frames = Frames(first, last, every, max_frames, min_frames)

    def open(self, folder: Path) -> "Clips":
        """List the sequences of the subsets."""
        files: list[Path] = []
        for subset in self.subsets:
            spellings = _FOLDERS.get(subset, (subset,))
            found = [name for name in spellings if (folder / name).is_dir()] or spellings
            files += expect(folder, f"{found[0]}/**/*_poses.npz", self.where)
        return Clips(folder, files, _read_amass, self.frames)


class Moyo:
    """SMPL fits of MOYO: one joblib file per sequence.

    Args:
        files: pattern of the files, relative to the download.
        where: where users get it, for messages.
        frames_per_second: of the sequences, which the files do not say; None if unknown.
        first: see ``Frames``.
        last: likewise.
        every: likewise.
        max_frames: likewise.
        min_frames: likewise.
    """

    kind = "motion"
    joint_set = _JOINT_SET

    def __init__(
        self,
        files: str,
        where: str,
        frames_per_second: float | None,
        first: float,
        last: float,
        every: int,
        max_frames: int | None,
        min_frames: int,
    ) -> None:
        self.files, self.where = files, where
        self.frames_per_second = frames_per_second
        self.frames = Frames(first, last, every, max_frames, min_frames)

    def open(self, folder: Path) -> "Clips":
        """List the sequences."""
        return Clips(folder, expect(folder, self.files, self.where), self._read, self.frames)

    def _read(self, path: Path) -> Motions:
        content = read_joblib(path)
        if not isinstance(content, dict) or "body_pose" not in content:
            found = sorted(map(str, content)) if isinstance(content, dict) else type(content)
            raise ValueError(f"{path} holds {found}; expected body_pose. {self.where}")
        body = np.asarray(content["body_pose"], np.float32)
        body = body.reshape(len(body), -1)
        root = np.asarray(content.get("global_orient", np.zeros((len(body), 3))), np.float32)
        pose = _padded(np.concatenate([root.reshape(len(body), 3), body[:, :63]], axis=1), path)
        return Motions(
            pose,
            betas=_per_frame(content.get("betas"), len(body), 10),
            transl=_per_frame(content.get("transl"), len(body), 3),
            frames_per_second=self.frames_per_second,
        )


class PoseNpz:
    """Poses in one npz: TokenHMR's ``tokenization_data``, or the ``cmu_mocap.npz`` of 4D-Humans.

    ``pose_body`` (N, 63) or ``body_pose`` (N, 72), ``betas`` (N, 10), and in the first ``gender``.
    Nothing says where a sequence ends, so records are runs of frames of the file.

    Args:
        files: pattern of the files, relative to the download.
        where: where users get it, for messages.
        max_frames: of a record.
    """

    kind = "motion"
    joint_set = _JOINT_SET

    def __init__(self, files: str, where: str, max_frames: int) -> None:
        self.files, self.where = files, where
        self.frames = Frames(0.0, 1.0, 1, max_frames, 1)

    def open(self, folder: Path) -> "Clips":
        """List the records of the files."""
        return Clips(folder, expect(folder, self.files, self.where), self._read, self.frames)

    def _read(self, path: Path) -> Motions:
        arrays = read_arrays(path, ["betas"])
        if "pose_body" in arrays:
            body = arrays["pose_body"].reshape(len(arrays["pose_body"]), -1)
            pose = np.concatenate([np.zeros((len(body), 3)), body], axis=1)
        elif "body_pose" in arrays:
            pose = arrays["body_pose"].reshape(len(arrays["body_pose"]), -1)
        else:
            raise ValueError(f"{path} has {sorted(arrays)}; expected pose_body or body_pose")
        return Motions(
            _padded(pose, path),
            betas=_per_frame(arrays["betas"], len(pose), 10),
            gender=_gender(arrays.get("gender"), len(pose)),
        )


class Clips:
    """Records of files of motion: one per file, or runs of at most ``max_frames`` frames.

    Args:
        folder: that keys are relative to.
        files: in their order.
        read: all frames of a file.
        frames: which are kept.
    """

    def __init__(
        self,
        folder: Path,
        files: Sequence[Path],
        read: Callable[[Path], Motions],
        frames: Frames,
    ) -> None:
        self.folder, self.read, self.frames = folder, read, frames
        self._last: tuple[Path, Motions] | None = None  # records of a file follow each other
        longest = frames.max_frames
        if longest is None:
            self.clips = [(path, slice(None)) for path in files]
        else:
            self.clips = [
                (path, slice(start, start + longest))
                for path in files
                for start in range(0, max(1, len(frames.kept(_num_frames(path, read)))), longest)
            ]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Sample:
        """Make one record.

        Raises:
            Skipped: if it is shorter than ``min_frames``.
            ValueError: naming the file that is not what it should be.
        """
        path, part = self.clips[index]
        if self._last is None or self._last[0] != path:
            self._last = path, self.read(path)
        motions = self._last[1]
        rows = self.frames.kept(len(motions.pose))[part]
        name = path.relative_to(self.folder).as_posix()
        if len(rows) < max(self.frames.min_frames, 1):
            raise Skipped(f"fewer than {self.frames.min_frames} frames", name)
        start = "" if part.start is None else f"-{part.start}"
        pose = motions.pose[rows].astype(np.float32)
        sample: Sample = {
            "key": record_key(f"{name.rpartition('.')[0]}{start}.npz"),
            "pose": pose,
            "has_pose": np.isfinite(pose).all(axis=(1, 2)),
        }
        if motions.betas is not None:
            sample["betas"] = motions.betas[rows].astype(np.float32)
            sample["has_betas"] = np.isfinite(sample["betas"]).all(axis=1)
        if motions.transl is not None:
            sample["transl"] = motions.transl[rows].astype(np.float32)
        if motions.gender is not None:
            sample["gender"] = motions.gender[rows]
        if motions.frames_per_second is not None:
            sample["time_s"] = np.float32((rows - rows[0]) / motions.frames_per_second)
        return sample


def _read_amass(path: Path) -> Motions:
    arrays = read_arrays(path, ["poses", "betas", "trans", "gender"])
    poses = arrays["poses"]
    if poses.ndim != 2 or poses.shape[1] != 156:
        raise ValueError(
            f"{path}: poses is {poses.shape}, expected (frames, 156): take the files for SMPL+H, "
            "not those for SMPL-X"
        )
    rate = next((arrays[k] for k in ("mocap_framerate", "mocap_frame_rate") if k in arrays), None)
    return Motions(
        _padded(poses[:, :_NUM_BODY], path),
        betas=_per_frame(arrays["betas"], len(poses), 10),
        transl=arrays["trans"],
        gender=_gender(arrays["gender"], len(poses)),
        frames_per_second=None if rate is None else float(rate),
    )


def _num_frames(path: Path, read: Callable[[Path], Motions]) -> int:
    """Frames of a file; of an npz from a header, without reading it; 0 if it cannot be read."""
    names = ("poses", "pose_body", "body_pose") if path.suffix == ".npz" else ()
    try:
        shapes = [npz_shape(path, name) for name in names]
        return next((shape[0] for shape in shapes if shape), None) or len(read(path).pose)
    except ValueError:
        return 0  # its one record will say why


def _padded(pose: np.ndarray, path: Path) -> np.ndarray:
    """(T, 24, 3) from the first joints, (T, 3 k); the others are zero."""
    if pose.ndim != 2 or pose.shape[1] > _NUM_POSE or pose.shape[1] < _NUM_BODY:
        raise ValueError(f"{path}: {pose.shape} is no pose of SMPL's 24 or first 22 joints")
    padded = np.zeros((len(pose), _NUM_POSE), np.float32)
    padded[:, : pose.shape[1]] = pose
    return padded.reshape(-1, 24, 3)


def _per_frame(values: Any, num: int, width: int) -> np.ndarray | None:
    """(num, width) from one row for all frames or one for each; further columns are dropped."""
    if values is None:
        return None
    rows = np.asarray(values, np.float32)
    rows = rows.reshape(-1, rows.shape[-1])[:, :width]
    return np.broadcast_to(rows, (num, width))


def _gender(values: np.ndarray | None, num: int) -> np.ndarray | None:
    """(num,) codes from one name for all frames or one for each."""
    if values is None:
        return None
    names = [x.decode() if isinstance(x, bytes) else x for x in np.ravel(values).tolist()]
    return np.broadcast_to(gender_codes(names, _GENDERS), (num,))
