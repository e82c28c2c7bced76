"""A small HeatFormer, and people in front of calibrated cameras."""

import torch
from scipy.spatial.transform import Rotation

from hmrkit.geometry.cameras import project, transform
from hmrkit.geometry.rotations import axis_angle_to_rotmat
from hmrkit.layers.transformer import QueryDecoder
from hmrkit.layers.vit import ViT
from hmrkit.models.heatformer.decoder import ViewDecoder
from hmrkit.models.heatformer.heatmapper import PoseResNet
from hmrkit.models.heatformer.heatmaps import HeatEncoder
from hmrkit.models.heatformer.model import HeatFormer
from hmrkit.types import Batch, Body

SIDE = 64


def network(body_model, is_fresh: bool = False, **options) -> HeatFormer:
    """A network of small parts; its heads say something unless it is fresh."""
    torch.manual_seed(0)
    net = HeatFormer(
        PoseResNet(18, num_maps=17 + 16, width=8),
        ViT((SIDE, 48), dim=32, depth=2, num_heads=2),
        HeatEncoder(patch_size=16, dim=16, depth=2, num_heads=2, head_dim=8, mlp_dim=32),
        QueryDecoder(32, dim=32, depth=1, num_heads=2, head_dim=16, mlp_dim=32),
        ViewDecoder(48, depth=2, num_heads=2, head_dim=16, mlp_dim=32),
        body_model,
        input_size=(SIDE, SIDE),
        keypoint_size=(SIDE, SIDE),
        map_size=24,
        sigma=0.8,
        **{"with_interleaved_root": False, **options},
    )
    heads = (net.decpose, net.decshape, net.initial.decroot, net.initial.deccam)
    for linear in () if is_fresh else heads:
        torch.nn.init.normal_(linear.weight, std=0.02)
    return net


def rigs(body_model, counts: tuple[int, ...] = (3, 3), seed: int = 1) -> Batch:
    """People in front of cameras that see them whole, all labels exact."""
    generator = torch.Generator().manual_seed(seed)
    num, total = len(counts), sum(counts)
    rotmat = axis_angle_to_rotmat(0.3 * torch.randn(num, 24, 3, generator=generator))
    betas, transl = (torch.randn(num, n, generator=generator) for n in (10, 3))
    body = Body(rotmat[:, 0], rotmat[:, 1:], betas, 0.2 * transl)
    points = body_model.joints(body, "all")
    person = torch.arange(num).repeat_interleave(torch.tensor(counts))
    camera = torch.eye(4).repeat(total, 1, 1)
    for view in range(total):
        turn = Rotation.from_euler("yxz", [70 * view, 8 * view, 3 * view], degrees=True)
        camera[view, :3, :3] = torch.from_numpy(turn.as_matrix())
        camera[view, 2, 3] = 4.0 + 0.1 * view
    intrinsics = torch.tensor([[300.0, 0, 100], [0, 300, 100], [0, 0, 1]]).repeat(total, 1, 1)
    intrinsics[:, 0, 2] += torch.arange(total)
    seen = project(transform(points[person], camera), intrinsics)  # px
    to_img = torch.tensor([[110.0, 0, 100], [0, 110, 100]]).repeat(total, 1, 1)
    units = (seen - to_img[:, None, :, 2]) / 110
    one = torch.ones_like(points[..., :1])
    yes = torch.ones(num, dtype=torch.bool)
    return {
        "image": torch.randn(total, 3, SIDE, SIDE, generator=generator),
        "keypoint_image": torch.randn(total, 3, SIDE, SIDE, generator=generator),
        "intrinsics": intrinsics,
        "world_to_camera": camera,
        "image_of_view": torch.arange(total),
        "person_of_view": person,
        "crop_to_img": to_img,
        "keypoint_crop_to_img": to_img.clone(),
        "keypoints_crop": torch.cat([units, one[person]], dim=-1),
        "keypoints_world": torch.cat([points, one], dim=-1),
        "body": body,
        "has_pose": yes,
        "has_betas": yes,
    }


def views_of(batch: Batch, views: list[int], people: list[int]) -> Batch:
    """A batch of some of the views, which are all views of some of the people."""
    per_view = ("image", "keypoint_image", "intrinsics", "world_to_camera", "crop_to_img")
    per_view += ("keypoint_crop_to_img", "keypoints_crop")
    part = {name: batch[name][views] for name in per_view}
    part |= {name: batch[name][people] for name in ("keypoints_world", "has_pose", "has_betas")}
    owner = [people.index(p) for p in batch["person_of_view"][views].tolist()]
    return {
        **part,
        "image_of_view": torch.arange(len(views)),
        "person_of_view": torch.tensor(owner),
        "body": Body(*(value[people] for value in vars(batch["body"]).values())),
    }
