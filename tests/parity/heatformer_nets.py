"""HeatFormer's network, losses and scores against the authors' numbers.

Views are rows ``(b v)``. A case's inputs are recorded, or made by the expression that it states.
What differs is convention: crops' maps of pixels where ours are of crop units, millimetres, joints
with the right leg first.
"""

import gzip
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from types import SimpleNamespace
from unittest.mock import patch

import fill
import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from parity_case import Case
from torch import Tensor, nn

from hmrkit import configs, metrics
from hmrkit.body import joints
from hmrkit.body.smpl import SMPL, BodyData
from hmrkit.checkpoints import load_official
from hmrkit.geometry.cameras import crop_intrinsics, project, weak_perspective_to_transl
from hmrkit.geometry.rotations import (
    axis_angle_to_rotmat,
    rot6d_interleaved_to_rotmat,
    rot6d_stacked_to_rotmat,
)
from hmrkit.keys import rename_keys
from hmrkit.layers.discriminator import PoseDiscriminator
from hmrkit.models.heatformer import convert, model, scores
from hmrkit.models.heatformer.decoder import PositionEmbedding, encode_axis
from hmrkit.models.heatformer.estimate import Estimate, view_bodies
from hmrkit.models.heatformer.fusion import epipolar_max, fuse_heatmaps, soft_argmax, triangulate
from hmrkit.models.heatformer.heatmapper import CHANNELS, JOINTS
from hmrkit.models.heatformer.heatmaps import HeatmapDrawer, Profiles, map_error
from hmrkit.models.heatformer.loss import (
    HeatFormerLoss,
    ViewLabels,
    rotmat_to_long_axis_angle,
    rotmat_to_quaternion,
)
from hmrkit.models.heatformer.observe import Observed
from hmrkit.models.heatformer.views import Rig, ViewTable, map_affine, read_rig, tabulate
from hmrkit.module import HMRModule
from hmrkit.types import Batch, Body, Mesh, Prediction

IMAGE_PX, KEYPOINT_PX, MAP_PX = 256, 384, 96
MM = 1000.0
IN_BATCH = joints.index(JOINTS, "all")
PELVIS = joints.index("h36m_pelvis", "all")
TIED = (
    "xview",
    "fused",
    "j2d_ScoreFuse",
)  # which pixel is nearest to a line hangs on the last digit
TIE_PX = 1e-4  # what upstream's own rounding moves a line by
Ties = Callable[[], list[dict[str, Tensor]]]
HEATMAP_WEIGHTS = (0.001, 0.003, 0.005, 0.007)


@lru_cache(maxsize=2)
def body(salt: str) -> SMPL:
    """The nonsense body of the cases; its 17 joints come in the authors' order."""
    arrays = fill.smpl(salt)
    parents = arrays["kintree_table"][0].astype(np.int64)
    parents[0] = -1
    h36m = fill.joint_regressor("J_regressor_h36m_correct", 17, salt)
    return SMPL(
        BodyData(
            name="parity-neutral",
            v_template=arrays["v_template"],
            shapedirs=arrays["shapedirs"],
            posedirs=arrays["posedirs"],
            weights=arrays["weights"],
            J_regressor=arrays["J_regressor"],
            faces=arrays["f"].astype(np.int64),
            parents=parents,
            mean_pose=np.tile(np.eye(3, dtype=np.float32), (24, 1, 1)),
            mean_betas=np.zeros(10, np.float32),
            J_regressor_h36m=h36m[[JOINTS.index(name) for name in joints.names("h36m17")]],
        )
    )


def given(case: Case) -> dict[str, Tensor]:
    """Inputs by name."""
    names = {**vars(fill), "abs": np.abs, "tile": np.tile, "float32": np.float32, "salt": case.salt}
    values: dict[str, np.ndarray] = {}
    mentioned = {entry["name"] for entry in case.spec["inputs"]}
    for entry in sorted(  # those last that are made of others
        case.spec["inputs"],
        key=lambda e: not mentioned.isdisjoint(re.findall(r"\w+", e.get("generator", ""))),
    ):
        shape = tuple(entry["shape"])
        if "npz" in entry:
            values[entry["name"]] = case.arrays[entry["npz"]]
            continue
        expression = entry["generator"].split(" with ")[0].split(";")[0]
        if expression.startswith("SMPL("):
            continue  # made of others
        sizes = {"shape": shape, "B": shape[0], "V": shape[1]}
        others = {n: v.reshape(shape) for n, v in values.items() if v.size == np.prod(shape)}
        value = eval(expression, {"__builtins__": {}}, {**names, **others, **sizes})
        values[entry["name"]] = np.asarray(value, np.float32).reshape(shape)
    return {name: torch.from_numpy(value) for name, value in values.items()}


def compare(case: Case, actual: dict[str, Tensor], ties: Ties | None = None) -> None:
    """All outputs of a case.

    Args:
        case: with its tolerances.
        actual: ours by name; there may be more.
        ties: gives other values by name that are as right where a rounding decides.
    """
    for entry in case.spec["outputs"]:
        name = entry["name"]
        error = distance(case, entry, actual[name])
        if ties and name in TIED and error.max() > entry["atol"]:
            others = [tied for tied in ties() if name in tied]
            error = np.min([error, *(distance(case, entry, t[name]) for t in others)], axis=0)
        assert error.max() <= entry["atol"], (
            f"{name} is off by {error.max():.3g}, allowed {entry['atol']:.3g}; "
            f"{(error > entry['atol']).sum()} of {error.size} values"
        )
        if found := re.search(r"median abs error < ([\d.e-]+)", entry.get("also", "")):
            assert np.median(error) < float(found[1]), f"{name} is off by {np.median(error):.3g}"


def distance(case: Case, entry: dict, value: Tensor) -> np.ndarray:
    """From what is recorded, entry by entry."""
    found = value.detach().double().numpy()
    assert list(found.shape) == entry["shape"], f"{entry['name']} is {found.shape}"
    if "idx" in entry:
        found = found.reshape(-1)[case.arrays[entry["idx"]]]
    return np.abs(found - case.arrays[entry["npz"]].astype(np.float64))


def rows(value: Tensor) -> Tensor:
    """(B, V, ...) to (B V, ...)."""
    return value.flatten(0, 1)


def table_of(shape: tuple[int, ...]) -> ViewTable:
    """Views (B, V) in order."""
    return tabulate(torch.arange(shape[0]).repeat_interleave(shape[1]))


def check_rotations(case: Case, _folder) -> None:
    """Both 6D forms, and axis-angle vectors without a standard sign."""
    inputs = given(case)
    axis_angle = inputs["aa"].clone()
    axis_angle[0] = 0
    rotmat = rot6d_interleaved_to_rotmat(inputs["x6d"])
    quaternion = rotmat_to_quaternion(rotmat)
    assert int((quaternion[:, 0] < 0).sum()) == case.spec["negative_w"]
    compare(
        case,
        {
            "body": rotmat,
            "global": rot6d_stacked_to_rotmat(inputs["x6d"]),
            "axis_angle": rotmat_to_long_axis_angle(rotmat),
            "quaternion": quaternion,
            "aa_to_rotmat": axis_angle_to_rotmat(axis_angle),
        },
    )


def check_positional_encoding(case: Case, _folder) -> None:
    """Sines of view, row and column, and what the two layers make of them."""
    shapes = {entry["name"]: entry["shape"] for entry in case.spec["outputs"]}
    num_people, num_views, dim, height, width = shapes["out"]
    net = PositionEmbedding(dim)
    sizes = {"0.weight": (4 * dim, 3 * net.axis_dim, 1, 1), "0.bias": (4 * dim,)}
    sizes |= {"2.weight": (dim, 4 * dim, 1, 1), "2.bias": (dim,)}
    official = {f"pos_embed.adapt_pos3d.{name}": shape for name, shape in sizes.items()}
    state = {
        name: torch.from_numpy(fill.fill(name, shape, case.salt))
        for name, shape in official.items()
    }
    load(nn.ModuleDict({"position": net}), state)
    view, row, column = (encode_axis(n, net.axis_dim) for n in (num_views, height, width))
    out = net(num_views, (height, width)).permute(0, 3, 1, 2)
    # The encoding of query type 2, which is never used: sines and cosines take turns.
    plane = [axis.unflatten(1, (2, -1)).transpose(1, 2).flatten(1) for axis in (row, column)]
    compare(
        case,
        {
            "sine": grid(view, row, column),
            "out": out.expand(num_people, -1, -1, -1, -1),
            "sine2d": grid(torch.zeros(1, 0), *plane),
        },
    )


def grid(view: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Encodings (V, C, h, w) of all places."""
    shape = (len(view), len(row), len(column))
    parts = [view[:, None, None], row[None, :, None], column[None, None]]
    return torch.cat([part.expand(*shape, -1) for part in parts], -1).permute(0, 3, 1, 2)


def load(net: nn.Module, official: dict[str, Tensor]) -> None:
    """Fill a network, or a part of it, by the authors' names; all of them must have a place."""
    state = convert._in_our_shapes(rename_keys(official, convert.KEYS))
    unfilled = net.load_state_dict(state, strict=False)
    assert not unfilled.unexpected_keys


def drawer() -> HeatmapDrawer:
    """Of the authors' sizes."""
    return HeatmapDrawer((IMAGE_PX, IMAGE_PX), (256, 192))


def check_heatmap_render(case: Case, _folder) -> None:
    """Drawn joints inside, across and outside the map."""
    inputs = given(case)
    points, visibility = rows(inputs["joints"]), rows(inputs["joints_vis"])
    draw = drawer()
    visibility = visibility * draw.touches(points)
    profiles = draw(points, visibility > 0.5)
    resized = draw.enlarge(profiles).maps()
    shape = inputs["joints_vis"].shape
    compare(
        case,
        {
            "heatmap": profiles.maps().unflatten(0, shape[:2]),
            "joints_vis_out": visibility.view(shape),
            "resized": resized,
            "resized.sum": resized.sum(dim=(-2, -1)),
        },
    )


def rig_of(inputs: dict[str, Tensor]) -> Rig:
    """Cameras; millimetres become metres."""
    num = len(rows(inputs["K"]))
    nothing = torch.zeros(num, 3, 3)
    return Rig(
        rows(inputs["K"]),
        rows(inputs.get("R", nothing)),
        rows(inputs["t"]) / MM if "t" in inputs else nothing[0],
        rows(inputs["trans_ad"]) if "trans_ad" in inputs else nothing[:, :2],
        rows(inputs["aug_trans"]) if "aug_trans" in inputs else nothing,
        nothing,
    )


def check_heatmap_fusion(case: Case, _folder) -> None:
    """Soft-argmax, epipolar maximum, fusion and triangulation, in millimetres and in metres."""
    inputs = given(case)
    shape = inputs["amp"].shape[:2]
    maps, table = rows(_heatmaps(case, inputs)), table_of(shape)
    rig = rig_of(inputs)
    points, peak = soft_argmax(maps)
    fused = fusions(maps, table, rig)
    fused_points, fused_peak = soft_argmax(fused["fused"])
    actual = {
        "maxv": peak,
        "j2d_hm_nofuse": homogeneous(points),
        "maxv_fused": fused_peak,
        **fused,
    }
    to_img = torch.linalg.inv(rig.img_to_map_px)[:, :2]
    found = {
        "NoFuse": map_affine(to_img, points),
        "ScoreFuse": map_affine(to_img, fused_points),
    }
    for name, points_img in found.items():
        world = triangulate(points_img, table, rig)
        actual[f"j2d_{name}"] = homogeneous(points_img).unflatten(0, shape)
        actual[f"j3d_{name}"] = rig.to_camera(world[table.person]).unflatten(0, shape)
    # Upstream's depths become 1000 m and 5000 m with translations in metres; ours stay.
    world = triangulate(found["ScoreFuse"], table, rig, unit_per_metre=1.0)
    actual["metres.j2d_ScoreFuse"] = actual["j2d_ScoreFuse"]
    actual["metres.j3d_ScoreFuse"] = rig.to_camera(world[table.person]).unflatten(0, shape)
    clicks = rows(inputs["tri.pts"])[:, :2].transpose(1, 2)
    weight = rows(inputs["tri.weights"].transpose(1, 2))
    actual["tri.plain"] = MM * triangulate(clicks, table, rig)
    actual["tri.weighted"] = MM * triangulate(clicks, table, rig, weight)
    assert list(CHANNELS.values()) == case.spec["joint_mapping"]

    def ties() -> list[dict[str, Tensor]]:
        return [fusions(maps, table, moved) for moved in moved_by_ties(rig)]

    compare(case, actual, ties)


def fusions(maps: Tensor, table: ViewTable, rig: Rig) -> dict[str, Tensor]:
    """The maximum along every epipolar line, and all maps together."""
    peak = maps.flatten(-2).amax(dim=-1)[..., None, None]
    scaled = maps / torch.where(peak > 0.01, peak, 1e6)
    view, other = table.pairs.unbind(dim=1)
    seen = epipolar_max(scaled[other], view, other, rig)
    return {
        "xview": seen.unflatten(0, (len(maps), -1)),
        "fused": fuse_heatmaps(maps, table.pairs, rig),
    }


def moved_by_ties(rig: Rig) -> list[Rig]:
    """The cameras with all maps moved by next to nothing, in eight directions."""
    moved = []
    for x, y in itertools.product((-TIE_PX, 0, TIE_PX), repeat=2):
        shift = torch.tensor([[1, 0, x], [0, 1, y], [0, 0, 1]])
        moved += [rig._replace(img_to_map_px=shift @ rig.img_to_map_px)] if x or y else []
    return moved


def homogeneous(points: Tensor) -> Tensor:
    """(O, K, 2) to (O, 3, K) with a row of ones."""
    return torch.cat([points, torch.ones_like(points[..., :1])], dim=-1).transpose(1, 2)


def _heatmaps(case: Case, inputs: dict[str, Tensor]) -> Tensor:
    """The case's maps (B, V, 17, 96, 96): Gaussians in noise."""
    (entry,) = [e for e in case.spec["inputs"] if e["name"] == "heatmaps"]
    pos, amp = inputs["pos"].numpy(), inputs["amp"].numpy()
    maps = np.float32(0.02) * fill.unit("fus.noise", entry["shape"], case.salt)
    maps = maps[:, :, case.spec["joint_mapping"]]
    maps[amp < 0.01] *= np.float32(0.02)
    y, x = np.mgrid[:MAP_PX, :MAP_PX].astype(np.float32)
    far = (x - pos[..., 0, None, None]) ** 2 + (y - pos[..., 1, None, None]) ** 2
    return torch.from_numpy(maps + amp[..., None, None] * np.exp(-far / np.float32(8)))


class Fixed(nn.Module):
    """Stands for a part of the network: what it makes is recorded."""

    def __init__(self, value, **attributes):
        super().__init__()
        self.value = value
        for name, attribute in attributes.items():
            setattr(self, name, attribute)

    def forward(self, *_):
        return self.value

    def joint_maps(self, *_):
        return self.value


def official_state(case: Case) -> dict[str, Tensor]:
    """The filled ``model`` entry of the authors' file."""
    with gzip.open(case.path.with_name(case.spec["weights"]["state_dict"]), "rt") as lines:
        table = json.load(lines)
    how = case.spec["weights"]
    mean = {
        "init_pose": mean_pose6d(case).reshape(24, 6),
        "init_shape": np.float32(0.1) * fill.unit("mean.shape", (1, 10), case.salt),
        "init_cam": np.float32([[0.9, 0, 0]]),
    }
    state = {}
    for name, shape in table.items():
        leaf = name.removeprefix("smpl.")
        if name.startswith("smpl."):  # the licensed body is left behind
            value = mean[leaf] if leaf in mean else np.zeros(shape, np.float32)
        elif name in how.get("not_filled", {}):
            value = np.float32(how["not_filled"][name])
        else:
            value = fill.fill(name, shape, case.salt)
            if name in how["multipliers"]:
                value *= np.float32(how["multipliers"][name])
        state[name] = torch.from_numpy(np.asarray(value))
    return state


def mean_pose6d(case: Case) -> np.ndarray:
    """Of ``smpl_mean_params`` (144,)."""
    identity = np.tile(np.float32([1, 0, 0, 1, 0, 0]), 24)
    return identity + np.float32(0.05) * fill.unit("mean.pose", (144,), case.salt)


def rig_batch(inputs: dict[str, Tensor]) -> Batch:
    """What ``data=heatformer`` would hand over; cameras without a place stand where c_3d says."""
    num_people, num_views = inputs["K"].shape[:2]
    num = num_people * num_views
    person = torch.arange(num_people).repeat_interleave(num_views)
    pelvis = rows(inputs["c_3d"])[:, 0]
    camera = torch.eye(4).repeat(num, 1, 1)
    if "R" in inputs:
        camera[:, :3, :3], camera[:, :3, 3] = rows(inputs["R"]), rows(inputs["t"]) / MM
    else:
        camera[:, :3, 3] = pelvis
    offset = (pelvis - camera[:, :3, 3]).double()[:, None]
    in_world = (offset @ torch.linalg.inv(camera[:, :3, :3].double()).mT)[::num_views, 0]
    labels = torch.zeros(num_people, len(joints.names("all")), 4)
    labels[:, PELVIS] = torch.cat([in_world.float(), torch.ones(num_people, 1)], dim=1)
    seen = torch.zeros(num, len(joints.names("all")), 3)
    seen[:, IN_BATCH, :2] = torch.where(rows(inputs["joints_vis"]) > 0.5, 0.0, 99.0)[..., None]
    seen[:, IN_BATCH, 2] = 1
    maps = to_units(inputs["trans_ad"], IMAGE_PX)
    keypoint_maps = to_units(inputs["aug_trans"], MAP_PX) if "aug_trans" in inputs else maps
    return {
        "image": rows(inputs["ad_inp"]) if "ad_inp" in inputs else torch.zeros(num, 3, 256, 256),
        "keypoint_image": rows(inputs["inp"]) if "inp" in inputs else torch.zeros(num, 3, 384, 384),
        "intrinsics": rows(inputs["K"]),
        "world_to_camera": camera,
        "image_of_view": torch.arange(num),
        "person_of_view": person,
        "crop_to_img": maps,
        "keypoint_crop_to_img": keypoint_maps,
        "keypoints_crop": seen,
        "keypoints_world": labels,
    }


def to_units(matrix: Tensor, side_px: int) -> Tensor:
    """Maps (B V, 2, 3) from crop units, of maps to pixels."""
    square = torch.eye(3, dtype=torch.float64).repeat(len(rows(matrix)), 1, 1)
    square[:, :2] = rows(matrix)[:, :2].double()
    half = side_px / 2
    to_px = torch.tensor([[half, 0, half], [0, half, half], [0, 0, 1]], dtype=torch.float64)
    return (torch.linalg.inv(square) @ to_px)[:, :2].float()


def check_smpl_projection(case: Case, _folder) -> None:
    """The first estimate, its anchor, its joints in the crop and their heatmaps."""
    inputs = given(case)
    shape = inputs["K"].shape[:2]
    inputs["joints_vis"] = torch.ones(*shape, 17)
    net = stub_network(case, inputs)
    rig, anchor = rig_of(inputs), rows(inputs["c_3d"])[:, 0]
    scene = SimpleNamespace(rig=rig, anchor_cam=anchor)
    estimate, body_model = net.initial(None), body(case.salt)
    first = net._draw(estimate, scene, body_model)
    own = inputs["make_heatmap.regress_joints"]
    own_px = rig.to_crop_px(own)
    maps = {
        name: net.drawer(points, ((points >= 0) & (points < IMAGE_PX)).all(dim=-1)).maps()
        for name, points in (("init_heatmap", first.points_px), ("heatmap", own_px))
    }
    transl = weak_perspective_to_transl(estimate.cam, 5000.0, KEYPOINT_PX)
    weak = project(
        first.joints_cam + transl[:, None], crop_intrinsics(5000.0, (KEYPOINT_PX, KEYPOINT_PX))
    )
    actual = {
        "init_pose6d": torch.cat([estimate.root6d, estimate.body6d], dim=1),
        "init_betas": estimate.betas,
        "init_cam": estimate.cam,
        "init_verts": body_model(estimate.bodies()).vertices,
        "init_joints": first.joints_cam,
        "init_joints_crop": first.points_px.unflatten(0, shape),
        "init_vis": first.is_drawn.unflatten(0, shape),
        "init_heatmap": maps["init_heatmap"].unflatten(0, shape),
        "init_heatmap.sum": maps["init_heatmap"].sum(dim=(-2, -1)).unflatten(0, shape),
        "heatmap": maps["heatmap"].unflatten(0, shape),
        "joints_crop": own_px.unflatten(0, shape),
        "weak_persp_2d": weak / 2,
    }
    compare(case, actual)


def stub_network(case: Case, inputs: dict[str, Tensor], **options) -> model.HeatFormer:
    """The network of the official config whose frozen parts are recorded tensors."""
    num = len(rows(inputs["K"]))
    tokens = inputs.get("img_feat", torch.zeros(num, 1280, 16, 12)).flatten(2).transpose(1, 2)
    config = configs.load_config("train", ["model=heatformer", "body=free"])
    nodes = OmegaConf.to_container(config.model.net, resolve=True)
    heat_encoder, decoder, estimator = (
        instantiate(nodes[name]) for name in ("heat_encoder", "decoder", "estimator")
    )
    backbone = Fixed(tokens, image_size=(256, 192))
    heatmapper = Fixed(torch.zeros(num, 17, MAP_PX, MAP_PX))
    net = model.HeatFormer(
        heatmapper, backbone, heat_encoder, estimator, decoder, body(case.salt), **options
    )
    mean = torch.from_numpy(mean_pose6d(case))
    betas = torch.from_numpy(np.float32(0.1) * fill.unit("mean.shape", (1, 10), case.salt))
    start = Estimate(
        inputs["delta_global_orient"] + mean[:6],
        mean[6:].expand(num, -1),
        betas.expand(num, -1),
        inputs["delta_cam"] + torch.tensor([0.9, 0, 0]),
    )
    net.initial = Fixed(start)
    return net.eval()


def check_single_step(case: Case, _folder) -> None:
    """Iterations of the full-width refinement, everything before them recorded."""
    inputs = given(case)
    num_iterations = sum(e["name"].startswith("pose_") for e in case.spec["outputs"])
    net = stub_network(case, inputs, num_iterations=num_iterations, anchor="labels")
    official = official_state(case)
    kept = ("fuse_encoder.", "Decoder.", "pos_embed.", "decpose_smpl.", "decshape_smpl.")
    load(net, {name: value for name, value in official.items() if name.startswith(kept)})
    found = rows(inputs["j2d"])[:, :2].transpose(1, 2)
    points_px = map_affine(rows(inputs["trans_ad"]), found)
    observed = Observed(found, points_px, torch.ones_like(found[..., 0]))
    with patch.object(model, "observe", lambda *_: observed):
        compare(case, forward_outputs(net, rig_batch(inputs), body(case.salt), inputs))


def forward_outputs(
    net: model.HeatFormer, batch: Batch, body_model: SMPL, inputs: dict[str, Tensor]
) -> dict[str, Tensor]:
    """A prediction under the names of the cases' outputs."""
    seen: dict[str, list] = {name: [] for name in ("drawn", "feature", "query", "out", "context")}

    def watch(module: nn.Module, given: str | None, made: str | None) -> None:
        def note(_module, inputs, output) -> None:
            if given:
                seen[given].append(inputs[0])
            if made:
                seen[made].append(output)

        hooks.append(module.register_forward_hook(note))

    hooks: list = []
    watch(net.heat_encoder, "drawn", "feature")
    watch(net.decoder, "query", "out")
    watch(net.decoder.layers[0].cross_attention.to_k, "context", None)
    with torch.no_grad():
        prediction = net(batch, body_model)
        stages = [*prediction.stages, prediction]
        last = net.drawer(prediction.extra["points_px"], prediction.extra["is_drawn"])
        heatmaps = [p.maps() for p in [*seen["drawn"], net.drawer.enlarge(last)]]
        actual = stage_outputs(net, stages, body_model)
    for hook in hooks:
        hook.remove()
    shape = inputs["K"].shape[:2]
    for i, maps in enumerate(heatmaps):
        actual |= {f"heatmap_{i}": maps, f"heatmap_{i}.sum": maps.sum(dim=(-2, -1))}
    for name, key in (("hm_feat", "feature"), ("query", "query"), ("decoder", "out")):
        actual |= {f"{name}_{i}": value for i, value in enumerate(seen[key])}
    actual = {
        name: as_map(value) if name.startswith("hm_feat") else value
        for name, value in actual.items()
    }
    actual |= {f"context_{i}": seen["context"][0] for i in range(len(stages))}  # the same in all
    actual["joints_vis_after"] = prediction.extra["is_observed"].unflatten(0, shape)
    actual["observed_img"] = prediction.extra["observed_img"]
    return actual


def as_map(tokens: Tensor) -> Tensor:
    """Tokens (N, 192, C) as maps (N, C, 16, 12)."""
    return tokens.transpose(1, 2).unflatten(2, (16, 12))


def stage_outputs(net, stages: list, body_model: SMPL) -> dict[str, Tensor]:
    """What every iteration says."""
    actual = {}
    for i, stage in enumerate(stages):
        said, views = stage.extra, view_bodies(stage)
        views = replace(views, transl=torch.zeros_like(views.transl))
        actual |= {
            f"pose_{i}": said["pose6d"],
            f"betas_{i}": said["betas"],
            f"cam_{i}": said["cam"],
            f"pose_mat_{i}": said["rotmat"],
            f"regress_joints_{i}": body_model.joints(views, "h36m17")[:, model._IN_SET],
            f"verts_{i}": body_model(views).vertices,
            f"loss_heatmap_{i}": HEATMAP_WEIGHTS[i] * said["heatmap_error"].mean(),
        }
    return actual


def as_profiles(maps: Tensor) -> Profiles:
    """Any maps (O, K, h, w) as profiles: each of their rows is a map of one row."""
    rows = maps.flatten(1, 2)
    return Profiles(torch.ones_like(rows[..., :1]), rows)


def check_encoders(case: Case, _folder) -> None:
    """The full-size HeatEncoder and estimator, and a shallow ViT."""
    inputs, official = given(case), official_state(case)
    nodes = OmegaConf.to_container(
        configs.load_config("train", ["model=heatformer"]).model.net, resolve=True
    )
    depth = sum(name.endswith(".attn.qkv.weight") for name in official)
    parts = nn.ModuleDict(
        {
            "heat_encoder": instantiate(nodes["heat_encoder"]),
            "backbone": instantiate(nodes["backbone"], depth=depth),
            "initial": model.InitialEstimate(
                instantiate(nodes["estimator"]), body(case.salt), with_interleaved_root=True
            ),
        }
    ).eval()
    load(parts, official)
    points = rows(inputs["joints"])
    draw = drawer()
    image = inputs["ad_inp"][..., draw.margin : -draw.margin]
    with torch.no_grad():
        is_drawn = torch.ones_like(points[..., 0], dtype=torch.bool)
        start = parts["initial"](inputs["img_feat"].flatten(2).transpose(1, 2))
        compare(
            case,
            {
                "hm_feat": as_map(parts["heat_encoder"](draw.enlarge(draw(points, is_drawn)))),
                "delta_global_orient": start.root6d - parts["initial"].init_pose[0],
                "delta_cam": start.cam - parts["initial"].init_cam,
                "vit_feat": as_map(parts["backbone"](image)),
            },
        )


class RecordedBody:
    """Gives the recorded vertices of one iteration after the other, and the last one's joints."""

    def __init__(self, vertices: list[Tensor], joints_cam: Tensor, faces: Tensor):
        self.vertices, self.faces = iter(vertices), faces
        self.joints_cam = joints_cam[:, [JOINTS.index(n) for n in joints.names("h36m17")]]

    def __call__(self, _body) -> Mesh:
        return Mesh(next(self.vertices), None)

    def joints(self, _body, _joint_set) -> Tensor:
        return self.joints_cam


def check_loss_terms(case: Case, _folder) -> None:
    """Every term and its gradients, on recorded predictions."""
    inputs = given(case)
    num = case.spec["sizes"]["iterations"]
    leaves = {
        name: inputs[name].clone().requires_grad_()
        for name in inputs
        if re.fullmatch(r"(pose|betas|joints|verts)_\d", name)
    }
    loss = HeatFormerLoss(normals=0.1, adversarial=0)
    faces = torch.from_numpy(fill.smpl(case.salt)["f"].astype(np.int64))
    recorded = RecordedBody(
        [leaves[f"verts_{i}"] for i in range(num)], leaves[f"joints_{num - 1}"], faces
    )
    labels = view_labels_of(inputs, rows(inputs["gt_verts"]))
    stages = []
    for i in range(num):
        pose = leaves[f"pose_{i}"]
        rotmat = Estimate(pose[:, :6], pose[:, 6:], pose, pose).rotmat()
        extra = {"rotmat": rotmat, "betas": leaves[f"betas_{i}"], "cam": inputs[f"cam_{i}"]}
        extra |= {"transl_view": rotmat[:, 0, 0], "heatmap_error": torch.zeros(len(pose))}
        extra["is_observed"] = rows(inputs["joints_vis"]) > 0.5
        stages.append(prediction_of(extra))
    terms = loss.terms(replace(stages[-1], stages=stages[:-1]), labels, recorded)
    torch.stack(list(terms.values())).sum().backward()
    discriminator = PoseDiscriminator()
    names = case.spec["discriminator_state"]
    fill_discriminator(discriminator, case.salt, names)
    real = axis_angle_to_rotmat(labels.axis_angle[:, 1:])
    actual = {THEIRS[name]: value for name, value in terms.items()}
    heat = (as_profiles(inputs[name]) for name in ("heat_a", "heat_b"))
    actual["heatmap_mse"] = map_error(*heat).mean()
    actual["discriminator"] = discriminator(real, labels.betas)
    for name, value in leaves.items():
        if value.grad is not None:
            actual[f"grad_{name.replace('joints', 'regress_joints')}"] = value.grad
    compare(case, actual)


THEIRS = {
    "keypoints3d": "loss_reg",
    "keypoints2d": "loss_2d",
    "global_orient": "loss_global_orient",
    "body_pose": "loss_body_pose",
    "betas": "loss_beta",
    "vertices": "loss_verts",
    "normals": "loss_nv",
    "heatmap": "loss_heatmap",
    "adversarial": "loss_adv",
    "discriminator": "loss_disc",
}


def prediction_of(extra: dict[str, Tensor]) -> Prediction:
    """A prediction of which only ``extra`` matters."""
    nothing = torch.zeros(1, 3)
    empty = Body(torch.eye(3)[None], torch.eye(3).repeat(1, 23, 1, 1), torch.zeros(1, 10), nothing)
    return Prediction(empty, nothing, torch.eye(3)[None], extra=extra)


def view_labels_of(inputs: dict[str, Tensor], vertices: Tensor) -> ViewLabels:
    """Labels of views, which upstream has one by one."""
    joints_cam, keypoints = rows(inputs["c_3d"]), rows(inputs["c_2d_trans"])
    one = torch.ones_like(joints_cam[..., :1])
    yes = torch.ones(len(one), dtype=torch.bool)
    return ViewLabels(
        torch.cat([joints_cam, one], dim=-1),
        torch.cat([2 * keypoints / KEYPOINT_PX - 1, one], dim=-1),
        rows(inputs["pose_c"]).unflatten(1, (24, 3)),
        rows(inputs["shape_c"]),
        vertices,
        yes,
        yes,
    )


def fill_discriminator(net: PoseDiscriminator, salt: str, shapes: dict | None = None) -> None:
    """The authors' weights of the pose prior."""
    state = {}
    for name, value in net.state_dict().items():
        theirs = "discriminator." + _discriminator_name(name)
        if shapes is not None:
            assert tuple(shapes[theirs]) == tuple(value.shape)
        state[name] = torch.from_numpy(fill.fill(theirs, value.shape, salt))
    net.load_state_dict(state)


def _discriminator_name(ours: str) -> str:
    for pattern, theirs in (
        (r"(conv\d)", r"D_\1"),
        (r"joint_out", "pose_out"),
        (r"all_(\w+)", r"D_alljoints_\1"),
    ):
        ours = re.sub(f"^{pattern}", theirs, ours)
    return ours


def write_official(case: Case, path) -> None:
    """The authors' file; gigabytes, which are free again afterwards."""
    state = official_state(case)
    prior = {name: state.pop(name) for name in list(state) if name.startswith("discriminator.")}
    content = {"epoch": 3, "model": state, "performance": np.float32(42.5), "optimizer": {}}
    torch.save({**content, "discriminator": prior} if prior else content, path)


def module_of(case: Case, folder, *overrides: str) -> HMRModule:
    """The authors' file, written as they write it and loaded as users load it."""
    path = folder / "model_best.pth.tar"
    write_official(case, path)
    num_iterations = sum(e["name"].startswith("betas_") for e in case.spec["outputs"])
    module = load_official(
        "heatformer",
        path,
        body=body(case.salt),
        overrides=overrides,
        num_iterations=num_iterations,
    )
    path.unlink()
    return module


def check_train_loss(case: Case, folder) -> None:
    """One step: every term, the gradients of both networks, the optimiser."""
    inputs = given(case)
    is_frozen = case.spec["params_without_grad"].get("fuse_encoder", 0) > 0
    trainable = "[]" if is_frozen else "[heat_encoder]"
    module = module_of(case, folder, "model.net.anchor=labels", f"model.net.trainable={trainable}")
    weights = case.spec["config"]["loss_weights"]
    loss = HeatFormerLoss(
        keypoints3d=weights["KP_3D"],
        keypoints2d=weights["KP_2D"],
        global_orient=weights["GLOBAL_ORIENT"],
        body_pose=weights["POSE"],
        betas=weights["BETA"],
        vertices=weights["VERTS"],
        adversarial=weights["ADVERSARIAL"],
        heatmap=weights["HEATMAP"],
    )
    fill_discriminator(loss.discriminator, case.salt)
    pose, betas = rows(inputs["pose_c"]).unflatten(1, (24, 3)), rows(inputs["shape_c"])
    rotmat = axis_angle_to_rotmat(pose)
    labelled = Body(rotmat[:, 0], rotmat[:, 1:], betas, torch.zeros(len(betas), 3))
    labels = view_labels_of(inputs, module.body(labelled).vertices)
    net = module.net
    before = net.decpose.weight.detach().clone()
    prediction = net(rig_batch(inputs), module.body)
    stages = [*prediction.stages, prediction]
    terms = loss.terms(prediction, labels, module.body)
    total = torch.stack([v for name, v in terms.items() if name != "discriminator"]).sum()
    with torch.no_grad():
        actual = stage_outputs(net, stages, module.body)
        for i, stage in enumerate(stages):
            weight = weights["HEATMAP"][i]
            one = loss._stage_terms(stage, origin(stage), labels, weight, module.body)
            actual |= {f"{THEIRS[name]}_{i}": value for name, value in one.items()}
    actual |= {THEIRS[name]: value for name, value in terms.items()} | {"total": total}
    shape = inputs["K"].shape[:2]
    actual["joints_vis_after"] = prediction.extra["is_observed"].unflatten(0, shape)
    (total + terms["discriminator"]).backward()
    actual |= gradients(case, net, loss.discriminator)
    optimizer = torch.optim.AdamW(
        [p for p in net.parameters() if p.requires_grad],
        lr=case.spec["config"]["lr"],
        weight_decay=0,
    )
    optimizer.step()
    actual["after_step/decpose_smpl.weight"] = net.decpose.weight - before
    compare(case, actual)
    silent = [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None]
    assert not silent
    assert heatmap_term_has_no_gradient(prediction)


def origin(stage: Prediction) -> Body:
    """The views' bodies at the origin."""
    return replace(view_bodies(stage), transl=torch.zeros(len(stage.extra["cam"]), 3))


def heatmap_term_has_no_gradient(prediction: Prediction) -> bool:
    """As upstream's."""
    return not prediction.extra["heatmap_error"].requires_grad


def gradients(case: Case, net: nn.Module, discriminator: nn.Module) -> dict[str, Tensor]:
    """Gradients by the authors' names and shapes."""
    named, actual = dict(net.named_parameters()), {}
    prior = {_discriminator_name(name): p.grad for name, p in discriminator.named_parameters()}
    for entry in case.spec["outputs"]:
        kind, _, name = entry["name"].partition("/")
        if kind == "disc_grad":
            actual[entry["name"]] = prior[name]
        elif kind in ("grad", "gradnorm"):
            (ours,) = rename_keys({name: 0}, convert.KEYS)
            grad = named[ours].grad
            actual[entry["name"]] = (
                grad.double().norm() if kind == "gradnorm" else grad.view(entry["shape"])
            )
    return actual


def check_metrics(case: Case, _folder) -> None:
    """Scores of every view after every iteration, and the printed means."""
    inputs = given(case)
    sizes = case.spec["sizes"]
    used = sizes["samples"] // sizes["batch_size"] * sizes["batch_size"] * sizes["views"]
    target, target_vertices = rows(inputs["gt_j3d"]), rows(inputs["gt_verts"])
    labelled = torch.cat([target, torch.ones_like(target[..., :1])], dim=-1)
    root = [JOINTS.index("h36m_pelvis")]
    actual: dict[str, Tensor] = {}
    printed: dict[str, list[list[float]]] = {"h36m": [], "mpii3d": [], "behave": []}
    for i in range(sizes["iterations"]):
        pred = rows(inputs[f"pred_j3d_{i}"])
        mpjpe = metrics.mpjpe_mm(pred, labelled, root)
        pa_mpjpe = metrics.pa_mpjpe_mm(pred, labelled)
        pve = scores.first_vertex_pve_mm(rows(inputs[f"pred_verts_{i}"]), target_vertices)
        errors = scores.aligned_errors_mm(pred, target)
        counts = [errors.numel() * scores.pck(errors).mean().double()]
        counts.append(errors.numel() * 30 * scores.auc(errors).mean().double())
        behave = behave_scores(case, inputs, i)
        actual |= {
            f"h36m_mpjpe_{i}": mpjpe,
            f"h36m_pampjpe_{i}": pa_mpjpe,
            f"h36m_mpvpe_{i}": pve,
            f"mpii3d_aligned_err_{i}": errors,
            f"mpii3d_pck_count_{i}": torch.stack(counts).round(),
            f"behave_mpjpe_{i}": behave["mpjpe"][:used],
            f"behave_pampjpe_{i}": behave["pa_mpjpe"][:used],
        }
        printed["h36m"].append([mpjpe, pa_mpjpe, pve])
        printed["mpii3d"].append([pa_mpjpe, scores.pck(errors), scores.auc(errors)])
        printed["behave"].append([behave["mpjpe"], behave["pa_mpjpe"]])
    compare(case, actual)
    for name, phases in printed.items():
        for line, values in zip(case.spec[f"{name}_printed"], phases, strict=True):
            means = [value[:used].mean().item() for value in values]
            wanted = [float(text) for text in re.findall(r": ([\d.]+)", line)]
            np.testing.assert_allclose(means, wanted, atol=1e-3, err_msg=f"{name}: {line}")


def behave_scores(case: Case, inputs: dict[str, Tensor], iteration: int) -> dict[str, Tensor]:
    """BEHAVE's scores of the first 15 of OpenPose's joints, which are read off the vertices."""
    vertices = rows(inputs[f"behave_pred_verts_{iteration}"])
    regressor = torch.from_numpy(fill.joint_regressor("J_regressor_body25", 25, case.salt))
    num = 15
    return scores.masked_errors_mm(
        (regressor @ vertices)[:, :num],
        rows(inputs["behave_gt_j3d"])[:, :num],
        rows(inputs["behave_vis"])[:, :num] > 0.5,
        joints.index("openpose_pelvis", "openpose25"),
    )


@lru_cache(maxsize=1)
def _full_module(_key: str, make) -> HMRModule:
    return make()


class _Maker:
    """Makes the module of a case; all are one to the cache, whose key says what is made."""

    def __init__(self, case: Case, folder):
        self.case, self.folder = case, folder

    def __call__(self) -> HMRModule:
        return module_of(self.case, self.folder)

    def __eq__(self, other) -> bool:
        return isinstance(other, _Maker)

    def __hash__(self) -> int:
        return 0


def check_forward(case: Case, folder) -> None:
    """The official network on whole rigs: every part, every iteration."""
    inputs = given(case)
    key = case.salt + json.dumps(case.spec["weights"], sort_keys=True)
    module = _full_module(re.sub(r'"state_dict": "[^"]*"', "", key), _Maker(case, folder))
    net, body_model = module.net, module.body
    net.anchor = "triangulated" if "triangulated" in case.spec["what"] else "labels"
    net.num_iterations = sum(e["name"].startswith("pose_mat_") for e in case.spec["outputs"])
    shape = inputs["K"].shape[:2]
    seen: dict[str, Tensor] = {}
    hooks = [
        getattr(net, name).register_forward_hook(lambda _m, _i, out, n=name: seen.update({n: out}))
        for name in ("heatmapper", "backbone", "initial")
    ]
    batch, table = rig_batch(inputs), table_of(shape)
    actual = forward_outputs(net, batch, body_model, inputs)
    for hook in hooks:
        hook.remove()
    rig = read_rig(batch, net.input_size, net.map_hw)
    maps = seen["heatmapper"].index_select(1, net.heatmapper.channels)
    to_img = torch.linalg.inv(rig.img_to_map_px)[:, :2]
    points, peak = soft_argmax(maps)
    points_img = map_affine(to_img, points)
    found = {"NoFuse": points_img, "ScoreFuse": actual.pop("observed_img")}
    for name, img in found.items():
        world = triangulate(img, table, rig)
        actual[f"j2d_{name}"] = homogeneous(img).unflatten(0, shape)
        actual[f"j3d_{name}"] = rig.to_camera(world[table.person]).unflatten(0, shape)
    start = seen["initial"]
    actual |= {
        "img_feat": as_map(seen["backbone"]),
        "origin_hms": seen["heatmapper"],
        "maxv": peak,
        "pgt": actual["j3d_ScoreFuse"],
        "delta_global_orient": start.root6d - net.initial.init_pose[0],
        "delta_cam": start.cam - net.initial.init_cam,
        "init_joints": net._joints(start, body_model),
    }

    def ties() -> list[dict[str, Tensor]]:
        fused = [soft_argmax(fuse_heatmaps(maps, table.pairs, r))[0] for r in moved_by_ties(rig)]
        points_img = [homogeneous(map_affine(to_img, points)) for points in fused]
        return [{"j2d_ScoreFuse": points.unflatten(0, shape)} for points in points_img]

    compare(case, actual, ties)
