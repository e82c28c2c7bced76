"""The neutral, male and female body of a folder, and joints of people of any gender."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hmrkit.body.files import smpl_body
from hmrkit.body.smpl import SMPL
from hmrkit.geometry.rotations import axis_angle_to_rotmat
from hmrkit.types import Body

_GENDERS = {-1: "neutral", 0: "male", 1: "female"}


class GenderedBodies:
    """Licensed bodies by gender, each read from its file when it is first asked for.

    Args:
        folder: of the body files (``smpl_body``); the joint regressors lie beside them.
        joint_regressor_extra: see ``smpl_body``; None for J_regressor_extra.npy of the folder.
    """

    def __init__(self, folder: str | Path, joint_regressor_extra: str | Path | None = None) -> None:
        self.folder, self.joint_regressor_extra = Path(folder), joint_regressor_extra

    def __getstate__(self) -> dict[str, object]:
        """Leave the bodies behind: every process reads its own."""
        return {"folder": self.folder, "joint_regressor_extra": self.joint_regressor_extra}

    def __getitem__(self, gender: int) -> SMPL:
        """The body of a gender: -1 neutral, 0 male, 1 female.

        Raises:
            FileNotFoundError: naming the file that is missing.
            ValueError: if a file is not what it should be.
        """
        if gender not in self._read:
            self._read[gender] = smpl_body(
                self.folder, _GENDERS[gender], joint_regressor_extra=self.joint_regressor_extra
            )
        return self._read[gender]

    @cached_property
    def _read(self) -> dict[int, SMPL]:
        return {}

    def joints(
        self,
        pose: np.ndarray,
        betas: np.ndarray,
        transl: np.ndarray,
        gender: np.ndarray,
        joint_set: str,
    ) -> np.ndarray:
        """Joints (P, K, 3) float32, metres, of people with their own bodies.

        Args:
            pose: (P, 24, 3) axis-angle.
            betas: (P, 10).
            transl: (P, 3) SMPL's translation, metres.
            gender: (P,) -1 neutral, 0 male, 1 female.
            joint_set: a name of ``body/joints.py``.
        """
        return self._measure(
            (pose, betas, transl, gender), lambda smpl, body: smpl.joints(body, joint_set)
        )

    def regressed_joints(
        self, pose: np.ndarray, betas: np.ndarray, transl: np.ndarray, gender: np.ndarray
    ) -> np.ndarray:
        """SMPL's 24 joints (P, 24, 3) likewise, read off the posed meshes."""
        return self._measure(
            (pose, betas, transl, gender),
            lambda smpl, body: smpl.regress_joints(smpl(body).vertices),
        )

    @torch.no_grad()
    def _measure(
        self, people: tuple[np.ndarray, ...], measure: Callable[[SMPL, Body], Tensor]
    ) -> np.ndarray:
        """What ``measure`` finds on everybody's body, (P, K, 3) float32."""
        pose, betas, transl, gender = people
        points: np.ndarray | None = None
        for one in np.unique(gender).tolist():
            rows = np.flatnonzero(gender == one)
            rotmat = axis_angle_to_rotmat(torch.from_numpy(pose[rows].astype(np.float32)))
            shape, place = (torch.from_numpy(x[rows].astype(np.float32)) for x in (betas, transl))
            found = measure(self[one], Body(rotmat[:, 0], rotmat[:, 1:], shape, place)).numpy()
            if points is None:
                points = np.zeros((len(gender), *found.shape[1:]), np.float32)
            points[rows] = found
        return np.zeros((0, 0, 3), np.float32) if points is None else points
