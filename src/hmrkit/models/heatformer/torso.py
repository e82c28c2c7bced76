"""Which way people stand, from where the joints of their torsos are in the world.

Not in the paper: there the root's rotation is what the image network says of every view alone.
"""

import roma
import torch
from torch import Tensor

from hmrkit.body import joints
from hmrkit.body.smpl import SMPL
from hmrkit.geometry.alignment import has_extent
from hmrkit.geometry.rotations import rotmat_to_rot6d_stacked
from hmrkit.models.heatformer.fusion import triangulate
from hmrkit.models.heatformer.heatmapper import JOINTS
from hmrkit.models.heatformer.observe import Observed
from hmrkit.models.heatformer.views import Rig, ViewTable
from hmrkit.types import Batch, Body

_NAMES = ("pelvis", "right_hip", "left_hip", "spine", "neck", "left_shoulder", "right_shoulder")
_TORSO = [JOINTS.index(f"h36m_{name}") for name in _NAMES]
_IN_SET = joints.index([JOINTS[i] for i in _TORSO], "h36m17")
_IN_BATCH = joints.index([JOINTS[i] for i in _TORSO], "all")


def torso_root6d(
    root6d: Tensor,
    observed: Observed,
    table: ViewTable,
    rig: Rig,
    body_model: SMPL,
    labels: Batch | None,
    unit_per_metre: float,
) -> Tensor:
    """Stacked 6D rotations (O, 6) of the roots in the cameras' axes.

    They put the torso of the mean body where the person's is: labelled, else triangulated. Who is
    seen once keeps the estimate, labelled or not: it has to learn which way they stand.

    Args:
        root6d: (O, 6) estimated, kept where joints have no extent too.
        observed: the joints.
        table: the views.
        rig: the cameras.
        body_model: of the mean body.
        labels: gives ``keypoints_world``; None to triangulate everybody.
        unit_per_metre: see ``triangulate``.
    """
    with torch.no_grad(), torch.autocast(root6d.device.type, enabled=False):
        seen = observed.points_img[:, _TORSO]
        points = triangulate(seen, table, rig, unit_per_metre=unit_per_metre)  # (P, 7, 3)
        is_known = points.new_tensor(table.counts) > 1
        if labels is not None:
            given = labels["keypoints_world"][:, _IN_BATCH]  # (P, 7, 4)
            is_given = (given[..., 3] > 0).all(dim=1)
            points = torch.where(is_given[:, None, None], given[..., :3], points)
        is_known = is_known & has_extent(points, torch.ones_like(points[..., 0]))
        mean = body_model.mean_body(1)
        upright = torch.eye(3, device=points.device)[None]
        still = Body(upright, mean.body_pose, mean.betas, mean.transl)
        template = body_model.joints(still, "h36m17")[:, _IN_SET]  # (1, 7, 3)
        target = torch.where(is_known[:, None, None], points, template)
        turn, _ = roma.rigid_points_registration(template.expand_as(target), target)  # (P, 3, 3)
        found = rotmat_to_rot6d_stacked(rig.rotation @ turn[table.person])
    return torch.where(is_known[table.person, None], found, root6d)
