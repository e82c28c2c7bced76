"""The data path of Meta-HMR: its annotation file -> shards -> Crops -> Batch, against its items.

One kind of case, ``data_*``: a drawn picture, rows of an annotation file and, where upstream
augments, its explicit draws. The files are written as they are distributed, and converted as the
configuration's source of the dataset says. 3DPW is read at half resolution, and everything that is
compared here is at that resolution. Coordinates of joints with confidence 0 are not compared:
upstream carries numbers along that mean nothing, a Sample has NaN and a Batch 0.
"""

import shutil
from pathlib import Path

import numpy as np
import torch
from official_case import official_shards

from hmrkit.body import joints
from hmrkit.data.augment import AugmentParams
from hmrkit.data.collate import IMAGE_MEAN, IMAGE_STD, collate, normalize_image
from hmrkit.data.crops import Crops
from hmrkit.data.occluders import Occlusion
from hmrkit.geometry.boxes import invert_affine
from hmrkit.models.hmr.cliff import box_information, full_image_box

SOURCES = {
    ("3dpw", False): "3dpw_metahmr_test",
    ("3dpw", True): "3dpw_metahmr",
    ("coco", True): "coco_2014_metahmr",
    ("coco", False): "coco_2014_metahmr_val",
    ("mpii", True): "mpii_metahmr",
    ("h36m", True): "h36m_metahmr",
    ("h36m-p1", False): "h36m_metahmr_p1",
    ("h36m-p2", False): "h36m_metahmr_p2",
    ("mpi-inf-3dhp", True): "mpi_inf_3dhp_metahmr",
    ("mpi-inf-3dhp", False): "mpi_inf_3dhp_metahmr_test",
}
MIX_KEYS = {"3dpw": "pw3d"}  # keys of the mix may not begin with a digit
INPUT_SIZES = {"rect": (256, 192), "square": (224, 224)}
SPIN49 = joints.index(joints.names("spin49"), "all")
SPIN24 = joints.index(joints.names("spin24"), "all")
FLIP49 = joints.flip_permutation("spin49")


def check_data(case: dict, arrays: dict[str, np.ndarray], folder: Path, tmp_path: Path) -> None:
    """Every sample of a ``data_*`` case within its tolerances."""
    config = case["config"]
    annotation = {k.removeprefix("annot."): v for k, v in arrays.items() if k.startswith("annot.")}
    picture = case["inputs"]["image"].split()[0]
    source = SOURCES[config["dataset"], config["is_train"]]
    num = len(annotation["scale"])
    shutil.copy(folder / picture, tmp_path / picture)
    np.savez(tmp_path / "annotations.npz", imgname=[picture] * num, **annotation)
    overrides = ["source.prepare.annotations=annotations.npz"]
    name = MIX_KEYS.get(config["dataset"], config["dataset"])
    record = official_shards(source, tmp_path, overrides, name=name).read(0)
    assert len(record["image_of_view"]) == num
    crops = Crops(
        input_size=INPUT_SIZES[config["bbox_type"]],
        box_scale=1.2,
        fit_aspect_hw=(4, 3),
        box_joints="spin24",
        with_antialias=False,
        half_resolution_sources=("pw3d",),
    )
    for i, recorded in enumerate(case["samples"]):
        expected = {
            k.removeprefix(f"s{i}."): v for k, v in arrays.items() if k.startswith(f"s{i}.")
        }
        cut = crops.cut(record, i, _params(recorded, arrays, crops.input_hw))
        batch = collate([cut])
        tolerance = case["tolerance"]
        _check_pixels(cut["input_image"][0], batch, expected)
        _check_geometry(batch, expected, tolerance, crops.input_hw)
        _check_labels(batch, cut, expected, tolerance)


def _params(recorded: dict, arrays: dict[str, np.ndarray], input_hw) -> AugmentParams:
    """Upstream's draws, as ours."""
    if recorded["augmentation"] is None:
        assert not recorded["occlusion"]
        return AugmentParams()
    height, width = input_hw
    drawn = recorded["augmentation"]
    return AugmentParams(
        scale=drawn["sc"],
        rotation_deg=drawn["rot"],
        is_flipped=bool(drawn["flip"]),
        color_gain=tuple(drawn["pn"]),
        occlusions=tuple(
            Occlusion(
                patch=arrays[f"occluder{one['occluder']}_rgba"],
                scale=one["scale_factor"] * 256 / min(height, width),
                center=(one["center"][0] / width, one["center"][1] / height),
            )
            for one in recorded["occlusion"]
        ),
    )


def _check_pixels(crop: np.ndarray, batch: dict, expected: dict) -> None:
    wanted = expected["crop_u8_hwc"]
    assert crop.shape == wanted.shape
    difference = np.abs(crop.astype(int) - wanted)
    assert difference.mean() < 0.2
    assert (difference <= 1).mean() > 0.99
    assert difference.max() <= 8
    # The normalisation of upstream's own crop is upstream's tensor; that of ours is near it.
    (name,) = (k for k in expected if k.startswith("img@every"))
    step = int(name.removeprefix("img@every"))
    theirs = normalize_image(torch.from_numpy(wanted).permute(2, 0, 1)[None])
    np.testing.assert_allclose(theirs.flatten()[::step], expected[name], atol=1e-5)
    ours = normalize_image(batch["image"])
    stats = [ours.mean(), ours.std(correction=0), ours.min(), ours.max()]
    np.testing.assert_allclose(np.array(stats)[:2], expected["img@stats"][:2], atol=0.2 / 255 / 0.2)
    for c, (mean, std) in enumerate(zip(IMAGE_MEAN, IMAGE_STD, strict=True)):
        values = torch.from_numpy(crop[..., c]).float() / 255
        torch.testing.assert_close(ours[0, c], (values - mean) / std, atol=1e-5, rtol=0)


def _check_geometry(batch: dict, expected: dict, tolerance: dict, input_hw) -> None:
    """Upstream's maps start from the mirrored picture, ours from the picture."""
    height, width = input_hw
    full_height, full_width = batch["full_size"][0].tolist()
    assert (full_height, full_width) == (expected["img_h"], expected["img_w"])
    assert batch["full_size"][0].tolist() == expected["orig_shape"].tolist()
    mirror = np.eye(3)
    if expected["is_flipped"]:
        mirror[0] = [-1, 0, full_width - 1]
    crop_to_img = batch["crop_to_img"][0].double().numpy()
    units_to_px = np.array([[width / 2, 0, width / 2], [0, height / 2, height / 2], [0, 0, 1]])
    img_to_px = units_to_px @ np.vstack([invert_affine(crop_to_img), [0, 0, 1]])
    np.testing.assert_allclose(
        img_to_px[:2], _square(expected["full_trans"])[:2] @ mirror, atol=_atol(tolerance["trans"])
    )
    center = (mirror @ [*crop_to_img[:, 2], 1])[:2]
    side_px = 2 * np.linalg.norm(crop_to_img[:, 1])
    np.testing.assert_allclose(center, expected["center"], atol=_atol(tolerance["center"]))
    np.testing.assert_allclose(side_px / 200, expected["scale"], atol=_atol(tolerance["scale"]))
    zoom = height / side_px
    no_rotation = np.column_stack([zoom * np.eye(2), [width / 2, height / 2] - zoom * center])
    for name, matrix in (("crop_trans", no_rotation), ("inv_trans", invert_affine(no_rotation))):
        np.testing.assert_allclose(matrix, expected[name], atol=_atol(tolerance["trans"]))
    intrinsics = batch["intrinsics"][0]
    is_known = bool(torch.isfinite(intrinsics).all())
    focal = float(intrinsics[0, 0]) if is_known else np.hypot(full_height, full_width)
    np.testing.assert_allclose(focal, expected["focal_length"], rtol=1e-6)
    box = full_image_box(batch)
    np.testing.assert_allclose(box.center_img[0], expected["center"], atol=1e-3)
    np.testing.assert_allclose(box.focal_px[0], expected["focal_length"], rtol=1e-6)
    np.testing.assert_allclose(
        box_information(box)[0], expected["bbox_info"], atol=_atol(tolerance["bbox_info"])
    )


def _check_labels(batch: dict, cut: dict, expected: dict, tolerance: dict) -> None:
    height, width = batch["input_size"][0].tolist()
    crop = batch["keypoints_crop"][0, SPIN49].double().numpy()
    is_present = expected["keypoints"][:, 2] > 0
    px = (crop[:, :2] + 1) / 2 * [width, height]
    np.testing.assert_allclose(crop[:, 2], expected["keypoints"][:, 2], atol=1e-6)
    np.testing.assert_allclose(
        px[is_present], expected["keypoints"][is_present, :2], atol=_atol(tolerance["keypoints"])
    )
    full_px = crop[:, :2] @ cut["crop_to_img"][0, :, :2].T + cut["crop_to_img"][0, :, 2]
    if expected["is_flipped"]:
        full_px[:, 0] = expected["img_w"] - 1 - full_px[:, 0]
        np.testing.assert_array_equal(  # the labels in source px are those of the source
            cut["keypoints_img"][0][FLIP49, 2], expected["keypoints"][:, 2]
        )
    np.testing.assert_allclose(
        full_px[is_present], expected["keypoints_full"][is_present, :2], atol=2e-3
    )
    assert bool(batch["has_pose"][0]) == bool(expected["has_smpl"]) == bool(batch["has_betas"][0])
    if expected["has_smpl"]:
        np.testing.assert_allclose(
            cut["pose"].ravel(), expected["pose"], atol=_atol(tolerance["pose"])
        )
    np.testing.assert_allclose(batch["body"].betas[0], expected["betas"], atol=1e-6)
    world = batch["keypoints_world"][0, SPIN24].numpy()
    wanted = expected["pose_3d"] * (expected["pose_3d"][:, 3:] > 0)  # ours has no absent numbers
    np.testing.assert_allclose(world, wanted, atol=_atol(tolerance["pose_3d"]))
    assert bool((world[:, 3] > 0).any()) == bool(expected["has_pose_3d"])
    assert int(batch["gender"][0]) == int(expected["gender"])


def _square(matrix: np.ndarray) -> np.ndarray:
    return np.vstack([matrix.astype(np.float64), [0, 0, 1]])


def _atol(text: str | float) -> float:
    """The number a tolerance of the case begins with."""
    return float(str(text).split()[0].rstrip(":"))
