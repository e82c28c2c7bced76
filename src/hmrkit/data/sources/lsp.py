"""Leeds Sports Pose and its extended training sets: ``joints.mat`` and a folder of images.

``joints`` is (3, 14, N) in LSP and (14, 3, N) in LSP-extended and HR-LSPET: x, y and a flag of the
joints of ``lsp14``, in the order of the images' names. What the flag says differs: in LSP 1 means
occluded, and every joint is labelled; in LSP-extended 0 means that the joint is not labelled; in
HR-LSPET, relabelled whole, it is not used (SPIN, 4D-Humans). The box is that of the labelled
joints.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from hmrkit.body import joints
from hmrkit.data.sources.official import absent_to_nan, expect
from hmrkit.data.sources.photos import People, PhotoRecords


class Lsp:
    """One person in every image.

    Args:
        annotations: ``joints.mat``, relative to the download.
        images: the images, a pattern.
        where: where users get it, for messages.
        rows: first image and the one after the last, counted from 0; None for all.
        unlabelled_flag: joints with this flag are not labelled; None if all are.
    """

    kind = "crops"
    joint_set = "lsp14"

    def __init__(
        self,
        annotations: str,
        images: str,
        where: str,
        rows: Sequence[int] | None,
        unlabelled_flag: int | None,
    ) -> None:
        self.annotations, self.images, self.where = annotations, images, where
        self.rows = None if rows is None else tuple(rows)
        self.unlabelled_flag = unlabelled_flag

    def open(self, folder: Path) -> PhotoRecords:
        """Read all annotations of a download."""
        path = expect(folder, self.annotations, self.where)[0]
        images = expect(folder, self.images, self.where)
        values = self._joints(path)
        if len(images) != len(values):
            raise ValueError(
                f"{path} labels {len(values)} images and {folder} holds {len(images)} "
                f"({self.images}): they belong together by their order, so none may be missing. "
                f"{self.where}"
            )
        first, end = self.rows or (0, len(values))
        people = People()
        for row in range(first, min(end, len(values))):
            keypoints = absent_to_nan(values[row])
            people.add(images[row].relative_to(folder).as_posix(), keypoints, None)
        return PhotoRecords(folder, people)

    def _joints(self, path: Path) -> np.ndarray:
        """(N, 14, 3) x, y, confidence."""
        num = len(joints.names(self.joint_set))
        values = loadmat(path).get("joints", np.zeros(0))
        if values.ndim == 3 and values.shape[:2] == (3, num):
            values = values.transpose(2, 1, 0)
        elif values.ndim == 3 and values.shape[:2] == (num, 3):
            values = values.transpose(2, 0, 1)
        else:
            raise ValueError(
                f"{path} has joints of shape {values.shape}; expected (3, {num}, images) or "
                f"({num}, 3, images). {self.where}"
            )
        values = values.astype(np.float32)
        is_labelled = np.isfinite(values).all(axis=2)
        if self.unlabelled_flag is not None:
            is_labelled &= values[..., 2] != self.unlabelled_flag
        return np.concatenate([values[..., :2], is_labelled[..., None]], axis=2, dtype=np.float32)
