"""PyMAF's network, losses, dense targets and camera against the authors' numbers."""

import gzip
import json

import fill
import numpy as np
import torch
from parity_case import Case, body
from torch import Tensor

from hmrkit.body import joints
from hmrkit.checkpoints import load_official
from hmrkit.geometry.cameras import crop_intrinsics, project, weak_perspective_to_transl
from hmrkit.geometry.rotations import (
    axis_angle_to_rotmat,
    rot6d_interleaved_to_rotmat,
    rotmat_to_axis_angle,
    rotmat_to_rot6d_interleaved,
)
from hmrkit.keys import rename_keys
from hmrkit.models.pymaf import convert
from hmrkit.models.pymaf.camera import fit_camera
from hmrkit.models.pymaf.iuv import Atlas, IUVRenderer
from hmrkit.models.pymaf.loss import PyMAFLoss, dense_terms
from hmrkit.models.pymaf.model import PointMLP, _grid, maf_sample
from hmrkit.module import HMRModule
from hmrkit.types import Body

SPIN49 = joints.index(joints.names("spin49"), "all")
SPIN24 = joints.index(joints.names("spin24"), "all")
LSP14 = joints.names("h36m14")
DENSE = {"part": "uv_index", "coarse_part": "ann_index", "u": "u", "v": "v"}


def outputs(case: Case) -> dict[str, np.ndarray]:
    return {k.removeprefix("out."): v for k, v in case.arrays.items() if k.startswith("out.")}


def given(case: Case, name: str) -> Tensor:
    return torch.from_numpy(case.arrays[f"in.{name}"])


def official_state(case: Case) -> dict[str, Tensor]:
    """The filled ``model`` entry of the authors' file."""
    with gzip.open(case.path.with_name(case.spec["state_dict"]["file"]), "rt") as lines:
        table = json.load(lines)
    return {name: torch.from_numpy(_value(case.salt, name, *row)) for name, row in table.items()}


def _value(salt: str, name: str, shape: list[int], dtype: str, how: str) -> np.ndarray:
    leaf = name.rpartition(".")[2]
    mean = {
        "init_pose": np.tile(np.float32([1, 0, 0, 1, 0, 0]), 24)
        + np.float32(0.1) * fill.unit("mean.pose", (144,), salt),
        "init_shape": np.float32(0.1) * fill.unit("mean.shape", (10,), salt),
        "init_cam": np.float32([0.9, 0, 0]),
    }
    if leaf in mean:
        return mean[leaf][None]
    if how.startswith("fill"):
        factor = float(how.partition("*")[2] or 1)
        value = fill.fill(name, shape, salt)
        return value if factor == 1 else value * np.float32(factor)
    value = np.zeros(shape, dtype)
    if leaf == "Dmap":
        value[np.arange(431), 16 * np.arange(431)] = 1
    return value


def module_of(case: Case, tmp_path) -> HMRModule:
    """The authors' file, written as they write it and loaded as users load it."""
    torch.save({"model": official_state(case), "epoch": 3}, tmp_path / "official.pt")
    return load_official("pymaf", tmp_path / "official.pt", body=body(case.salt))


def compare(case: Case, name: str, actual, expected=None) -> None:
    """With the tolerance and the subsampling that the case states for an output."""
    entry = case.spec["outputs"][name]
    expected = outputs(case)[name] if expected is None else expected
    actual = actual.detach().numpy() if isinstance(actual, Tensor) else np.asarray(actual)
    if "subsample" in entry:
        step = int(entry["subsample"].split("[::")[1].rstrip("]"))
        actual = actual.reshape(-1)[::step]
    if "cosine" in entry["tolerance"]:
        wanted = float(entry["tolerance"].split("cosine >")[1].split()[0])
        a, b = actual.ravel().astype(np.float64), expected.ravel().astype(np.float64)
        assert a @ b > wanted * np.linalg.norm(a) * np.linalg.norm(b), name
        return
    limits = tolerance(entry["tolerance"], expected)
    np.testing.assert_allclose(actual, expected, err_msg=name, **limits)


def tolerance(text: str, expected: np.ndarray) -> dict[str, float]:
    """``atol`` and ``rtol`` out of a sentence such as "atol 1e-4 rtol 1e-3"."""
    limits = {"atol": 0.0, "rtol": 0.0}
    if "exact" in text:
        return limits
    words = text.replace("*", " ").split()
    for kind in limits:
        if kind in words:
            limits[kind] = float(words[words.index(kind) + 1])
    if "max|sample|" in text:
        limits["atol"] *= float(np.abs(expected).max())
    return limits


def check_forward(case: Case, tmp_path):
    """Every loop, the feature maps and the dense head."""
    module = module_of(case, tmp_path)
    net, model, expected = module.net, module.body, outputs(case)
    image = fill.image("img", case.spec["inputs"]["img"]["shape"], case.salt)
    maps: list[Tensor] = []
    for part in [net.backbone.layer4, *net.upsample]:
        part.register_forward_hook(lambda _m, _i, out: maps.append(out))
    with torch.no_grad():
        prediction = module({"image": torch.from_numpy(image)})
        dense = net.dense(prediction.extra["feature_map"])
    num = len(image)
    rotmat = rot6d_interleaved_to_rotmat(net.init_pose.view(1, 24, 6)).expand(num, -1, -1, -1)
    mean = Body(rotmat[:, 0], rotmat[:, 1:], net.init_shape.expand(num, -1), torch.zeros(num, 3))
    cam = net.init_cam.expand(num, -1)
    transl = weak_perspective_to_transl(cam, net.focal_px, net.input_size[0])
    loops = [(mean, cam, net.init_pose.expand(num, -1), transl)]
    loops += [
        (loop.body, loop.extra["cam"], loop.extra["pose6d"], loop.transl_cam)
        for loop in [*prediction.stages, prediction]
    ]
    seen = set()
    for i, (one, cam, pose6d, transl) in enumerate(loops):
        mesh, points = model(one), model.joints(one, "spin49")
        rotmats = torch.cat([one.global_orient[:, None], one.body_pose], dim=1)
        values = {
            "pred_pose": pose6d,
            "kp_2d": project(points + transl[:, None], prediction.intrinsics_crop),
            "kp_3d": points,
            "verts": mesh.vertices,
            "rotmat": rotmats,
            "smpl_kp_3d": mesh.joints,
            "kp_3d_h36m14": _root_relative_h36m14(model, one),
        }
        for name, value in values.items():
            for tag in [str(i), *["last"] * (i == len(loops) - 1)]:
                if f"{name}.{tag}" in expected:
                    compare(case, f"{name}.{tag}", value)
                    seen.add(f"{name}.{tag}")
        theta = expected[f"theta.{i}"]
        compare(case, f"theta.{i}", torch.cat([cam, one.betas], 1), theta[:, :13])
        angles = torch.from_numpy(theta[:, 13:]).view(-1, 24, 3)  # compared as rotations
        compare(case, f"theta.{i}", axis_angle_to_rotmat(angles), rotmats.numpy())
        seen.add(f"theta.{i}")
    for ours, theirs in DENSE.items():
        compare(case, f"dp.predict_{theirs}", dense[ours])
        seen.add(f"dp.predict_{theirs}")
    for i, feature_map in enumerate(maps):
        compare(case, f"feat.{i}", feature_map)
        seen.add(f"feat.{i}")
    assert seen == set(expected)


def _root_relative_h36m14(model, one: Body) -> Tensor:
    h36m = model.joints_from_mesh(model(one), "h36m17")
    rows = joints.index(LSP14, "h36m17")
    return h36m[:, rows] - h36m[:, joints.index("h36m_pelvis", "h36m17"), None]


def check_train_loss(case: Case, tmp_path):
    """Loss terms, gradients and one optimiser step; the target picture is the recorded one."""
    expected, arrays = outputs(case), case.arrays
    module = module_of(case, tmp_path)
    is_training_norm = case.name.startswith("train_loss_bn")
    if is_training_norm:
        for part in module.net.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.train()
    batch = training_batch(case)
    loss = PyMAFLoss()
    pictures = torch.from_numpy(arrays["in.iuv_image_gt"])
    loss.draw_targets = lambda *_: pictures
    if "gt_camera" in expected:
        _check_label_camera(case, batch, module)
    total = _run(module, loss, batch, expected, "loss")
    total.backward()
    named = dict(module.net.named_parameters())
    after = {name: value.clone() for name, value in module.net.named_buffers()}
    _check_gradients(case, expected, named)
    _check_variants(case, expected, module, batch, pictures)
    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    torch.optim.Adam(named.values(), lr=5e-5).step()
    for name in (n for n in expected if n.startswith("after.")):
        (ours,) = _rename(case, name.removeprefix("after."))
        if ours in after:
            compare(case, name, after[ours])
            continue
        assert not torch.equal(before[ours], named[ours])
        grad = named[ours].grad.abs()
        is_clear = grad > 1e-4 * grad.max()  # Adam makes a step out of rounding noise
        wanted = torch.from_numpy(expected[name])
        step = -(-grad.numel() // wanted.numel())
        picked = [t.flatten()[::step] for t in (named[ours].detach(), is_clear)]
        np.testing.assert_allclose(picked[0][picked[1]], wanted.flatten()[picked[1]], atol=1e-6)


def _run(module, loss, batch, expected: dict, prefix: str) -> Tensor:
    """Compare every term, the loops' sums, and return the total."""
    prediction = module(batch)
    prediction.extra |= module.net.dense(prediction.extra["feature_map"])
    terms = loss(prediction, batch, module.body)
    theirs = {
        "keypoints2d": "loss_keypoints_",
        "keypoints3d": "loss_keypoints_3d_",
        "pose": "loss_regr_pose_",
        "betas": "loss_regr_betas_",
        "camera": "loss_cam_",
        "dense_u": "loss_U-1",
        "dense_v": "loss_V-1",
        "dense_part": "loss_IndexUV-1",
        "dense_coarse_part": "loss_segAnn-1",
    }
    for name, value in terms.items():
        key = f"{prefix}.{theirs[name]}"
        parts = [expected[key]] if key in expected else [expected[f"{key}{i}"] for i in (1, 2, 3)]
        np.testing.assert_allclose(value.item(), sum(parts), rtol=1e-4, atol=1e-9, err_msg=name)
    total = torch.stack(list(terms.values())).sum()
    np.testing.assert_allclose(total.item(), expected[f"{prefix}.loss"], rtol=1e-4)
    return total


def _check_variants(case: Case, expected: dict, module, batch, pictures) -> None:
    """Batches without any 3D label, and without the dense head's losses."""
    with torch.no_grad():
        if "no3d.loss" in expected:
            none = torch.zeros_like(batch["has_pose"])
            bare = {**batch, "has_pose": none, "has_betas": none}
            bare["keypoints_world"] = torch.zeros_like(batch["keypoints_world"])
            loss = PyMAFLoss()
            loss.draw_targets = lambda *_: torch.zeros_like(pictures)
            _run(module, loss, bare, expected, "no3d")
        if "noaux.loss" in expected:
            loss = PyMAFLoss(dense_uv=0, dense_part=0, dense_coarse_part=0)
            prediction = module(batch)
            terms = loss(prediction, batch, module.body)
            total = torch.stack(list(terms.values())).sum()
            np.testing.assert_allclose(total.item(), expected["noaux.loss"], rtol=1e-4)


def training_batch(case: Case) -> dict:
    num = len(given(case, "betas"))
    image = fill.image("img", case.spec["inputs"]["img"]["shape"], case.salt)
    rotmat = axis_angle_to_rotmat(given(case, "pose").view(num, 24, 3))
    size = len(joints.names("all"))
    keypoints_crop, keypoints_world = torch.zeros(num, size, 3), torch.zeros(num, size, 4)
    keypoints_crop[:, SPIN49] = given(case, "keypoints")
    world = given(case, "pose_3d").clone()
    has_3d = given(case, "has_pose_3d") > 0
    hips = joints.index(["spin_right_hip", "spin_left_hip"], "spin24")
    # Upstream counts a sample by its flag, we by its hips: their confidence is what they have, or
    # next to nothing, which keeps the numbers.
    world[:, hips, 3] = torch.where(has_3d[:, None], world[:, hips, 3].clamp(min=1e-12), 0.0)
    keypoints_world[:, SPIN24] = world
    has_smpl = given(case, "has_smpl") > 0
    return {
        "image": torch.from_numpy(image),
        "keypoints_crop": keypoints_crop,
        "keypoints_world": keypoints_world,
        "body": Body(rotmat[:, 0], rotmat[:, 1:], given(case, "betas"), torch.zeros(num, 3)),
        "has_pose": has_smpl,
        "has_betas": has_smpl,
    }


def _check_label_camera(case: Case, batch: dict, module) -> None:
    """(s, tx, ty) of the labelled bodies, for the samples that have one."""
    points = module.body.joints(batch["body"], "spin49")[:, 25:]
    target = given(case, "keypoints")[:, 25:]
    intrinsics = crop_intrinsics(5000.0, (224, 224)).expand(len(points), 3, 3)
    transl = fit_camera(points, target[..., :2], target[..., 2], intrinsics)
    cam = torch.cat([(2 * 5000 / 224) / transl[:, 2:], transl[:, :2]], dim=1)
    compare(case, "gt_camera", cam[batch["has_pose"]])


def _rename(case: Case, name: str) -> dict:
    table = {**convert._deconvolutions(3), **convert.KEYS}
    return rename_keys({name: 0}, table)


def _check_gradients(case: Case, expected: dict, named: dict) -> None:
    norms = []
    for name in case.spec["grad_norm_names"]:
        (ours,) = _rename(case, name)
        norms.append(named[ours].grad.double().norm().item())
    compare(case, "grad_norm", np.array(norms))
    for name in (n for n in expected if n.startswith("grad.")):
        (ours,) = _rename(case, name.removeprefix("grad."))
        compare(case, name, named[ours].grad)


def check_maf_sampling(case: Case, tmp_path):
    """Points, sampling and the per-point layers, on the mesh and on the grid."""
    mlp = PointMLP(256)
    prefix = "maf_extractor.1."
    mlp.load_state_dict(
        {
            name.removeprefix(prefix): torch.from_numpy(fill.fill(name, shape, case.salt))
            for name, (shape, *_) in case.spec["state_dict"].items()
        }
    )
    num = case.spec["inputs"]["verts"]["shape"][0]
    feature_map = torch.from_numpy(
        fill.unit("maf.feat", case.spec["inputs"]["im_feat"]["shape"], case.salt)
    )
    scale = np.float32([1, 1.25, 0.3])
    vertices = np.float32(0.55) * fill.unit("maf.verts", (num, 6890, 3), case.salt) * scale
    transl = weak_perspective_to_transl(given(case, "cam"), 5000.0, 224)
    points3d = torch.from_numpy(vertices)[:, 16 * torch.arange(431)] + transl[:, None]
    points = project(points3d, crop_intrinsics(5000.0, (224, 224)).expand(num, 3, 3))
    with torch.no_grad():
        compare(case, "points_2d", points)
        compare(case, "mesh_feat", mlp(maf_sample(feature_map, points)))
        grid = _grid().expand(num, -1, -1)
        compare(case, "grid_feat", mlp(maf_sample(feature_map, grid)))


def check_iuv_losses(case: Case, tmp_path):
    """Decoded targets and the four losses, for all samples and for some."""
    salt = case.salt
    shapes = {name: case.spec["inputs"][name]["shape"] for name in case.spec["inputs"]}
    predicted = {
        "u": fill.unit("iuv.pred_u", shapes["pred_u"], salt),
        "v": fill.unit("iuv.pred_v", shapes["pred_v"], salt),
        "part": 2 * fill.unit("iuv.pred_index", shapes["pred_index"], salt),
        "coarse_part": 2 * fill.unit("iuv.pred_ann", shapes["pred_ann"], salt),
    }
    predicted = {name: torch.from_numpy(value) for name, value in predicted.items()}
    iuv = given(case, "iuv")
    coarse = PyMAFLoss().coarse
    weights = {"dense_u": 0.5, "dense_v": 0.5, "dense_part": 1.0, "dense_coarse_part": 1.0}
    theirs = dict(zip(weights, ("U", "V", "IndexUV", "segAnn"), strict=True))
    valid = {"all": torch.ones(len(iuv), dtype=torch.bool)}
    valid |= {tag: given(case, f"has_iuv_{tag}") > 0 for tag in ("a", "b")}
    for tag, is_valid in valid.items():
        terms = dense_terms(predicted, iuv, is_valid, coarse)
        for name, value in terms.items():
            compare(case, f"loss_{theirs[name]}.{tag}", weights[name] * value)
    part = (24 * iuv[:, 0]).round().long()
    one_hot = torch.nn.functional.one_hot(part, 25).permute(0, 3, 1, 2).float()
    of_coarse = torch.nn.functional.one_hot(coarse[part], 15).permute(0, 3, 1, 2).float()
    maps = {
        "Umap": one_hot * iuv[:, 1:2],
        "Vmap": one_hot * iuv[:, 2:3],
        "Index": one_hot,
        "Ann": of_coarse,
    }
    for name, value in maps.items():
        compare(case, f"map.{name}", value.sum(dim=(2, 3)))
    compare(case, "map.Umap_full", maps["Umap"])


def check_iuv_render(case: Case, tmp_path):
    """Target pictures of an atlas."""
    atlas = Atlas(
        np.arange(len(case.arrays["in.All_vertices"])),
        case.arrays["in.All_Faces"].astype(np.int64) - 1,
        case.arrays["in.All_FaceIndices"].astype(np.int64),
        np.stack([case.arrays["in.All_U_norm"], case.arrays["in.All_V_norm"]], 1).astype("f4"),
    )
    config = case.spec["config"]
    size = config["output_size"]
    renderer = IUVRenderer(atlas, (size, size))
    transl = weak_perspective_to_transl(given(case, "cam"), config["focal"], config["orig_size"])
    side = config["orig_size"]
    intrinsics = crop_intrinsics(config["focal"], (side, side)).expand(len(transl), 3, 3)
    drawn = renderer(given(case, "verts_used") + transl[:, None], intrinsics).numpy()
    error = np.abs(drawn - outputs(case)["iuv"]).max(axis=1)
    assert (error <= 1e-3).mean() >= 0.995
    assert error.shape[1:] == (size, size)


def check_geometry(case: Case, tmp_path):
    """Rotation forms, projection and camera fits."""
    num = len(given(case, "cam"))
    intrinsics = crop_intrinsics(5000.0, (224, 224)).expand(num, 3, 3)
    points, target = given(case, "S"), given(case, "kp_px")
    target_crop = target[:, 25:, :2] / 112 - 1
    fitted = fit_camera(points[:, 25:], target_crop, target[:, 25:, 2], intrinsics)
    compare(case, "estimate_translation", fitted)
    rotmat = rot6d_interleaved_to_rotmat(given(case, "rot6d"))
    compare(case, "rot6d_to_rotmat", rotmat)
    compare(case, "rotmat_to_aa", rotmat_to_axis_angle(rotmat))
    compare(case, "aa_to_rotmat", axis_angle_to_rotmat(given(case, "aa")))
    compare(case, "rotmat_to_rot6d", rotmat_to_rot6d_interleaved(rotmat))
    transl = weak_perspective_to_transl(given(case, "cam"), 5000.0, 224)
    compare(case, "projection", project(points + transl[:, None], intrinsics))
