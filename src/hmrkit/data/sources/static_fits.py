"""SPIN's fitted bodies, one row for each row of an annotation file: the pseudo labels of 2D data.

Two layouts: ``.npy`` (N, 82), 72 of pose and 10 of shape, every row valid (SPIN's static fits,
``h36m.npy`` of its final ones); ``.npz`` with ``pose`` (N, 72), ``betas`` (N, 10) and ``valid_fit``
(N,) (SPIN's final fits of the other datasets). Pose is axis-angle with the root in camera axes.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hmrkit.data.sources.official import expect, read_arrays

_NUM_POSE, _NUM_BETAS = 72, 10


class StaticFits:
    """Gives bodies to the rows of an annotation file.

    Args:
        file: the fits, relative to the input or absolute.
        is_replacing: the fits take the place of what the annotation file says of bodies, validity
            included, as in the mixed stage of PyMAF's conference version for every dataset but
            Human3.6M; otherwise rows that have a body keep it.
        max_beta: fits with a larger coefficient of shape get the mean shape, as in PyMAF's
            conference version and SPIN; null keeps them.
    """

    def __init__(self, file: str, is_replacing: bool = False, max_beta: float | None = 3.0) -> None:
        self.file, self.is_replacing, self.max_beta = file, is_replacing, max_beta

    def join(
        self, rows: Mapping[str, np.ndarray], folder: Path, with_smpl: bool = True
    ) -> dict[str, np.ndarray]:
        """The rows with ``pose``, ``shape`` and ``has_smpl`` of those that got a fit.

        Args:
            rows: of an annotation file.
            folder: the input.
            with_smpl: whether rows with a pose but without the key ``has_smpl`` have a body.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it does not have as many rows as the annotations.
        """
        path = Path(self.file)
        root, name = (path.parent, path.name) if path.is_absolute() else (folder, self.file)
        path = expect(root, name, "It is in SPIN's archive of fits (static_fits or final fits).")[0]
        num = len(rows["imgname"])
        pose, betas, is_valid = _read(path)
        if len(pose) != num:
            raise ValueError(
                f"{path} has {len(pose)} fits, the annotations {num} rows: fits are joined row by "
                "row, so take those that were made for this very file"
            )
        if self.max_beta is not None:
            betas = np.where((np.abs(betas) > self.max_beta).any(axis=1, keepdims=True), 0, betas)
        has_own = np.zeros(num, bool)
        if not self.is_replacing and "pose" in rows and "shape" in rows:
            has_own = rows["has_smpl"] > 0 if "has_smpl" in rows else np.full(num, with_smpl)
        own = has_own[:, None]
        return {
            **rows,
            "pose": np.where(own, rows.get("pose", 0), pose).astype(np.float32),
            "shape": np.where(own, rows.get("shape", 0), betas).astype(np.float32),
            "has_smpl": has_own | is_valid,
        }


def _read(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pose (N, 72), betas (N, 10), validity (N,) bool."""
    if path.suffix == ".npz":
        arrays = read_arrays(path, ("pose", "betas", "valid_fit"))
        pose, betas = arrays["pose"], arrays["betas"]
        is_valid = arrays["valid_fit"].ravel() > 0
    else:
        fits = np.load(path, allow_pickle=False)
        if fits.ndim != 2 or fits.shape[1] != _NUM_POSE + _NUM_BETAS:
            raise ValueError(f"{path} is {fits.shape}, expected (N, 82): 72 of pose, 10 of shape")
        pose, betas = fits[:, :_NUM_POSE], fits[:, _NUM_POSE:]
        is_valid = np.ones(len(fits), bool)
    expected = {"pose": (len(pose), _NUM_POSE), "betas": (len(pose), _NUM_BETAS)}
    if pose.shape != expected["pose"] or betas.shape != expected["betas"]:
        raise ValueError(
            f"{path}: pose is {pose.shape} and betas {betas.shape}, expected {expected}"
        )
    return pose, betas, is_valid
