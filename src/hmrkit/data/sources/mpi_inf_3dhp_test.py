"""The test set of MPI-INF-3DHP as it is downloaded: TS1 to TS6.

``TS1/annot_data.mat`` is MATLAB 7.3, that is HDF5: ``annot2`` (N, 1, 17, 2) px; ``annot3`` and
``univ_annot3`` (N, 1, 17, 3) mm in camera axes, the latter scaled to a skeleton of one height, to
which published numbers refer; ``valid_frame`` (N, 1). Row n is
``TS1/imageSequence/img_<n + 1>.jpg``; TS5 and TS6 are outdoors, their images have another size.

The intrinsics are what takes ``annot3`` to ``annot2``. Activities are not carried.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from hmrkit.data.sources.mpi_inf_3dhp import are_inside, check_joint_set, place
from hmrkit.data.sources.official import Skipped, expect, read_image, record_key
from hmrkit.data.sources.placed_bodies import image_size
from hmrkit.geometry.boxes import keypoints_to_box
from hmrkit.types import Sample

_ROWS = (
    "head_top", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder",
    "left_elbow", "left_wrist", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee",
    "left_ankle", "pelvis", "spine", "jaw",
)  # fmt: skip
_MM = 1000.0
_LARGEST_ERROR_PX = 2.0  # of projected labels; above it the camera counts as unknown


class MpiInf3dhpTest:
    """The valid frames of the test sequences.

    Args:
        sequences: 1 to 6.
        annotation: ``univ_annot3`` or ``annot3``.
        with_all_inside: frames with a joint outside the image are left out.
        frame_step: every so many-th frame of a sequence.
        joint_set: ``h36m17``, or ``spin24`` with the names of SPIN's annotations.
    """

    kind = "crops"

    def __init__(
        self,
        sequences: Sequence[int] = (1, 2, 3, 4, 5, 6),
        annotation: str = "univ_annot3",
        with_all_inside: bool = True,
        frame_step: int = 1,
        joint_set: str = "h36m17",
    ) -> None:
        self.joint_set = check_joint_set(joint_set)
        if annotation not in ("annot3", "univ_annot3"):
            raise ValueError(f"annotation={annotation!r}: say univ_annot3 or annot3")
        self.sequences, self.annotation = tuple(sequences), annotation
        self.with_all_inside, self.frame_step = with_all_inside, frame_step

    def open(self, folder: Path) -> "_Records":
        """List the records of a folder that holds ``TS1`` to ``TS6``.

        Raises:
            FileNotFoundError, ValueError: if it holds something else.
        """
        where = "That is mpi_inf_3dhp_test_set of MPI-INF-3DHP's get_testset.sh"
        rows = []
        for number in self.sequences:
            (path,) = expect(folder, f"TS{number}/annot_data.mat", where)
            labels = read_matlab73(path, ["valid_frame"])
            valid = np.flatnonzero(labels["valid_frame"].ravel())
            rows += [(path, row) for row in valid[valid % self.frame_step == 0].tolist()]
        return _Records(self, rows)


class _Records:
    def __init__(self, options: MpiInf3dhpTest, rows: Sequence[tuple[Path, int]]) -> None:
        self.options, self.rows = options, rows
        self._labels = lru_cache(maxsize=1)(self._read)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        path, row = self.rows[index]
        points_img, points_cam, intrinsics = self._labels(path)
        image = path.parent / "imageSequence" / f"img_{row + 1:06d}.jpg"
        content = read_image(image)
        keypoints = np.float32(place(points_img[row], _ROWS, self.options.joint_set))
        height, width = image_size(content)
        if self.options.with_all_inside and not are_inside(keypoints, (width, height)):
            raise Skipped("a joint lies outside the image", str(image))
        return {
            "key": record_key(f"{path.parent.name}-{image.stem}"),
            "images": [content],
            "intrinsics": np.float32(intrinsics)[None],
            "image_of_view": np.zeros(1, np.int64),
            "person_of_view": np.zeros(1, np.int64),
            "box_img": keypoints_to_box(keypoints)[None],
            "keypoints_img": keypoints[None],
            "keypoints_world": np.float32(
                place(points_cam[row] / _MM, _ROWS, self.options.joint_set)
            )[None],
        }

    def _read(self, path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Joints (N, 17, 2) px and (N, 17, 3) mm, and the camera (3, 3)."""
        names = ["annot2", "annot3", "univ_annot3", "valid_frame"]
        labels = read_matlab73(path, names)
        valid = labels["valid_frame"].ravel().astype(bool)
        camera = fit_intrinsics(labels["annot3"][valid, 0], labels["annot2"][valid, 0])
        return labels["annot2"][:, 0], labels[self.options.annotation][:, 0], camera


def fit_intrinsics(points_cam: np.ndarray, points_img: np.ndarray) -> np.ndarray:
    """Camera (3, 3) px that takes points (..., 3) of its axes to px (..., 2), by least squares.

    NaN if there is none: if half of the points miss by more than 2 px.
    """
    points, target = points_cam.reshape(-1, 3), points_img.reshape(-1, 2)
    rays = points[:, :2] / points[:, 2:]
    intrinsics = np.eye(3)
    error = np.zeros(len(points))
    for axis in range(2):
        design = np.column_stack([rays[:, axis], np.ones(len(rays))])
        solution = np.linalg.lstsq(design, target[:, axis], rcond=None)[0]
        intrinsics[axis, axis], intrinsics[axis, 2] = solution
        error = np.maximum(error, np.abs(design @ solution - target[:, axis]))
    return intrinsics if np.median(error) <= _LARGEST_ERROR_PX else np.full((3, 3), np.nan)


def read_matlab73(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays of a MATLAB 7.3 file, axes in HDF5's order (the reverse of MATLAB's).

    Raises:
        ValueError: if h5py is missing, or the file is something else.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path} is a MATLAB 7.3 file, which needs h5py: pip install 'hmrkit[datasets]'; "
            "python -m hmrkit.doctor shows the extras that are installed"
        ) from error
    try:
        with h5py.File(path, "r") as file:
            return {name: np.asarray(file[name]) for name in names}
    except (OSError, KeyError) as error:
        raise ValueError(f"{path} is no annotation of MPI-INF-3DHP's test set: {error}") from error
