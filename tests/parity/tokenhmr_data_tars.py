"""The training tars of 4D-Humans and TokenHMR, converted and in place, against upstream's items.

Every case goes both ways: tar -> converter -> shard -> crop -> batch, and tar -> index -> crop ->
batch without conversion. Masks are not carried, so not compared. What 4D-Humans calls the size of
BEDLAM's box is that of its crop, 256; the region that is cut is compared by ``_trans``.
"""

import io
import pickle
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import fill
import numpy as np
from parity_case import Case
from tokenhmr_data import (
    MARGIN,
    SIDE,
    SPIN44,
    _check_image,
    _check_labels,
    _input,
    _Item,
    _write_bodies,
)

from hmrkit.body.pickles import load_pickle
from hmrkit.data.collate import collate
from hmrkit.data.crops import Crops
from hmrkit.data.shards import ShardSet, write_manifest, write_shard
from hmrkit.data.sources.bedlam_tars import BedlamTars
from hmrkit.data.sources.fourdhumans import FourDHumansTars
from hmrkit.data.sources.pose_histogram import is_probable, pose_bins, pose_density
from hmrkit.geometry.boxes import invert_affine
from hmrkit.types import Sample

LOW1 = {  # upstream's data_filtering=low1
    "suppress_keypoint_confidence": 0.3,
    "suppress_betas": 3.0,
    "poses_betas_simultaneous": True,
    "min_keypoints": 5,
    "max_reprojection_loss": 31000.0,
}


# ---------------------------------------------------------------------------- tars of 4D-Humans


def check_tar(case: Case, tmp_path: Path) -> None:
    """Who is yielded, with which labels and pixels, by both ways; and the pose filter."""
    histogram = _write_histogram(case, tmp_path / "amass_poses_hist100_SMPL+H_G.npy")
    for tag in sorted(case.spec["yielded"]):
        folder = tmp_path / tag
        folder.mkdir()
        shutil.copy(_input(case, ".tar"), folder)
        filters = {"default": {**LOW1, "pose_histogram": str(histogram)}, "nofilter": {}}[tag]
        converter = FourDHumansTars(
            tars=["*.tar"],
            stored_margin=MARGIN,
            betas_regulariser=case.config["BETAS_REG"],
            **filters,
        )
        crops = _crops(case.config["BBOX_SHAPE"])
        for shards in _both_ways(converter, folder):
            yielded = list(_units(shards))
            wanted = [name for name, _ in case.spec["yielded"][tag]]
            assert [_image_name(sample["key"], folder) for sample, _ in yielded] == wanted
            for row, (sample, view) in enumerate(yielded):
                item = _Item(case, f"{tag}/{row}/")
                cut = crops(sample, view, None)
                item.check("box_size", 2 * np.linalg.norm(cut["crop_to_img"][0, :, 1]))
                flags = {"global_orient": "has_pose", "body_pose": "has_pose", "betas": "has_betas"}
                for name, flag in flags.items():
                    item.check(f"has_smpl_params.{name}", cut[flag][0])
                if tag == "default":  # of the others no more is recorded
                    _check_region(item, cut)
                    _check_image(item, collate([cut]))
                    _check_labels(item, collate([cut]))
                    _check_stored_body(item, cut)
    _check_filter(case, histogram)


def _check_region(item: _Item, cut: Sample) -> None:
    stored = (cut["box_img"][0, 2:] - cut["box_img"][0, :2]) * MARGIN
    item.check("_scale", stored / 200)
    item.check("box_center", cut["crop_to_img"][0, :, 2])
    item.check("img_size", cut["full_size"][0, ::-1])
    item.check_joints("orig_keypoints_2d", cut["keypoints_img"][0])
    to_px = np.array([[SIDE / 2, 0, SIDE / 2], [0, SIDE / 2, SIDE / 2]])
    img_to_crop = np.vstack([invert_affine(cut["crop_to_img"][0]), [0, 0, 1]])
    item.check("_trans", to_px @ img_to_crop)


def _check_stored_body(item: _Item, cut: Sample) -> None:
    """Numbers beside a flag that says they are no labels, which TALS reads all the same."""
    pose = np.nan_to_num(cut["pose"][0]).ravel()
    item.check("smpl_params.global_orient", pose[:3])
    item.check("smpl_params.body_pose", pose[3:])


def _check_filter(case: Case, histogram: Path) -> None:
    people = []
    with tarfile.open(_input(case, ".tar")) as tar:
        for entry in tar:
            if entry.name.endswith(".data.pyd"):
                people += load_pickle(tar.extractfile(entry), Path(entry.name))
    pose = np.stack([one["body_pose"] for one in people]).reshape(-1, 24, 3)
    density = pose_density(histogram)
    x, y, z = np.moveaxis(pose_bins(pose), -1, 0)
    whole = _Item(case, "")
    whole.check("pose_probs", density[np.arange(21), x, y, z])
    whole.check("hist_smooth_centre", density[:, 50, 50, 50])
    whole.check("hist_smooth_edge", density[:, 44, 50, 56])
    np.testing.assert_array_equal(is_probable(pose, histogram), whole["pose_probable"])


def _write_histogram(case: Case, path: Path) -> Path:
    """The stand-in that the case describes."""
    sentence = case.spec["inputs"][path.name]
    shape = [int(n) for n in re.search(r"zeros \(([\d, ]+)\)", sentence)[1].split(",")]
    numbers = re.search(r"\[:, (\d+):(\d+), (\d+):(\d+), (\d+):(\d+)\] = (\d+)", sentence).groups()
    *ends, value = map(int, numbers)
    counts = np.zeros(shape, np.float32)
    counts[:, ends[0] : ends[1], ends[2] : ends[3], ends[4] : ends[5]] = value
    np.save(path, counts)
    return path


# ------------------------------------------------------------------------------- tars of BEDLAM


def check_bedlam(case: Case, tmp_path: Path) -> None:
    """One record, and the same as a close-up."""
    bodies = _write_bodies(tmp_path / "body_models", case.salt)
    regressor = fill.joint_regressor("SMPL_to_J19", 19, case.salt)
    (bodies.folder / "SMPL_to_J19.pkl").write_bytes(pickle.dumps(regressor))
    tags = sorted({name.split("/")[0] for name in case.arrays if "/" in name})
    image, people = _input(case, ".png").read_bytes(), pickle.dumps([_bedlam_person(case)])
    folder = tmp_path / "tars"
    folder.mkdir()
    with tarfile.open(folder / "bedlam.tar", "w") as tar:
        for tag in tags:
            for extension, content in (("png", image), ("data.pyd", people)):
                entry = tarfile.TarInfo(f"{tag}_0000.{extension}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    converter = BedlamTars(
        str(bodies.folder), "SMPL_to_J19.pkl", tars=["*.tar"], stored_margin=MARGIN
    )
    crops = _crops("absent")
    for shards in _both_ways(converter, folder):
        yielded = list(_units(shards))
        assert len(yielded) == len(tags)
        for tag, (sample, view) in zip(tags, yielded, strict=True):
            item = _Item(case, f"{tag}/")
            cut = crops(sample, view, None)
            _check_region(item, cut)
            batch = collate([cut])
            batch["keypoints_world"][:, SPIN44, :3] -= batch["body"].transl[:, None]
            _check_image(item, batch)
            _check_labels(item, batch)


def _bedlam_person(case: Case) -> dict:
    """The dict of the tar, of the arrays and numbers that the case names."""
    fields = case.spec["inputs"]["data.pyd"]
    cam_ext = np.eye(4)
    cam_ext[:3, 3] = fields["cam_ext[:3,3]"]
    return {
        "gender": "female",
        "gtkps": np.zeros((127, 2)),
        "center": case.arrays["in_center"],
        "scale": fields["scale"],
        "pose_cam": case.arrays["in_pose_cam"],
        "shape": np.append(case.arrays["in_shape"], 0),
        "trans_cam": np.array(fields["trans_cam"]),
        "cam_ext": cam_ext,
        "cam_int": np.array(fields["cam_int"]),
    }


# ---------------------------------------------------------------------------------------- shared


def _both_ways(converter: FourDHumansTars | BedlamTars, folder: Path) -> Iterator[ShardSet]:
    """The records of a folder of tars: written as shards, and in place."""
    records = converter.open(folder)
    samples = [records[i] for i in range(len(records))]
    write_shard(folder / "shards" / "000000.tar", samples, converter.joint_set, image_format="png")
    write_manifest(
        folder / "shards", "set", converter.kind, converter.joint_set, options={}, command=""
    )
    yield ShardSet(folder / "shards", "set")
    yield ShardSet(folder, "set", converter)


def _units(shards: ShardSet) -> Iterator[tuple[Sample, int]]:
    for unit in range(shards.num_views):
        record, view = shards.locate_view(unit)
        yield shards.read(record), view


def _image_name(key: str, folder: Path) -> str:
    """A record's key without the name of the tar that ``prepare`` puts before it."""
    (tar,) = folder.glob("*.tar")
    return key.removeprefix(f"{tar.stem}-")


def _crops(bbox_shape: object) -> Crops:
    fit_aspect_hw = None if bbox_shape == "absent" else tuple(bbox_shape)[::-1]
    return Crops((SIDE, SIDE), box_scale=MARGIN, fit_aspect_hw=fit_aspect_hw, with_antialias=False)
