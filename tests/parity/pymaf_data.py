"""The data path of PyMAF: SPIN's annotation files -> shards -> SpinCrops -> Batch.

Upstream turns a crop, then mirrors it; ``AugmentParams`` means the other order, so the angle
changes sign where both happen. Coordinates of joints with confidence 0 and bodies without
``has_smpl`` are not compared: upstream carries numbers along that mean nothing.
"""

import shutil
from pathlib import Path

import cv2
import numpy as np
from official_case import official_shards
from parity_case import Case
from scipy.spatial.transform import Rotation

from hmrkit.body import joints
from hmrkit.data.augment import AugmentParams
from hmrkit.data.collate import collate
from hmrkit.data.crops import Crops
from hmrkit.data.record import complete_sample, decode_image
from hmrkit.data.spin_crops import SpinCrops
from hmrkit.types import Batch, Sample

FITTED = {"coco": "coco_2014_spin_fits", "h36m": "h36m_spin_fits"}
INPUT_SIZE = (224, 224)
SPIN49 = joints.index(joints.names("spin49"), "all")
SPIN24 = joints.index(joints.names("spin24"), "all")


def check_data(case: Case, tmp_path: Path) -> None:
    """Items with and without augmentation: pixels, joints, bodies and what is known of the crop."""
    image, annotations = (case.spec["files"][name].split()[0] for name in ("image", "annotations"))
    for name in (image, annotations):
        shutil.copy(case.path.parent / name, tmp_path / name)
    overrides = [f"source.prepare.annotations={annotations}"]
    record = official_shards("mpi_inf_3dhp_spin", tmp_path, overrides).read(0)
    crops = SpinCrops(INPUT_SIZE)
    plain = {"flip": 0, "pn": [1.0, 1.0, 1.0], "rot": 0.0, "sc": 1.0}
    num = len(record["image_of_view"])
    items = [(f"noaug{i}", i, plain) for i in range(num)]
    items += [(f"aug{i}", i, drawn) for i, drawn in enumerate(case.spec["augmentations"])]
    assert {f"out.{name}.img_u8" for name, _, _ in items} <= set(case.arrays)
    for name, row, drawn in items:
        expected = {key: case.arrays[f"out.{name}.{key}"] for key in case.named(f"out.{name}.")}
        cut = crops.cut(record, row, _params(**drawn))
        batch = collate([cut])
        _check_pixels(batch, expected["img_u8"])
        _check_labels(cut, batch, expected)
        _check_meta(batch, expected["meta"], drawn)


def _params(flip: int, rot: float, sc: float, pn: list[float]) -> AugmentParams:
    return AugmentParams(
        scale=sc,
        rotation_deg=-rot if flip else rot,
        is_flipped=bool(flip),
        color_gain=tuple(pn),
    )


def _check_pixels(batch: Batch, expected: np.ndarray, atol: int = 2, share: float = 0.99) -> None:
    """The cases' own rule: exact on 99 % of pixels, never off by more than 2."""
    difference = np.abs(batch["image"][0].numpy().astype(int) - expected)
    assert (difference == 0).mean() >= share
    assert difference.max() <= atol


def _check_labels(cut: Sample, batch: Batch, expected: dict[str, np.ndarray]) -> None:
    keypoints, wanted = batch["keypoints_crop"][0, SPIN49].numpy(), expected["keypoints"]
    is_present = wanted[:, 2] > 0
    np.testing.assert_allclose(keypoints[:, 2], wanted[:, 2], atol=1e-5)
    np.testing.assert_allclose(keypoints[is_present], wanted[is_present], atol=1e-5)
    # The exact map goes where the truncated joints are, within a pixel; two beyond the left or top.
    linear, shift = cut["crop_to_img"][0, :, :2], cut["crop_to_img"][0, :, 2]
    order = joints.flip_permutation("spin49") if expected["meta"][3] else np.arange(49)
    exact = (cut["keypoints_img"][0, order, :2] - shift) @ np.linalg.inv(linear).T
    missed_px = np.abs(exact - wanted[:, :2]) * INPUT_SIZE[0] / 2
    is_inside = is_present & (np.abs(exact) < 1).all(axis=1)
    assert missed_px[is_inside].max(initial=0) <= 1.01
    assert missed_px[is_present].max() <= 2.01
    has_smpl = bool(expected["meta"][5])
    assert bool(batch["has_pose"][0]) == bool(batch["has_betas"][0]) == has_smpl
    if has_smpl:
        np.testing.assert_allclose(cut["pose"].ravel(), expected["pose"], atol=1e-5)
        np.testing.assert_allclose(batch["body"].betas[0], expected["betas"], atol=1e-5)
    world = batch["keypoints_world"][0, SPIN24].numpy()
    wanted = expected["pose_3d"] * (expected["pose_3d"][:, 3:] > 0)
    np.testing.assert_allclose(world, wanted, atol=1e-5)
    assert bool((world[:, 3] > 0).any()) == bool(expected["meta"][6])


def _check_meta(batch: Batch, meta: np.ndarray, drawn: dict) -> None:
    """Scale and centre of the region, gender, size of the image."""
    box = batch["box_img"][0].double().numpy()
    side_px = 1.2 * (box[2:] - box[:2]) * drawn["sc"]
    np.testing.assert_allclose(side_px / 200, [meta[0], meta[0]], atol=1e-5)
    np.testing.assert_allclose((box[:2] + box[2:]) / 2, meta[1:3], atol=1e-4)  # float32 px
    assert int(batch["gender"][0]) == int(meta[7])
    assert batch["full_size"][0].tolist() == meta[8:10].tolist()


def check_fits(case: Case, tmp_path: Path) -> None:
    """Fits of both layouts, augmented; their validity; extreme shapes."""
    fits, valid = case.arrays["in.fits"], case.arrays["in.valid_fit"]
    records = {
        (dataset, max_beta): _fitted(
            tmp_path / f"{dataset}_{max_beta}", dataset, max_beta, fits, valid
        )
        for dataset in ("coco", "h36m")
        for max_beta in ("3.0", "null")
    }
    crops = SpinCrops(INPUT_SIZE)
    for i, dataset in enumerate(case.spec["dataset_name"]):
        row = int(case.arrays["in.index"][i])
        flip, rot = case.arrays["in.is_flipped"][i], float(case.arrays["in.rot_deg"][i])
        params = _params(flip=flip, rot=rot, sc=1.0, pn=[1.0, 1.0, 1.0])
        clamped = collate([crops.cut(records[dataset, "3.0"], row, params)])
        stored = collate([crops.cut(records[dataset, "null"], row, params)])
        is_valid = bool(case.arrays["out.valid"][i])
        assert bool(clamped["has_pose"][0]) == bool(clamped["has_betas"][0]) == is_valid
        if not is_valid:
            continue
        body = clamped["body"]
        rotmats = np.concatenate([body.global_orient, body.body_pose[0]])
        wanted = Rotation.from_rotvec(case.arrays["out.pose"][i].reshape(24, 3)).as_matrix()
        np.testing.assert_allclose(rotmats, wanted, atol=1e-5)
        for name, batch in (("betas", stored), ("betas_clamped", clamped)):
            wanted = case.arrays[f"out.{name}"][i]
            np.testing.assert_allclose(batch["body"].betas[0], wanted, atol=1e-6)


def _fitted(
    folder: Path, dataset: str, max_beta: str, fits: np.ndarray, valid: np.ndarray
) -> Sample:
    """The record of an annotation file without bodies that got fits, as they are distributed."""
    num = len(fits)
    (folder / "fits").mkdir(parents=True)
    cv2.imwrite(str(folder / "photo.png"), np.full((100, 100, 3), 99, np.uint8))
    rows = {"center": np.full((num, 2), 50.0), "scale": np.full(num, 0.4)}
    np.savez(folder / "annotations.npz", imgname=["photo.png"] * num, **rows)
    if dataset == "h36m":
        np.save(folder / "fits" / "h36m.npy", fits)
    else:
        arrays = {"pose": fits[:, :72], "betas": fits[:, 72:], "valid_fit": valid}
        np.savez(folder / "fits" / f"{dataset}.npz", **arrays)
    overrides = [
        "source.prepare.annotations=annotations.npz",
        f"source.prepare.fits.max_beta={max_beta}",
    ]
    return official_shards(FITTED[dataset], folder, overrides).read(0)


def check_demo_crops(case: Case, tmp_path: Path) -> None:
    """Tracked boxes, and a whole image as one person."""
    image = decode_image((case.path.parent / case.spec["files"]["image"]).read_bytes())
    height, width = image.shape[:2]
    tracked = case.arrays["in.bboxes"]  # cx, cy, w, h
    boxes = np.concatenate(
        [tracked[:, :2] - tracked[:, 2:] / 2, tracked[:, :2] + tracked[:, 2:] / 2], 1
    )
    bilinear = Crops(INPUT_SIZE, box_scale=1.0, with_antialias=False)
    for i, box in enumerate(boxes):
        _check_crop(bilinear, image, box, case.arrays[f"out.crop{i}.img_u8"], atol=1, share=0.0)
    middle, side_px = np.array([width // 2, height // 2]), max(height, width)
    whole = np.concatenate([middle - side_px / 2, middle + side_px / 2])
    spin = SpinCrops(INPUT_SIZE, box_scale=1.0)
    _check_crop(spin, image, whole, case.arrays["out.single.img_u8"], atol=2, share=0.99)


def _check_crop(
    crops: Crops, image: np.ndarray, box: np.ndarray, wanted: np.ndarray, atol: int, share: float
) -> None:
    sample: Sample = {
        "key": "photo",
        "images": [image],
        "image_of_view": np.zeros(1, np.int64),
        "person_of_view": np.zeros(1, np.int64),
        "box_img": box[None].astype(np.float32),
    }
    batch = collate([crops(complete_sample(sample, "spin49"))])
    _check_pixels(batch, wanted, atol, share)
