"""HeatFormer's loss: sums over joints, coordinates and vertices, means over the views.

The adversarial pose prior takes one step per iteration together with the network: the network's
term sees the discriminator's weights without a gradient to them, the discriminator's term the
predicted bodies without a gradient to the network, both from before the step. Its real bodies are
the labels of the batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from hmrkit import losses
from hmrkit.body import joints
from hmrkit.body.smpl import SMPL
from hmrkit.geometry.cameras import crop_intrinsics, project, weak_perspective_to_transl
from hmrkit.geometry.rotations import axis_angle_to_rotmat, rotmat_to_axis_angle
from hmrkit.layers.discriminator import PoseDiscriminator
from hmrkit.models.heatformer.estimate import view_bodies
from hmrkit.models.heatformer.fusion import TEMPERATURE
from hmrkit.models.heatformer.heatmapper import JOINTS
from hmrkit.models.heatformer.views import map_affine, proper_cameras, square_affine
from hmrkit.types import Batch, Body, Prediction

_IN_SET = joints.index(JOINTS, "h36m17")
_IN_BATCH = joints.index(JOINTS, "all")
_PELVIS = JOINTS.index("h36m_pelvis")
_FOCAL_PX, _SIDE_PX = 5000.0, 384  # of the weak camera
_MIN_QUATERNION = 0.1
_SMALL_ANGLE = 1e-6
_MIN_MASS = 0.1  # of a labelled joint in its map; less lies outside


class ViewLabels(NamedTuple):
    """Labels of O views, in the axes of their cameras."""

    joints_cam: Tensor  # (O, 17, 4) m and confidence
    keypoints_crop: Tensor  # (O, 17, 3) units of the keypoint crop and confidence
    axis_angle: Tensor  # (O, 24, 3)
    betas: Tensor  # (O, 10)
    vertices: Tensor | None  # (O, V, 3) m, up to a translation
    has_pose: Tensor  # (O,) bool
    has_betas: Tensor  # (O,) bool


class HeatFormerLoss(nn.Module):
    """Weighted loss terms of HeatFormer.

    A term of weight 0 is neither computed nor returned.

    Args:
        keypoints3d: L1 of joints relative to the pelvis, metres; last iteration.
        keypoints2d: L1 of joints under the weak camera, in shares of the crop's side; last.
        global_orient: squared difference of the root's axis-angle vectors; last. It has a gradient
            only where the initial estimate learns.
        body_pose: the same of the 23 other joints; last.
        betas: squared difference; last.
        vertices: L1 of vertices relative to the first vertex, metres; every iteration.
        normals: mean of the cosines between predicted edges and labelled normals; every iteration.
        heatmap: per iteration, squared difference of the drawn heatmaps and the observed ones. It
            has no gradient unless the network's ``with_gradient_of_heatmaps`` says so.
        adversarial: of the pose prior, for the network and for its discriminator; every iteration.
        detection: mean squared difference of the keypoint network's heatmaps and labelled ones,
            for a network that learns them.
        detection_entropy: cross-entropy of the same.
        detection_sigma: of the labelled ones' Gaussians, px.
        with_short_angles: compare rotations by less than half a turn, as labels are. Upstream
            leaves the predicted ones between 0 and a whole turn.
        orientation: squared difference of the root's rotation matrices. A person who faces the
            camera is turned by half a turn in its axes, where axis-angle vectors jump.
        earlier: share of the weights of the terms on the last iteration that the earlier ones get
            too.
    """

    def __init__(
        self,
        keypoints3d: float = 0.05,
        keypoints2d: float = 0.01,
        global_orient: float = 0.001,
        body_pose: float = 0.001,
        betas: float = 0.0005,
        vertices: float = 0.0003,
        normals: float = 0.0,
        heatmap: Sequence[float] = (0.001, 0.003, 0.005, 0.007),
        adversarial: float = 0.0005,
        detection: float = 0.0,
        detection_entropy: float = 0.0,
        detection_sigma: float = 2.0,
        with_short_angles: bool = False,
        orientation: float = 0.0,
        earlier: float = 0.0,
    ) -> None:
        super().__init__()
        weights = {
            "keypoints3d": keypoints3d,
            "keypoints2d": keypoints2d,
            "global_orient": global_orient,
            "body_pose": body_pose,
            "betas": betas,
            "orientation": orientation,
        }
        self.last_weights = {name: weight for name, weight in weights.items() if weight}
        self.earlier = earlier
        self.vertices, self.normals, self.adversarial = vertices, normals, adversarial
        self.heatmap, self.detection = tuple(heatmap), detection
        self.detection_entropy = detection_entropy
        self.detection_sigma, self.with_short_angles = detection_sigma, with_short_angles
        self.discriminator = PoseDiscriminator() if adversarial else None
        intrinsics = crop_intrinsics(_FOCAL_PX, (_SIDE_PX, _SIDE_PX))
        self.register_buffer("intrinsics_weak", intrinsics, persistent=False)

    def forward(self, prediction: Prediction, batch: Batch, body_model: SMPL) -> dict[str, Tensor]:
        """The weighted terms by name, in float32.

        Args:
            prediction: of the network.
            batch: rigs.
            body_model: makes meshes.
        """
        with torch.autocast(prediction.transl_cam.device.type, enabled=False):
            labels = view_labels(batch, body_model, with_vertices=self._needs_mesh())
            weighted = self.terms(prediction, labels, body_model)
            if self.detection:
                maps = prediction.extra["heatmaps"].float()
                error = detection_error(maps, labels.keypoints_crop, self.detection_sigma)
                weighted["detection"] = self.detection * error
            if self.detection_entropy:
                maps = prediction.extra["heatmaps"].float()
                error = detection_entropy(maps, labels.keypoints_crop, self.detection_sigma)
                weighted["detection_entropy"] = self.detection_entropy * error
            return weighted

    def terms(
        self, prediction: Prediction, labels: ViewLabels, body_model: SMPL
    ) -> dict[str, Tensor]:
        """The weighted terms that compare views with their labels."""
        stages = [*prediction.stages, prediction]
        if len(stages) > len(self.heatmap):
            raise ValueError(
                f"{len(stages)} iterations but {len(self.heatmap)} weights in model.loss.heatmap: "
                "give one per iteration"
            )
        bodies = [_at_origin(view_bodies(stage)) for stage in stages]
        is_observed = prediction.extra["is_observed"]
        sums: dict[str, Tensor] = {}
        for stage, body, weight in zip(stages, bodies, self.heatmap, strict=False):
            for name, value in self._stage_terms(stage, body, labels, weight, body_model).items():
                sums[name] = sums[name] + value if name in sums else value
        scored = list(zip(stages, bodies, strict=True))
        scored = scored if self.earlier else scored[-1:]
        for i, (stage, body) in enumerate(reversed(scored)):
            share = self.earlier if i else 1.0
            joints_cam = body_model.joints(body, "h36m17")[:, _IN_SET]
            last = self._last_terms(stage, body, joints_cam, labels, is_observed)
            for name, weight in self.last_weights.items():
                value = share * weight * last[name]
                sums[name] = sums[name] + value if name in sums else value
        return sums

    def _needs_mesh(self) -> bool:
        return bool(self.vertices or self.normals)

    def _stage_terms(
        self,
        stage: Prediction,
        body: Body,
        labels: ViewLabels,
        heatmap_weight: float,
        body_model: SMPL,
    ) -> dict[str, Tensor]:
        """What every iteration is scored by, weighted."""
        terms = {"heatmap": heatmap_weight * stage.extra["heatmap_error"].mean()}
        has_body = (labels.has_pose & labels.has_betas).float()
        if labels.vertices is not None:
            vertices = body_model(body).vertices
            if self.vertices:
                error = first_vertex_l1(vertices, labels.vertices)
                terms["vertices"] = self.vertices * (has_body * error).mean()
            if self.normals:
                error = normal_error(vertices, labels.vertices, body_model.faces)
                terms["normals"] = self.normals * (has_body * error).mean()
        if self.discriminator is not None and self.training:
            real = axis_angle_to_rotmat(labels.axis_angle[:, 1:])
            prior = adversarial_terms(self.discriminator, body, real, labels.betas, has_body)
            terms |= {name: self.adversarial * term for name, term in prior.items()}
        return terms

    def _last_terms(
        self,
        stage: Prediction,
        body: Body,
        joints_cam: Tensor,
        labels: ViewLabels,
        is_observed: Tensor,
    ) -> dict[str, Tensor]:
        """What the last iteration is scored by, unweighted."""
        target3d, target2d = labels.joints_cam, labels.keypoints_crop
        is_visible = is_observed & (target2d[..., 2] > 0)
        transl = weak_perspective_to_transl(stage.extra["cam"], _FOCAL_PX, _SIDE_PX)
        points = project(joints_cam + transl[:, None], self.intrinsics_weak)
        rotmat = torch.cat([body.global_orient[:, None], body.body_pose], dim=1)
        angles = rotmat_to_axis_angle if self.with_short_angles else rotmat_to_long_axis_angle
        turn = (angles(rotmat) - labels.axis_angle).square().sum(dim=-1)  # (O, 24)
        betas = losses.squared_distance(body.betas, labels.betas)
        confidence = target3d[..., 3] * target3d[:, _PELVIS, None, 3]
        error3d = losses.root_relative_l1(joints_cam, target3d, _PELVIS)
        has_pose = labels.has_pose.float()
        root = axis_angle_to_rotmat(labels.axis_angle[:, 0])
        orientation = losses.squared_distance(body.global_orient, root)
        return {
            "keypoints3d": (confidence * error3d).sum(dim=1).mean(),
            "keypoints2d": (is_visible * losses.side_l1(points, target2d)).sum(dim=1).mean(),
            "global_orient": (has_pose * turn[:, 0]).mean(),
            "body_pose": (has_pose * turn[:, 1:].sum(dim=1)).mean(),
            "betas": (labels.has_betas * betas).mean(),
            "orientation": (has_pose * orientation).mean(),
        }


@torch.no_grad()
def view_labels(batch: Batch, body_model: SMPL, with_vertices: bool) -> ViewLabels:
    """The labels of a batch of rigs, view by view."""
    person = batch["person_of_view"]
    camera, _ = proper_cameras(batch)
    turn = camera[:, :3, :3]
    world = batch["keypoints_world"][:, _IN_BATCH][person]  # (O, 17, 4)
    points = (turn[:, None] * world[..., None, :3]).sum(dim=-1) + camera[:, None, :3, 3]
    seen = batch["keypoints_crop"][:, _IN_BATCH]  # (O, 17, 3)
    to_units = torch.linalg.inv(square_affine(batch["keypoint_crop_to_img"]).double()).float()
    points_img = map_affine(batch["crop_to_img"], seen[..., :2])
    keypoints = map_affine(to_units[:, :2], points_img)
    body = _at_origin(batch["body"])
    root = turn @ body.global_orient[person]
    rotmat = torch.cat([root[:, None], body.body_pose[person]], dim=1)
    vertices: Tensor | None = None
    if with_vertices:
        vertices = body_model(body).vertices
        vertices = (vertices - vertices[:, :1])[person] @ turn.transpose(1, 2)
    return ViewLabels(
        torch.cat([points, world[..., 3:]], dim=-1),
        torch.cat([keypoints, seen[..., 2:]], dim=-1),
        rotmat_to_axis_angle(rotmat),
        body.betas[person],
        vertices,
        batch["has_pose"][person],
        batch["has_betas"][person],
    )


def _at_origin(body: Body) -> Body:
    return Body(body.global_orient, body.body_pose, body.betas, torch.zeros_like(body.transl))


def first_vertex_l1(pred: Tensor, target: Tensor) -> Tensor:
    """L1 distance (O,) of vertices (O, V, 3), summed, after both first vertices are the origin."""
    difference = (pred - pred[:, :1]) - (target - target[:, :1])
    return difference.abs().sum(dim=(1, 2))


def normal_error(pred: Tensor, target: Tensor, faces: Tensor) -> Tensor:
    """Mean of |cos| (O,) between the edges of faces and the normals they should be square to.

    Args:
        pred: (O, V, 3), of the edges.
        target: (O, V, 3), of the normals.
        faces: (F, 3).
    """
    a, b, c = (pred[:, faces[:, i]] for i in range(3))
    edges = F.normalize(torch.stack([b - a, c - a, c - b], dim=1), dim=-1)  # (O, 3, F, 3)
    a, b, c = (target[:, faces[:, i]] for i in range(3))
    first, second = F.normalize(b - a, dim=-1), F.normalize(c - a, dim=-1)
    normal = F.normalize(torch.linalg.cross(first, second, dim=-1), dim=-1)
    return (edges * normal[:, None]).sum(dim=-1).abs().mean(dim=(1, 2))


def adversarial_terms(
    discriminator: PoseDiscriminator, predicted: Body, rotmat: Tensor, betas: Tensor, weight: Tensor
) -> dict[str, Tensor]:
    """Least-squares terms of the pose prior, per view.

    Args:
        discriminator: 1 is real, 0 is predicted.
        predicted: O bodies.
        rotmat: (O, 23, 3, 3) of real ones.
        betas: (O, 10) of real ones.
        weight: (O,) of the real ones, 0 where there is none.

    Returns:
        ``adversarial``, whose gradient reaches the predicted bodies only, and ``discriminator``,
        whose gradient reaches the discriminator only.
    """
    frozen = {name: value.detach() for name, value in discriminator.named_parameters()}
    fooled = functional_call(discriminator, frozen, (predicted.body_pose, predicted.betas))
    of_predicted = discriminator(predicted.body_pose.detach(), predicted.betas.detach())
    of_real = discriminator(rotmat, betas)
    real = (weight[:, None] * (of_real - 1).square()).sum()
    num = len(predicted.betas)
    return {
        "adversarial": (fooled - 1).square().sum() / num,
        "discriminator": (of_predicted.square().sum() + real) / num,
    }


def detection_error(maps: Tensor, keypoints_crop: Tensor, sigma: float) -> Tensor:
    """Mean squared difference of heatmaps (O, K, h, w) and Gaussians at the labelled joints.

    Args:
        maps: of the keypoint network.
        keypoints_crop: (O, K, 3) units of its crop and confidence, 0 of which does not count.
        sigma: of the Gaussians, px of the maps.
    """
    target = labelled_maps(keypoints_crop, maps.shape[-2:], sigma)
    is_labelled = keypoints_crop[..., 2] > 0
    return (is_labelled[..., None, None] * (maps - target).square()).mean()


def detection_entropy(maps: Tensor, keypoints_crop: Tensor, sigma: float) -> Tensor:
    """Cross-entropy of the maps, as ``soft_argmax`` weighs their pixels, and the same Gaussians.

    The mean over labelled joints that lie in the map; arguments as of ``detection_error``. Squared
    differences alone begin with maps of zeros, and stay there for long.
    """
    target = labelled_maps(keypoints_crop, maps.shape[-2:], sigma).flatten(2)  # (O, K, h w)
    mass = target.sum(dim=-1)
    counts = ((keypoints_crop[..., 2] > 0) & (mass > _MIN_MASS)).float()
    share = target / mass.clamp(min=_MIN_MASS)[..., None]
    entropy = -(share * (maps.flatten(2) / TEMPERATURE).log_softmax(dim=-1)).sum(dim=-1)
    return (counts * entropy).sum() / counts.sum().clamp(min=1)


def labelled_maps(keypoints_crop: Tensor, size_hw: tuple[int, int], sigma: float) -> Tensor:
    """Gaussians (O, K, h, w) at joints (O, K, 3) in units of the crop."""
    profiles = []
    for axis, size in ((1, size_hw[0]), (0, size_hw[1])):
        center = (keypoints_crop[..., axis, None] + 1) * size / 2
        pixel = torch.arange(size, device=keypoints_crop.device)
        profiles.append((-(pixel - center).square() / (2 * sigma**2)).exp())
    return profiles[0][..., :, None] * profiles[1][..., None, :]


def rotmat_to_quaternion(rotmat: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) to quaternions (..., 4), w first, of either sign.

    The sign is that of the component that is computed first, the largest, as in PyTorch3D until
    0.7.5: w may be negative.
    """
    m00, m11, m22 = rotmat.diagonal(dim1=-2, dim2=-1).unbind(-1)
    squares = torch.stack(
        [1 + m00 + m11 + m22, 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22], -1
    )
    # twice the components; the root of 0 has no gradient that anything could follow
    size = torch.where(squares > 0, squares, 1.0).sqrt() * (squares > 0)
    minus, plus = rotmat - rotmat.mT, rotmat + rotmat.mT
    x, y, z = minus[..., 2, 1], minus[..., 0, 2], minus[..., 1, 0]
    xy, xz, yz = plus[..., 0, 1], plus[..., 0, 2], plus[..., 1, 2]
    w2, x2, y2, z2 = size.square().unbind(-1)
    rows = [[w2, x, y, z], [x, x2, xy, xz], [y, xy, y2, yz], [z, xz, yz, z2]]
    candidates = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    candidates = candidates / (2 * size[..., None].clamp(min=_MIN_QUATERNION))
    best = size.argmax(dim=-1)[..., None, None].expand(*size.shape[:-1], 1, 4)
    return candidates.gather(-2, best)[..., 0, :]


def rotmat_to_long_axis_angle(rotmat: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) to axis-angle (..., 3) of length at most 2 pi.

    A rotation whose quaternion comes with a negative w is taken the long way round.
    """
    w, vector = rotmat_to_quaternion(rotmat).split((1, 3), dim=-1)
    length = vector.norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(length, w)
    is_small = angle.abs() < _SMALL_ANGLE
    ratio = torch.where(
        is_small, 0.5 - angle.square() / 48, (angle / 2).sin() / torch.where(is_small, 1.0, angle)
    )
    return vector / ratio
