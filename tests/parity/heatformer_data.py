"""The data path of HeatFormer: its databases -> records -> shard -> two crops -> Batch.

Kinds of case: ``data_h36m``, ``data_mpii3d``, ``data_behave``; each names a tree of files in
HeatFormer's own layout and records the fields of the first item that its loader makes of them, all
of which are derived here from one Batch. What differs is convention: Human3.6M's joints come right
leg first, heatmaps are a quarter of the 384 px crop, translations are in millimetres (but for
BEHAVE), the axis-angles of the body are those of every camera.
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import parity_case
import torch
from hydra.utils import instantiate
from parity_case import Case
from scipy.spatial.transform import Rotation

from hmrkit.body import joints
from hmrkit.configs import load_config
from hmrkit.data.augment import AugmentParams
from hmrkit.data.collate import collate, normalize_image
from hmrkit.data.crops import Crops
from hmrkit.data.shards import ShardSet, write_shard
from hmrkit.data.sources import heatformer, heatformer_behave
from hmrkit.data.sources.h36m import ROWS
from hmrkit.geometry.boxes import invert_affine
from hmrkit.types import Batch, Body, Sample

KEYPOINT_PX, IMAGE_PX, HEATMAP_PX = 384, 256, 96
DATABASE = "data/preprocessed_data/"
H36M = joints.index(ROWS, "all")
OPENPOSE = joints.index(joints.names("openpose25"), "all")


def check_data(case: Case, folder: Path) -> None:
    """Number and order of the records, and every field of the first, within its tolerances."""
    kind = case.name.removeprefix("data_").split("_")[0]
    converter = _converter(kind, case.spec["what"])
    records = converter.open(_root(case))
    used = [i for i, entry in enumerate(records.entries) if not entry.problem]
    assert len(used) == case.spec["len"]
    if "order" in case.spec:
        moments = [list(records.entries[i].moment) for i in used]
        assert moments == [_numbers(" ".join(one)) for one in case.spec["order"]]
    path = folder / "rig.tar"
    write_shard(path, [records[used[0]]], converter.joint_set)  # only its images are there
    sample = ShardSet(path, "official").read(0)
    config = load_config("train", ["model=hmr", "data=heatformer", "run_dir=run"])
    cut = instantiate(config.data.cut)
    fields = _fields(case, kind, sample, collate([cut(sample)]))
    if kind == "h36m":  # a body of its own for every camera: what the database has for crops
        crops = _converter(kind, case.spec["what"], kind="crops").open(_root(case))
        fields |= _body_labels(case, _bodies_of_crops(crops, records.entries[used[0]], folder))
    for output in case.spec["outputs"]:
        _check(case, output, fields[output["name"]])
    if "swap" in case.spec:
        _check_order_of_views(case, kind, sample, cut)


def _root(case: Case) -> Path:
    return case.path.parent / case.spec["data_root"].split()[0]


def _bodies_of_crops(crops, rig, folder: Path) -> Body:
    """The bodies in the records of the views of one rig, through a shard and a cut."""
    entries = list(crops.entries)
    wanted = [entries.index(replace(rig, cameras=(camera,))) for camera in rig.cameras]
    path = folder / "crops.tar"
    write_shard(path, [crops[i] for i in wanted], crops.joint_set)
    shards, cut = ShardSet(path, "official"), Crops((IMAGE_PX, IMAGE_PX))
    return collate([cut(shards.read(i)) for i in range(len(shards))])["body"]


def _converter(dataset: str, what: str, **options):
    """The converter with the options of upstream's call."""
    if dataset == "behave":
        views = _numbers(re.search(r"view_index=\[(.*?)\]", what)[1])
        state = re.search(r"multiview_BEHAVE\('(\w+)'", what)[1]
        return heatformer_behave.HeatFormerBehave(f"{DATABASE}BEHAVE_{state}_db.pt", views)
    state = re.search(r"state='(\w+)'", what)[1]
    options["sampling_ratio"] = int(re.search(r"sampling_ratio=(\d+)", what)[1])
    if found := re.search(r"use_view=\[(.*?)\]", what):
        options["use_views"] = _numbers(found[1])
        options["min_views"] = len(options["use_views"])
    if dataset == "h36m":
        stem = DATABASE + f"h36m_{'train' if state == 'train' else 'test'}_25fps"
        return heatformer.HeatFormerH36m(f"{stem}_new_db.pt", f"{stem}_ex_db.pt", **options)
    return heatformer.HeatFormerMpiInf3dhp(f"{DATABASE}mpii3d_{state}_scale12_new_db.pt", **options)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _check_order_of_views(case: Case, kind: str, sample: Sample, cut) -> None:
    """A change of the order of views changes that of every field of views alike."""
    order = np.array(case.spec["swap"]["perm"])
    straight, swapped = (
        _fields(case, kind, sample, collate([cut.cut(sample, views, draws, is_flipped=False)]))
        for views, draws in ((v, [AugmentParams()] * len(v)) for v in (np.sort(order), order))
    )
    for name, value in swapped.items():
        expected = straight[name][order] if len(value) == len(order) else straight[name]
        np.testing.assert_allclose(value, expected, atol=1e-5, err_msg=name)


def _fields(case: Case, kind: str, sample: Sample, batch: Batch) -> dict[str, np.ndarray]:
    """Upstream's fields by name, V views."""
    boxes = batch["box_img"].double().numpy()
    size = 1.2 * (boxes[:, 2:] - boxes[:, :2])  # with the margin
    to_crop = _img_to_px(batch["keypoint_crop_to_img"], KEYPOINT_PX)
    to_image = _img_to_px(batch["crop_to_img"], IMAGE_PX)
    to_heatmap = np.diag([0.25, 0.25, 1]) @ to_crop
    # upstream's own affine_trans scales the axes apart, by width and by height
    stretched = np.tile(np.eye(3), (len(boxes), 1, 1))
    stretched[:, [0, 1], [0, 1]] = HEATMAP_PX / size
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    stretched[:, :2, 2] = HEATMAP_PX / 2 - center * HEATMAP_PX / size
    wide = np.maximum(size, size[:, ::-1] * [0.75, 4 / 3])
    cameras = batch["world_to_camera"].double().numpy()
    fields = {
        "inp": _planes(batch["keypoint_image"]),
        "ad_inp": _planes(batch["image"]),
        "trans": to_crop[:, :2],
        "trans_ad": to_image[:, :2],
        "aug_trans": to_heatmap,
        "affine_trans": stretched,
        "inv_affine_trans": invert_affine(stretched[:, :2]),
        "scale_ori": size / 200,
        "scale_vit": wide / 200,
        "center": center,
        "rot": np.arctan2(to_crop[:, 1, 0], to_crop[:, 0, 0]),
        "camera_param.R": cameras[:, :3, :3],
        "camera_param.t": cameras[:, :3, 3] * (1 if kind == "behave" else 1000),
        "camera_param.K": batch["intrinsics"].double().numpy(),
    }
    for name in ("inp", "ad_inp"):
        flat = fields[name].reshape(*fields[name].shape[:2], -1)
        fields[f"{name}.stats"] = np.stack([flat.mean(axis=-1), flat.std(axis=-1)], axis=-1)
    labels = {"h36m": _h36m_labels, "mpii3d": _labels, "behave": _behave_labels}[kind]
    return {**fields, **labels(case, sample, batch, cameras, to_crop, to_image)}


def _img_to_px(crop_to_img: torch.Tensor, side_px: int) -> np.ndarray:
    """(V, 3, 3) source image px -> px of a crop, of maps from its units."""
    maps = np.tile(np.eye(3), (len(crop_to_img), 1, 1))
    maps[:, :2] = invert_affine(crop_to_img.double().numpy())
    half = side_px / 2
    return np.array([[half, 0, half], [0, half, half], [0, 0, 1]]) @ maps


def _planes(image: torch.Tensor) -> np.ndarray:
    return normalize_image(image).double().numpy()


def _cam(points_world: np.ndarray, cameras: np.ndarray) -> np.ndarray:
    """(V, K, 3) of points (K, 3)."""
    return np.einsum("vij,kj->vki", cameras[:, :3, :3], points_world) + cameras[:, None, :3, 3]


def _mapped(points: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    return np.einsum("vij,vkj->vki", matrices[:, :2, :2], points) + matrices[:, None, :2, 2]


def _seen(batch: Batch, rows: list[int]) -> np.ndarray:
    """Joints (V, K, 2) px of the source images, of their crop units."""
    units = batch["keypoints_crop"][:, rows].double().numpy()
    return _mapped(units[..., :2], batch["crop_to_img"].double().numpy())


def _labels(case, sample, batch, cameras, to_crop, to_image) -> dict[str, np.ndarray]:
    world = batch["keypoints_world"][0, H36M].double().numpy()
    assert (world[:, 3] == 1).all()
    c_2d = _seen(batch, H36M)
    in_crop, in_image = _mapped(c_2d, to_crop), _mapped(c_2d, to_image)
    body = batch["body"]
    assert batch["has_pose"].all()
    assert batch["has_betas"].all()
    roots = torch.from_numpy(cameras[:, :3, :3]).float() @ body.global_orient
    views = len(cameras)
    bodies = Body(
        roots, body.body_pose.expand(views, -1, -1, -1), body.betas.expand(views, -1), None
    )
    return {
        "w_3d": world[None, :, :3],
        "c_3d": _cam(world[:, :3], cameras),
        "c_2d": c_2d,
        "c_2d_trans": in_crop,
        "c_2d_trans_ad": in_image / IMAGE_PX - 0.5,
        "joints_vis": ((in_crop >= 0) & (in_crop < KEYPOINT_PX)).all(axis=-1),
        "joints_vis_ad": ((in_image >= 0) & (in_image < IMAGE_PX)).all(axis=-1),
        "pose": sample["pose"].reshape(72),
        "shape": body.betas[0].double().numpy(),
        **_body_labels(case, bodies),
    }


def _body_labels(case: Case, bodies: Body) -> dict[str, np.ndarray]:
    """The fields of V bodies, each in the axes of its camera."""
    views = len(bodies.betas)
    bodies = Body(bodies.global_orient, bodies.body_pose, bodies.betas, torch.zeros(views, 3))
    rotmats = torch.cat([bodies.global_orient[:, None], bodies.body_pose], dim=1).double()
    pose = Rotation.from_matrix(rotmats.reshape(-1, 3, 3).numpy()).as_rotvec()
    return {
        "pose_c": pose.reshape(views, 72),
        "shape_c": bodies.betas.double().numpy(),
        "verts": parity_case.body(case.salt)(bodies).vertices.double().numpy(),
    }


def _h36m_labels(*arguments) -> dict[str, np.ndarray]:
    """As those of MPI-INF-3DHP, but one field is in [-1, 1]."""
    fields = _labels(*arguments)
    return {**fields, "c_2d_trans_ad": 2 * fields["c_2d_trans_ad"]}


def _behave_labels(case, sample, batch, cameras, to_crop, to_image) -> dict[str, np.ndarray]:
    score = float(re.search(r"score=([\d.]+)", case.spec["what"])[1])
    world = batch["keypoints_world"][0, OPENPOSE].double().numpy()
    c_3d = _cam(world[:, :3], cameras)
    pelvis = joints.index("openpose_pelvis", "openpose25")
    views = len(cameras)
    return {
        "w_3d": world[:views],  # upstream indexes the joints with the views
        "c_3d": np.concatenate([c_3d[:, pelvis : pelvis + 1], c_3d[:, 1 : len(ROWS)]], axis=1),
        "c_3d_gt": c_3d,
        "c_2d": np.concatenate([_seen(batch, OPENPOSE), np.ones((views, 25, 1))], axis=-1),
        "joints_vis": np.ones((views, len(ROWS))),
        "joints_vis_openpose": np.tile(world[:, 3] >= np.float32(score), (views, 1)),
    }


def _check(case: Case, output: dict, actual: np.ndarray) -> None:
    name, expected = output["name"], case.arrays[output["npz"]].astype(np.float64)
    assert list(actual.shape) == output["shape"], f"{name} is {actual.shape}"
    actual = actual.astype(np.float64)
    if "idx" in output:
        actual = actual.reshape(-1)[case.arrays[output["idx"]]]
    difference = np.abs(actual - expected)
    allowed = np.full(expected.shape, output["atol"])
    if name == "camera_param.t":  # 0.0001 mm at 5 m is less than the last digit of float32 metres
        unit = 1000 if np.abs(expected).max() > 100 else 1
        allowed = np.maximum(allowed, unit * np.spacing(np.float32(np.abs(expected) / unit)))
    assert (difference <= allowed).all(), f"{name} is off by {difference.max():.3g}"
    if "mean abs diff" in output.get("meaning", ""):
        limit = float(re.search(r"mean abs diff < ([\d.e-]+)", output["meaning"])[1])
        assert difference.mean() < limit, f"{name} is off by {difference.mean():.3g} on average"
