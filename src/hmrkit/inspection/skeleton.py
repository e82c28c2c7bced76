"""The skeleton of a body: what the checks need of it, small, and quick for thousands of people."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from hmrkit.body import joints
from hmrkit.body.smpl import SMPL
from hmrkit.types import Body

_NUM_BETAS = 10


@dataclass(frozen=True)
class Skeleton:
    """Joints of "smpl24" as a linear function of the shape, and the pose that angles count from.

    Attributes:
        name: of the body.
        fits: the labels are parameters of this very body; else their shapes mean nothing to it.
    """

    name: str
    fits: bool
    rest: np.ndarray  # (24, 3) m
    shape_dirs: np.ndarray  # (10, 24, 3) m per unit of each beta
    mean_pose: np.ndarray  # (24, 3, 3)

    def rest_joints(self, betas: np.ndarray) -> np.ndarray:
        """Joints (P, 24, 3), m, at rest, of shapes (P, 10); NaN counts as 0."""
        if not self.fits:
            return np.broadcast_to(self.rest, (len(betas), *self.rest.shape))
        return self.rest + np.einsum("pb,bjc->pjc", np.nan_to_num(betas), self.shape_dirs)

    def pose(self, rotations: np.ndarray, betas: np.ndarray) -> np.ndarray:
        """Joints (P, 24, 3), m, of people with translation 0.

        Args:
            rotations: (P, 24, 3, 3), row 0 to the frame of the result.
            betas: (P, 10).
        """
        rest = self.rest_joints(betas)
        placed, turned = rest.copy(), rotations.copy()
        for joint, parent in enumerate(joints.SMPL_PARENTS):
            if parent >= 0:
                bone = rest[:, joint] - rest[:, parent]
                step = np.einsum("pab,pb->pa", turned[:, parent], bone)
                placed[:, joint] = placed[:, parent] + step
                turned[:, joint] = turned[:, parent] @ rotations[:, joint]
        return placed


@torch.no_grad()
def skeleton_of(body: SMPL, fits: bool) -> Skeleton:
    """Measure the skeleton of a body."""
    shapes = torch.cat([torch.zeros(1, _NUM_BETAS), torch.eye(_NUM_BETAS)])
    upright = torch.eye(3).expand(len(shapes), 24, 3, 3)
    still = torch.zeros(len(shapes), 3)
    found = body.joints(Body(upright[:, 0], upright[:, 1:], shapes, still)).double().numpy()
    mean_pose = body.mean_pose.double().numpy()
    return Skeleton(body.name, fits, found[0], found[1:] - found[0], mean_pose)


def axis_angle_to_rotmat(axis_angle: np.ndarray) -> np.ndarray:
    """Axis-angle (..., 3) to rotation matrices (..., 3, 3), NumPy."""
    flat = Rotation.from_rotvec(np.asarray(axis_angle, np.float64).reshape(-1, 3)).as_matrix()
    return flat.reshape(*axis_angle.shape, 3)
