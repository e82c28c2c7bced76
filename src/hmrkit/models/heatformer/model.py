"""HeatFormer's network: several calibrated views of one person.

    keypoint crops (O, 3, 384, 384) -> heatmapper -> fuse_heatmaps over a person's views
        -> observed joints (O, 17) -> triangulate -> anchor: place of the pelvis, (P, 3)
    crops (O, 3, 256, 256), middle columns -> ViT -> image tokens (O, 192, 1280)
        -> initial estimate: root rotation and weak camera of every view; mean body pose and betas
    estimate of every view -> joints, pelvis at the anchor, projected, drawn -> HeatEncoder
    repeat: queries = [image tokens, heatmaps of the estimate], context = [image tokens, heatmaps
        observed], both + position (P, V 192, 2304) -> decoder -> mean over a view's tokens
        -> body pose (23 x 6D) and betas of every view += linear heads

O views of P people, V of one person. Root rotation and camera stay at the initial estimate, unless
``with_root_refinement`` says otherwise.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hmrkit.body import joints
from hmrkit.body.smpl import SMPL
from hmrkit.models.heatformer.decoder import KeysValues, PositionEmbedding
from hmrkit.models.heatformer.estimate import (
    Estimate,
    InitialEstimate,
    world_bodies,
)
from hmrkit.models.heatformer.heatmapper import JOINTS, SCALE
from hmrkit.models.heatformer.heatmaps import HeatmapDrawer, Profiles, map_error
from hmrkit.models.heatformer.observe import (
    PELVIS,
    find_anchor,
    labelled_anchor,
    observe,
    visible_joints,
)
from hmrkit.models.heatformer.torso import torso_root6d
from hmrkit.models.heatformer.views import (
    Rig,
    ViewTable,
    read_rig,
    tabulate,
)
from hmrkit.types import Batch, Body, Prediction

PARTS = ("heatmapper", "backbone", "initial", "heat_encoder")  # that may be frozen
ANCHORS = ("labels", "triangulated")
_IN_SET = joints.index(JOINTS, "h36m17")
_HEAD_GAIN = 0.01


class Scene(NamedTuple):
    """What all iterations share."""

    table: ViewTable
    rig: Rig
    tokens: Tensor  # (O, N, C) of the images
    position: Tensor  # (P or 1, V N, D)
    context: list[KeysValues]
    mask: Tensor | None  # (P, V N) bool, which tokens exist
    observed: Profiles
    anchor_cam: Tensor  # (O, 3) m, where the pelvises are put
    extra: dict[str, Tensor]  # of the prediction


class Drawn(NamedTuple):
    """The joints of an estimate."""

    joints_cam: Tensor  # (O, 17, 3) m, camera axes, of the bodies at the origin
    points_px: Tensor  # (O, 17, 2) px of the image network's crop, pelvis at the anchor
    is_drawn: Tensor  # (O, 17) bool: in the crop


class HeatFormer(nn.Module):
    """Rigs to bodies.

    Args:
        heatmapper: ``joint_maps``: crops to heatmaps (B, 17, H / 4, W / 4).
        backbone: crops' middle columns, ``image_size``, to tokens (B, N, C), row by row.
        heat_encoder: heatmaps to tokens (B, N, E) of the same patches.
        estimator: image tokens to a feature (B, ``num_features``) that the start is read from.
        decoder: over the tokens of all views; its width D is C + E.
        body_model: gives the mean pose and shape; not kept. A checkpoint's own mean replaces them.
        input_size: height and width of the image network's crop.
        keypoint_size: height and width of the keypoint network's crop.
        map_size: side of the heatmaps that are drawn.
        sigma: of their Gaussians, px.
        num_iterations: refinements, with the same weights.
        anchor: where the pelvis of the estimate is put before its heatmaps are drawn: at its
            ``labels`` (the authors' align_type gt), or where it is ``triangulated`` (pgt). Without
            a label it is triangulated; with a single view the initial camera says where it is.
        training_anchor: the same in training.
        with_fusion: fuse the views' heatmaps; without, every view finds its joints alone.
        triangulation_unit_per_metre: see ``triangulate``; 1 for the authors' numbers on BEHAVE.
        with_label_visibility: joints labelled outside the keypoint crop are not drawn.
        trainable: which of ``PARTS`` learn; the others are frozen.
        with_noise_in_frozen: leave frozen parts in training mode, as the authors' training does:
            norms use and track the batch's statistics, the backbone skips blocks at random.
        with_gradient_of_heatmaps: measure the distance of the heatmaps, for the loss, on maps that
            pass a gradient to the estimate.
        with_interleaved_root: begin at the mean root rotation in its 6D form of smpl_mean_params,
            which is read in the other: what the authors' estimator was trained to correct. False
            begins at the rotation itself.
        with_root_refinement: let every iteration turn the root too; the authors leave it as it was
            estimated at the start.
        with_root_of_torso: begin at the root rotation that puts the mean torso where the person's
            joints are, labelled or triangulated as the anchor is; see ``torso_root6d``.
    """

    def __init__(
        self,
        heatmapper: nn.Module,
        backbone: nn.Module,
        heat_encoder: nn.Module,
        estimator: nn.Module,
        decoder: nn.Module,
        body_model: SMPL,
        input_size: tuple[int, int] = (256, 256),
        keypoint_size: tuple[int, int] = (384, 384),
        map_size: int = 96,
        sigma: float = 3.0,
        num_iterations: int = 3,
        anchor: str = "triangulated",
        training_anchor: str = "labels",
        with_fusion: bool = True,
        triangulation_unit_per_metre: float = 1000.0,
        with_label_visibility: bool = True,
        trainable: Sequence[str] = (),
        with_noise_in_frozen: bool = False,
        with_gradient_of_heatmaps: bool = False,
        with_interleaved_root: bool = True,
        with_root_refinement: bool = False,
        with_root_of_torso: bool = False,
    ) -> None:
        super().__init__()
        _check_options(num_iterations, (anchor, training_anchor), trainable)
        self.heatmapper, self.backbone, self.heat_encoder = heatmapper, backbone, heat_encoder
        self.initial = InitialEstimate(estimator, body_model, with_interleaved_root)
        self.decoder, self.position = decoder, PositionEmbedding(decoder.dim)
        self.decpose = nn.Linear(decoder.dim, 23 * 6)
        self.decshape = nn.Linear(decoder.dim, 10)
        self.decroot = nn.Linear(decoder.dim, 6) if with_root_refinement else None
        heads = [self.decpose, self.decshape, self.decroot]
        heads += [self.initial.decroot, self.initial.deccam]
        for head in filter(None, heads):  # a fresh network begins at the mean
            nn.init.xavier_uniform_(head.weight, gain=_HEAD_GAIN)
            nn.init.zeros_(head.bias)
        self.input_size, self.keypoint_size = tuple(input_size), tuple(keypoint_size)
        self.map_hw = (keypoint_size[0] // SCALE, keypoint_size[1] // SCALE)
        self.drawer = HeatmapDrawer(self.input_size, backbone.image_size, map_size, sigma)
        self.grid_hw = tuple(side // heat_encoder.patch_size for side in backbone.image_size)
        self.num_iterations = num_iterations
        self.anchor, self.training_anchor = anchor, training_anchor
        self.with_fusion, self.with_label_visibility = with_fusion, with_label_visibility
        self.triangulation_unit_per_metre = triangulation_unit_per_metre
        self.frozen = tuple(name for name in PARTS if name not in trainable)
        self.with_noise_in_frozen = with_noise_in_frozen
        self.with_gradient_of_heatmaps = with_gradient_of_heatmaps
        self.with_root_of_torso = with_root_of_torso
        for name in self.frozen:
            getattr(self, name).requires_grad_(False)
        self.train()  # Lightning takes a network in the mode in which it finds it

    def forward(self, batch: Batch, body_model: SMPL) -> Prediction:
        """Predict the bodies in a batch of rigs.

        Args:
            batch: reads ``image``, ``keypoint_image``, their maps to the source images, cameras and
                indices; labels of the pelvis where the anchor says so, and which are in the crop.
            body_model: makes the joints that are drawn.

        Returns:
            One body per person in the world: the mean over the views, its pelvis at the anchor;
            the earlier iterations in ``stages``. ``transl_cam`` is 0, ``intrinsics_crop`` the real
            camera. What every view said is in ``extra``: ``view_bodies`` reads it.
        """
        images, keypoint_images = self._images(batch)
        with self._gradient("heatmapper"):
            maps = self.heatmapper.joint_maps(keypoint_images).float()
        with self._gradient("backbone"):
            tokens = self.backbone(images)
        with self._gradient("initial"):
            estimate = self.initial(tokens)
        scene, estimate = self._scene(batch, tokens, maps, estimate, body_model)
        drawn = self._draw(estimate, scene, body_model)
        stages: list[Prediction] = []
        for _ in range(self.num_iterations):
            estimate = self._refine(estimate, drawn, scene)
            drawn = self._draw(estimate, scene, body_model)
            stages.append(self._prediction(estimate, drawn, scene, body_model))
        result = stages.pop()
        result.stages = stages
        result.extra |= scene.extra
        return result

    def train(self, mode: bool = True) -> "HeatFormer":
        """Training mode, of the parts that learn."""
        super().train(mode)
        if not self.with_noise_in_frozen:
            for name in self.frozen:
                getattr(self, name).eval()
        return self

    def _gradient(self, part: str) -> torch.set_grad_enabled:
        """Whether what a part makes has a gradient: not if it is frozen."""
        return torch.set_grad_enabled(torch.is_grad_enabled() and part not in self.frozen)

    def _images(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The middle columns of both crops of every view.

        Raises:
            ValueError: if the batch was cut for another network.
        """
        if "keypoint_image" not in batch:
            raise ValueError(
                "HeatFormer needs a second crop of every view for its keypoints, and this batch "
                "has none: use data=heatformer"
            )
        views = batch["image_of_view"]
        images, keypoint_images = batch["image"][views], batch["keypoint_image"][views]
        for name, found, size in (
            ("crops", images, self.input_size),
            ("keypoint_crops", keypoint_images, self.keypoint_size),
        ):
            if found.shape[-2:] != size:
                raise ValueError(
                    f"{name} are {found.shape[-2]}x{found.shape[-1]} but this network takes "
                    f"{size[0]}x{size[1]}: set data.cut.{name}.input_size to that"
                )
        margin = self.drawer.margin
        return images[..., margin : images.shape[-1] - margin], keypoint_images

    def _scene(
        self,
        batch: Batch,
        tokens: Tensor,
        maps: Tensor,
        estimate: Estimate,
        body_model: SMPL,
    ) -> tuple[Scene, Estimate]:
        """What all iterations share, and where they begin."""
        table = tabulate(batch["person_of_view"])
        rig = read_rig(batch, self.input_size, self.map_hw)
        observed = observe(maps, table, rig, self.with_fusion)
        is_drawn = self.drawer.touches(observed.points_px)
        if self.with_label_visibility:
            is_drawn = is_drawn & visible_joints(batch, self.keypoint_size)
        profiles = self.drawer(observed.points_px, is_drawn)
        position = self._positions(table)
        context = torch.cat([tokens, self._encode(profiles)], dim=-1)
        context = table.fill(context).flatten(1, 2) + position  # (P, V N, D)
        anchor = find_anchor(
            observed,
            table,
            rig,
            estimate.cam,
            self._joints(estimate, body_model)[:, PELVIS],
            batch["keypoint_crop_to_img"],
            self.triangulation_unit_per_metre,
        )
        by_labels = (self.training_anchor if self.training else self.anchor) == "labels"
        if by_labels:
            anchor = labelled_anchor(batch, anchor)
        if self.with_root_of_torso:
            labels = batch if by_labels else None
            unit = self.triangulation_unit_per_metre
            root6d = torso_root6d(estimate.root6d, observed, table, rig, body_model, labels, unit)
            estimate = estimate._replace(root6d=root6d)
        scene = Scene(
            table,
            rig,
            tokens,
            position,
            self.decoder.keys_values(context),
            None if table.mask is None else table.mask.repeat_interleave(tokens.shape[1], dim=1),
            profiles,
            rig.to_camera(anchor[table.person][:, None])[:, 0],
            {
                "observed_img": observed.points_img,
                "peak": observed.peak,
                "is_observed": is_drawn,
                "anchor_world": anchor,
                "heatmaps": maps,
            },
        )
        return scene, estimate

    def _positions(self, table: ViewTable) -> Tensor:
        """Positions of the tokens (P, V N, D); one row for all if all have as many views."""
        known = {num: self.position(num, self.grid_hw).flatten(0, 2) for num in set(table.counts)}
        if len(known) == 1:
            return next(iter(known.values()))[None]
        length = max(len(position) for position in known.values())
        rows = [known[num] for num in table.counts]
        return torch.stack([F.pad(row, (0, 0, 0, length - len(row))) for row in rows])

    def _encode(self, profiles: Profiles) -> Tensor:
        """Drawn heatmaps of O views to tokens (O, N, E)."""
        with self._gradient("heat_encoder"):
            return self.heat_encoder(self.drawer.enlarge(profiles))

    def _joints(self, estimate: Estimate, body_model: SMPL) -> Tensor:
        """Joints (O, 17, 3), m, of the bodies at the origin, in the cameras' axes."""
        return body_model.joints(estimate.bodies(), "h36m17")[:, _IN_SET]

    def _draw(self, estimate: Estimate, scene: Scene, body_model: SMPL) -> Drawn:
        """Where the estimate's joints would be seen."""
        is_on = torch.is_grad_enabled() and self.with_gradient_of_heatmaps
        with torch.set_grad_enabled(is_on):
            joints_cam = self._joints(estimate, body_model)
            shift = scene.anchor_cam - joints_cam[:, PELVIS]
            points_px = scene.rig.to_crop_px(joints_cam + shift[:, None])
            limit = points_px.new_tensor(self.input_size).flip(0)  # x, y
            is_inside = ((points_px >= 0) & (points_px < limit)).all(dim=-1)
        return Drawn(joints_cam, points_px, is_inside & self.drawer.touches(points_px))

    def _refine(self, estimate: Estimate, drawn: Drawn, scene: Scene) -> Estimate:
        """One iteration."""
        table, profiles = scene.table, self.drawer(drawn.points_px.detach(), drawn.is_drawn)
        queries = torch.cat([scene.tokens, self._encode(profiles)], dim=-1)
        queries = table.fill(queries).flatten(1, 2) + scene.position  # (P, V N, D)
        features = self.decoder(queries, scene.context, scene.mask)
        features = table.read(features.unflatten(1, (table.num_columns, -1))).mean(dim=1)  # (O, D)
        root6d = estimate.root6d
        if self.decroot is not None:
            root6d = root6d + self.decroot(features).float()
        return estimate._replace(
            root6d=root6d,
            body6d=estimate.body6d + self.decpose(features).float(),
            betas=estimate.betas + self.decshape(features).float(),
        )

    def _prediction(
        self, estimate: Estimate, drawn: Drawn, scene: Scene, body_model: SMPL
    ) -> Prediction:
        """What is said after an iteration."""
        rotmat = estimate.rotmat()
        transl = scene.anchor_cam - drawn.joints_cam[:, PELVIS].detach()
        views = Body(rotmat[:, 0], rotmat[:, 1:], estimate.betas, transl)
        return Prediction(
            body=world_bodies(views, scene.table, scene.rig, body_model),
            transl_cam=torch.zeros_like(transl),
            intrinsics_crop=scene.rig.intrinsics_crop,
            extra={
                "rotmat": rotmat,  # (O, 24, 3, 3)
                "transl_view": transl,  # (O, 3) m
                "pose6d": torch.cat([estimate.root6d, estimate.body6d], dim=1),  # (O, 144)
                "betas": estimate.betas,  # (O, 10)
                "cam": estimate.cam,  # (O, 3)
                "points_px": drawn.points_px,  # (O, 17, 2) of the image network's crop
                "is_drawn": drawn.is_drawn,  # (O, 17)
                "heatmap_error": self._heatmap_error(drawn, scene),  # (O,)
            },
        )

    def _heatmap_error(self, drawn: Drawn, scene: Scene) -> Tensor:
        """Squared difference (O,) of observed and drawn heatmaps, summed over joints and pixels."""
        draw = self.drawer.smooth if self.with_gradient_of_heatmaps else self.drawer
        return map_error(draw(drawn.points_px, drawn.is_drawn), scene.observed)


def _check_options(num_iterations: int, anchors: Sequence[str], trainable: Sequence[str]) -> None:
    if num_iterations < 1:
        raise ValueError(f"num_iterations={num_iterations}: HeatFormer refines at least once")
    for known, names, option in ((ANCHORS, anchors, "anchor"), (PARTS, trainable, "trainable")):
        for name in names:
            if name not in known:
                raise ValueError(f"{option}: no {name!r}; there are {', '.join(known)}")
