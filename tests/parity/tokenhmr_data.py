"""TokenHMR's and HMR2.0's data: official files -> converter -> shard -> crop -> batch, compared.

Upstream's joints are in -0.5 .. 0.5 of the crop, ours in -1 .. 1; its affine maps start from the
mirrored picture, ours from the picture. Masks are not carried, so not compared. Coordinates of
joints with confidence 0, and bodies that are no labels, are not compared: ours are absent.
"""

import pickle
import re
import shutil
from pathlib import Path

import fill
import numpy as np
import roma
import torch
from parity_case import Case, subsample

from hmrkit.body import joints
from hmrkit.body.gendered import GenderedBodies
from hmrkit.data.augment import Augment, AugmentParams, extreme_region
from hmrkit.data.collate import collate, normalize_image
from hmrkit.data.crops import Crops
from hmrkit.data.record import decode_image
from hmrkit.data.shards import ShardSet, write_manifest, write_shard
from hmrkit.data.sources.hmr2_npz import Hmr2Npz
from hmrkit.geometry import cameras, rotations
from hmrkit.geometry.boxes import invert_affine
from hmrkit.infer.predict import make_sample
from hmrkit.types import Sample

SIDE = 256  # px, of the network's input
MARGIN = 1.2
SPIN44 = joints.index(joints.names("spin44"), "all")
SMPL24 = joints.index(joints.names("smpl24"), "all")


# ------------------------------------------------------------------------------- evaluation files


def check_npz_eval(case: Case, tmp_path: Path) -> None:
    """Each item of 4D-Humans' ImageDataset and TokenHMR's EMDBDataset."""
    image, annotations = (_input(case, suffix) for suffix in (".png", ".npz"))
    with np.load(annotations) as archive:
        arrays = dict(archive)
    emdb = {name: array for name, array in arrays.items() if "keypoints" not in name}
    parts = [arrays[f"{part}_keypoints_2d"] for part in ("body", "extra")]
    emdb |= {"scale": arrays["scale"] / 200, "keypoints_2d": np.concatenate(parts, axis=1)}
    bodies = _write_bodies(tmp_path / "body_models", case.salt)
    for tag in sorted({name.split("/")[0] for name in case.arrays}):
        is_emdb = tag == "emdb"
        folder = tmp_path / tag
        folder.mkdir()
        shutil.copy(image, folder)
        np.savez(folder / "set.npz", **(emdb if is_emdb else arrays))
        shards = _shards(
            _converter(200 if is_emdb else 1, str(bodies.folder) if is_emdb else None), folder
        )
        record = shards.read(0)
        crops = _crops(None if tag == "square" else _fit_aspect_hw(case, tag))
        for row in sorted(
            {int(name.split("/")[1]) for name in case.arrays if name.startswith(f"{tag}/")}
        ):
            item = _Item(case, f"{tag}/{row}/")
            cut = crops(record, row, None)
            _check_image(item, collate([cut]))
            _check_box(item, cut, crops)
            _check_labels(item, collate([cut]))
            _check_gendered(item, collate([cut]), bodies)


def _fit_aspect_hw(case: Case, tag: str) -> tuple[int, int]:
    """Of ``bbox192x256`` from its name, of ``emdb`` from the config's sentence."""
    sentence = tag if "x" in tag else case.config["BBOX_SHAPE"]
    width, height = re.search(r"(\d+)[x, ]+(\d+)", sentence).groups()
    return int(height), int(width)


def _check_box(item: "_Item", cut: Sample, crops: Crops) -> None:
    crop_to_img = cut["crop_to_img"][0].astype(np.float64)
    side_px = 2 * np.linalg.norm(crop_to_img[:, 1])
    stored = (cut["box_img"][0, 2:] - cut["box_img"][0, :2]) * MARGIN
    item.check("box_center", crop_to_img[:, 2])
    item.check("box_size", side_px)
    item.check("_scale", stored / 200)
    item.check("bbox_expand_factor", side_px / stored.max())
    item.check("img_size", cut["full_size"][0, ::-1])
    keypoints = cut["keypoints_img"][0, joints.mapping(cut["joint_set"], "spin44")]
    item.check_joints("orig_keypoints_2d", keypoints)


def _check_labels(item: "_Item", batch: dict) -> None:
    keypoints = batch["keypoints_crop"][0, SPIN44].numpy()
    item.check_joints("keypoints_2d", keypoints * [0.5, 0.5, 1])
    world = batch["keypoints_world"][0].numpy()
    if item["keypoints_3d"].shape == (24, 3):
        item.check("keypoints_3d", world[SMPL24, :3])
        assert (world[SMPL24, 3] == 1).all()
    else:
        item.check_joints("keypoints_3d", world[SPIN44])
    has_pose, has_betas = bool(batch["has_pose"][0]), bool(batch["has_betas"][0])
    body = batch["body"]
    for name, has_label, value in (
        ("global_orient", has_pose, body.global_orient[0]),
        ("body_pose", has_pose, body.body_pose[0]),
        ("betas", has_betas, body.betas[0]),
    ):
        assert has_label == bool(item[f"has_smpl_params.{name}"])
        wanted = torch.from_numpy(item[f"smpl_params.{name}"])
        if has_label and item[f"smpl_params_is_axis_angle.{name}"]:
            wanted = rotations.axis_angle_to_rotmat(wanted.view(-1, 3))
            wanted = wanted.view(value.shape)
        if has_label:
            item.check(f"smpl_params.{name}", value, wanted.numpy())


def _check_gendered(item: "_Item", batch: dict, bodies: GenderedBodies) -> None:
    if batch["has_pose"][0] and batch["has_betas"][0]:
        mesh = bodies[int(batch["gender"][0])](batch["body"])
        item.check("vertices@17", mesh.vertices[0, ::17])
    if "gender" in item:
        assert int(batch["gender"][0]) == int(item["gender"])


# -------------------------------------------------------------------------------------- the demo


def check_demo_crop(case: Case, tmp_path: Path) -> None:
    """Crops of the demo and the camera of the whole picture."""
    image = decode_image(_input(case, ".png").read_bytes())
    width, height = case.config["BBOX_SHAPE"]
    crops = Crops(
        (SIDE, SIDE), box_scale=1.0, fit_aspect_hw=(height, width), antialias_filter="gaussian"
    )
    record = make_sample(image, case.arrays["in_boxes"], None)
    batch = collate([crops(record, view, None) for view in range(len(record["box_img"]))])
    crop_to_img = batch["crop_to_img"].double()
    side_px = 2 * crop_to_img[:, :, 1].norm(dim=1)
    for row in range(len(side_px)):
        item = _Item(case, f"{row}/")
        _check_image(item, {"image": batch["image"][row : row + 1]})
        item.check("personid", row)
        item.check("box_center", crop_to_img[row, :, 2])
        item.check("box_size", side_px[row])
        item.check("img_size", batch["full_size"][row].flip(0))
    focal_px = 5000 / SIDE * batch["full_size"].max()
    whole = _Item(case, "")
    whole.check("focal_full", focal_px)
    transl = cameras.cliff_transl(
        case.tensor("in_pred_cam").double(),
        crop_to_img[:, :, 2],
        side_px,
        focal_px.expand(len(side_px)).double(),
        batch["full_size"].double(),
    )
    whole.check("cam_full", transl)


# ---------------------------------------------------------------------------------- augmentation


def check_augment(case: Case, tmp_path: Path) -> None:
    """Items under given draws, extreme crops for given p, and the distribution of the draws."""
    arrays = {name.removeprefix("in_"): case.arrays[name] for name in case.arrays}
    shutil.copy(_input(case, ".png"), tmp_path)
    keypoints = {name: arrays[name][None] for name in ("keypoints_2d", "keypoints_3d")}
    np.savez(
        tmp_path / "set.npz",
        imgname=np.array([_input(case, ".png").name]),
        center=arrays["center"][None],
        scale=arrays["scale"][None],
        body_pose=arrays["body_pose"][None],
        betas=arrays["betas"][None],
        has_body_pose=np.ones(1),
        has_betas=np.ones(1),
        **keypoints,
    )
    record = _shards(_converter(200, None, with_openpose_limbs_3d=True), tmp_path).read(0)
    crops = _crops(None)
    for name, drawn in case.spec["inputs"]["draws"].items():
        params = AugmentParams(
            scale=drawn["scale"],
            rotation_deg=drawn["rot"],
            is_flipped=drawn["flip"],
            shift=(drawn["tx"], drawn["ty"]),
            color_gain=tuple(drawn["color"]),
            extreme_crop=drawn["p"] if drawn["crop"] else None,
            extreme_crop_level=drawn["lvl"],
        )
        cut = crops.cut(record, 0, params)
        _check_augmented(_Item(case, f"{name}/"), cut, drawn["flip"])
    _check_extreme_crops(_Item(case, ""), arrays["keypoints_2d"])
    _check_draws(_Item(case, ""))


def _check_augmented(item: "_Item", cut: Sample, is_flipped: bool) -> None:
    batch = collate([cut])
    _check_image(item, batch)
    item.check_joints("keypoints_2d", batch["keypoints_crop"][0, SPIN44].numpy() * [0.5, 0.5, 1])
    item.check_joints("keypoints_3d", batch["keypoints_world"][0, SPIN44].numpy())
    wanted = rotations.axis_angle_to_rotmat(torch.from_numpy(item["smpl.global_orient"]))
    item.check("smpl.global_orient", batch["body"].global_orient[0], wanted.numpy())
    item.check("smpl.body_pose", cut["pose"][0, 1:].ravel())
    item.check("smpl.betas", batch["body"].betas[0])
    full_height, full_width = cut["full_size"][0]
    item.check("img_size", (full_height, full_width))
    mirror = np.diag([-1.0 if is_flipped else 1.0, 1, 1])
    mirror[0, 2] = full_width - 1 if is_flipped else 0
    to_px = np.array([[SIDE / 2, 0, SIDE / 2], [0, SIDE / 2, SIDE / 2]])
    img_to_crop = np.vstack([invert_affine(cut["crop_to_img"][0]), [0, 0, 1]])
    item.check("trans", to_px @ img_to_crop @ mirror)


def _check_extreme_crops(item: "_Item", keypoints: np.ndarray) -> None:
    without_legs = keypoints.copy()
    is_leg = [name.endswith(("knee", "ankle")) for name in joints.names("spin44")]
    without_legs[is_leg, 2] = 0
    start = np.array([150.0, 180.0]), 260.0
    ours = []
    for is_legless, level, draw in item["extreme_crops"][:, :3]:
        seen = without_legs if is_legless else keypoints
        center, side_px = extreme_region(seen, "spin44", draw, int(level)) or start
        ours.append([is_legless, level, draw, *center, side_px, side_px])
    item.check("extreme_crops", np.array(ours))


def _check_draws(item: "_Item") -> None:
    """Mean and deviation within 5 % of the deviation; flips and such have none that is small."""
    augment = Augment(
        rotation_probability=0.6,
        scale_std=0.3,
        scale_max=0.3,
        shift_std=0.02,
        shift_max=0.02,
        color_gain=(0.8, 1.2),
        extreme_crop_probability=0.1,
    )
    rng = np.random.default_rng(0)
    drawn = [augment.draw(rng) for _ in range(20000)]
    columns = [
        [d.scale for d in drawn],
        [d.rotation_deg for d in drawn],
        [d.is_flipped for d in drawn],
        [d.extreme_crop is not None for d in drawn],
        [d.shift[0] for d in drawn],
        [d.shift[1] for d in drawn],
        [d.color_gain for d in drawn],
    ]
    wanted = item["draw_stats"]
    for column, (mean, std) in zip(columns, wanted, strict=True):
        assert abs(np.mean(column) - mean) < 0.05 * std
        assert abs(np.std(column) - std) < 0.05 * std


# -------------------------------------------------------------------------------------- geometry


def check_geometry(case: Case, tmp_path: Path) -> None:
    """Rotations, projection and the angle between rotations."""
    item = _Item(case, "")
    rotmat = rotations.axis_angle_to_rotmat(case.tensor("aa"))
    item.check("aa_to_rotmat", rotmat)
    columns = rotations.rot6d_stacked_to_rotmat(case.tensor("d6"))
    rows = columns.transpose(-1, -2)
    item.check("rot6d_hmr2", columns)
    item.check("rot6d_tokenhmr", rows)
    focal = float(re.search(r"focal (\d+)/(\d+)", case.spec["inputs"])[1]) / SIDE
    intrinsics = torch.diag(torch.tensor([focal, focal, 1.0]))
    points = case.tensor("points") + case.tensor("translation")[:, None]
    item.check("projected", cameras.project(points, intrinsics))
    num = item["angle_error"].size
    angle = roma.rotmat_geodesic_distance(rows[:num], rotmat[:num])
    item.check("angle_error", angle.view(item["angle_error"].shape))


# ----------------------------------------------------------------------------------------- shared


class _Item:
    """The recorded arrays below a prefix, compared at the case's tolerances."""

    def __init__(self, case: Case, prefix: str) -> None:
        self.case, self.prefix = case, prefix

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.case.arrays

    def __getitem__(self, name: str) -> np.ndarray:
        return self.case.arrays[self.prefix + name]

    def check(self, name: str, ours: object, wanted: np.ndarray | None = None) -> None:
        """Compare with the recorded array, or with ``wanted``, which was made from it."""
        wanted = self[name] if wanted is None else wanted
        ours = np.asarray(ours, np.float64)
        assert ours.shape == wanted.shape, f"{self.prefix}{name}: {ours.shape}, not {wanted.shape}"
        tolerance = self.case.spec["tolerance"]["everything else"]
        np.testing.assert_allclose(ours, wanted, err_msg=self.prefix + name, **tolerance)

    def check_joints(self, name: str, ours: np.ndarray) -> None:
        """Compare confidences, and coordinates where they are above 0."""
        wanted = self[name]
        is_labelled = wanted[:, -1] > 0
        assert is_labelled.any()
        self.check(f"{name} (confidence)", ours[:, -1], wanted[:, -1])
        self.check(name, ours[is_labelled, :-1], wanted[is_labelled, :-1])


def _check_image(item: _Item, batch: dict) -> None:
    """Normalised planes; some pixels may be further off, as the case says."""
    tolerance = item.case.spec["tolerance"]["img planes"]
    share, limit = re.search(
        r"allow ([\d.]+)% of pixels up to ([\d.]+)", tolerance["note"]
    ).groups()
    ours = normalize_image(batch["image"])[0].numpy()
    error = np.abs(ours[:, ::4, ::4] - item["img@4"])
    assert (error > tolerance["atol"]).mean() <= float(share) / 100, item.prefix
    assert error.max() <= float(limit), item.prefix
    mean_std = subsample(ours, "stats")[:2]
    np.testing.assert_allclose(mean_std, item["img@stats"][:2], atol=tolerance["atol"])
    np.testing.assert_allclose(np.abs(ours).max(), item["img@stats"][2], atol=float(limit))


def _input(case: Case, suffix: str) -> Path:
    """The file of the case, named among its inputs, that ends so."""
    words = re.findall(r"[\w.-]+", str(case.spec["inputs"]))
    names = sorted({word for word in words if word.endswith(suffix)})
    assert len(names) == 1, f"{case.name} names {names}"
    return case.path.with_name(names[0])


def _converter(
    scale_unit_px: float, body_models: str | None, with_openpose_limbs_3d: bool = False
) -> Hmr2Npz:
    return Hmr2Npz(
        annotations="set.npz",
        images=".",
        where="",
        scale_unit_px=scale_unit_px,
        stored_margin=MARGIN,
        with_openpose_limbs_3d=with_openpose_limbs_3d,
        body_models=body_models,
    )


def _shards(converter: Hmr2Npz, folder: Path) -> ShardSet:
    """The records of a download, written and opened."""
    records = converter.open(folder)
    samples = [records[i] for i in range(len(records))]
    write_shard(folder / "shards" / "000000.tar", samples, converter.joint_set)
    write_manifest(
        folder / "shards", "set", converter.kind, converter.joint_set, options={}, command=""
    )
    return ShardSet(folder / "shards", "set")


def _crops(fit_aspect_hw: tuple[int, int] | None) -> Crops:
    return Crops((SIDE, SIDE), box_scale=MARGIN, fit_aspect_hw=fit_aspect_hw, with_antialias=False)


def _write_bodies(folder: Path, salt: str) -> GenderedBodies:
    """The nonsense bodies of the case in files like the licensed ones."""
    folder.mkdir()
    for gender, suffix in (("NEUTRAL", ""), ("MALE", "/male"), ("FEMALE", "/female")):
        with (folder / f"SMPL_{gender}.pkl").open("wb") as file:
            pickle.dump(fill.smpl(salt + suffix), file)
    return GenderedBodies(folder)
